//! The state of one shard, and how a command changes it.

use std::collections::BTreeMap;

use meridian_lineage::{
    BeginRejected, FenceRejected, InstallRejected, MirrorRejected, NotOwner, StageRejected, Standing,
};
use meridian_types::{
    LeaderEpoch, LogPosition, Offset, Partition, RaftIndex, RegionEpoch, ShardId, TimestampMs, TopicId,
};
use meridian_wire::batch::{BatchError, BatchHeader};
use thiserror::Error;

use crate::chunk::Chunk;
use crate::command::{AppendGroup, Command, ExpiredOffsets, append_header_bytes};
use crate::groups::{Group, Groups};
use crate::hasher::IdMap;
use crate::install::{FillRejected, Staged};
use crate::mirror::{Mirrored, NO_REGION};
use crate::partition::PartitionState;
use crate::producers::{PRODUCER_EXPIRY_MS, Producer, Producers, SequenceError};
use crate::tier::{Tier, TierRejected, Tiered};

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
    /// What of the shard is in the bucket.
    pub(crate) tier: Tier,
    /// Where the shard stands among the regions.
    pub(crate) standing: Standing,
    /// A checkpoint of the owner on its way in.
    pub(crate) staged: Option<Box<Staged>>,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// One result per append group, in order.
    Append(Vec<Result<Appended, Rejected>>),
    /// Whether a change of the manifest was taken.
    Tier(Result<(), TierRejected>),
    /// Done; these commands cannot fail.
    Done,
    /// Content that this region may not add now, other than an append: nothing changed.
    NotOwner(NotOwner),
    /// Whether a run of the owner's content was taken.
    Mirrored(Result<Mirrored, MirrorRejected>),
    /// Whether a region epoch began.
    Begun(Result<(), BeginRejected>),
    /// Whether the owner was fenced.
    Fenced(Result<(), FenceRejected>),
    /// Whether a part of a checkpoint was staged.
    Staged(Result<(), StageRejected>),
    /// Whether batches for a checkpoint were taken.
    Filled(Result<(), FillRejected>),
    /// Whether a checkpoint was installed.
    Installed(Result<Mirrored, InstallRejected>),
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
    /// This region does not add content now (invariant 8).
    #[error(transparent)]
    NotOwner(#[from] NotOwner),
    /// It was stamped under another region epoch than the one in force (invariants 5 and 8).
    #[error("batch is stamped under region epoch {stamped}, and {present} is in force")]
    RegionEpoch {
        /// The region epoch in the batch.
        stamped: RegionEpoch,
        /// The epoch in force.
        present: RegionEpoch,
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
            tier: Tier::default(),
            standing: Standing::default(),
            staged: None,
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

    /// Where the shard stands among the regions: its role, and how far its content has come.
    pub fn standing(&self) -> &Standing {
        &self.standing
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
            Command::Tiered {
                sequence,
                through,
                object,
                extents,
                now,
            } => {
                self.tick(*now);
                let tiered = Tiered {
                    sequence: *sequence,
                    through: *through,
                    object: *object,
                    extents,
                    now: *now,
                };
                Outcome::Tier(self.apply_tiered(at, tiered))
            }
            Command::Replaced {
                sequence,
                object,
                replaced,
                now,
            } => {
                self.tick(*now);
                Outcome::Tier(self.apply_replaced(*sequence, *object, replaced, *now))
            }
            Command::TierDeleted { objects } => {
                self.apply_tier_deleted(objects);
                Outcome::Done
            }
            Command::SetLocalStart { starts } => {
                self.apply_local_starts(starts);
                Outcome::Done
            }
            Command::Mirrored(run) => Outcome::Mirrored(self.apply_mirrored(at, run)),
            Command::BeginEpoch(begin) => Outcome::Begun(self.begin_epoch(at, begin)),
            Command::Fence { region_epoch } => Outcome::Fenced(self.standing.fence(at.index, *region_epoch)),
            Command::Stage(part) => Outcome::Staged(self.stage(part)),
            Command::Fill { checkpoint, groups } => Outcome::Filled(self.fill(at.index, *checkpoint, groups)),
            Command::Install(install) => Outcome::Installed(self.install(at, install)),
            Command::Append { .. }
            | Command::CommitOffsets { .. }
            | Command::SaveGroup { .. }
            | Command::DeleteGroups { .. }
            | Command::DeleteOffsets { .. }
            | Command::ExpireOffsets { .. }
            | Command::SetLogStart { .. }
            | Command::DropTopic { .. }
            | Command::ExpireProducers { .. } => match self.standing.check_owner() {
                Ok(()) => {
                    let outcome = self.apply_content(at.index, 0, command);
                    self.standing.add(at.index, command, NO_REGION);
                    outcome
                }
                Err(not_owner) => refused(command, not_owner),
            },
        }
    }

    /// Applies a content command that has been admitted. It lies in the entry at `index`, from byte `position` of the
    /// encoded command on.
    pub(crate) fn apply_content(&mut self, index: RaftIndex, position: u64, command: &Command) -> Outcome {
        if let Some(now) = command.clock() {
            self.tick(now);
        }
        match command {
            Command::Append { now, groups } => {
                return Outcome::Append(self.apply_append(index, position, *now, groups));
            }
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
                        self.trim_tier(*partition);
                    }
                }
            }
            Command::DropTopic { topic, now } => {
                self.topics.remove(topic);
                self.drop_topic_tier(*topic, *now);
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
            Command::Tiered { .. }
            | Command::Replaced { .. }
            | Command::TierDeleted { .. }
            | Command::SetLocalStart { .. }
            | Command::Mirrored(_)
            | Command::BeginEpoch(_)
            | Command::Fence { .. }
            | Command::Stage(_)
            | Command::Fill { .. }
            | Command::Install(_) => debug_assert!(false, "{} is no content", command.name()),
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
                .check(self.extents(partition))
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
        self.tier.manifest.check()?;
        self.standing.check()?;
        self.groups.check()
    }

    pub(crate) fn partition_mut(&mut self, partition: Partition) -> Option<&mut PartitionState> {
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
        index: RaftIndex,
        position: u64,
        now: TimestampMs,
        groups: &[AppendGroup],
    ) -> Vec<Result<Appended, Rejected>> {
        let mut position = position + append_header_bytes(groups) as u64;
        let mut results = Vec::with_capacity(groups.len());
        for group in groups {
            results.push(self.apply_group(index, position, now, group));
            position += group.batches.iter().map(|batch| batch.len() as u64).sum::<u64>();
        }
        #[cfg(debug_assertions)]
        if index.0.is_multiple_of(64) {
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
        let region_epoch = self.standing.is_counted().then(|| self.standing.region_epoch());
        let Checked { mut chunk, producers } =
            check_group(group, known.as_deref().map(Box::as_ref), region_epoch, now)?;
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
        let partitions = groups
            .iter()
            .filter_map(|group| Some((group.partition, self.partition(group.partition)?)));
        for (partition, state) in partitions.filter(|(_, state)| state.chunks.len() <= CHUNKS_CHECKED_MAX) {
            if let Err(broken) = state.check(self.extents(partition)) {
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

/// What content is answered that this region may not add.
fn refused(command: &Command, not_owner: NotOwner) -> Outcome {
    match command {
        Command::Append { groups, .. } => {
            Outcome::Append(groups.iter().map(|_| Err(not_owner.into())).collect())
        }
        _ => Outcome::NotOwner(not_owner),
    }
}

/// Checks every batch of a group before the first one changes anything, and sums them up. `region_epoch`: the one in
/// force, once epochs are counted.
fn check_group(
    group: &AppendGroup,
    known: Option<&PartitionState>,
    region_epoch: Option<RegionEpoch>,
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
        if header.base_offset != end && !mutant!(LeadBeforeApplied) {
            return Err(Rejected::BaseOffset {
                stamped: header.base_offset,
                end,
            });
        }
        let epoch = header.leader_epoch.ok_or(Rejected::Group {
            what: "a batch has no leader epoch",
        })?;
        if let Some(present) = region_epoch.filter(|present| epoch.region() != *present) {
            return Err(Rejected::RegionEpoch {
                stamped: epoch.region(),
                present,
            });
        }
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
