//! The batches of one partition: in order, numbered, retried. Pure.
//!
//! Batches are sent oldest first, several at a time. When one fails in a way that may pass, the partition recovers: it
//! waits until everything in flight is answered, then sends again from the oldest, one at a time, until all that
//! was numbered before is through. So a batch never overtakes another, and the numbers never have a hole.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_types::TimestampMs;
use meridian_wire::batch::{BatchBuilder, BuildError};
use tokio::time::Instant;

use super::delivery::Outcome;
use super::identity::{Identity, Numbering, Sequence};

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Batch {
    /// Counts the partition's batches.
    number: u64,
    pub(super) body: Body,
    pub(super) records: u32,
    /// Bytes of the producer's buffer that its records take.
    pub(super) reserved_bytes: usize,
    pub(super) outcome: Arc<Outcome>,
    created: Instant,
    /// No more records: full, or flushed.
    is_sealed: bool,
    pub(super) sequence: Option<Sequence>,
    /// Whether some try may have reached the log.
    pub(super) may_be_written: bool,
    pub(super) last_failure: Option<String>,
}

/// The records of a batch.
#[derive(Debug)]
pub(super) enum Body {
    /// Being collected.
    Open(BatchBuilder),
    /// Built under this sequence.
    Built(Bytes, Option<Sequence>),
}

/// When a queue sends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) batch_bytes: usize,
    pub(super) linger: Duration,
    pub(super) in_flight_max: usize,
    pub(super) delivery_timeout: Duration,
}

/// What the server said to a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Written.
    Written,
    /// Not written for now; `may_be_written` if even that is not sure.
    Retry { may_be_written: bool, reason: String },
    /// The numbers do not follow: not written.
    OutOfOrder,
    /// The producer's epoch is not accepted: not written.
    WrongEpoch,
    /// Not written, and never will be.
    Refused,
}

/// What to do with the batch that was answered.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is written: tell its records so.
    Written(Batch),
    /// It has failed: tell its records why.
    Failed(Batch),
    /// It is back in the queue.
    Queued,
}

