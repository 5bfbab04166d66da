//! Producers that begin in the middle.
//!
//! A partition that does not know a producer takes it at any sequence (KIP-98), since what it knew expires. But a
//! producer that has several batches under way may have its first one refused, or stuck at a leader that is gone,
//! while a later one gets here. If that were taken, the first could never be appended any more, and librdkafka even counts
//! it as delivered: it trusts that nothing is taken before its turn. So such a producer is asked to try again
//! for a while; if its beginning is still to come, it comes first then.
//!
//! The same holds for one that the partition knows from an earlier leader only, and that leaves a gap: told that its
//! sequence does not fit, librdkafka begins a new epoch and numbers anew what it is not sure of, which the log may
//! hold already (its issue 4953).

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_types::{Partition, ProducerId};
use tokio::time::Instant;

/// How long what a producer sent before may take to get here.
const PATIENCE: Duration = Duration::from_secs(10);

/// A producer that has not tried again for so long has given up.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// Producers that are remembered.
const STRANGERS_MAX: usize = 4096;

/// Those that wait, of one shard under one leadership.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    since: BTreeMap<(Partition, ProducerId), Instant>,
}

impl Strangers {
    /// Whether a producer whose batch is early ([`meridian_state::Sequencer::is_early`]) is taken at its word now.
    pub(crate) fn may_begin(&mut self, now: Instant, partition: Partition, producer: ProducerId) -> bool {
        let age = |since: Instant| now.saturating_duration_since(since);
        let who = (partition, producer);
        let since = self
            .since
            .get(&who)
            .copied()
            .filter(|since| age(*since) < GIVEN_UP);
        match since {
            Some(since) if age(since) >= PATIENCE => {
                self.since.remove(&who);
                true
            }
            Some(_) => false,
            None => {
                if self.since.len() >= STRANGERS_MAX {
                    self.since.retain(|_, since| age(*since) < GIVEN_UP);
                }
                // Where too many wait, its turn to wait comes later.
                if self.since.len() < STRANGERS_MAX {
                    self.since.insert(who, now);
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::{TopicId, Uuid};

    use super::*;

    fn partition(index: u32) -> Partition {
        Partition {
            topic: TopicId(Uuid::from_u128(1)),
            index,
        }
    }

    #[test]
    fn a_producer_may_begin_in_the_middle_when_nothing_came_before_it_for_a_while() {
        let mut strangers = Strangers::default();
        let start = Instant::now();
        let who = ProducerId(7);
        assert!(!strangers.may_begin(start, partition(0), who));
        let soon = start + PATIENCE - Duration::from_millis(1);
        assert!(!strangers.may_begin(soon, partition(0), who));
        assert!(
            !strangers.may_begin(start + PATIENCE, partition(1), who),
            "each partition has sequences of its own"
        );
        assert!(strangers.may_begin(start + PATIENCE, partition(0), who));
        assert!(!strangers.may_begin(start + PATIENCE, partition(0), who), "once");
    }

    #[test]
    fn one_that_gave_up_waits_anew_and_a_crowd_takes_no_memory() {
        let mut strangers = Strangers::default();
        let start = Instant::now();
        assert!(!strangers.may_begin(start, partition(0), ProducerId(1)));
        let later = start + GIVEN_UP;
        assert!(!strangers.may_begin(later, partition(0), ProducerId(1)));
        for id in 0..2 * STRANGERS_MAX as u64 {
            assert!(!strangers.may_begin(later, partition(2), ProducerId(id)));
        }
        assert_eq!(strangers.since.len(), STRANGERS_MAX);
        let much_later = later + GIVEN_UP;
        assert!(!strangers.may_begin(much_later, partition(3), ProducerId(1)));
        assert_eq!(strangers.since.len(), 1, "those that gave up make room");
    }
}
