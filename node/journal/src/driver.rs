//! Threads and clocks: runs the writer and the keeper.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::keeper::Keeper;
use crate::writer::{RoundOutcome, Writer};

/// Idle for so long, the writer adds a marker that proves its last round.
const IDLE: Duration = Duration::from_millis(100);

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
    while !stopping.load(Ordering::Acquire) {
        let begin = Instant::now();
        if keeper.step() {
            keeper.pause(begin.elapsed());
        } else {
            keeper.wait();
        }
    }
}
