//! Notices when the other side has fallen silent.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::sleep;

/// How often a side looks, and says that it is alive, within the longest silence.
pub(crate) const TICKS: u32 = 4;

/// What a connection's reader tells about its work.
#[derive(Default)]
pub(crate) struct Progress {
    heard: AtomicU64,
    paused: AtomicBool,
}

impl Progress {
    /// Something arrived.
    pub(crate) fn heard(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// Not reading, or reading again: what is not read cannot be heard.
    pub(crate) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Returns when nothing was heard for `silence_max`. Calls `tick` several times in between.
    ///
    /// Counts ticks, not time: when this process itself stood still, what came meanwhile is read first.
    pub(crate) async fn silence(&self, silence_max: Duration, mut tick: impl FnMut()) {
        let mut last = self.heard.load(Ordering::Relaxed);
        let mut silent = 0;
        while silent <= TICKS {
            sleep(silence_max / TICKS).await;
            tick();
            let heard = self.heard.load(Ordering::Relaxed);
            silent = if heard != last || self.paused.load(Ordering::Relaxed) {
                0
            } else {
                silent + 1
            };
            last = heard;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    const MAX: Duration = Duration::from_millis(80);

    #[tokio::test]
    async fn silence_is_noticed_after_its_time() {
        let began = Instant::now();
        Progress::default().silence(MAX, || ()).await;
        assert!(began.elapsed() >= MAX);
    }

    #[tokio::test]
    async fn a_reader_that_hears_or_waits_is_not_silent() {
        let progress = Progress::default();
        let hearing = progress.silence(MAX, || progress.heard());
        assert!(timeout(MAX * 3, hearing).await.is_err());
        progress.pause(true);
        assert!(timeout(MAX * 3, progress.silence(MAX, || ())).await.is_err());
    }
}
