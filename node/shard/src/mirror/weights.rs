//! How logs share a link, by the topics that they hold. Pure.
//!
//! Content of one shard travels in one order, so topics of one shard cannot overtake one another; shards can.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_controller::{Controller, Topic};
use meridian_types::{Partition, RaftIndex, ShardId, ShardMap, TopicId};
use tokio::time::Instant;

/// Of shards whose topics say nothing; the default of `geo.weight`.
const DEFAULT: u8 = 10;

/// The controller's log comes first: topics, and who owns.
const CONTROLLER: u8 = u8::MAX;

/// Topics are not looked at more often, whatever changes.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The weight of each log.
#[derive(Debug, Default)]
pub(super) struct Weights {
    /// When topics were looked at last, and up to which command.
    seen: Option<(Instant, RaftIndex)>,
    /// Of shards that do not have the default.
    by_shard: BTreeMap<ShardId, u8>,
}

impl Weights {
    /// The share of a log beside others.
    pub(super) fn of(&self, shard: ShardId) -> u8 {
        match shard {
            ShardId::CONTROLLER => CONTROLLER,
            shard => self.by_shard.get(&shard).copied().unwrap_or(DEFAULT),
        }
    }

    /// Looks at the topics, if they may have changed.
    pub(super) fn look(&mut self, now: Instant, controller: &Controller, shards: ShardMap) {
        let applied = controller.applied().index;
        let is_seen = |(at, index): (Instant, RaftIndex)| {
            index == applied || now.saturating_duration_since(at) < LOOK_INTERVAL
        };
        if self.seen.is_some_and(is_seen) {
            return;
        }
        self.seen = Some((now, applied));
        let weight = |topic: &Topic| topic.settings.geo_weight;
        // Nearly always; with many partitions the rest is not for nothing.
        if controller.topics().all(|topic| weight(topic) == DEFAULT) {
            self.by_shard.clear();
            return;
        }
        let topics = controller
            .topics()
            .filter(|topic| topic.id.home().is_none())
            .map(|topic| (topic.id, topic.partitions, weight(topic)));
        self.by_shard = weigh(topics, shards);
    }
}

/// The greatest weight of the topics in each shard, where it is not the default.
fn weigh(topics: impl Iterator<Item = (TopicId, u32, u8)>, shards: ShardMap) -> BTreeMap<ShardId, u8> {
    let mut greatest = BTreeMap::new();
    for (topic, partitions, weight) in topics {
        // Partitions lie in shards by turns: from here on they come round again.
        for index in 0..partitions.min(shards.shared_count()) {
            let known = greatest
                .entry(shards.of(Partition { topic, index }))
                .or_insert(weight);
            *known = weight.max(*known);
        }
    }
    greatest.retain(|_, weight| *weight != DEFAULT);
    greatest
}

#[cfg(test)]
mod tests {
    use meridian_types::Uuid;

    use super::*;

    const fn topic(number: u128) -> TopicId {
        TopicId(Uuid::from_u128(number))
    }

    fn shard(topic: TopicId, index: u32) -> ShardId {
        ShardMap::shared(8).of(Partition { topic, index })
    }

    #[test]
    fn a_shard_has_the_greatest_weight_of_its_topics() {
        let all = topic(1);
        let some = topic(2);
        let weights = weigh([(all, 8, 3), (some, 2, 40)].into_iter(), ShardMap::shared(8));
        assert_eq!(weights.len(), 8, "every shard holds a light topic: {weights:?}");
        let heavy = [shard(some, 0), shard(some, 1)];
        for (shard, weight) in weights {
            assert_eq!(
                weight,
                if heavy.contains(&shard) { 40 } else { 3 },
                "shard {shard}"
            );
        }
    }

    #[test]
    fn a_light_topic_does_not_slow_those_it_lies_with() {
        let (light, plain) = (topic(1), topic(2));
        let weights = weigh(
            [(light, 8, 1), (plain, 1, DEFAULT)].into_iter(),
            ShardMap::shared(8),
        );
        assert_eq!(weights.get(&shard(plain, 0)), None, "it has the default");
        assert_eq!(weights.len(), 7);
    }

    #[test]
    fn where_nobody_says_anything_all_are_alike_and_the_controller_is_first() {
        let weights = Weights {
            seen: None,
            by_shard: weigh([(topic(1), 1_000_000, DEFAULT)].into_iter(), ShardMap::shared(8)),
        };
        assert!(weights.by_shard.is_empty());
        assert_eq!(weights.of(ShardId(3)), DEFAULT);
        assert_eq!(weights.of(ShardId::CONTROLLER), 255);
    }

    #[test]
    fn more_partitions_than_shards_are_in_all_of_them() {
        let weights = weigh([(topic(1), 100_000, 2)].into_iter(), ShardMap::shared(8));
        assert_eq!(weights.len(), 8);
    }
}
