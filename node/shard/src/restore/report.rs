//! What a restore did, for the operator.

use meridian_types::{LogPosition, NodeId, RegionEpoch, ShardId, TimestampMs, TopicId};

/// How far a restore is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreProgress {
    /// Shards whose state was read.
    pub shards: u64,
    /// Shards of the region.
    pub total_shards: u64,
    /// Objects that are known to be there.
    pub objects: u64,
}

/// A copy of a state that was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyUsed {
    /// Its key.
    pub key: String,
    /// What of the log it holds.
    pub position: LogPosition,
    /// When it was written. Whatever was acknowledged later and is not in the bucket is lost.
    pub written_at: TimestampMs,
}

/// What was restored.
#[derive(Clone, Debug)]
pub struct RestoreReport {
    /// The cluster's id.
    pub cluster: String,
    /// The region's name.
    pub region: String,
    /// The new region's epoch.
    pub region_epoch: RegionEpoch,
    /// The new node.
    pub node: NodeId,
    /// Topics.
    pub topics: usize,
    /// The copy of the controller's state.
    pub controller: CopyUsed,
    /// Every shard.
    pub shards: Vec<ShardRestored>,
    /// Topics whose names are lost, and what they are called now.
    pub renamed: Vec<(TopicId, String)>,
    /// Topics that got further partitions after the controller's copy was made.
    pub grown: Vec<String>,
    /// Topics that were deleted after the controller's copy was made.
    pub deleted: Vec<String>,
    /// Ids of the lost nodes, which the region never gives again.
    pub retired: Vec<NodeId>,
    /// Objects that are there.
    pub objects: u64,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// What was restored of one shard.
#[derive(Clone, Debug)]
pub struct ShardRestored {
    /// The shard.
    pub shard: ShardId,
    /// The copy of its state; `None` when it never wrote one: nothing is known of it.
    pub copy: Option<CopyUsed>,
    /// Partitions that have, or had, records.
    pub partitions: u64,
    /// Records that can be read. In a partition whose log start lies within a compacted extent, about.
    pub records: u64,
    /// Their newest timestamp, if there are records.
    pub newest_timestamp: Option<TimestampMs>,
    /// Records that the state knew and the bucket lacks: lost for certain.
    pub lost_records: u64,
    /// Idempotent producers whose batches are all among the lost.
    pub lost_producers: u64,
    /// Consumer groups.
    pub groups: u64,
    /// Committed offsets that were taken back to the end of their partition.
    pub clamped_offsets: u64,
}

impl RestoreReport {
    /// Records of all shards.
    pub fn records(&self) -> u64 {
        self.shards.iter().map(|shard| shard.records).sum()
    }

    /// Records that are lost for certain, of all shards.
    pub fn lost_records(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lost_records).sum()
    }

    /// The newest timestamp of all.
    pub fn newest_timestamp(&self) -> Option<TimestampMs> {
        self.shards
            .iter()
            .filter_map(|shard| shard.newest_timestamp)
            .max()
    }

    /// When the oldest copy was written that was used: all that was acknowledged before it is there, but for what
    /// [`Self::lost_records`] counts. Shards that never wrote a copy are left out.
    pub fn complete_until(&self) -> Option<TimestampMs> {
        let copies = self.shards.iter().filter_map(|shard| shard.copy.as_ref());
        copies.map(|copy| copy.written_at).min()
    }
}
