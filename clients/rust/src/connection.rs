//! One connection to one server: pipelined requests, answered in order.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use meridian_wire::frame::{FRAME_BYTES_MAX, PREFIX_BYTES, decode_response, encode_request, frame_bytes};
use meridian_wire::{ApiKey, ApiVersionsRequest, ErrorCode, Request, Str};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::endpoint::Endpoint;
use crate::error::{Phase, RequestCause, RequestError};
use crate::network::{self, Stream};
use crate::versions::{ServerVersions, client_versions};

/// Requests that wait for the socket; more wait in [`Connection::submit`].
const QUEUE_REQUESTS_MAX: usize = 64;
/// What a read asks of the socket, and the first memory a frame gets whatever length it claims.
const READ_BYTES: usize = 64 << 10;
/// Segments of one gathered write.
const SEGMENTS_MAX: usize = 64;

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectionSettings {
    /// The name that the server's logs and quotas know this client by.
    pub client_id: String,
    /// Time to resolve and connect, and again to negotiate.
    pub connect_timeout: Duration,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            client_id: "meridian".to_owned(),
            connect_timeout: Duration::from_secs(10),
        }
    }
}

/// An open, negotiated connection. Clones share it; it closes when the last is dropped.
#[derive(Clone, Debug)]
pub struct Connection {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    client_id: Str,
    versions: ServerVersions,
    next_correlation_id: AtomicI32,
    queue: mpsc::Sender<Outgoing>,
    closing: CancellationToken,
}

/// A request on its way to the socket.
struct Outgoing {
    segments: Vec<Bytes>,
    is_written: Arc<AtomicBool>,
    /// `None`: the server will not answer (acks=0).
    waiting: Option<Waiting>,
}

/// A request without an answer yet.
struct Waiting {
    correlation_id: i32,
    answer: oneshot::Sender<Result<BytesMut, RequestCause>>,
}

/// A request that was handed to the socket, in order; see [`Connection::submit`].
#[derive(Debug)]
pub struct PendingResponse<R> {
    shared: Arc<Shared>,
    version: i16,
    deadline: Instant,
    limit: Duration,
    is_written: Arc<AtomicBool>,
    answer: oneshot::Receiver<Result<BytesMut, RequestCause>>,
    request: PhantomData<fn() -> R>,
}

impl Connection {
    /// Connects and negotiates.
    pub async fn open(endpoint: &Endpoint, settings: &ConnectionSettings) -> Result<Self, RequestError> {
        let limit = settings.connect_timeout;
        let mut stream = network::connect(endpoint, limit).await?;
        let failed = |cause| RequestError {
            endpoint: endpoint.clone(),
            phase: Phase::Negotiate,
            may_have_executed: false,
            cause,
        };
        let client_id = Str::from(settings.client_id.clone());
        let versions = timeout(limit, negotiate(&mut stream, &client_id))
            .await
            .unwrap_or(Err(RequestCause::Timeout(limit)))
            .map_err(failed)?;
        let (queue, requests) = mpsc::channel(QUEUE_REQUESTS_MAX);
        let closing = CancellationToken::new();
        tokio::spawn(run(stream, requests, closing.clone()));
        Ok(Self {
            shared: Arc::new(Shared {
                endpoint: endpoint.clone(),
                client_id,
                versions,
                next_correlation_id: AtomicI32::new(1),
                queue,
                closing,
            }),
        })
    }

    /// The server's address.
    pub fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// What the server serves.
    pub fn versions(&self) -> &ServerVersions {
        &self.shared.versions
    }

    /// Whether it can still be used.
    pub fn is_open(&self) -> bool {
        !self.shared.queue.is_closed() && !self.shared.closing.is_cancelled()
    }

    /// Asks and waits for the answer, `limit` in all.
    pub async fn send<R: Request>(&self, request: &R, limit: Duration) -> Result<R::Response, RequestError> {
        self.submit(request, limit).await?.wait().await
    }

    /// Hands a request to the socket and returns without waiting for the answer. Requests submitted one after
    /// the other reach the server in this order.
    pub async fn submit<R: Request>(
        &self,
        request: &R,
        limit: Duration,
    ) -> Result<PendingResponse<R>, RequestError> {
        let deadline = Instant::now() + limit;
        let (answer, receiver) = oneshot::channel();
        let (version, is_written) = self.enqueue(request, deadline, limit, Some(answer)).await?;
        Ok(PendingResponse {
            shared: Arc::clone(&self.shared),
            version,
            deadline,
            limit,
            is_written,
            answer: receiver,
            request: PhantomData,
        })
    }

