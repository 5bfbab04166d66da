//! Threads and clocks: runs the writer and the keeper.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::keeper::Keeper;
use crate::writer::{RoundOutcome, Writer};

/// Idle for so long, the writer adds a marker that proves its last round.
const IDLE: Duration = Duration::from_millis(100);

/// What lasts is told again after so long.
const TROUBLE_INTERVAL: Duration = Duration::from_secs(60);

impl Writer {
    /// Writes until [`Journal::shutdown`](crate::Journal::shutdown) or a failed write. Blocks: give it a
    /// thread of its own.
    #[expect(clippy::disallowed_methods, reason = "the driver measures rounds")]
    pub fn run(mut self) {
        let shared = self.shared();
        let stopping = Arc::new(AtomicBool::new(false));
        let keeper = self.take_keeper().and_then(|keeper| {
            let stopping = stopping.clone();
            std::thread::Builder::new()
                .name("journal-keeper".into())
                .spawn(move || run_keeper(keeper, &stopping))
                .inspect_err(|error| {
                    shared
                        .queue
                        .poison(&format!("cannot start the journal's keeper: {error}"));
                })
                .ok()
        });
        loop {
            let begin = Instant::now();
            match self.run_round() {
                RoundOutcome::Wrote { .. } => {
                    shared
                        .counters
                        .round_took(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX));
                    shared.queue.wait(IDLE);
                }
                RoundOutcome::Idle | RoundOutcome::Marked | RoundOutcome::Stalled => shared.queue.wait(IDLE),
                RoundOutcome::Poisoned if shared.queue.is_stopping() => break,
                RoundOutcome::Poisoned => shared.queue.wait(IDLE),
                RoundOutcome::Stopped => break,
            }
        }
        stopping.store(true, Ordering::Release);
        shared.poke_keeper();
        if keeper.is_some_and(|keeper| keeper.join().is_err()) {
            tracing::error!("journal: the keeper thread panicked");
        }
    }
}

/// Rests after each piece of work as long as it took: the disk is the writer's first.
#[expect(clippy::disallowed_methods, reason = "the driver measures work")]
fn run_keeper(mut keeper: Keeper, stopping: &AtomicBool) {
    let mut trouble = Trouble::default();
    while !stopping.load(Ordering::Acquire) {
        let begin = Instant::now();
        let worked = keeper.step();
        match &worked {
            Err(reason) if trouble.is_news(begin) => tracing::warn!(reason, "journal"),
            Ok(_) if !keeper.is_full() && trouble.is_over() => {
                tracing::info!("journal: files are made and removed again");
            }
            Ok(_) | Err(_) => {}
        }
        match worked {
            Ok(true) => keeper.pause(begin.elapsed()),
            Ok(false) | Err(_) => keeper.wait(),
        }
    }
}

/// What goes wrong again and again, as with a full disk, is told when it begins and then from time to time.
#[derive(Default)]
struct Trouble {
    told: Option<Instant>,
}

impl Trouble {
    fn is_news(&mut self, now: Instant) -> bool {
        let is_news = self.told.is_none_or(|told| now >= told + TROUBLE_INTERVAL);
        if is_news {
            self.told = Some(now);
        }
        is_news
    }

    /// Whether there was any until now.
    fn is_over(&mut self) -> bool {
        self.told.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    fn trouble_that_lasts_is_told_when_it_begins_and_once_a_minute() {
        let (mut trouble, begin) = (Trouble::default(), Instant::now());
        let told = |trouble: &mut Trouble, quarters: std::ops::Range<u32>| {
            quarters
                .filter(|it| trouble.is_news(begin + Duration::from_millis(250) * *it))
                .count()
        };
        assert_eq!(told(&mut trouble, 0..1), 1);
        assert_eq!(told(&mut trouble, 1..240), 0);
        assert_eq!(told(&mut trouble, 240..480), 1);
        assert!(trouble.is_over() && !trouble.is_over());
        assert_eq!(told(&mut trouble, 480..500), 1, "it begins anew");
    }
}
