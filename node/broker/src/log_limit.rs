//! Keeps hostile input from filling the log.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Lets through a burst of lines per period and counts the rest.
#[derive(Debug)]
pub(crate) struct LogLimit {
    lines_max: u32,
    period: Duration,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl LogLimit {
    pub(crate) fn new(lines_max: u32, period: Duration) -> Self {
        Self {
            lines_max,
            period,
            window: Mutex::default(),
        }
    }

    /// Whether to log now: the number of lines left out since the last one that was let through.
    pub(crate) fn allow(&self, now: Instant) -> Option<u64> {
        let mut window = self.window.lock();
        if window
            .began
            .is_none_or(|began| now.duration_since(began) >= self.period)
        {
            window.began = Some(now);
            window.lines = 0;
        }
        if window.lines == self.lines_max {
            window.suppressed += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flood_is_counted_and_told_with_the_next_line() {
        let limit = LogLimit::new(2, Duration::from_secs(10));
        let start = Instant::now();
        let allowed: Vec<_> = (0..5).map(|_| limit.allow(start)).collect();
        assert_eq!(allowed, [Some(0), Some(0), None, None, None]);
        assert_eq!(limit.allow(start + Duration::from_secs(10)), Some(3));
    }
}
