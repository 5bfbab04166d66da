//! How long to wait between tries.

use std::time::Duration;

/// Waits that double from `first` to `longest`, each shortened by up to a quarter so that many clients do not
/// come back in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    tries: u32,
    seed: u64,
}

impl Backoff {
    /// Starts at `first`; `seed` decides the jitter.
    pub fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        Self {
            first,
            longest,
            tries: 0,
            seed,
        }
    }

    /// How long to wait now.
    pub fn next_wait(&mut self) -> Duration {
        let full = self
            .first
            .saturating_mul(1 << self.tries.min(20))
            .min(self.longest);
        self.tries = self.tries.saturating_add(1);
        self.seed = split_mix(self.seed);
        let quarter_share = (self.seed >> 40) as f64 / (1_u64 << 24) as f64;
        full.mul_f64(1.0 - quarter_share / 4.0)
    }

    /// Starts over, after something worked.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

/// One step of SplitMix64: spreads a counter or a seed over 64 bits.
pub(crate) fn split_mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_never_pass_it() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 7);
        let waits: Vec<_> = (0..40).map(|_| backoff.next_wait()).collect();
        for (index, wait) in waits.iter().enumerate() {
            let full = Duration::from_millis(100 << index.min(10)).min(Duration::from_secs(1));
            assert!(*wait <= full && *wait >= full.mul_f64(0.74), "{index}: {wait:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }

    #[test]
    fn different_seeds_wait_differently() {
        let wait = |seed| Backoff::new(Duration::from_secs(1), Duration::from_secs(1), seed).next_wait();
        assert_ne!(wait(1), wait(2));
    }
}
