//! When a shard's next round is due.

use std::time::Duration;

use tokio::time::Instant;

use super::TierSettings;

/// Failures in a row after which the pause grows no more.
const FAILURES_COUNTED_MAX: u32 = 5;

/// The part of the room for the journal that may wait for the bucket before rounds become urgent.
const URGENT_PART: u64 = 2;

/// Intervals of rounds that anything may wait before they become urgent: what a rebuild from the bucket would lack.
const URGENT_INTERVALS: u32 = 6;

/// Whether rounds compete with what clients wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// A burst of writes goes first, the journal has room for it.
    Aside,
    /// Too much waits, or too long.
    Urgent,
}

impl Urgency {
    /// When `waiting_bytes` of a node wait, the oldest of it for `waiting_for`, and its journal has room for `room_bytes`.
    pub(super) fn of(
        waiting_bytes: u64,
        waiting_for: Duration,
        room_bytes: u64,
        settings: &TierSettings,
    ) -> Self {
        let is_much = waiting_bytes >= room_bytes / URGENT_PART;
        if is_much || waiting_for >= settings.round_interval * URGENT_INTERVALS {
            Self::Urgent
        } else {
            Self::Aside
        }
    }
}

/// Pauses after failures, each twice as long as the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    not_before: Option<Instant>,
}

impl Backoff {
    /// Whether it may be tried again.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|not_before| now >= not_before)
    }

    pub(super) fn failed(&mut self, now: Instant, pause: Duration) {
        self.not_before = Some(now + pause * 2_u32.pow(self.failures));
        self.failures = (self.failures + 1).min(FAILURES_COUNTED_MAX);
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }
}

/// Follows one shard under one leadership of this node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The last look at the state; `None` before the first, when anything may wait.
    looked: Option<Looked>,
    /// Since when something waits, as far as this leadership knows.
    waiting_since: Option<Instant>,
    backoff: Backoff,
}

