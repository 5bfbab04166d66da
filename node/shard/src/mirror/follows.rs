//! Which logs this node has told its links to follow, and where.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_geo_mirror::{Refusal, Staleness, Watermark};
use meridian_types::{RegionNumber, ShardId};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::stream::Stand;

/// A log's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) region: RegionNumber,
    pub(crate) address: String,
    /// Share of the link beside other logs.
    pub(crate) weight: u8,
}

/// A log that is followed.
#[derive(Clone, Debug)]
pub(crate) struct Follow {
    pub(crate) at: At,
    pub(crate) staleness: Staleness,
    /// What the source had, by its last watermark.
    pub(crate) source_sequence: Option<u64>,
    /// Why the source gives nothing, since it last gave something.
    pub(crate) refusal: Option<Refusal>,
}

/// What is to be told to the links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Follow(ShardId, At),
    Unfollow(ShardId),
}

/// All of them.
#[derive(Default)]
pub(crate) struct Follows {
    logs: Mutex<BTreeMap<ShardId, Follow>>,
    /// Time for a packet to a region and back, while it is known.
    round_trips: Mutex<BTreeMap<RegionNumber, Duration>>,
}

impl Follows {
    /// The log should be followed there, or not at all. Gives what is to be told to the links.
    pub(crate) fn set(&self, shard: ShardId, at: Option<At>) -> Option<Change> {
        let mut logs = self.logs.lock();
        match at {
            None => logs.remove(&shard).map(|_| Change::Unfollow(shard)),
            Some(at) => match logs.get_mut(&shard) {
                Some(known) if known.at == at => None,
                Some(known) => {
                    known.staleness.handle_restart();
                    (known.at, known.refusal, known.source_sequence) = (at.clone(), None, None);
                    Some(Change::Follow(shard, at))
                }
                None => {
                    let follow = Follow {
                        at: at.clone(),
                        staleness: Staleness::default(),
                        source_sequence: None,
                        refusal: None,
                    };
                    logs.insert(shard, follow);
                    Some(Change::Follow(shard, at))
                }
            },
        }
    }

    pub(crate) fn note_watermark(&self, shard: ShardId, watermark: Watermark) {
        if let Some(follow) = self.logs.lock().get_mut(&shard) {
            follow.staleness.handle_watermark(Instant::now(), watermark);
            follow.source_sequence = follow.source_sequence.max(Some(watermark.sequence));
            follow.refusal = None;
        }
    }

    pub(crate) fn note_refusal(&self, shard: ShardId, refusal: Refusal) {
        if let Some(follow) = self.logs.lock().get_mut(&shard) {
            if follow.refusal.as_ref() != Some(&refusal) {
                match refusal.is_final() {
                    true => {
                        tracing::error!(%shard, region = %follow.at.region, %refusal, "a mirror cannot go on");
                    }
                    false => tracing::debug!(%shard, region = %follow.at.region, %refusal, "a mirror waits"),
                }
            }
            follow.refusal = Some(refusal);
        }
    }

    /// Where a log is known to differ from its source: by a run that did not fit, or because the source says so.
    pub(crate) fn diverged_at(&self, shard: ShardId, stand: &Stand) -> Option<u64> {
        stand
            .diverged_at
            .or_else(|| match self.logs.lock().get(&shard)?.refusal {
                Some(Refusal::Diverged { fork: at } | Refusal::DigestDiffers { at }) => Some(at),
                _ => None,
            })
    }

    /// Logs whose source begins behind where they stand.
    pub(crate) fn purged(&self) -> Vec<ShardId> {
        let logs = self.logs.lock();
        let purged = logs
            .iter()
            .filter(|(_, follow)| matches!(follow.refusal, Some(Refusal::Purged { .. })));
        purged.map(|(shard, _)| *shard).collect()
    }

    /// The next [`Self::set`] tells the links to follow it, as if it were new.
    pub(crate) fn forget(&self, shard: ShardId) {
        self.logs.lock().remove(&shard);
    }

