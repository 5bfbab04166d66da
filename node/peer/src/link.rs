//! One lane to one node, kept open.

use std::sync::Arc;
use std::time::Duration;

use meridian_types::NodeId;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::calls_under_way::CallsUnderWay;
use crate::dial_error::DialError;
use crate::frame::{FrameError, FrameType};
use crate::frame_reader::FrameReader;
use crate::frame_writer::FrameWriter;
use crate::greeting::dial;
use crate::identity::{PeerAddress, PeerIdentity};
use crate::lane::Lane;
use crate::outbox::{Outbox, Phase};
use crate::progress::{Progress, TICKS};
use crate::shared::Shared;
use crate::stats::Counters;
use crate::stream::Stream;

/// How things stand in one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneState {
    Open { since: Instant },
    Refused,
    Down,
}

/// One lane to one node, kept open.
pub(crate) struct Link {
    pub(crate) lane: Lane,
    pub(crate) outbox: Outbox,
    pub(crate) counters: Arc<Counters>,
    state: Mutex<LaneState>,
    wake: Notify,
}

impl Link {
    pub(crate) fn new(lane: Lane, queue_bytes_max: usize, counters: Arc<Counters>) -> Self {
        Self {
            lane,
            outbox: Outbox::new(Phase::Opening, queue_bytes_max),
            counters,
            state: Mutex::new(LaneState::Down),
            wake: Notify::new(),
        }
    }

    pub(crate) fn state(&self) -> LaneState {
        *self.state.lock()
    }

    /// The node has shown itself: dial now.
    pub(crate) fn wake(&self) {
        if !matches!(self.state(), LaneState::Open { .. }) {
            self.wake.notify_one();
        }
    }

    /// It will not be dialled any more.
    pub(crate) fn ended(&self, shared: &Shared) {
        self.outbox.fail(Phase::Closed);
        self.set(shared, LaneState::Down);
    }

    fn set(&self, shared: &Shared, state: LaneState) {
        *self.state.lock() = state;
        shared.changed();
    }

    /// Dials, talks, and dials again; ends only by being dropped.
    pub(crate) async fn run(&self, shared: &Shared, node: NodeId, address: &PeerAddress) {
        let settings = &shared.settings;
        let mut backoff = Backoff::new(settings.backoff_min, settings.backoff_max);
        let lane = self.lane.name();
        loop {
            match self.dial(shared, node, address).await {
                Ok(stream) => {
                    let since = Instant::now();
                    self.counters.connected();
                    tracing::info!(%node, lane, address = %address.at, "connected to the node");
                    let reason = self.talk(shared, stream, since).await;
                    tracing::info!(%node, lane, address = %address.at, reason, "the connection to the node ended");
                    self.counters.failed(reason);
                    if lasted(shared, since) {
                        backoff.reset();
                        continue;
                    }
                }
                Err(error) => {
                    self.counters.dial_failed();
                    // Before the state changes: who sees it finds calls refused.
                    self.outbox.fail(Phase::Closed);
                    let state = match error {
                        DialError::Refused => LaneState::Refused,
                        _ => LaneState::Down,
                    };
                    self.set(shared, state);
                    if self.counters.failed(error.to_string()) {
                        tracing::warn!(%node, lane, address = %address.at, %error, "cannot connect to the node");
                    }
                }
            }
            tokio::select! {
                () = sleep(backoff.next()) => {}
                () = self.wake.notified() => {
                    backoff.reset();
                    self.outbox.open(Phase::Opening);
                }
            }
        }
    }

    async fn dial(&self, shared: &Shared, node: NodeId, address: &PeerAddress) -> Result<Stream, DialError> {
        let (stream, found) = dial(&shared.settings, &*shared.net, &address.at, self.lane).await?;
        match stranger(node, address, &found) {
            Some(text) => Err(DialError::Stranger(text)),
            None => Ok(stream),
        }
    }

    /// Returns why the connection ended.
    async fn talk(&self, shared: &Shared, stream: Stream, since: Instant) -> String {
        let settings = &shared.settings;
        let progress = Progress::default();
        let calls = CallsUnderWay::default();
        let (reader, writer) = stream.split();
        let mut reader = FrameReader::new(reader, settings.frame_max(self.lane), &progress, &self.counters);
        let mut writer = FrameWriter::new(writer, &calls, &self.counters);
        self.outbox.open(Phase::Open);
        self.set(shared, LaneState::Open { since });
        let reason = tokio::select! {
            error = hear_answers(&mut reader, &calls) => error.to_string(),
            error = writer.run(&self.outbox, settings.silence_max / TICKS) => error.to_string(),
            () = progress.silence(settings.silence_max, || calls.forget_abandoned()) => {
                format!("the node was silent for {:?}", settings.silence_max)
            }
        };
        // First the queue, then the state, then the calls under way, which fail as this function ends: whoever
        // wakes up finds everything in order.
        self.outbox.fail(if lasted(shared, since) {
            Phase::Opening
        } else {
            Phase::Closed
        });
        self.set(shared, LaneState::Down);
        reason
    }
}

/// A connection that ends at once is not worth another at once.
fn lasted(shared: &Shared, since: Instant) -> bool {
    since.elapsed() >= shared.settings.backoff_max
}

/// Hands answers to their calls until the connection fails.
pub(crate) async fn hear_answers(reader: &mut FrameReader<'_>, calls: &CallsUnderWay) -> FrameError {
    let hear = async {
        loop {
            let (head, check) = reader.head().await?;
            match head.frame {
                FrameType::Answer => {
                    let body = reader.body(head, check).await?;
                    calls.answer(head.request, Ok(body));
                }
                FrameType::Refusal => {
                    let body = reader.body(head, check).await?;
                    calls.answer(head.request, Err(String::from_utf8_lossy(&body).into_owned()));
                }
                FrameType::Alive => {
                    reader.body(head, check).await?;
                }
                other => return Err(FrameError::Misplaced(other)),
            }
        }
    };
    let ended: Result<std::convert::Infallible, FrameError> = hear.await;
    match ended {
        Err(error) => error,
    }
}

/// What to say when somebody else listens at a node's address.
fn stranger(node: NodeId, address: &PeerAddress, found: &PeerIdentity) -> Option<String> {
    let at = &address.at;
    if found.node != node {
        return Some(format!(
            "node {} listens at {at}, expected node {node}: correct the address that node {node} advertises to others",
            found.node
        ));
    }
    let expected = address.incarnation?;
    (found.incarnation != expected).then(|| {
        format!(
            "node {node} at {at} has incarnation {}, expected {expected}: its data directory is another one. Remove \
             the old node from the region before its id is used again",
            found.incarnation
        )
    })
}

/// Waits that double.
struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    fn next(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.max);
        now
    }

    fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_limit() {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(150));
        let waits: Vec<u128> = (0..4).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(waits, [50, 100, 150, 150]);
        backoff.reset();
        assert_eq!(backoff.next().as_millis(), 50);
    }
}