    /// Hands over a request that the server does not answer: Produce with acks=0.
    pub async fn submit_unanswered<R: Request>(
        &self,
        request: &R,
        limit: Duration,
    ) -> Result<(), RequestError> {
        self.enqueue(request, Instant::now() + limit, limit, None)
            .await
            .map(drop)
    }

    async fn enqueue<R: Request>(
        &self,
        request: &R,
        deadline: Instant,
        limit: Duration,
        answer: Option<oneshot::Sender<Result<BytesMut, RequestCause>>>,
    ) -> Result<(i16, Arc<AtomicBool>), RequestError> {
        let shared = &self.shared;
        let failed = |cause| shared.error(R::API, false, cause);
        // The task that carries requests may not have seen it yet.
        if shared.closing.is_cancelled() {
            return Err(failed(RequestCause::ClosedHere));
        }
        let version = shared.versions.common(R::API).ok_or_else(|| {
            failed(RequestCause::Unsupported {
                api: R::API,
                server: shared.versions.range(R::API),
                client: client_versions(R::API),
            })
        })?;
        let correlation_id = shared.next_correlation_id.fetch_add(1, Ordering::Relaxed) & i32::MAX;
        let segments = encode_request(request, version, correlation_id, Some(shared.client_id.clone()))
            .map_err(|error| failed(RequestCause::Encode(error)))?;
        let is_written = Arc::new(AtomicBool::new(false));
        let outgoing = Outgoing {
            segments,
            is_written: Arc::clone(&is_written),
            waiting: answer.map(|answer| Waiting {
                correlation_id,
                answer,
            }),
        };
        match timeout_at(deadline, shared.queue.send(outgoing)).await {
            Ok(Ok(())) => Ok((version, is_written)),
            Ok(Err(_)) => Err(failed(RequestCause::Closed)),
            Err(_) => {
                shared.closing.cancel();
                Err(failed(RequestCause::Timeout(limit)))
            }
        }
    }
}

impl<R: Request> PendingResponse<R> {
    /// Waits for the answer, until the deadline that was given with the request. A request that times out
    /// closes the connection: what follows it would wait behind the same stuck server.
    pub async fn wait(self) -> Result<R::Response, RequestError> {
        let failed = |cause| {
            let may_have_executed = self.is_written.load(Ordering::Acquire);
            self.shared.error(R::API, may_have_executed, cause)
        };
        match timeout_at(self.deadline, self.answer).await {
            Ok(Ok(Ok(frame))) => decode_response::<R>(frame, self.version)
                .map(|(_, response)| response)
                .map_err(|error| {
                    self.shared.closing.cancel();
                    failed(RequestCause::Decode(error))
                }),
            Ok(Ok(Err(cause))) => Err(failed(cause)),
            Ok(Err(_)) => Err(failed(RequestCause::Closed)),
            Err(_) => {
                self.shared.closing.cancel();
                Err(failed(RequestCause::Timeout(self.limit)))
            }
        }
    }
}

impl Shared {
    fn error(&self, api: ApiKey, may_have_executed: bool, cause: RequestCause) -> RequestError {
        RequestError {
            endpoint: self.endpoint.clone(),
            phase: Phase::Request(api),
            may_have_executed,
            cause,
        }
    }
}

/// Asks for the server's versions: in version 3, and in version 0 if the server knows no better (KIP-511).
async fn negotiate(stream: &mut Box<dyn Stream>, client_id: &Str) -> Result<ServerVersions, RequestCause> {
    let request = ApiVersionsRequest {
        client_software_name: "meridian-client".into(),
        client_software_version: env!("CARGO_PKG_VERSION").into(),
    };
    for (version, correlation_id) in [(3, 1), (0, 2)] {
        let segments = encode_request(&request, version, correlation_id, Some(client_id.clone()))
            .map_err(RequestCause::Encode)?;
        for segment in &segments {
            stream.write_all(segment).await?;
        }
        stream.flush().await?;
        let frame = read_frame(stream, &mut BytesMut::new()).await?;
        // The error of a server that does not know our version comes in version 0.
        let is_refused =
            frame.get(4..6) == Some(ErrorCode::UnsupportedVersion.code().to_be_bytes().as_slice());
        let read_as = if is_refused { 0 } else { version };
        let (header, response) =
            decode_response::<ApiVersionsRequest>(frame, read_as).map_err(RequestCause::Decode)?;
        if header.correlation_id != correlation_id {
            return Err(RequestCause::CorrelationId {
                expected: correlation_id,
                got: header.correlation_id,
            });
        }
        match crate::error::check(response.error_code) {
            Ok(()) => return Ok(ServerVersions::new(&response)),
            Err(ErrorCode::UnsupportedVersion) if version > 0 => {}
            Err(error) => return Err(RequestCause::Refused(error)),
        }
    }
    Err(RequestCause::Refused(ErrorCode::UnsupportedVersion))
}

