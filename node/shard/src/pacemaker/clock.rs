//! Time as this process lived it.

use std::time::Duration;

/// The node's clock without the times at which this process stood still: while it did, it could not hear
/// the others, and must not hold their silence against them.
///
/// A process that is only slow still gets on: each gap counts for one step, so it suspects later, not never.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    last: Duration,
    skipped: Duration,
    stall: Duration,
    step: Duration,
}

impl Clock {
    /// A gap above `stall` counts as `step`.
    pub(super) fn new(now: Duration, stall: Duration, step: Duration) -> Self {
        Self {
            last: now,
            skipped: Duration::ZERO,
            stall,
            step,
        }
    }

    /// Takes the time of an event. Returns whether this process had stood still before it.
    pub(super) fn advance(&mut self, now: Duration) -> bool {
        let gap = now.saturating_sub(self.last);
        self.last = self.last.max(now);
        let stalled = gap > self.stall;
        if stalled {
            self.skipped += gap - self.step;
        }
        stalled
    }

    /// The time lived until the last event.
    pub(super) fn lived(&self) -> Duration {
        self.last - self.skipped
    }

    /// The time of the last event on the node's clock.
    pub(super) fn real(&self) -> Duration {
        self.last
    }

    /// When the node's clock will show what is `lived` here.
    pub(super) fn to_real(&self, lived: Duration) -> Duration {
        lived + self.skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_counts_for_one_step() {
        let ms = Duration::from_millis;
        let mut clock = Clock::new(ms(1000), ms(250), ms(100));
        assert!(!clock.advance(ms(1250)));
        assert_eq!(clock.lived(), ms(1250));
        assert!(clock.advance(ms(9000)));
        assert_eq!(clock.lived(), ms(1350));
        assert_eq!(clock.to_real(ms(1400)), ms(9050));
    }

    #[test]
    fn time_never_steps_back() {
        let ms = Duration::from_millis;
        let mut clock = Clock::new(ms(1000), ms(250), ms(100));
        clock.advance(ms(1100));
        assert!(!clock.advance(ms(500)));
        assert_eq!(clock.lived(), ms(1100));
    }
}
