//! A limit on bytes per second.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// Lets bytes pass at a steady rate, in the order in which they ask.
pub(super) struct Pace {
    bytes_per_second: Option<u64>,
    /// When the next may pass.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            bytes_per_second,
            next: Mutex::new(None),
        }
    }

    /// Waits until everything that came before had its time.
    pub(super) async fn take(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else {
            return;
        };
        let takes = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let now = Instant::now();
        let begin = {
            let mut next = self.next.lock();
            let begin = next.unwrap_or(now).max(now);
            *next = begin.checked_add(takes);
            begin
        };
        sleep_until(begin).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_no_faster_than_the_rate() {
        let pace = Pace::new(Some(1000));
        let began = Instant::now();
        for _ in 0..5 {
            pace.take(500).await;
        }
        // The first passes at once, and each of the others waits for the one before.
        assert_eq!(began.elapsed().as_millis() / 10, 200);
        Pace::new(None).take(u64::MAX).await;
    }
}
