//! Messages on their way out in one lane.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use meridian_types::ShardId;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::budget::{Budget, Lease};
use crate::call::{Answer, CallError};
use crate::service::Refusal;

/// Frames and bytes that go to the writer at a time.
const BATCH_FRAMES: usize = 64;
const BATCH_BYTES: usize = 1 << 20;

/// What a message is, and what it needs for that.
pub(crate) enum Content {
    Call(oneshot::Sender<Answer>),
    Answer { request: u64 },
    Refusal { request: u64 },
    Notice,
    Alive,
}

/// A message on its way out.
pub(crate) struct Outgoing {
    pub(crate) content: Content,
    pub(crate) kind: u16,
    pub(crate) shard: ShardId,
    pub(crate) body: Vec<Bytes>,
    /// Its place in the bound on bytes, until it is written.
    pub(crate) lease: Option<Lease>,
}

impl Outgoing {
    /// A sign of life.
    pub(crate) fn alive() -> Self {
        Self {
            content: Content::Alive,
            kind: 0,
            shard: ShardId(0),
            body: Vec::new(),
            lease: None,
        }
    }

    pub(crate) fn body_bytes(&self) -> usize {
        self.body.iter().map(Bytes::len).sum()
    }
}

/// Whether messages are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No connection, and none in sight: nothing is taken.
    Closed,
    /// A connection is being opened: calls wait for it.
    Opening,
    /// There is a connection.
    Open,
}

/// Messages on their way out in one lane, in order, bounded by bytes.
pub(crate) struct Outbox {
    state: Mutex<State>,
    ready: Notify,
    budget: Arc<Budget>,
}

struct State {
    phase: Phase,
    frames: VecDeque<Outgoing>,
}

impl Outbox {
    pub(crate) fn new(phase: Phase, bytes_max: usize) -> Self {
        Self {
            state: Mutex::new(State {
                phase,
                frames: VecDeque::new(),
            }),
            ready: Notify::new(),
            budget: Budget::new(bytes_max),
        }
    }

    /// Bytes that wait, or are being written.
    pub(crate) fn bytes(&self) -> usize {
        self.budget.used()
    }

    /// Queues a call. The answer comes through the receiver.
    pub(crate) fn push_call(
        &self,
        kind: u16,
        shard: ShardId,
        body: Vec<Bytes>,
    ) -> Result<oneshot::Receiver<Answer>, CallError> {
        let (sender, answer) = oneshot::channel();
        let mut message = Outgoing {
            content: Content::Call(sender),
            kind,
            shard,
            body,
            lease: None,
        };
        let mut state = self.state.lock();
        if state.phase == Phase::Closed {
            return Err(CallError::NotConnected);
        }
        message.lease = self.budget.try_take(message.body_bytes());
        if message.lease.is_none() {
            return Err(CallError::QueueFull);
        }
        state.frames.push_back(message);
        drop(state);
        self.ready.notify_one();
        Ok(answer)
    }

