//! Shards cut to what the bucket holds. Pure.

use std::collections::{BTreeMap, BTreeSet};

use meridian_controller::Controller;
use meridian_state::{Cut, State};
use meridian_types::{LogPosition, RegionEpoch, ShardId, ShardMap, TopicId};

use super::Ends;
use super::copies::Loaded;
use super::report::{CopyUsed, ShardRestored};

/// A shard as it begins again.
pub(super) struct CutShard {
    pub(super) shard: ShardId,
    pub(super) state: State,
    pub(super) warnings: Vec<String>,
    copy: Option<CopyUsed>,
    cut: Cut,
    clamped_offsets: u64,
}

impl CutShard {
    /// Cuts a shard; its log begins anew behind `at`.
    pub(super) fn of(loaded: Loaded, at: LogPosition) -> Self {
        let Loaded {
            shard,
            mut state,
            copy,
            warnings,
        } = loaded;
        let cut = state.cut(at);
        Self {
            shard,
            state,
            warnings,
            copy,
            cut,
            clamped_offsets: 0,
        }
    }

    /// The newest region epoch under which it has records.
    pub(super) fn epoch(&self) -> Option<RegionEpoch> {
        let epochs = self
            .state
            .partitions()
            .filter_map(|(_, held)| held.latest_epoch());
        epochs.max().map(|epoch| epoch.region())
    }

    /// What the operator is told of it.
    pub(super) fn restored(&self) -> ShardRestored {
        let mut records = 0;
        let mut newest_timestamp = None;
        for (partition, held) in self.state.partitions() {
            for extent in self.state.extents(partition) {
                let start = extent.base_offset.max(held.log_start_offset());
                let offsets = extent.end_offset.0.saturating_sub(start.0);
                records += extent.records.min(offsets);
                newest_timestamp = newest_timestamp.max(Some(extent.max_timestamp));
            }
        }
        ShardRestored {
            shard: self.shard,
            copy: self.copy.clone(),
            partitions: self.state.partitions().count() as u64,
            records,
            newest_timestamp,
            lost_records: self.cut.records,
            lost_producers: self.cut.producers,
            groups: self.state.groups().len() as u64,
            clamped_offsets: self.clamped_offsets,
        }
    }
}

/// Topics that the facts still name, and a shard has dropped: they were deleted since.
pub(super) fn dropped(facts: &Controller, shards: &[CutShard]) -> BTreeSet<TopicId> {
    let is_dropped = |topic: &TopicId| shards.iter().any(|shard| shard.state.is_dropped(*topic));
    facts.topics().map(|topic| topic.id).filter(is_dropped).collect()
}

/// Topics with records, and how many partitions they have at least.
pub(super) fn seen(shards: &[CutShard]) -> BTreeMap<TopicId, u32> {
    let mut seen = BTreeMap::new();
    let partitions = shards.iter().flat_map(|shard| shard.state.partitions());
    for (partition, _) in partitions {
        let count: &mut u32 = seen.entry(partition.topic).or_default();
        *count = (*count).max(partition.index.saturating_add(1));
    }
    seen
}

/// Takes committed offsets back to where their partitions end now, whichever shards those are in.
pub(super) fn clamp_offsets(facts: &Controller, shards: &mut [CutShard]) {
    let mut ends = Ends::new();
    let groups = shards.iter().flat_map(|shard| shard.state.groups());
    for partition in groups.flat_map(|(_, group)| group.offsets.keys()) {
        ends.entry(*partition).or_insert_with(|| {
            let topic = facts.topic_by_id(partition.topic)?;
            let holder = ShardMap::shared(u32::try_from(shards.len()).ok()?).of(*partition);
            let is_there = partition.index < topic.partitions;
            let holder = shards.get(holder.0 as usize).filter(|_| is_there)?;
            Some(holder.state.cut_end(*partition))
        });
    }
    for shard in shards {
        shard.clamped_offsets = shard
            .state
            .clamp_offsets(|partition| ends.get(&partition).copied().flatten());
    }
}
