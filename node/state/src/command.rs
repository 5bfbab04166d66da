//! One entry of a shard's Raft log.

use bytes::Bytes;
use meridian_types::{LeaderEpoch, Offset, Partition, TimestampMs, TopicId};

mod decode;
mod encode;

pub use decode::CommandError;
pub(crate) use decode::get_committed;
pub(crate) use encode::put_committed;

/// What a shard's leader proposes and every replica applies. Format: `docs/formats/command.md`.
///
/// A replica that meets a kind it does not know was written by a newer version: it must stop rather than
/// skip the entry, or replicas would differ (invariant 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Adds batches to partitions.
    Append {
        /// The leader's clock when it proposed.
        now: TimestampMs,
        /// One group per partition; the same partition may come twice, in order.
        groups: Vec<AppendGroup>,
    },
    /// Remembers how far a consumer group has read.
    CommitOffsets {
        /// The consumer group.
        group: String,
        /// The leader's clock when it proposed.
        now: TimestampMs,
        /// The positions.
        offsets: Vec<(Partition, CommittedOffset)>,
    },
    /// Stores what the coordinator must know about a group after a restart.
    SaveGroup {
        /// The consumer group.
        group: String,
        /// The coordinator's own encoding: generation, members, assignments.
        body: Bytes,
        /// The leader's clock when it proposed.
        now: TimestampMs,
    },
    /// Forgets groups with their offsets.
    DeleteGroups {
        /// The consumer groups.
        groups: Vec<String>,
    },
    /// Forgets single positions of a group.
    DeleteOffsets {
        /// The consumer group.
        group: String,
        /// Partitions whose position goes.
        partitions: Vec<Partition>,
    },
    /// Forgets positions that nobody has renewed for too long.
    ExpireOffsets {
        /// The leader's clock when it decided.
        now: TimestampMs,
        /// What goes. A position committed anew since the decision stays.
        expired: Vec<ExpiredOffsets>,
    },
    /// Moves log start offsets forward (DeleteRecords, retention).
    SetLogStart {
        /// The new log start offsets. One at or below the present one changes nothing; one beyond
        /// the end is cut down to the end.
        starts: Vec<(Partition, Offset)>,
    },
    /// Removes the partitions and committed offsets of a deleted topic.
    DropTopic {
        /// The topic.
        topic: TopicId,
        /// The leader's clock when it proposed.
        now: TimestampMs,
    },
    /// Forgets idempotent producers that have been silent for a day.
    ExpireProducers {
        /// The leader's clock when it proposed.
        now: TimestampMs,
    },
}

/// Batches for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendGroup {
    /// Where they go.
    pub partition: Partition,
    /// Whole RecordBatch v2 bytes, stamped with base offset and leader epoch by the sequencer.
    pub batches: Vec<Bytes>,
}

/// How far a consumer group has read a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next record to read.
    pub offset: Offset,
    /// Epoch of the last record read, if the consumer knew it (KIP-320).
    pub leader_epoch: Option<LeaderEpoch>,
    /// Whatever the consumer wanted to remember; often empty.
    pub metadata: String,
    /// When it was committed, by the leader's clock.
    pub committed_at: TimestampMs,
}

/// Committed offsets of one group that are to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiredOffsets {
    /// The consumer group.
    pub group: String,
    /// The positions, each named by when it was committed.
    pub offsets: Vec<(Partition, TimestampMs)>,
}

impl Command {
    /// The version that [`Command::encode`] writes.
    pub const VERSION: u8 = 1;

    /// The command's kind, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Append { .. } => "append",
            Self::CommitOffsets { .. } => "commit_offsets",
            Self::SaveGroup { .. } => "save_group",
            Self::DeleteGroups { .. } => "delete_groups",
            Self::DeleteOffsets { .. } => "delete_offsets",
            Self::ExpireOffsets { .. } => "expire_offsets",
            Self::SetLogStart { .. } => "set_log_start",
            Self::DropTopic { .. } => "drop_topic",
            Self::ExpireProducers { .. } => "expire_producers",
        }
    }
}

/// Kinds by number. Never reuse one. Reserved for what comes later: 16 to 23 tiering, 24 to 31 mirror
/// and ownership, 32 to 39 transactions.
mod kind {
    pub(super) const APPEND: u8 = 1;
    pub(super) const COMMIT_OFFSETS: u8 = 2;
    pub(super) const SAVE_GROUP: u8 = 3;
    pub(super) const DELETE_GROUPS: u8 = 4;
    pub(super) const DELETE_OFFSETS: u8 = 5;
    pub(super) const EXPIRE_OFFSETS: u8 = 6;
    pub(super) const SET_LOG_START: u8 = 7;
    pub(super) const DROP_TOPIC: u8 = 8;
    pub(super) const EXPIRE_PRODUCERS: u8 = 9;
}

/// Version, kind, clock and count of groups: what stands before the groups of an append.
const APPEND_FIXED_BYTES: usize = 2 + 8 + 4;
/// Partition and count of batches.
const GROUP_FIXED_BYTES: usize = crate::codec::PARTITION_BYTES + 4;
/// The length of one batch.
const BATCH_LENGTH_BYTES: usize = 4;

/// Bytes of the header part of an encoded append: the first batch lies behind them.
pub(crate) fn append_header_bytes(groups: &[AppendGroup]) -> usize {
    let batches: usize = groups.iter().map(|group| group.batches.len()).sum();
    APPEND_FIXED_BYTES + groups.len() * GROUP_FIXED_BYTES + batches * BATCH_LENGTH_BYTES
}

#[cfg(test)]
mod tests;