    /// Queues a notice; false when it was dropped.
    pub(crate) fn push_notice(&self, kind: u16, shard: ShardId, body: Vec<Bytes>) -> bool {
        let mut message = Outgoing {
            content: Content::Notice,
            kind,
            shard,
            body,
            lease: None,
        };
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return false;
        }
        message.lease = self.budget.try_take(message.body_bytes());
        if message.lease.is_none() {
            return false;
        }
        state.frames.push_back(message);
        drop(state);
        self.ready.notify_one();
        true
    }

    /// Queues what a service said to a call. `lease` is the call's, which bounds how many are under way.
    pub(crate) fn push_answer(
        &self,
        request: u64,
        outcome: Result<Vec<Bytes>, Refusal>,
        mut lease: Lease,
        frame_bytes_max: usize,
    ) {
        let answered = outcome.and_then(|body| {
            let bytes: usize = body.iter().map(Bytes::len).sum();
            if bytes > frame_bytes_max {
                return Err(Refusal::new(format!(
                    "the answer has {bytes} bytes, more than a frame may, {frame_bytes_max}"
                )));
            }
            Ok(body)
        });
        let (content, body) = match answered {
            Ok(body) => (Content::Answer { request }, body),
            Err(mut refusal) => {
                let end = refusal.reason.floor_char_boundary(Refusal::BYTES_MAX);
                refusal.reason.truncate(end);
                (Content::Refusal { request }, vec![Bytes::from(refusal.reason)])
            }
        };
        let mut message = Outgoing {
            content,
            kind: 0,
            shard: ShardId(0),
            body,
            lease: None,
        };
        lease.grow(message.body_bytes());
        message.lease = Some(lease);
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            state.frames.push_back(message);
            drop(state);
            self.ready.notify_one();
        }
    }

    /// Waits for messages and moves the oldest few out. For one taker. Safe to cancel.
    pub(crate) async fn take(&self, batch: &mut Vec<Outgoing>) {
        loop {
            {
                let mut state = self.state.lock();
                let mut bytes = 0;
                while batch.len() < BATCH_FRAMES && bytes < BATCH_BYTES {
                    let Some(message) = state.frames.pop_front() else {
                        break;
                    };
                    bytes += message.body_bytes();
                    batch.push(message);
                }
            }
            if !batch.is_empty() {
                return;
            }
            // A push between the two leaves a permit behind.
            self.ready.notified().await;
        }
    }

    /// There is a connection, or one is being opened.
    pub(crate) fn open(&self, phase: Phase) {
        self.state.lock().phase = phase;
    }

    /// The connection broke, or could not be opened: what was not sent fails. Calls are taken again when `phase`
    /// says so.
    pub(crate) fn fail(&self, phase: Phase) {
        let frames = {
            let mut state = self.state.lock();
            state.phase = phase;
            std::mem::take(&mut state.frames)
        };
        for message in frames {
            if let Content::Call(sender) = message.content {
                let _ = sender.send(Err(CallError::NotConnected));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(3);

    async fn taken(outbox: &Outbox) -> Vec<Outgoing> {
        let mut batch = Vec::new();
        outbox.take(&mut batch).await;
        batch
    }

    #[tokio::test]
    async fn messages_leave_in_the_order_in_which_they_came() {
        let outbox = Outbox::new(Phase::Open, 1 << 20);
        let _first = outbox.push_call(1, SHARD, Vec::new()).expect("room");
        assert!(outbox.push_notice(2, SHARD, Vec::new()));
        let _third = outbox.push_call(3, SHARD, Vec::new()).expect("room");
        let kinds: Vec<u16> = taken(&outbox).await.iter().map(|message| message.kind).collect();
        assert_eq!(kinds, [1, 2, 3]);
    }

    #[tokio::test]
    async fn bytes_count_until_their_message_is_written() {
        let outbox = Outbox::new(Phase::Open, 1000);
        let body = || vec![Bytes::from(vec![0; 600])];
        let _call = outbox.push_call(1, SHARD, body()).expect("room");
        let batch = taken(&outbox).await;
        assert_eq!(
            outbox.push_call(2, SHARD, body()).err(),
            Some(CallError::QueueFull)
        );
        assert!(!outbox.push_notice(2, SHARD, body()));
        drop(batch);
        assert!(outbox.push_call(2, SHARD, body()).is_ok());
    }

    #[tokio::test]
    async fn calls_wait_for_a_first_connection_and_fail_with_it() {
        let outbox = Outbox::new(Phase::Opening, 1000);
        let answer = outbox.push_call(1, SHARD, Vec::new()).expect("it may wait");
        assert!(!outbox.push_notice(2, SHARD, Vec::new()), "notices do not wait");
        outbox.fail(Phase::Closed);
        assert_eq!(answer.await, Ok(Err(CallError::NotConnected)));
        assert_eq!(
            outbox.push_call(2, SHARD, Vec::new()).err(),
            Some(CallError::NotConnected)
        );
        assert_eq!(outbox.bytes(), 0);
    }

    #[tokio::test]
    async fn an_answer_too_large_for_a_frame_becomes_a_refusal() {
        let outbox = Outbox::new(Phase::Open, 1000);
        let budget = Budget::new(1000);
        let lease = budget.try_take(0).expect("room");
        outbox.push_answer(9, Ok(vec![Bytes::from(vec![0; 101])]), lease, 100);
        let batch = taken(&outbox).await;
        assert!(matches!(batch[0].content, Content::Refusal { request: 9 }));
    }
}
