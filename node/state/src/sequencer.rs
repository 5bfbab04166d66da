//! The leader's look ahead: offsets for batches that are not applied yet.

use meridian_lineage::NotOwner;
use meridian_types::{LeaderEpoch, Offset, Partition, RegionEpoch, TimestampMs};
use meridian_wire::batch::{BatchError, BatchHeader, stamp};
use thiserror::Error;

use crate::command::AppendGroup;
use crate::hasher::IdMap;
use crate::partition::PartitionState;
use crate::producers::{Duplicate, Producer, Producers, SequenceError};
use crate::state::{Appended, Rejected, State};

/// Gives batches their offsets in the order in which they will be applied.
///
/// One lives as long as one leadership of one shard, which is one term: a second one in the same term would
/// stage on a state that lacks what the first still has in flight, and the log could take a producer's later
/// batch without its earlier one. It must not stage before the state has applied everything that the
/// shard's log held when the leadership began, for the same reason. Where a proposal's fate is unknown, give
/// the leadership up; where it is known to have failed, [`Sequencer::abandoned`] is enough.
///
/// Every batch it answers with [`Staged::Append`] must be proposed in that order, and be reported by
/// [`Sequencer::applied`] or [`Sequencer::abandoned`], exactly once.
#[derive(Debug)]
pub struct Sequencer {
    epoch: LeaderEpoch,
    /// Partitions with batches in flight, and only those.
    tails: IdMap<Partition, Tail>,
}

/// What a staged batch becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staged {
    /// It is stamped: propose it.
    Append {
        /// The offset of its first record, once it is applied.
        base_offset: Offset,
    },
    /// Its producer has sent it before. Do not propose it. Once the high watermark is beyond `last_offset`,
    /// ask [`PartitionState::duplicate`]: if the batch is there, answer success with its offset; if not, the
    /// first copy was rejected, and the producer is told to retry.
    Duplicate {
        /// The offset of the first copy's first record.
        base_offset: Offset,
        /// The offset of the first copy's last record.
        last_offset: Offset,
    },
}

/// Why a batch was not staged. It changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProduceRejection {
    /// Kafka's 45, OUT_OF_ORDER_SEQUENCE_NUMBER: batches of this producer are missing between.
    #[error("{0}")]
    OutOfOrderSequence(SequenceError),
    /// Kafka's 47, INVALID_PRODUCER_EPOCH: a newer instance of this producer has taken over.
    #[error("{0}")]
    InvalidProducerEpoch(SequenceError),
    /// Kafka's 48, INVALID_TXN_STATE: a transactional or control batch outside of a transaction.
    #[error("no transaction of this producer is open on this partition")]
    InvalidTxnState,
    /// Kafka's 3 or 100, UNKNOWN_TOPIC_OR_PARTITION or UNKNOWN_TOPIC_ID: the topic has been deleted.
    #[error("the topic has been deleted")]
    TopicDropped,
    /// Kafka's 6, NOT_LEADER_OR_FOLLOWER: the partition has records of a newer epoch than this leader's.
    #[error("this leader's epoch {epoch} is older than the partition's {latest}")]
    StaleLeader {
        /// The epoch of this sequencer.
        epoch: LeaderEpoch,
        /// The epoch of the partition's newest record.
        latest: LeaderEpoch,
    },
    /// Kafka's 6, NOT_LEADER_OR_FOLLOWER: another region owns the shard, or is about to.
    #[error(transparent)]
    NotOwner(#[from] NotOwner),
    /// Kafka's 6, NOT_LEADER_OR_FOLLOWER: another region epoch began since this leadership did. Retry in a moment.
    #[error("this leader stamps region epoch {stamps}, and {present} is in force")]
    RegionEpoch {
        /// The epoch of this sequencer.
        stamps: RegionEpoch,
        /// The epoch in force.
        present: RegionEpoch,
    },
    /// Kafka's 7, REQUEST_TIMED_OUT, or any other retriable error: an append before this one failed, and the
    /// offsets it took are not settled yet. Retry in a moment.
    #[error("an earlier append to this partition failed; its offsets are being settled")]
    Unsettled,
    /// Kafka's 87, INVALID_RECORD: the bytes are no whole batch, or the partition is out of offsets.
    #[error("not an appendable record batch")]
    Malformed,
}

impl From<SequenceError> for ProduceRejection {
    fn from(error: SequenceError) -> Self {
        match error {
            SequenceError::OutOfOrder { .. } => Self::OutOfOrderSequence(error),
            SequenceError::StaleEpoch { .. } => Self::InvalidProducerEpoch(error),
        }
    }
}

impl From<BatchError> for ProduceRejection {
    fn from(_: BatchError) -> Self {
        Self::Malformed
    }
}

/// A partition beyond its applied state.
#[derive(Debug)]
struct Tail {
    end: Offset,
    /// Batches staged and not yet reported.
    in_flight: usize,
    /// A batch in flight was rejected or given up: all behind it will be rejected as well.
    is_broken: bool,
    /// Producers with batches in flight, with everything known about them.
    producers: Producers,
}

impl Sequencer {
    /// A sequencer for a leadership of `epoch`.
    pub fn new(epoch: LeaderEpoch) -> Self {
        Self {
            epoch,
            tails: IdMap::default(),
        }
    }

    /// The epoch that it stamps.
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Where the partition will end once everything in flight is applied.
    pub fn end_offset(&self, state: &State, partition: Partition) -> Offset {
        match self.tails.get(&partition) {
            Some(tail) => tail.end,
            None => state
                .partition(partition)
                .map_or(Offset(0), PartitionState::high_watermark),
        }
    }

