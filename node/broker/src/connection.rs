//! One client connection: requests in, responses out, in the same order.
//!
//! Two tasks share it. The reader cuts frames and submits Produce requests at once, so that pipelined batches
//! are on their way together; every other request waits its turn, so that each sees the effects of those before
//! it. The responder finishes requests in order and writes several ready responses in one system call.
//! Between them is a bounded queue: when it or a byte budget is full, the peer's bytes stay in its socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Peer};
use crate::dispatch::{self, Pending, RequestError};
use crate::frame_reader::{FrameError, FrameReader};
use crate::listener::{Admission, ListenerInfo};
use crate::response_writer::{ResponseWriter, WriteError};

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CloseReason {
    #[error("the peer closed it")]
    PeerClosed,
    #[error("the other half of the connection ended")]
    Ended,
    #[error("it was idle")]
    Idle,
    #[error("the broker shuts down")]
    Shutdown,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("a request failed inside the broker: {0}")]
    Panic(String),
}

/// What reader and responder of one connection share.
struct Shared {
    context: Arc<Context>,
    peer: Arc<Peer>,
    /// Ends both tasks at once.
    closed: CancellationToken,
    /// Requests read and not yet answered.
    in_flight: AtomicUsize,
}

/// Serves a connection until it ends.
pub(crate) async fn run(
    context: Arc<Context>,
    listener: Arc<ListenerInfo>,
    stream: TcpStream,
    address: SocketAddr,
    admission: Admission,
) {
    context.metrics.connections.inc();
    context.metrics.connections_opened.inc();
    let closed = context.aborted.child_token();
    let local_address = stream.local_addr().unwrap_or(listener.local_address);
    let peer = Arc::new(Peer::new(address, local_address, listener, closed.clone()));
    let (read, write) = stream.into_split();
    let shared = Arc::new(Shared {
        context: context.clone(),
        peer,
        closed,
        in_flight: AtomicUsize::new(0),
    });
    let (queue, pending) = mpsc::channel(context.settings.limits.connection_requests_in_flight_max.max(1));

    let reader = tokio::spawn(read_requests(shared.clone(), read, queue));
    let responder = tokio::spawn(write_responses(shared.clone(), write, pending));
    let (read_end, write_end) = tokio::join!(ended(&shared, reader), ended(&shared, responder));

    let reason = match (read_end, write_end) {
        (reason, CloseReason::Ended) | (CloseReason::Ended, reason) => reason,
        // What the responder met is nearer to the client than what the reader saw of it.
        (CloseReason::PeerClosed | CloseReason::Shutdown, reason) => reason,
        (reason, _) => reason,
    };
    report(&shared, &reason);
    context.metrics.connections.dec();
    drop(admission);
}

/// Waits for one of the two tasks; its panic is contained here.
async fn ended(shared: &Shared, task: tokio::task::JoinHandle<CloseReason>) -> CloseReason {
    match task.await {
        Ok(reason) => reason,
        Err(error) => {
            shared.closed.cancel();
            CloseReason::Panic(error.to_string())
        }
    }
}

async fn read_requests(
    shared: Arc<Shared>,
    read: OwnedReadHalf,
    queue: mpsc::Sender<Box<Pending>>,
) -> CloseReason {
    let context = &shared.context;
    let mut reader = FrameReader::new(
        read,
        context.settings.limits.clone(),
        context.frame_budget.clone(),
    );
    loop {
        tokio::select! {
            biased;
            () = shared.closed.cancelled() => return CloseReason::Ended,
            () = context.draining.cancelled() => return CloseReason::Shutdown,
            begun = timeout(context.configs().idle_timeout, reader.begun()) => match begun {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => {
                    // Nobody is left to read a response: do not finish what only reads.
                    shared.closed.cancel();
                    return CloseReason::PeerClosed;
                }
                Ok(Err(error)) => {
                    shared.closed.cancel();
                    return error.into();
                }
                Err(_) if shared.in_flight.load(Ordering::Relaxed) > 0 => continue,
                Err(_) => return CloseReason::Idle,
            },
        }
        let frame = tokio::select! {
            biased;
            () = shared.closed.cancelled() => return CloseReason::Ended,
            frame = reader.frame() => frame,
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return error.into(),
        };
        // A place in the queue comes first: what is submitted can then be answered.
        let place = tokio::select! {
            biased;
            () = shared.closed.cancelled() => return CloseReason::Ended,
            place = queue.reserve() => place,
        };
        let Ok(place) = place else {
            return CloseReason::Ended;
        };
        match dispatch::begin(context, &shared.peer, frame) {
            Ok(pending) => {
                shared.in_flight.fetch_add(1, Ordering::Relaxed);
                // Boxed, because an idle connection keeps room for a few dozen places.
                place.send(Box::new(pending));
            }
            Err(error) => return error.into(),
        }
    }
}

