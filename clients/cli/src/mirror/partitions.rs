//! How far each partition of a mirror is behind its owner's. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_client::admin::{MirrorDescription, MirrorPartition};
use meridian_types::{Offset, Partition, ShardId, ShardMap, TopicId};
use serde_json::{Value, json};

use crate::output::{Rows, or_dash, time_text};

/// A partition in a region that mirrors it.
pub(super) struct PartitionLag<'a> {
    held: &'a MirrorPartition,
    /// Offsets that it lacks of what the owner told at the same time; `None` where the owner told nothing.
    offsets: Option<u64>,
    /// That of the shard it lies in.
    staleness: Option<Duration>,
}

/// Every partition of every mirror.
pub(super) fn lags(mirror: &MirrorDescription) -> Vec<PartitionLag<'_>> {
    let key = |held: &MirrorPartition| (held.topic_id, held.partition);
    let owners = mirror
        .partitions
        .iter()
        .filter(|held| held.region == mirror.owner);
    let ends: BTreeMap<_, Offset> = owners.map(|held| (key(held), held.end_offset)).collect();
    let shards = shard_count(mirror);
    let staleness = |held: &MirrorPartition| {
        let partition = Partition {
            topic: TopicId(held.topic_id),
            index: held.partition,
        };
        let shard = ShardMap::shared(shards?).of(partition);
        let mut of_region = mirror.shards.iter().filter(|it| it.region == held.region);
        of_region.find(|it| it.shard == shard)?.staleness
    };
    let mirrors = mirror
        .partitions
        .iter()
        .filter(|held| held.region != mirror.owner);
    let mut lags: Vec<_> = mirrors
        .map(|held| PartitionLag {
            held,
            offsets: ends
                .get(&key(held))
                .map(|end| end.0.saturating_sub(held.end_offset.0)),
            staleness: staleness(held),
        })
        .collect();
    lags.sort_by(|a, b| {
        let order = |it: &PartitionLag<'_>| (it.held.topic.clone(), it.held.partition, it.held.region);
        order(a).cmp(&order(b))
    });
    lags
}

/// How many data shards there are; `None` where not all have a leader that answered.
fn shard_count(mirror: &MirrorDescription) -> Option<u32> {
    let data = mirror.shards.iter().map(|it| it.shard);
    let last = data.filter(|shard| *shard != ShardId::CONTROLLER).max()?;
    last.0.checked_add(1).filter(|count| count.is_power_of_two())
}

pub(super) fn rows(mirror: &MirrorDescription, lags: &[PartitionLag<'_>]) -> Rows {
    let mut rows = Rows::new(&["TOPIC", "PARTITION", "REGION", "END", "LAG", "STALENESS"]);
    for lag in lags {
        rows.push([
            lag.held.topic.clone(),
            lag.held.partition.to_string(),
            mirror.name_of(lag.held.region),
            lag.held.end_offset.to_string(),
            or_dash(lag.offsets),
            or_dash(lag.staleness.map(time_text)),
        ]);
    }
    rows
}

impl PartitionLag<'_> {
    pub(super) fn json(&self, mirror: &MirrorDescription) -> Value {
        json!({
            "topic": self.held.topic,
            "partition": self.held.partition,
            "region": self.held.region,
            "region_name": mirror.name_of(self.held.region),
            "end_offset": self.held.end_offset.0,
            "lag_offsets": self.offsets,
            "staleness_ms": self.staleness.map(|it| it.as_millis()),
        })
    }
}

#[cfg(test)]
mod tests {
    use meridian_client::admin::MirrorShard;

    use super::*;
    use crate::mirror::testing;

    fn mirror() -> MirrorDescription {
        let shard = |number: u32, region| MirrorShard {
            staleness: Some(Duration::from_secs(u64::from(number) + 1)),
            ..testing::shard(number, region)
        };
        let partition = |region, number, end| testing::partition(region, number, end, 1);
        let partitions = vec![
            partition(0, 0, 50),
            partition(0, 1, 7),
            partition(1, 1, 9),
            partition(1, 0, 42),
            partition(1, 2, 3),
        ];
        testing::mirror(vec![shard(0, 1), shard(1, 1)], partitions)
    }

    #[test]
    fn a_partition_lags_by_the_offsets_that_it_lacks_and_the_time_of_its_shard() {
        let mirror = mirror();
        let lags = lags(&mirror);
        let told: Vec<_> = lags.iter().map(|lag| (lag.held.partition, lag.offsets)).collect();
        // The owner told of partition 1 a little earlier, and of partition 2 nothing.
        assert_eq!(told, [(0, Some(8)), (1, Some(0)), (2, None)]);
        // Partitions that follow one another lie in shards that do.
        let ages: Vec<_> = lags.iter().map(|lag| lag.staleness.expect("known")).collect();
        assert_ne!(ages[0], ages[1]);
        assert_eq!(ages[0], ages[2]);
    }

    #[test]
    fn where_shards_are_missing_no_partition_has_a_time() {
        let mut mirror = mirror();
        let third = MirrorShard {
            shard: ShardId(2),
            ..mirror.shards[0].clone()
        };
        mirror.shards.push(third);
        assert!(lags(&mirror).iter().all(|lag| lag.staleness.is_none()));
    }
}
