//! Which shard holds a partition.

use crate::{Partition, RegionNumber, ShardId};

/// How the partitions of a region are dealt to its shards.
///
/// Those of topics that every region has lie in the first shards, the shared ones, which have the same content in all
/// regions. Behind them are home shards for topics that stay in this region; their content is nobody else's. There is a power of
/// two of each; of home shards there may be none, then no topic stays here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardMap {
    region: RegionNumber,
    shared: u32,
    home: u32,
}

impl ShardMap {
    /// Of a region that is alone, or where only shards count that all regions have. `shards` is a power of two, or 0 before
    /// there are any.
    pub fn shared(shards: u32) -> Self {
        Self {
            region: RegionNumber(0),
            shared: shards,
            home: 0,
        }
    }

    /// Of a region that has `count` shards of partitions, the first `shared` of which all regions have. `None` if no region
    /// can have these.
    pub fn new(region: RegionNumber, shared: u32, count: u32) -> Option<Self> {
        let home = count.checked_sub(shared)?;
        let may_be = shared.is_power_of_two() && (home == 0 || home.is_power_of_two());
        may_be.then_some(Self { region, shared, home })
    }

    /// The region.
    pub fn region(self) -> RegionNumber {
        self.region
    }

    /// How many shards all regions have.
    pub fn shared_count(self) -> u32 {
        self.shared
    }

    /// How many there are for topics that stay in this region.
    pub fn home_count(self) -> u32 {
        self.home
    }

    /// All shards of partitions.
    pub fn all(self) -> impl Iterator<Item = ShardId> {
        (0..self.shared + self.home).map(ShardId)
    }

    /// Those of topics that stay in this region.
    pub fn home(self) -> impl Iterator<Item = ShardId> {
        self.all().skip(self.shared as usize)
    }

    /// Whether a shard holds partitions that stay in this region.
    pub fn is_home(self, shard: ShardId) -> bool {
        (self.shared..self.shared + self.home).contains(&shard.0)
    }

    /// The shard of a partition; [`ShardId::ELSEWHERE`] where its topic stays in another region.
    pub fn of(self, partition: Partition) -> ShardId {
        match partition.topic.home() {
            None => shard_of(partition, self.shared),
            Some(home) if home == self.region && self.home > 0 => {
                ShardId(self.shared + shard_of(partition, self.home).0)
            }
            Some(_) => ShardId::ELSEWHERE,
        }
    }
}

/// The shard, of so many, that holds a partition: `(hash(topic) + index) % shards`.
///
/// `shards` is a power of two, so doubling it splits each shard `s` into `s` and `s + shards`.
/// The hash is FNV-1a over the id's 16 bytes: stable across versions and platforms.
fn shard_of(partition: Partition, shards: u32) -> ShardId {
    debug_assert!(shards.is_power_of_two());
    ShardId(fnv1a(partition.topic.0.as_bytes()).wrapping_add(partition.index) & (shards - 1))
}

/// The shard that coordinates a named thing (a consumer group, a transactional id), of so many that all regions have.
pub fn shard_of_name(name: &str, shards: u32) -> ShardId {
    debug_assert!(shards.is_power_of_two());
    ShardId(fnv1a(name.as_bytes()) & (shards - 1))
}

fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::TopicId;

    #[test]
    fn consecutive_partitions_of_a_topic_visit_every_shard() {
        let topic = TopicId(Uuid::from_u128(7));
        let shards: std::collections::BTreeSet<_> = (0..16)
            .map(|index| shard_of(Partition { topic, index }, 16))
            .collect();
        assert_eq!(shards.len(), 16);
    }

    #[test]
    fn doubling_the_shards_splits_each_into_two() {
        for index in 0..200 {
            let partition = Partition {
                topic: TopicId(Uuid::from_u128(index.into())),
                index,
            };
            let before = shard_of(partition, 16).0;
            let after = shard_of(partition, 32).0;
            assert!(after == before || after == before + 16);
        }
    }

    #[test]
    fn a_topic_that_stays_in_a_region_lies_in_shards_of_its_own_there_and_in_none_elsewhere() {
        let (here, there) = (RegionNumber(7), RegionNumber(999));
        let map = ShardMap::new(here, 16, 20).unwrap();
        for random in [0, u128::MAX, 0x1234_5678_9abc_def0_1234_5678_9abc_def0] {
            let shard = |home, index| {
                let topic = TopicId::random(random, home);
                assert_eq!(topic.home(), home);
                map.of(Partition { topic, index })
            };
            for index in 0..20 {
                assert!(shard(None, index) < ShardId(16));
                let home = shard(Some(here), index);
                assert!(map.is_home(home) && map.home().any(|it| it == home));
                assert_eq!(shard(Some(there), index), ShardId::ELSEWHERE);
            }
        }
        assert!(!map.is_home(ShardId(15)) && !map.is_home(ShardId::ELSEWHERE));
        let none = ShardMap::new(here, 16, 16).unwrap();
        let topic = TopicId::random(5, Some(here));
        assert_eq!(none.of(Partition { topic, index: 0 }), ShardId::ELSEWHERE);
    }

    #[test]
    fn the_shards_of_a_region_are_a_power_of_two_and_those_that_stay_one_or_none() {
        let new = |shared, count| ShardMap::new(RegionNumber(3), shared, count);
        for (shared, count) in [(0, 0), (0, 4), (12, 12), (16, 15), (16, 19), (16, u32::MAX)] {
            assert_eq!(new(shared, count), None, "{shared} of {count}");
        }
        let map = new(16, 18).unwrap();
        assert_eq!((map.shared_count(), map.home_count()), (16, 2));
        assert!(map.all().eq((0..18).map(ShardId)));
        assert!(map.home().eq([ShardId(16), ShardId(17)]));
    }
}