async fn write_responses(
    shared: Arc<Shared>,
    write: OwnedWriteHalf,
    mut pending: mpsc::Receiver<Box<Pending>>,
) -> CloseReason {
    let mut writer = ResponseWriter::new(
        write,
        &shared.context.settings.limits,
        shared.context.response_budget.clone(),
    );
    let reason = tokio::select! {
        biased;
        () = shared.closed.cancelled() => CloseReason::Ended,
        reason = respond_in_order(&shared, &mut writer, &mut pending) => reason,
    };
    // The reader must not go on reading for nobody.
    shared.closed.cancel();
    writer.close().await;
    reason
}

async fn respond_in_order(
    shared: &Shared,
    writer: &mut ResponseWriter,
    pending: &mut mpsc::Receiver<Box<Pending>>,
) -> CloseReason {
    loop {
        let next = if writer.is_empty() {
            pending.recv().await
        } else {
            match pending.try_recv() {
                Ok(next) => Some(next),
                Err(_) => {
                    if let Err(error) = writer.flush().await {
                        return error.into();
                    }
                    continue;
                }
            }
        };
        let Some(next) = next else {
            return CloseReason::Ended;
        };
        // Boxed, so that an idle connection does not keep room for the largest handler.
        let mut response = Box::pin(dispatch::finish(&shared.context, &shared.peer, *next));
        let response = match (&mut response).now_or_never() {
            Some(response) => response,
            None => {
                // Do not keep finished responses waiting for a slow one.
                if let Err(error) = writer.flush().await {
                    return error.into();
                }
                response.await
            }
        };
        shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        match response {
            Ok(Some(response)) => writer.push(response),
            Ok(None) => {}
            Err(error) => {
                // Those before it were fine.
                return match writer.flush().await {
                    Ok(()) => error.into(),
                    Err(error) => error.into(),
                };
            }
        }
        if writer.is_full()
            && let Err(error) = writer.flush().await
        {
            return error.into();
        }
    }
}

fn report(shared: &Shared, reason: &CloseReason) {
    let context = &shared.context;
    let label = match reason {
        CloseReason::PeerClosed | CloseReason::Ended => "peer",
        CloseReason::Idle => "idle",
        CloseReason::Shutdown => "shutdown",
        CloseReason::Frame(FrameError::Io(_)) | CloseReason::Write(WriteError::Io(_)) => "io",
        CloseReason::Frame(FrameError::TooSlow { .. }) => "slow_request",
        CloseReason::Frame(_) => "malformed",
        CloseReason::Write(WriteError::TooSlow { .. }) => "slow_response",
        CloseReason::Request(RequestError::Malformed { .. } | RequestError::TooLarge { .. }) => "malformed",
        CloseReason::Request(RequestError::Unsupported { .. }) => "unsupported",
        CloseReason::Request(RequestError::AcksZero { .. }) => "acks_zero",
        CloseReason::Request(RequestError::Encode { .. }) | CloseReason::Panic(_) => "panic",
    };
    context
        .metrics
        .connections_closed
        .with_label_values(&[label])
        .inc();
    let (peer, client_id) = (shared.peer.address, shared.peer.client_id());
    match label {
        "peer" | "idle" | "shutdown" | "io" => {
            tracing::debug!(%peer, client_id, %reason, "connection closed");
        }
        "panic" => tracing::error!(%peer, client_id, %reason, "connection closed: a fault of this broker"),
        _ => context.warn_limited(|suppressed| {
            tracing::warn!(%peer, client_id, %reason, suppressed, "connection closed");
        }),
    }
}