/// What a look at the state found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looked {
    /// When.
    pub(super) at: Instant,
    /// Bytes of commands that were applied here until then.
    pub(super) applied_bytes: u64,
    /// Bytes of batches that the bucket lacked then.
    pub(super) waiting_bytes: u64,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            looked: None,
            waiting_since: None,
            backoff: Backoff::default(),
        }
    }

    /// Whether a round is due, when so many bytes of commands were applied here in all.
    pub(super) fn is_due(&mut self, now: Instant, applied_bytes: u64, settings: &TierSettings) -> bool {
        let waiting_bytes = self.waiting_bytes(applied_bytes);
        if waiting_bytes == 0 && self.looked.is_some() {
            self.waiting_since = None;
            return false;
        }
        let since = *self.waiting_since.get_or_insert(now);
        let was_left = self.looked.is_some_and(|looked| looked.waiting_bytes > 0);
        let is_enough = was_left || waiting_bytes >= settings.round_bytes;
        self.backoff.is_over(now) && (is_enough || now.duration_since(since) >= settings.round_interval)
    }

    /// Whether it is known what waited when this leadership began.
    pub(super) fn has_looked(&self) -> bool {
        self.looked.is_some()
    }

    /// A round looked at the state.
    pub(super) fn looked(&mut self, looked: Looked) {
        self.looked = Some(looked);
        self.settle(looked);
    }

    /// The round that looked last brought so many bytes into the bucket.
    pub(super) fn took(&mut self, bytes: u64) {
        self.backoff.succeeded();
        if let Some(looked) = &mut self.looked {
            looked.waiting_bytes = looked.waiting_bytes.saturating_sub(bytes);
            let looked = *looked;
            self.settle(looked);
        }
    }

    /// A round failed.
    pub(super) fn failed(&mut self, now: Instant, settings: &TierSettings) {
        self.backoff.failed(now, settings.retry_pause);
    }

    /// Bytes that wait; those since the last look are counted as commands, with what is no record.
    pub(super) fn waiting_bytes(&self, applied_bytes: u64) -> u64 {
        self.looked.map_or(applied_bytes, |looked| {
            looked.waiting_bytes + applied_bytes.saturating_sub(looked.applied_bytes)
        })
    }

    /// How long the oldest of it has waited.
    pub(super) fn waiting_for(&self, now: Instant) -> Duration {
        self.waiting_since
            .map_or(Duration::ZERO, |since| now.duration_since(since))
    }

    /// If nothing was left, what waits now came after the look.
    fn settle(&mut self, looked: Looked) {
        if looked.waiting_bytes == 0 {
            self.waiting_since = Some(looked.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> TierSettings {
        TierSettings {
            round_bytes: 1000,
            round_interval: Duration::from_secs(10),
            retry_pause: Duration::from_secs(1),
            ..TierSettings::default()
        }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// A pace after a first round that found nothing.
    fn started(now: Instant) -> Pace {
        let mut pace = Pace::new();
        pace.looked(Looked {
            at: now,
            applied_bytes: 500,
            waiting_bytes: 0,
        });
        pace
    }

    #[test]
    fn a_new_leader_looks_after_one_interval_whether_anything_waits() {
        let (now, settings) = (Instant::now(), settings());
        let mut pace = Pace::new();
        assert!(!pace.is_due(now, 0, &settings));
        assert!(pace.is_due(now + seconds(10), 0, &settings));
    }

    #[test]
    fn a_round_is_due_by_bytes_at_once_and_by_time_when_anything_waits() {
        let (now, settings) = (Instant::now(), settings());
        let mut pace = started(now);
        assert!(!pace.is_due(now + seconds(100), 500, &settings), "nothing waits");
        assert!(!pace.is_due(now + seconds(100), 501, &settings));
        assert!(!pace.is_due(now + seconds(109), 1499, &settings));
        assert!(pace.is_due(now + seconds(109), 1500, &settings));
        assert!(pace.is_due(now + seconds(110), 501, &settings));
        assert_eq!(pace.waiting_for(now + seconds(110)), seconds(10));
    }

    #[test]
    fn what_a_round_left_is_taken_at_once() {
        let (now, settings) = (Instant::now(), settings());
        let mut pace = started(now);
        pace.is_due(now, 9000, &settings);
        pace.looked(Looked {
            at: now + seconds(1),
            applied_bytes: 9000,
            waiting_bytes: 8500,
        });
        pace.took(8000);
        assert!(pace.is_due(now + seconds(1), 9000, &settings));
        assert_eq!(pace.waiting_bytes(9010), 510);
        assert_eq!(
            pace.waiting_for(now + seconds(3)),
            seconds(3),
            "its age still counts"
        );
        pace.took(500);
        assert!(!pace.is_due(now + seconds(20), 9000, &settings));
        assert_eq!(pace.waiting_for(now + seconds(20)), seconds(0));
    }

    #[test]
    fn rounds_stand_aside_until_much_waits_or_long() {
        let of = |waiting_bytes, waited_s| Urgency::of(waiting_bytes, seconds(waited_s), 10_000, &settings());
        assert_eq!(of(4999, 59), Urgency::Aside);
        assert_eq!(of(5000, 0), Urgency::Urgent);
        assert_eq!(of(1, 60), Urgency::Urgent);
    }

    #[test]
    fn failures_make_pauses_longer_up_to_a_limit_and_success_ends_them() {
        let (mut now, settings) = (Instant::now(), settings());
        let mut pace = started(now);
        for pause in [1, 2, 4, 8, 16, 32, 32, 32] {
            pace.failed(now, &settings);
            let almost = now + seconds(pause) - Duration::from_millis(1);
            assert!(!pace.is_due(almost, 9999, &settings));
            assert!(pace.is_due(now + seconds(pause), 9999, &settings));
            now += seconds(pause);
        }
        pace.took(0);
        pace.failed(now, &settings);
        assert!(pace.is_due(now + seconds(1), 99_999, &settings));
    }
}
