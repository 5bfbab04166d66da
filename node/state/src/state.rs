//! The state of one shard, and how a command changes it.

use std::collections::BTreeMap;

use meridian_types::{LeaderEpoch, LogPosition, Offset, Partition, RaftIndex, ShardId, TimestampMs, TopicId};
use meridian_wire::batch::{BatchError, BatchHeader};
use thiserror::Error;

use crate::chunk::Chunk;
use crate::command::{AppendGroup, Command, ExpiredOffsets, append_header_bytes};
use crate::groups::{Group, Groups};
use crate::hasher::IdMap;
use crate::partition::PartitionState;
use crate::producers::{PRODUCER_EXPIRY_MS, Producer, Producers, SequenceError};

/// How long a dropped topic's id is remembered. An append to it that was under way when the topic was
/// deleted is long over by then.
pub const DROPPED_TOPIC_MEMORY_MS: i64 = 24 * 60 * 60 * 1000;

#[cfg(debug_assertions)]
const CHUNKS_CHECKED_MAX: usize = 256;

/// Everything one shard knows, as of its last applied command.
#[derive(Clone, Debug)]
pub struct State {
    pub(crate) shard: ShardId,
    pub(crate) applied: LogPosition,
    /// A topic is here only while it has a partition here. The hash order is never seen.
    pub(crate) topics: IdMap<TopicId, BTreeMap<u32, Box<PartitionState>>>,
    pub(crate) groups: Groups,
    /// Topics deleted lately, and when.
    pub(crate) dropped: BTreeMap<TopicId, TimestampMs>,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// One result per append group, in order.
    Append(Vec<Result<Appended, Rejected>>),
    /// Done; these commands cannot fail.
    Done,
}

/// An append group that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// The partition's log start offset.
    pub log_start: Offset,
}

/// An append group that changed nothing, on every replica alike. Its batches are not in the log: tell their
/// producers to retry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rejected {
    /// The stamp does not continue the partition: an append before it was lost with its leader, or
    /// rejected (invariant 3).
    #[error("batch is stamped with offset {stamped}, but the partition ends at {end}")]
    BaseOffset {
        /// The offset in the batch.
        stamped: Offset,
        /// Where the partition, or the batch before in the group, ends.
        end: Offset,
    },
    /// The leader that stamped it has been followed by another (invariant 5).
    #[error("batch is stamped with leader epoch {stamped}, but the partition is at {latest}")]
    LeaderEpoch {
        /// The epoch in the batch.
        stamped: LeaderEpoch,
        /// The epoch of the newest record.
        latest: LeaderEpoch,
    },
    /// It does not continue its producer: the leader staged it on a state that never came to be.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The topic has been deleted. Final.
    #[error("the topic has been deleted")]
    TopicDropped,
    /// The bytes are no batch: a fault in the leader that proposed them.
    #[error("not a record batch: {0}")]
    Batch(#[from] BatchError),
    /// The group cannot be indexed: a fault in the leader that proposed it.
    #[error("append group is malformed: {what}")]
    Group {
        /// What is wrong.
        what: &'static str,
    },
}

