//! What may be deleted from the bucket.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// Things that wait for their deletion, each since this leadership knows that nothing refers to it any more. Another
/// leader counts anew: clocks of different nodes are never compared.
#[derive(Debug)]
pub(super) struct Graced<K> {
    since: BTreeMap<K, Instant>,
}

impl<K: Ord + Clone> Graced<K> {
    pub(super) fn new() -> Self {
        Self {
            since: BTreeMap::new(),
        }
    }

    /// These wait now; the others that waited before do no more.
    pub(super) fn seen(&mut self, now: Instant, waiting: impl IntoIterator<Item = K>) {
        let mut before = std::mem::take(&mut self.since);
        self.since = waiting
            .into_iter()
            .map(|one| {
                let since = before.remove(&one).unwrap_or(now);
                (one, since)
            })
            .collect();
    }

    /// Those that waited for the whole grace period.
    pub(super) fn due(&self, now: Instant, grace: Duration) -> Vec<K> {
        let grace = if mutant!(DeleteBeforeGrace) {
            Duration::ZERO
        } else {
            grace
        };
        self.since
            .iter()
            .filter(|(_, since)| now.duration_since(**since) >= grace)
            .map(|(one, _)| one.clone())
            .collect()
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.since.is_empty()
    }

    /// One was deleted.
    pub(super) fn done(&mut self, one: &K) {
        self.since.remove(one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_waited_without_a_break_for_the_whole_period_is_due() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let grace = Duration::from_secs(10);
        let mut graced = Graced::new();
        graced.seen(at(0), [1, 2, 3]);
        assert!(graced.due(at(9), grace).is_empty());
        graced.seen(at(5), [1, 3, 4]);
        graced.seen(at(6), [1, 2, 4]);
        assert_eq!(graced.due(at(10), grace), [1]);
        graced.done(&1);
        assert_eq!(graced.due(at(15), grace), [4]);
        assert_eq!(graced.due(at(16), grace), [2, 4], "2 came back at 6");
    }
}
