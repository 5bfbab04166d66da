//! When to try again. Pure.

use std::time::Duration;

/// Waits that double, each a little shorter by chance, so that many do not come back at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Nothing has failed yet.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            failures: 0,
        }
    }

    /// How long to wait after one more failure. `chance` is any number, at random.
    pub fn next(&mut self, chance: u32) -> Duration {
        let wait = self.min.saturating_mul(1 << self.failures.min(20)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        // Between three quarters and all of it.
        wait - wait.mul_f64(f64::from(chance) / f64::from(u32::MAX) / 4.0)
    }

    /// It works again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(300));
        let waits: Vec<_> = (0..5).map(|_| backoff.next(0).as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 300, 300]);
        backoff.reset();
        assert_eq!(backoff.next(0), Duration::from_millis(50));
    }

    #[test]
    fn chance_shortens_a_wait_by_a_quarter_at_most() {
        for chance in [0, 1 << 20, u32::MAX] {
            let wait = Backoff::new(Duration::from_millis(100), Duration::from_secs(1)).next(chance);
            assert!((75..=100).contains(&wait.as_millis()), "{wait:?}");
        }
    }
}