impl State {
    /// A shard before its first command.
    pub fn new(shard: ShardId) -> Self {
        Self {
            shard,
            applied: LogPosition::default(),
            topics: IdMap::default(),
            groups: Groups::default(),
            dropped: BTreeMap::new(),
        }
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Place of the last applied command. Entries without a command (blank, membership) do not count.
    pub fn applied(&self) -> LogPosition {
        self.applied
    }

    /// Applies the command at `at`, which must lie beyond every one applied before.
    ///
    /// Deterministic in the state and the command (invariant 4). A rejected append group changes nothing.
    pub fn apply(&mut self, at: LogPosition, command: &Command) -> Outcome {
        debug_assert!(
            at.index > self.applied.index,
            "commands are applied once and in order"
        );
        self.applied = at;
        match command {
            Command::Append { now, groups } => return Outcome::Append(self.apply_append(at, *now, groups)),
            Command::CommitOffsets {
                group,
                offsets,
                now: _,
            } => {
                // A topic deleted in between must not come back by its commits.
                let mut offsets = offsets
                    .iter()
                    .filter(|(partition, _)| !self.dropped.contains_key(&partition.topic))
                    .peekable();
                if offsets.peek().is_some() {
                    self.groups.entry(group).offsets.extend(offsets.cloned());
                }
            }
            Command::SaveGroup { group, body, now } => {
                // Copied: a slice would keep the whole frame it was received in alive.
                let body = bytes::Bytes::copy_from_slice(body);
                self.groups.entry(group).saved = Some(crate::SavedGroup { body, saved_at: *now });
            }
            Command::DeleteGroups { groups } => groups.iter().for_each(|group| self.groups.remove(group)),
            Command::DeleteOffsets { group, partitions } => self.groups.remove_offsets(group, partitions),
            Command::ExpireOffsets { now, expired } => {
                expired.iter().for_each(|group| self.groups.expire(group));
                self.forget_dropped(*now);
            }
            Command::SetLogStart { starts } => {
                for (partition, start) in starts {
                    if let Some(state) = self.partition_mut(*partition) {
                        state.set_log_start(*start);
                    }
                }
            }
            Command::DropTopic { topic, now } => {
                self.topics.remove(topic);
                self.groups.drop_topic(*topic);
                self.forget_dropped(*now);
                self.dropped.insert(*topic, *now);
            }
            Command::ExpireProducers { now } => {
                let before = TimestampMs(now.0.saturating_sub(PRODUCER_EXPIRY_MS));
                let partitions = self.topics.values_mut().flat_map(BTreeMap::values_mut);
                partitions.for_each(|partition| partition.producers.expire(before));
                self.forget_dropped(*now);
            }
        }
        Outcome::Done
    }

    /// The partition's state, `None` while it has never had a record: all its numbers are 0 then.
    pub fn partition(&self, partition: Partition) -> Option<&PartitionState> {
        self.topics
            .get(&partition.topic)?
            .get(&partition.index)
            .map(Box::as_ref)
    }

    /// Every partition that has, or had, records. Those of one topic come together; there is no other order to
    /// rely on.
    pub fn partitions(&self) -> impl Iterator<Item = (Partition, &PartitionState)> {
        self.topics.iter().flat_map(|(topic, partitions)| {
            partitions.iter().map(|(index, state)| {
                (
                    Partition {
                        topic: *topic,
                        index: *index,
                    },
                    state.as_ref(),
                )
            })
        })
    }

    /// Whether the topic was deleted within the last day; appends to it are rejected.
    pub fn is_dropped(&self, topic: TopicId) -> bool {
        self.dropped.contains_key(&topic)
    }

    /// The oldest Raft entry that still holds records of some partition; `None` if there are no records. The
    /// log before it may be released.
    pub fn oldest_index_needed(&self) -> Option<RaftIndex> {
        self.partitions()
            .filter_map(|(_, partition)| partition.first_index())
            .min()
    }

    /// A consumer group.
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(name)
    }

    /// Every consumer group, by name.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = (&str, &Group)> {
        self.groups.iter()
    }

    /// Committed offsets older than `retention_ms`, ready for [`Command::ExpireOffsets`]. Groups for which
    /// `is_active` holds are left out. Age counts from the commit or from the group's last
    /// [`Command::SaveGroup`], whichever is later (KIP-211).
    pub fn expired_offsets(
        &self,
        now: TimestampMs,
        retention_ms: u64,
        is_active: impl Fn(&str) -> bool,
    ) -> Vec<ExpiredOffsets> {
        self.groups.expired(now, retention_ms, is_active)
    }

    /// Asserts the invariants of `docs/INVARIANTS.md` that concern a shard's state; says which is broken.
    pub fn check(&self) -> Result<(), String> {
        for (partition, state) in self.partitions() {
            state
                .check()
                .map_err(|broken| format!("partition {partition}: {broken}"))?;
            if state
                .chunks
                .last()
                .is_some_and(|last| last.index > self.applied.index)
            {
                return Err(format!(
                    "partition {partition}: a chunk lies beyond {}",
                    self.applied
                ));
            }
        }
        if let Some((topic, _)) = self.topics.iter().find(|(_, partitions)| partitions.is_empty()) {
            return Err(format!("topic {topic} is kept without a partition"));
        }
        if let Some(topic) = self.topics.keys().find(|topic| self.is_dropped(**topic)) {
            return Err(format!("dropped topic {topic} still has partitions"));
        }
        self.groups.check()
    }

    fn partition_mut(&mut self, partition: Partition) -> Option<&mut PartitionState> {
        self.topics
            .get_mut(&partition.topic)?
            .get_mut(&partition.index)
            .map(Box::as_mut)
    }

    fn forget_dropped(&mut self, now: TimestampMs) {
        let before = now.0.saturating_sub(DROPPED_TOPIC_MEMORY_MS);
        self.dropped.retain(|_, dropped_at| dropped_at.0 >= before);
    }

    fn apply_append(
        &mut self,
        at: LogPosition,
        now: TimestampMs,
        groups: &[AppendGroup],
    ) -> Vec<Result<Appended, Rejected>> {
        let mut position = append_header_bytes(groups) as u64;
        let mut results = Vec::with_capacity(groups.len());
        for group in groups {
            results.push(self.apply_group(at.index, position, now, group));
            position += group.batches.iter().map(|batch| batch.len() as u64).sum::<u64>();
        }
        #[cfg(debug_assertions)]
        if at.index.0.is_multiple_of(64) {
            self.check_groups(groups);
        }
        results
    }

    fn apply_group(
        &mut self,
        index: RaftIndex,
        position: u64,
        now: TimestampMs,
        group: &AppendGroup,
    ) -> Result<Appended, Rejected> {
        let AppendGroup { partition, batches } = group;
        let known = self
            .topics
            .get_mut(&partition.topic)
            .and_then(|topic| topic.get_mut(&partition.index));
        if known.is_none() && self.dropped.contains_key(&partition.topic) {
            return Err(Rejected::TopicDropped);
        }
        let Checked { mut chunk, producers } = check_group(group, known.as_deref().map(Box::as_ref), now)?;
        chunk.index = index;
        chunk.at = u32::try_from(position).map_err(|_| Rejected::Group {
            what: "it lies beyond 4 GiB",
        })?;
        if chunk.max_timestamp.0 < 0 {
            // Records without a timestamp are as old as their append, or retention would take them at once.
            chunk.max_timestamp = now;
        }

        let state = match known {
            Some(state) => state,
            None => {
                let topic = self.topics.entry(partition.topic).or_default();
                topic
                    .entry(partition.index)
                    .or_insert_with(|| Box::new(PartitionState::new()))
            }
        };
        for batch in batches {
            let header = BatchHeader::parse(batch).expect("checked above");
            let epoch = header.leader_epoch.expect("checked above");
            state.append(&header, epoch);
        }
        state.producers.put_all(producers);
        state.push_chunk(chunk);
        Ok(Appended {
            base_offset: chunk.base_offset,
            log_start: state.log_start_offset,
        })
    }

    /// Partitions with a long index are left to [`State::check`]: this one runs under load in tests.
    #[cfg(debug_assertions)]
    fn check_groups(&self, groups: &[AppendGroup]) {
        let partitions = groups.iter().filter_map(|group| self.partition(group.partition));
        for state in partitions.filter(|state| state.chunks.len() <= CHUNKS_CHECKED_MAX) {
            if let Err(broken) = state.check() {
                panic!("shard {}: {broken}", self.shard);
            }
        }
    }
}