/// Carries requests and answers until either side fails; then everything that waits is told why.
async fn run(stream: Box<dyn Stream>, mut requests: mpsc::Receiver<Outgoing>, closing: CancellationToken) {
    let (reader, writer) = tokio::io::split(stream);
    let waiting = Mutex::new(VecDeque::new());
    let cause = tokio::select! {
        biased;
        () = closing.cancelled() => RequestCause::ClosedHere,
        cause = read_answers(reader, &waiting) => cause,
        cause = write_requests(writer, &mut requests, &waiting) => cause,
    };
    requests.close();
    let waiting = waiting.into_inner();
    let queued = std::iter::from_fn(|| requests.try_recv().ok()).filter_map(|outgoing| outgoing.waiting);
    for request in waiting.into_iter().chain(queued) {
        // The one who asked may have given up; then nobody needs to know.
        drop(request.answer.send(Err(cause.clone())));
    }
}

async fn write_requests(
    mut writer: WriteHalf<Box<dyn Stream>>,
    requests: &mut mpsc::Receiver<Outgoing>,
    waiting: &Mutex<VecDeque<Waiting>>,
) -> RequestCause {
    let mut segments: VecDeque<Bytes> = VecDeque::new();
    while let Some(first) = requests.recv().await {
        let mut next = Some(first);
        while let Some(outgoing) = next {
            outgoing.is_written.store(true, Ordering::Release);
            if let Some(request) = outgoing.waiting {
                waiting.lock().push_back(request);
            }
            segments.extend(outgoing.segments);
            next = if segments.len() < SEGMENTS_MAX {
                requests.try_recv().ok()
            } else {
                None
            };
        }
        if let Err(error) = write_segments(&mut writer, &mut segments).await {
            return error.into();
        }
    }
    RequestCause::ClosedHere
}

/// Writes all of `segments` with gathered writes.
async fn write_segments(
    writer: &mut WriteHalf<Box<dyn Stream>>,
    segments: &mut VecDeque<Bytes>,
) -> std::io::Result<()> {
    while !segments.is_empty() {
        let mut slices = [IoSlice::new(&[]); SEGMENTS_MAX];
        let count = segments.len().min(SEGMENTS_MAX);
        for (slice, segment) in slices.iter_mut().zip(segments.iter()) {
            *slice = IoSlice::new(segment);
        }
        let mut written = writer.write_vectored(&slices[..count]).await?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        while let Some(first) = segments.front_mut() {
            if written < first.len() {
                first.advance(written);
                break;
            }
            written -= first.len();
            segments.pop_front();
        }
    }
    writer.flush().await
}

async fn read_answers(
    mut reader: ReadHalf<Box<dyn Stream>>,
    waiting: &Mutex<VecDeque<Waiting>>,
) -> RequestCause {
    let mut received = BytesMut::new();
    loop {
        let frame = match read_frame(&mut reader, &mut received).await {
            Ok(frame) => frame,
            Err(cause) => return cause,
        };
        let Some(correlation_id) = frame.first_chunk().copied().map(i32::from_be_bytes) else {
            return RequestCause::Io(Arc::new(std::io::Error::other(
                "the server sent a frame that is too short for a response",
            )));
        };
        let Some(request) = waiting.lock().pop_front() else {
            return RequestCause::Io(Arc::new(std::io::Error::other(
                "the server sent a response that nothing was asked for",
            )));
        };
        if request.correlation_id != correlation_id {
            let cause = RequestCause::CorrelationId {
                expected: request.correlation_id,
                got: correlation_id,
            };
            drop(request.answer.send(Err(cause.clone())));
            return cause;
        }
        drop(request.answer.send(Ok(frame)));
    }
}

/// Reads one frame, without its prefix. Memory grows with what has come, not with what the prefix claims.
async fn read_frame<S: AsyncReadExt + Unpin>(
    stream: &mut S,
    received: &mut BytesMut,
) -> Result<BytesMut, RequestCause> {
    let mut needed = PREFIX_BYTES;
    loop {
        if received.len() >= needed {
            let prefix = received
                .first_chunk()
                .copied()
                .expect("a frame begins with its prefix");
            let bytes = frame_bytes(prefix, FRAME_BYTES_MAX)
                .map_err(|error| RequestCause::Io(Arc::new(std::io::Error::other(error))))?;
            needed = PREFIX_BYTES + bytes;
            if received.len() >= needed {
                received.advance(PREFIX_BYTES);
                return Ok(received.split_to(bytes));
            }
        }
        let missing = needed - received.len();
        received.reserve(missing.min(received.len()).max(READ_BYTES));
        if stream.read_buf(received).await? == 0 {
            return Err(RequestCause::Closed);
        }
    }
}
