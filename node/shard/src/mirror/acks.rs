//! How far other regions have said that they hold the logs that this node leads.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_geo_mirror::{Staleness, Watermark};
use meridian_types::{RegionNumber, ShardId, TimestampMs};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// Acknowledged sequences. Of a log that is led elsewhere they are old, and of no use.
pub(crate) struct Acks {
    held: Mutex<BTreeMap<(ShardId, RegionNumber), u64>>,
    /// Since when a region lacks something, as far as this side can tell.
    ages: Mutex<BTreeMap<(ShardId, RegionNumber), Staleness>>,
    changed: watch::Sender<u64>,
}

impl Default for Acks {
    fn default() -> Self {
        Self {
            held: Mutex::default(),
            ages: Mutex::default(),
            changed: watch::channel(0).0,
        }
    }
}

impl Acks {
    /// `from` holds everything below `sequence` on a quorum. What is said last counts: a region that was made anew holds
    /// less than it did.
    pub(crate) fn note(&self, from: RegionNumber, shard: ShardId, sequence: u64) {
        let before = self.held.lock().insert((shard, from), sequence);
        {
            let mut ages = self.ages.lock();
            let age = ages.entry((shard, from)).or_default();
            if before.is_some_and(|before| before > sequence) {
                *age = Staleness::default();
            }
            age.handle_applied(sequence);
        }
        if before != Some(sequence) {
            self.changed.send_modify(|changes| *changes += 1);
        }
    }

    /// What each region holds of a log.
    pub(crate) fn of(&self, shard: ShardId) -> Vec<(RegionNumber, u64)> {
        let held = self.held.lock();
        let range = (shard, RegionNumber(0))..=(shard, RegionNumber(u16::MAX));
        held.range(range)
            .map(|((_, region), sequence)| (*region, *sequence))
            .collect()
    }

    /// The log, which is led here, has so many content commands at this moment.
    pub(crate) fn sample(&self, now: Instant, shard: ShardId, sequence: u64) {
        let present = Watermark {
            sequence,
            // Ages are counted by this clock alone.
            closed_at: TimestampMs(0),
        };
        let mut ages = self.ages.lock();
        let range = (shard, RegionNumber(0))..=(shard, RegionNumber(u16::MAX));
        for (_, age) in ages.range_mut(range) {
            age.handle_watermark(now, present);
        }
    }

    /// How long ago a region held everything of a log that is led here, by what it has acknowledged. `None`: not known.
    pub(crate) fn age(&self, now: Instant, shard: ShardId, region: RegionNumber) -> Option<Duration> {
        self.ages.lock().get(&(shard, region))?.age(now, Duration::ZERO)
    }

    /// How many regions hold everything below `sequence`.
    pub(crate) fn count(&self, shard: ShardId, sequence: u64) -> usize {
        self.of(shard)
            .iter()
            .filter(|(_, held)| *held >= sequence)
            .count()
    }

    /// Wakes when any of it grows.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_lags_since_the_last_moment_whose_content_it_has_acknowledged() {
        let acks = Acks::default();
        let (shard, east) = (ShardId(1), RegionNumber(1));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        acks.sample(at(0), shard, 10);
        assert_eq!(acks.age(at(0), shard, east), None, "it has said nothing");
        acks.note(east, shard, 10);
        acks.sample(at(1), shard, 10);
        acks.sample(at(2), shard, 20);
        acks.sample(at(5), shard, 30);
        assert_eq!(acks.age(at(6), shard, east), Some(Duration::from_secs(5)));
        acks.note(east, shard, 20);
        assert_eq!(acks.age(at(6), shard, east), Some(Duration::from_secs(4)));
        acks.note(east, shard, 30);
        assert_eq!(acks.age(at(6), shard, east), Some(Duration::from_secs(1)));
        // A region that was made anew holds less than it did.
        acks.note(east, shard, 0);
        assert_eq!(acks.age(at(6), shard, east), None);
    }

    #[test]
    fn the_last_word_of_a_region_counts_for_its_log() {
        let acks = Acks::default();
        let mut changes = acks.changes();
        let (one, two) = (ShardId(1), ShardId::CONTROLLER);
        acks.note(RegionNumber(1), one, 10);
        acks.note(RegionNumber(2), one, 7);
        acks.note(RegionNumber(1), two, 3);
        assert!(changes.has_changed().expect("it lives"));
        changes.mark_unchanged();
        acks.note(RegionNumber(1), one, 10);
        assert!(!changes.has_changed().expect("it lives"));
        assert_eq!(acks.of(one), [(RegionNumber(1), 10), (RegionNumber(2), 7)]);
        assert_eq!(
            (acks.count(one, 7), acks.count(one, 8), acks.count(one, 11)),
            (2, 1, 0)
        );
        assert_eq!(acks.count(two, 3), 1);
        acks.note(RegionNumber(1), one, 0);
        assert_eq!(acks.count(one, 7), 1, "it was made anew");
    }
}
