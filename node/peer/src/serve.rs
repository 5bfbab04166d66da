//! Serves the connections that other nodes open.

use std::sync::Arc;
use std::time::Duration;

use meridian_net::{Acceptor, Connection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::consume_budget;
use tokio::time::{sleep, timeout};

use crate::budget::Budget;
use crate::calls_under_way::CallsUnderWay;
use crate::frame::{FrameError, FrameType};
use crate::frame_reader::FrameReader;
use crate::frame_writer::FrameWriter;
use crate::greeting::{hear, secure_accepted, turn_away, welcome};
use crate::lane::Lane;
use crate::outbox::{Outbox, Phase};
use crate::progress::{Progress, TICKS};
use crate::service::Service;
use crate::shared::{Admission, Shared};
use crate::stream::Stream;

/// Connections in their handshake at a time.
const GREETINGS_MAX: usize = 128;
/// Wait when the system cannot give us a connection, such as without file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Accepts until the node stops.
pub(crate) async fn accept(shared: Arc<Shared>, mut acceptor: Box<dyn Acceptor>, service: Arc<dyn Service>) {
    let greetings = Arc::new(Semaphore::new(GREETINGS_MAX));
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            accepted = acceptor.accept() => accepted,
        };
        let connection = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                if shared.may_warn() {
                    tracing::warn!(%error, "cannot accept a connection of another node");
                }
                sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let Ok(permit) = greetings.clone().try_acquire_owned() else {
            if shared.may_warn() {
                tracing::warn!(peer = %connection.peer, "connection closed: {GREETINGS_MAX} handshakes are under way");
            }
            continue;
        };
        let task = arrive(shared.clone(), connection, service.clone(), permit);
        let runtime = shared.runtime(Lane::Urgent).clone();
        shared.tasks.spawn_on(task, &runtime);
    }
}

/// Runs on the urgent runtime, which also serves the urgent lane.
async fn arrive(
    shared: Arc<Shared>,
    connection: Connection,
    service: Arc<dyn Service>,
    permit: OwnedSemaphorePermit,
) {
    let peer = connection.peer;
    let stop = shared.stop.clone();
    let greeted = timeout(shared.settings.dial_timeout * 2, greet(&shared, connection));
    let (stream, lane, admission) = match stop.run_until_cancelled(greeted).await {
        Some(Ok(Ok(greeted))) => greeted,
        Some(Ok(Err(reason))) => {
            if shared.may_warn() {
                tracing::warn!(%peer, reason, "a connection was turned away at the port for other nodes");
            }
            return;
        }
        Some(Err(_)) => {
            tracing::debug!(%peer, "a connection did not greet in time");
            return;
        }
        None => return,
    };
    drop(permit);
    shared.wake(admission.identity.node);
    let runtime = shared.runtime(lane).clone();
    let tasks = shared.tasks.clone();
    tasks.spawn_on(serve(shared, stream, lane, admission, service), &runtime);
}

/// Errors: why the connection was not let in. The other side was told.
async fn greet(shared: &Arc<Shared>, connection: Connection) -> Result<(Stream, Lane, Admission), String> {
    let settings = &shared.settings;
    let mut stream = secure_accepted(settings.tls.as_ref(), connection).await?;
    let hello = hear(stream.io()).await.map_err(|error| error.to_string())?;
    let checked = stream.check_node(&settings.region, hello.node);
    let admission = match checked.and_then(|()| shared.admit(&hello)) {
        Ok(admission) => admission,
        Err(reason) => {
            turn_away(stream.io(), reason.clone()).await;
            return Err(format!("node {}: {reason}", hello.node));
        }
    };
    welcome(settings, admission.identity.version, stream.io())
        .await
        .map_err(|error| error.to_string())?;
    Ok((stream, hello.lane, admission))
}

/// Runs on the lane's runtime, until the connection ends.
async fn serve(
    shared: Arc<Shared>,
    mut stream: Stream,
    lane: Lane,
    admission: Admission,
    service: Arc<dyn Service>,
) {
    let identity = &admission.identity;
    let talk = async {
        if lane == Lane::Bulk && shared.settings.urgent.is_some() {
            stream.rehome()?;
        }
        Talk {
            shared: &shared,
            lane,
            admission: &admission,
            service: &*service,
        }
        .run(stream)
        .await
    };
    match admission.stop.run_until_cancelled(talk).await {
        None | Some(Err(FrameError::Ended)) | Some(Ok(())) => {
            tracing::debug!(node = %identity.node, lane = lane.name(), "a node's connection ended");
        }
        Some(Err(error)) => {
            tracing::info!(node = %identity.node, lane = lane.name(), %error, "a node's connection was closed");
        }
    }
}

/// One connection being served.
struct Talk<'a> {
    shared: &'a Shared,
    lane: Lane,
    admission: &'a Admission,
    service: &'a dyn Service,
}

impl Talk<'_> {
    /// Ends well only when the other side fell silent.
    async fn run(&self, stream: Stream) -> Result<(), FrameError> {
        let settings = &self.shared.settings;
        let counters = &*self.admission.counters;
        let progress = Progress::default();
        let calls = CallsUnderWay::default();
        let (reader, writer) = stream.split();
        let mut reader = FrameReader::new(reader, settings.frame_max(self.lane), &progress, counters);
        let mut writer = FrameWriter::new(writer, &calls, counters);
        // Answers are bounded by the budget of the calls that they answer, not here.
        let outbox = Arc::new(Outbox::new(Phase::Open, 0));
        let ended = tokio::select! {
            ended = self.hear(&mut reader, &progress, &outbox) => ended,
            error = writer.run(&outbox, settings.silence_max / TICKS) => Err(error.into()),
            () = progress.silence(settings.silence_max, || ()) => Ok(()),
        };
        // Answers still to come find nobody.
        outbox.fail(Phase::Closed);
        ended
    }

    async fn hear(
        &self,
        reader: &mut FrameReader<'_>,
        progress: &Progress,
        outbox: &Arc<Outbox>,
    ) -> Result<(), FrameError> {
        let from = &self.admission.identity;
        let frame_bytes_max = self.shared.settings.frame_max(self.lane);
        let budget = Budget::new(self.shared.settings.queue_bytes_max);
        loop {
            let (head, check) = reader.head().await?;
            match head.frame {
                FrameType::Call => {
                    progress.pause(true);
                    let lease = budget.take(head.body_bytes as usize).await;
                    progress.pause(false);
                    let body = reader.body(head, check).await?;
                    let answer = self.service.call(from, head.kind, head.shard, body);
                    let outbox = outbox.clone();
                    tokio::spawn(async move {
                        outbox.push_answer(head.request, answer.await, lease, frame_bytes_max);
                    });
                    // Many small calls arrive in one read: their answers must get a chance to count.
                    consume_budget().await;
                }
                FrameType::Notice => {
                    let body = reader.body(head, check).await?;
                    self.service.notice(from, head.kind, head.shard, body);
                }
                FrameType::Alive => {
                    reader.body(head, check).await?;
                }
                other => return Err(FrameError::Misplaced(other)),
            }
        }
    }
}
