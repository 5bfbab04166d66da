//! Deadlines of all groups, in order of time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meridian_types::TimestampMs;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimerKind {
    /// The join barrier: the initial delay or the rebalance timeout.
    Join,
    /// Members that joined must have synced.
    Sync,
    /// A member, or a member id that was handed out and has not joined, must be heard of.
    Session(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TimerKey {
    pub(super) group: Arc<str>,
    pub(super) kind: TimerKind,
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    by_key: BTreeMap<TimerKey, TimestampMs>,
    by_time: BTreeSet<(TimestampMs, TimerKey)>,
}

impl Timers {
    /// Sets the timer, in place of an earlier one with the same key.
    pub(super) fn set(&mut self, key: TimerKey, at: TimestampMs) {
        if let Some(before) = self.by_key.insert(key.clone(), at) {
            self.by_time.remove(&(before, key.clone()));
        }
        self.by_time.insert((at, key));
    }

    pub(super) fn cancel(&mut self, key: TimerKey) {
        if let Some(at) = self.by_key.remove(&key) {
            self.by_time.remove(&(at, key));
        }
    }

    /// Cancels all timers of a group.
    pub(super) fn cancel_group(&mut self, group: &Arc<str>) {
        let first = TimerKey {
            group: group.clone(),
            kind: TimerKind::Join,
        };
        let keys: Vec<TimerKey> = self
            .by_key
            .range(first..)
            .map(|(key, _)| key)
            .take_while(|key| key.group == *group)
            .cloned()
            .collect();
        for key in keys {
            self.cancel(key);
        }
    }

    pub(super) fn next(&self) -> Option<TimestampMs> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes the earliest timer that is due.
    pub(super) fn pop_due(&mut self, now: TimestampMs) -> Option<TimerKey> {
        if self.next()? > now {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }

    #[cfg(test)]
    pub(super) fn contains(&self, key: &TimerKey) -> bool {
        self.by_key.contains_key(key)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        debug_assert_eq!(self.by_key.len(), self.by_time.len());
        self.by_key.len()
    }
}
