//! A limit in bytes per second. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// How long the limit may stand unused and be caught up at once.
const BURST: Duration = Duration::from_millis(50);

/// Lets so many bytes per second pass. Goes into debt for a frame larger than what is there, and pays it back before the
/// next.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    bytes_per_second: Option<u64>,
    /// Bytes, times a billion; negative is a debt.
    level: i128,
    at: Instant,
}

const NANOS: i128 = 1_000_000_000;

impl TokenBucket {
    /// Full. `None` is no limit.
    pub fn new(now: Instant, bytes_per_second: Option<u64>) -> Self {
        Self {
            bytes_per_second,
            level: 0,
            at: now,
        }
    }

    /// The limit.
    pub fn rate(&self) -> Option<u64> {
        self.bytes_per_second
    }

    /// Sets another limit. A debt stays one.
    pub fn set_rate(&mut self, now: Instant, bytes_per_second: Option<u64>) {
        self.refill(now);
        self.bytes_per_second = bytes_per_second;
        self.level = self.level.min(self.level_max());
    }

    /// Whether something may pass now.
    pub fn is_open(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.bytes_per_second.is_none() || self.level >= 0
    }

    /// Something passed; negative bytes give back what an estimate took too much.
    pub fn take(&mut self, bytes: i64) {
        if self.bytes_per_second.is_some() {
            self.level -= i128::from(bytes) * NANOS;
        }
    }

    /// When the debt is paid.
    pub fn open_at(&self) -> Option<Instant> {
        let rate = i128::from(self.bytes_per_second?.max(1));
        if self.level >= 0 {
            return None;
        }
        let nanos = (rate - self.level - 1) / rate;
        // A far future is as good as any.
        let wait = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 4));
        self.at.checked_add(wait)
    }

    fn level_max(&self) -> i128 {
        let rate = i128::from(self.bytes_per_second.unwrap_or(0));
        rate * i128::try_from(BURST.as_nanos()).expect("short")
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        let Some(rate) = self.bytes_per_second else {
            self.level = 0;
            return;
        };
        let nanos = i128::try_from(passed.as_nanos()).unwrap_or(i128::MAX / 4);
        let gained = nanos.saturating_mul(i128::from(rate));
        self.level = self.level.saturating_add(gained).min(self.level_max());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends frames of a size as fast as the bucket lets; returns bytes in a time.
    fn run(bucket: &mut TokenBucket, from: Instant, time: Duration, frame: u64) -> u64 {
        let mut now = from;
        let mut sent = 0;
        while now < from + time {
            if bucket.is_open(now) {
                bucket.take(i64::try_from(frame).expect("small"));
                sent += frame;
            } else {
                now = bucket.open_at().expect("closed");
            }
        }
        sent
    }

    #[tokio::test]
    async fn the_rate_is_kept_whatever_the_size_of_frames() {
        let start = Instant::now();
        for rate in [10_000_u64, 1_000_000, 30_000_000] {
            for frame in [100_u64, 64 << 10, 1 << 20] {
                let mut bucket = TokenBucket::new(start, Some(rate));
                // So long that the burst and the last frame do not count.
                let millis = 5000 + frame * 100_000 / rate;
                let sent = run(&mut bucket, start, Duration::from_millis(millis), frame);
                let want = rate * millis / 1000;
                assert!(
                    sent.abs_diff(want) * 50 <= want,
                    "{rate} {frame}: {sent} of {want}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_pause_is_not_caught_up_beyond_the_burst() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start, Some(1_000_000));
        let later = start + Duration::from_secs(3600);
        let sent = run(&mut bucket, later, Duration::from_secs(1), 1000);
        assert!((1_000_000..1_100_000).contains(&sent), "{sent}");
    }

    #[tokio::test]
    async fn a_new_rate_acts_at_once() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start, Some(1));
        assert!(bucket.is_open(start));
        bucket.take(1 << 20);
        assert!(!bucket.is_open(start + Duration::from_secs(1)));
        bucket.set_rate(start + Duration::from_secs(1), None);
        assert!(bucket.is_open(start + Duration::from_secs(1)));
        assert_eq!(bucket.open_at(), None);
    }
}