    /// Whether what its producer sent before a batch may still be to come: the batch leaves a gap behind all that the
    /// partition knows of its producer, and the producer has appended nothing under this leadership.
    ///
    /// Its predecessors may have been refused while this leader was not ready, or be stuck at one that is gone.
    pub fn is_early(&self, state: &State, partition: Partition, header: &BatchHeader) -> bool {
        let Some(id) = header.producer_id else {
            return false;
        };
        let in_flight = self.tails.get(&partition);
        if in_flight.is_some_and(|tail| tail.producers.get(id).is_some()) {
            return false;
        }
        let known = state
            .partition(partition)
            .and_then(|known| Some((known, known.producer(id)?)));
        let Some((known, producer)) = known else {
            return header.base_sequence != 0;
        };
        let newest = producer.batches().last().map(|batch| batch.base_offset);
        newest.and_then(|offset| known.epoch_at(offset)) != Some(self.epoch) && producer.misses_before(header)
    }

    /// Gives a batch its place: checks its producer's sequence (KIP-98) and stamps base offset and leader
    /// epoch into `batch`, whose header is `header`.
    ///
    /// `batch` holds one whole, validated batch. On an error or a duplicate it is left as it was.
    pub fn stage(
        &mut self,
        state: &State,
        partition: Partition,
        batch: &mut [u8],
        header: &BatchHeader,
    ) -> Result<Staged, ProduceRejection> {
        self.check_region(state)?;
        let known = state.partition(partition);
        let tail = self.tails.get_mut(&partition);
        if known.is_none() && state.is_dropped(partition.topic) {
            return Err(ProduceRejection::TopicDropped);
        }
        if tail.as_ref().is_some_and(|tail| tail.is_broken) {
            return Err(ProduceRejection::Unsettled);
        }
        if let Some(latest) = known.and_then(PartitionState::latest_epoch)
            && latest > self.epoch
        {
            return Err(ProduceRejection::StaleLeader {
                epoch: self.epoch,
                latest,
            });
        }
        if header.is_transactional || header.is_control {
            return Err(ProduceRejection::InvalidTxnState);
        }
        if header.size() != batch.len() {
            return Err(ProduceRejection::Malformed);
        }

        let in_flight = |id| tail.as_ref().and_then(|tail| tail.producers.get(id));
        let producer = header
            .producer_id
            .and_then(|id| in_flight(id).or_else(|| known.and_then(|known| known.producer(id))));
        let producer = producer.filter(|_| !mutant!(ForgetDuplicates));
        if let Some(first) = producer.and_then(|producer| producer.duplicate(header)) {
            let Duplicate {
                base_offset,
                last_offset,
                ..
            } = first;
            return Ok(Staged::Duplicate {
                base_offset,
                last_offset,
            });
        }
        let applied_end = known.map_or(Offset(0), PartitionState::high_watermark);
        let base_offset = tail.as_ref().map_or(applied_end, |tail| tail.end);
        let end = base_offset.plus(u64::from(header.last_offset_delta) + 1);
        if i64::try_from(end.0).is_err() {
            return Err(ProduceRejection::Malformed);
        }
        // Only apply's clock counts for expiry, and the tail never expires anything.
        let now = TimestampMs(i64::MIN);
        let after = |id| Producer::after(producer, id, header, base_offset, now);
        let producer = header.producer_id.map(after).transpose()?;
        stamp(batch, base_offset, self.epoch)?;
        let tail = self.tails.entry(partition).or_insert_with(|| Tail {
            end: base_offset,
            in_flight: 0,
            is_broken: false,
            producers: Producers::default(),
        });
        tail.end = end;
        tail.in_flight += 1;
        if let Some(producer) = producer {
            tail.producers.put(producer);
        }
        Ok(Staged::Append { base_offset })
    }

    /// Reports that an append of this leadership was applied, with the results of [`State::apply`].
    pub fn applied(&mut self, groups: &[AppendGroup], results: &[Result<Appended, Rejected>]) {
        debug_assert_eq!(groups.len(), results.len());
        for (group, result) in groups.iter().zip(results) {
            self.settle(group, result.is_err());
        }
    }

    /// Reports that staged batches will never be applied: the proposal failed for good.
    ///
    /// Batches of the same partitions that are already in flight behind them will be rejected.
    pub fn abandoned(&mut self, groups: &[AppendGroup]) {
        for group in groups {
            self.settle(group, true);
        }
    }

    /// Whether nothing is in flight: the state alone is the truth.
    pub fn is_idle(&self) -> bool {
        self.tails.is_empty()
    }

    /// A mirror stages nothing, and an owner only under the epoch in force (invariants 5 and 8).
    fn check_region(&self, state: &State) -> Result<(), ProduceRejection> {
        let standing = state.standing();
        standing.check_owner()?;
        let (stamps, present) = (self.epoch.region(), standing.region_epoch());
        if standing.is_counted() && stamps != present {
            return Err(ProduceRejection::RegionEpoch { stamps, present });
        }
        Ok(())
    }

    fn settle(&mut self, group: &AppendGroup, is_lost: bool) {
        let Some(tail) = self.tails.get_mut(&group.partition) else {
            debug_assert!(false, "batches of {} were reported twice", group.partition);
            return;
        };
        tail.in_flight = tail.in_flight.saturating_sub(group.batches.len());
        tail.is_broken |= is_lost;
        if tail.in_flight == 0 {
            self.tails.remove(&group.partition);
        }
    }
}

#[cfg(test)]
mod tests;
