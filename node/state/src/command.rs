//! One entry of a shard's Raft log.

use bytes::Bytes;
use meridian_lineage::{BeginEpoch, ContentRun, StagePart};
use meridian_tiered_storage::manifest::{NewExtent, NewObject, ObjectId, Replacement};
use meridian_types::{LeaderEpoch, Offset, Partition, RaftIndex, RegionEpoch, TimestampMs, TopicId};

mod decode;
mod encode;
mod tier;

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
    /// A bundle is in the bucket, verified: with what the bucket had before, it holds every record of the log up
    /// to an entry. From feature level 3 on, as all that follows.
    Tiered {
        /// The manifest's sequence that it was made for; refused when another change came first.
        sequence: u64,
        /// The entry.
        through: RaftIndex,
        /// The bundle.
        object: NewObject,
        /// What it holds, in the order of the partitions, each partition's in the order of offsets.
        extents: Vec<(Partition, NewExtent)>,
        /// The leader's clock when it proposed.
        now: TimestampMs,
    },
    /// An object took the place of parts of others: a merge, or compaction.
    Replaced {
        /// The manifest's sequence that it was made for; refused when another change came first.
        sequence: u64,
        /// The object, verified.
        object: NewObject,
        /// What it replaces, in the order of partitions and offsets.
        replaced: Vec<Replacement>,
        /// The leader's clock when it proposed.
        now: TimestampMs,
    },
    /// Unlinked objects were deleted from the bucket: the manifest forgets them.
    TierDeleted {
        /// The objects.
        objects: Vec<ObjectId>,
    },
    /// Moves starts of hot indexes forward: what lies below is read from the bucket. Cut down to what the bucket
    /// has, and to whole chunks.
    SetLocalStart {
        /// The new starts.
        starts: Vec<(Partition, Offset)>,
    },
    /// Content that another region, which owns the shard, has added. From feature level 4 on, as all that follows.
    ///
    /// The batches lie in this entry, so that reads, followers and the tier work on a mirror as anywhere.
    Mirrored(ContentRun),
    /// A region epoch begins: the shard is promoted, or follows.
    BeginEpoch(BeginEpoch),
    /// The owner stops: content behind this is refused until a newer epoch begins.
    Fence {
        /// The epoch in force.
        region_epoch: RegionEpoch,
    },
    /// A part of a checkpoint of the owner, for a mirror that the owner's log no longer reaches back to. Changes nothing
    /// that anybody sees.
    Stage(StagePart),
    /// Batches that the staged checkpoint counts on and the bucket lacks.
    Fill {
        /// The checkpoint.
        checkpoint: u64,
        /// Each continues what was filled before of its partition; the first says where the filling begins.
        groups: Vec<FillGroup>,
    },
    /// The staged checkpoint takes the place of the content that is here.
    Install(Install),
}

/// Batches of one partition, as the owner has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FillGroup {
    /// The partition.
    pub partition: Partition,
    /// Where it begins; compaction may have taken the records from there to the first batch.
    pub base_offset: Offset,
    /// Where the next one begins.
    pub end_offset: Offset,
    /// Greatest timestamp of the batches.
    pub max_timestamp: TimestampMs,
    /// Whole batches, verified.
    pub bytes: Bytes,
}

/// How a staged checkpoint is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    /// The checkpoint.
    pub checkpoint: u64,
    /// Whether the objects that its manifest names lie in this region's bucket now.
    pub has_objects: bool,
    /// Log starts that have moved on at the owner since, so that the records below could not be had any more.
    pub starts: Vec<(Partition, Offset)>,
    /// The leader's clock when it proposed.
    pub now: TimestampMs,
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

    /// Whether clients alone cause it and it makes no room: while a disk is full it has to wait.
    pub fn is_of_clients(&self) -> bool {
        matches!(
            self,
            Self::Append { .. } | Self::CommitOffsets { .. } | Self::SaveGroup { .. }
        )
    }

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
            Self::Tiered { .. } => "tiered",
            Self::Replaced { .. } => "replaced",
            Self::TierDeleted { .. } => "tier_deleted",
            Self::SetLocalStart { .. } => "set_local_start",
            Self::Mirrored(_) => "mirrored",
            Self::BeginEpoch(_) => "begin_epoch",
            Self::Fence { .. } => "fence",
            Self::Stage(_) => "stage",
            Self::Fill { .. } => "fill",
            Self::Install(_) => "install",
        }
    }

    /// The leader's clock, where the command names it.
    pub(crate) fn clock(&self) -> Option<TimestampMs> {
        match self {
            Self::Append { now, .. }
            | Self::CommitOffsets { now, .. }
            | Self::SaveGroup { now, .. }
            | Self::ExpireOffsets { now, .. }
            | Self::DropTopic { now, .. }
            | Self::ExpireProducers { now }
            | Self::Tiered { now, .. }
            | Self::Replaced { now, .. } => Some(*now),
            Self::Install(install) => Some(install.now),
            Self::DeleteGroups { .. }
            | Self::DeleteOffsets { .. }
            | Self::SetLogStart { .. }
            | Self::TierDeleted { .. }
            | Self::SetLocalStart { .. }
            | Self::Mirrored(_)
            | Self::BeginEpoch(_)
            | Self::Fence { .. }
            | Self::Stage(_)
            | Self::Fill { .. } => None,
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
    pub(super) const TIERED: u8 = 16;
    pub(super) const REPLACED: u8 = 17;
    pub(super) const TIER_DELETED: u8 = 18;
    pub(super) const SET_LOCAL_START: u8 = 19;
    pub(super) const MIRRORED: u8 = 24;
    pub(super) const BEGIN_EPOCH: u8 = 25;
    pub(super) const FENCE: u8 = 26;
    pub(super) const STAGE: u8 = 27;
    pub(super) const FILL: u8 = 28;
    pub(super) const INSTALL: u8 = 29;
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

/// Version, kind, checkpoint and count of groups: what stands before the groups of a filling.
const FILL_FIXED_BYTES: usize = 2 + 8 + 4;
/// Partition, base and end offset, timestamp, and the length of the batches.
const FILL_GROUP_BYTES: usize = crate::codec::PARTITION_BYTES + 8 + 8 + 8 + 4;

/// Bytes of the header part of an encoded filling: the first batch lies behind them.
pub(crate) fn fill_header_bytes(groups: &[FillGroup]) -> usize {
    FILL_FIXED_BYTES + groups.len() * FILL_GROUP_BYTES
}