#[derive(Clone, Debug)]
struct InFlight {
    number: u64,
    outcome: Arc<Outcome>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct PartitionQueue {
    /// Oldest first; the last may be open.
    waiting: VecDeque<Batch>,
    /// Oldest first.
    in_flight: VecDeque<InFlight>,
    next_number: u64,
    numbering: Option<Numbering>,
    is_recovering: bool,
    /// A batch of this series is written, so the server checks what follows. Before that it takes any number, and
    /// would let the second batch pass if the first fails: so the first goes alone.
    is_established: bool,
    /// The next series begins when nothing is in flight any more.
    must_bump: bool,
    blocked_until: Option<Instant>,
}

impl PartitionQueue {
    /// Appends a record. `true`: the driver should look.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a record, which are borrowed"
    )]
    pub(super) fn push(
        &mut self,
        now: Instant,
        limits: &Limits,
        new_builder: impl FnOnce() -> BatchBuilder,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
        size: usize,
    ) -> Result<(Arc<Outcome>, u32, bool), BuildError> {
        let mut is_news = false;
        let has_room = self.waiting.back().is_some_and(|batch| match &batch.body {
            Body::Open(builder) => {
                !batch.is_sealed && builder.uncompressed_size() + size <= limits.batch_bytes
            }
            Body::Built(..) => false,
        });
        if !has_room {
            if let Some(full) = self.waiting.back_mut() {
                full.is_sealed = true;
            }
            is_news = true;
            self.waiting.push_back(Batch {
                number: self.next_number,
                body: Body::Open(new_builder()),
                records: 0,
                reserved_bytes: 0,
                outcome: Arc::default(),
                created: now,
                is_sealed: false,
                sequence: None,
                may_be_written: false,
                last_failure: None,
            });
            self.next_number += 1;
        }
        let batch = self.waiting.back_mut().expect("one was pushed");
        let Body::Open(builder) = &mut batch.body else {
            unreachable!("a batch with room is open");
        };
        let index = match builder.push(timestamp, key, value, headers) {
            Ok(index) => index,
            Err(error) => {
                if batch.records == 0 {
                    self.waiting.pop_back();
                }
                return Err(error);
            }
        };
        batch.records += 1;
        batch.reserved_bytes += size;
        if builder.uncompressed_size() >= limits.batch_bytes {
            batch.is_sealed = true;
            is_news = true;
        }
        Ok((Arc::clone(&batch.outcome), index, is_news))
    }

    /// When the oldest batch may be sent: now or earlier, later, or not before something is answered.
    pub(super) fn ready_at(&self, limits: &Limits) -> Option<Instant> {
        let first = self.waiting.front()?;
        let goes_alone = self.is_recovering || (self.numbering.is_some() && !self.is_established);
        let in_flight_max = if goes_alone { 1 } else { limits.in_flight_max };
        if self.in_flight.len() >= in_flight_max {
            return None;
        }
        let is_full = first.is_sealed || self.waiting.len() > 1 || first.sequence.is_some();
        let due = if is_full {
            first.created
        } else {
            first.created + limits.linger
        };
        Some(self.blocked_until.map_or(due, |until| until.max(due)))
    }

    /// Takes the oldest batch for sending, and numbers it if `identity` asks for that.
    pub(super) fn take(&mut self, identity: Option<Identity>) -> Option<Batch> {
        let mut batch = self.waiting.pop_front()?;
        batch.is_sealed = true;
        self.blocked_until = None;
        if let Some(identity) = identity {
            let is_new = self
                .numbering
                .as_ref()
                .is_none_or(|numbering| numbering.identity() != identity);
            // A new identity begins when nothing of the old one is in flight; while recovering, that is now.
            if is_new && self.in_flight.is_empty() {
                self.numbering = Some(Numbering::new(identity));
                self.is_established = false;
                self.forget_sequences();
                batch.sequence = None;
            }
            let numbering = self.numbering.get_or_insert_with(|| Numbering::new(identity));
            if batch.sequence.is_none() {
                batch.sequence = Some(numbering.take(batch.records));
            }
        }
        self.in_flight.push_back(InFlight {
            number: batch.number,
            outcome: Arc::clone(&batch.outcome),
        });
        Some(batch)
    }

    /// Takes in what the server said to a batch. `retry_at`: when to try again. The second part is true if a new
    /// identity is needed.
    pub(super) fn answer(&mut self, mut batch: Batch, answer: Answer, retry_at: Instant) -> (Verdict, bool) {
        self.in_flight.retain(|it| it.number != batch.number);
        let mut needs_identity = false;
        let verdict = match answer {
            Answer::Written => {
                self.is_established = true;
                Verdict::Written(batch)
            }
            Answer::Retry {
                may_be_written,
                reason,
            } => {
                batch.may_be_written |= may_be_written;
                batch.last_failure = Some(reason);
                self.put_back(batch, retry_at);
                Verdict::Queued
            }
            Answer::OutOfOrder => {
                batch.last_failure = Some("OUT_OF_ORDER_SEQUENCE_NUMBER".to_owned());
                // If an older one is still to come, this one only came too early. If not, the server has lost
                // what it knew of us, and a new series is all that it will take.
                let is_oldest = self
                    .oldest_unanswered()
                    .is_none_or(|oldest| oldest > batch.number);
                self.must_bump |= is_oldest;
                self.put_back(batch, retry_at);
                Verdict::Queued
            }
            Answer::WrongEpoch => {
                batch.last_failure = Some("INVALID_PRODUCER_EPOCH".to_owned());
                needs_identity = true;
                self.put_back(batch, retry_at);
                Verdict::Queued
            }
            Answer::Refused => {
                self.leave_out(&batch);
                Verdict::Failed(batch)
            }
        };
        needs_identity |= self.settle();
        (verdict, needs_identity)
    }

    /// Takes out batches that have waited too long. What is in flight is left to its request's own deadline.
    pub(super) fn expire(&mut self, now: Instant, limits: &Limits) -> (Vec<Batch>, bool) {
        let mut expired = Vec::new();
        while self
            .waiting
            .front()
            .is_some_and(|batch| batch.created + limits.delivery_timeout <= now)
        {
            let batch = self.waiting.pop_front().expect("there is a first");
            self.leave_out(&batch);
            expired.push(batch);
        }
        let needs_identity = !expired.is_empty() && self.settle();
        (expired, needs_identity)
    }

    /// When [`Self::expire`] will find something.
    pub(super) fn expires_at(&self, limits: &Limits) -> Option<Instant> {
        Some(self.waiting.front()?.created + limits.delivery_timeout)
    }

    /// Seals the open batch; gives all that is not answered.
    pub(super) fn flush(&mut self) -> impl Iterator<Item = Arc<Outcome>> + '_ {
        if let Some(last) = self.waiting.back_mut() {
            last.is_sealed = true;
        }
        let in_flight = self.in_flight.iter().map(|it| Arc::clone(&it.outcome));
        in_flight.chain(self.waiting.iter().map(|batch| Arc::clone(&batch.outcome)))
    }

    /// Whether nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether nothing waits and nothing is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }

    /// Puts off sending until `until`.
    pub(super) fn block(&mut self, until: Instant) {
        self.blocked_until = Some(self.blocked_until.map_or(until, |old| old.max(until)));
    }

    fn put_back(&mut self, batch: Batch, retry_at: Instant) {
        let place = self
            .waiting
            .partition_point(|waiting| waiting.number < batch.number);
        self.waiting.insert(place, batch);
        self.is_recovering = true;
        self.block(retry_at);
    }

    /// Closes the hole that a batch leaves which will not be written.
    fn leave_out(&mut self, batch: &Batch) {
        let Some(sequence) = batch.sequence else {
            return;
        };
        if batch.may_be_written {
            self.must_bump = true;
        } else if let Some(numbering) = &mut self.numbering {
            // Whatever was numbered behind it cannot be written either: the server sees the hole.
            numbering.go_back(sequence.base);
            for waiting in self.waiting.iter_mut().filter(|it| it.number > batch.number) {
                waiting.sequence = None;
            }
            self.must_bump |= self.in_flight.iter().any(|it| it.number > batch.number);
        }
        self.is_recovering = true;
    }

    /// Ends what waited for the last answer. `true`: a new identity is needed.
    fn settle(&mut self) -> bool {
        let mut needs_identity = false;
        if self.in_flight.is_empty() && self.must_bump {
            self.must_bump = false;
            self.is_established = false;
            self.forget_sequences();
            needs_identity = self.numbering.as_mut().is_some_and(|numbering| !numbering.bump());
        }
        // Without numbers there is nothing to keep free of holes: it is over when all is answered.
        if self.in_flight.is_empty() && self.waiting.iter().all(|batch| batch.sequence.is_none()) {
            self.is_recovering = false;
        }
        needs_identity
    }

    fn forget_sequences(&mut self) {
        for batch in &mut self.waiting {
            batch.sequence = None;
        }
    }

    fn oldest_unanswered(&self) -> Option<u64> {
        let waiting = self.waiting.iter().filter(|batch| batch.sequence.is_some());
        let numbers = waiting
            .map(|it| it.number)
            .chain(self.in_flight.iter().map(|it| it.number));
        numbers.min()
    }
}

#[cfg(test)]
mod tests;