/// A group that may be applied.
struct Checked {
    /// Where the group lies in the log is left to the caller.
    chunk: Chunk,
    /// Its producers, as they are after it.
    producers: Producers,
}

/// Checks every batch of a group before the first one changes anything, and sums them up.
fn check_group(
    group: &AppendGroup,
    known: Option<&PartitionState>,
    now: TimestampMs,
) -> Result<Checked, Rejected> {
    let start = known.map_or(Offset(0), PartitionState::high_watermark);
    let mut latest = known.and_then(PartitionState::latest_epoch);
    let mut end = start;
    let mut bytes = 0_u64;
    let mut max_timestamp = TimestampMs(i64::MIN);
    let mut producers = Producers::default();
    for batch in &group.batches {
        let header = BatchHeader::parse(batch)?;
        if header.size() != batch.len() {
            return Err(BatchError::Truncated {
                need_bytes: header.size(),
                have_bytes: batch.len(),
            }
            .into());
        }
        if header.base_offset != end {
            return Err(Rejected::BaseOffset {
                stamped: header.base_offset,
                end,
            });
        }
        let epoch = header.leader_epoch.ok_or(Rejected::Group {
            what: "a batch has no leader epoch",
        })?;
        match latest {
            Some(latest) if epoch < latest => {
                return Err(Rejected::LeaderEpoch {
                    stamped: epoch,
                    latest,
                });
            }
            _ => latest = Some(epoch),
        }
        if let Some(id) = header.producer_id {
            let earlier = producers
                .get(id)
                .or_else(|| known.and_then(|known| known.producer(id)));
            let producer = Producer::after(earlier, id, &header, end, now)?;
            producers.put(producer);
        }
        end = header.next_offset();
        bytes += batch.len() as u64;
        max_timestamp = max_timestamp.max(header.max_timestamp);
    }
    if group.batches.is_empty() {
        return Err(Rejected::Group {
            what: "it has no batches",
        });
    }
    // Kafka's offsets are signed.
    if i64::try_from(end.0).is_err() {
        return Err(Rejected::Group {
            what: "its offsets leave the range of 63 bits",
        });
    }
    let span = u32::try_from(end.0 - start.0);
    let count = span.map_err(|_| Rejected::Group {
        what: "it spans more than 32 bits of offsets",
    })?;
    let bytes = u32::try_from(bytes).map_err(|_| Rejected::Group {
        what: "it is larger than 4 GiB",
    })?;
    let chunk = Chunk {
        base_offset: start,
        index: RaftIndex(0),
        max_timestamp,
        count,
        at: 0,
        bytes,
    };
    Ok(Checked { chunk, producers })
}

#[cfg(test)]
mod tests;