    /// What the links measure.
    pub(crate) fn note_round_trips(&self, measured: Vec<(RegionNumber, Duration)>) {
        let mut slowest = BTreeMap::new();
        for (region, rtt) in measured {
            let known = slowest.entry(region).or_insert(rtt);
            *known = rtt.max(*known);
        }
        *self.round_trips.lock() = slowest;
    }

    /// How long ago the log, which has applied everything below `sequence` here, had everything of its source: since a
    /// watermark came that is reached, and the time that this travelled. `None`: it is not known.
    pub(crate) fn age(&self, now: Instant, shard: ShardId, sequence: u64) -> Option<Duration> {
        let mut logs = self.logs.lock();
        let follow = logs.get_mut(&shard)?;
        follow.staleness.handle_applied(sequence);
        let rtt = self.round_trips.lock().get(&follow.at.region).copied();
        follow.staleness.age(now, rtt.unwrap_or_default() / 2)
    }

    /// The log as it is followed, which has applied everything below `sequence` here.
    pub(crate) fn of(&self, shard: ShardId, sequence: u64) -> Option<Follow> {
        let mut logs = self.logs.lock();
        let follow = logs.get_mut(&shard)?;
        follow.staleness.handle_applied(sequence);
        Some(follow.clone())
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::TimestampMs;

    use super::*;

    fn at(region: u16) -> At {
        At {
            region: RegionNumber(region),
            address: format!("host-{region}:1"),
            weight: 10,
        }
    }

    #[test]
    fn links_are_told_what_is_new_and_nothing_twice() {
        let follows = Follows::default();
        let shard = ShardId(3);
        assert_eq!(follows.set(shard, None), None);
        assert_eq!(
            follows.set(shard, Some(at(1))),
            Some(Change::Follow(shard, at(1)))
        );
        assert_eq!(follows.set(shard, Some(at(1))), None);
        assert_eq!(
            follows.set(shard, Some(at(2))),
            Some(Change::Follow(shard, at(2)))
        );
        let heavier = At { weight: 20, ..at(2) };
        assert_eq!(
            follows.set(shard, Some(heavier.clone())),
            Some(Change::Follow(shard, heavier))
        );
        assert_eq!(follows.set(shard, None), Some(Change::Unfollow(shard)));
    }

    #[test]
    fn the_age_counts_the_way_and_is_unknown_without_a_watermark() {
        let follows = Follows::default();
        let (shard, now) = (ShardId(3), Instant::now());
        assert_eq!(follows.age(now, shard, 9), None, "it is not followed");
        follows.set(shard, Some(at(1)));
        assert_eq!(follows.age(now, shard, 9), None);
        let (near, far) = (Duration::from_millis(40), Duration::from_millis(80));
        follows.note_round_trips(vec![(RegionNumber(1), far), (RegionNumber(1), near)]);
        let watermark = Watermark {
            sequence: 12,
            closed_at: TimestampMs(5),
        };
        follows.note_watermark(shard, watermark);
        assert_eq!(follows.age(Instant::now(), shard, 11), None, "it is not reached");
        let later = Instant::now() + Duration::from_secs(5);
        let age = follows.age(later, shard, 12).expect("it is reached");
        assert!(age >= Duration::from_secs(5) + far / 2, "{age:?}");
        assert!(age < Duration::from_secs(6) + far / 2, "{age:?}");
    }

    #[test]
    fn without_a_watermark_nothing_is_known_of_the_lag() {
        let follows = Follows::default();
        let shard = ShardId(3);
        follows.set(shard, Some(at(1)));
        assert_eq!(follows.of(shard, 9).expect("followed").source_sequence, None);
        let watermark = Watermark {
            sequence: 12,
            closed_at: TimestampMs(5),
        };
        follows.note_refusal(shard, Refusal::NotHosted);
        follows.note_watermark(shard, watermark);
        let follow = follows.of(shard, 9).expect("followed");
        assert_eq!((follow.source_sequence, follow.refusal), (Some(12), None));
    }
}
