//! Whether producers need the disk for themselves. Pure.

use std::time::Duration;

use meridian_journal::Usage;
use tokio::time::Instant;

/// Between two looks, at least.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);

/// The journal's disk is the limit when its writer waits for it nearly all the time, ..
const BUSY_PERCENT: u128 = 70;

/// .. and takes so many bytes at once. A writer that syncs single records is as busy, but for each of them the disk has to do next to
/// nothing.
const ROUND_BYTES: u64 = 256 << 10;

/// Follows what the journal writes.
///
/// Reading back what has just been written takes from a disk what producers could have had of it, byte for byte, so rounds that can
/// wait do so while the disk is what limits producers.
#[derive(Debug, Default)]
pub(super) struct Burst {
    last: Option<Looked>,
    is_on: bool,
}

/// The journal's totals at one time.
#[derive(Clone, Copy, Debug)]
struct Looked {
    at: Instant,
    rounds: u64,
    round_us: u64,
    written_bytes: u64,
}

impl Burst {
    /// Whether one goes on, as the time since the last look but one showed it.
    pub(super) fn look(&mut self, now: Instant, journal: &Usage) -> bool {
        let looked = Looked {
            at: now,
            rounds: journal.rounds,
            round_us: journal.round_us,
            written_bytes: journal.written_bytes,
        };
        let Some(last) = self.last else {
            self.last = Some(looked);
            return false;
        };
        let elapsed = now - last.at;
        if elapsed >= INTERVAL {
            let busy = u128::from(looked.round_us - last.round_us);
            let is_busy = busy * 100 >= elapsed.as_micros() * BUSY_PERCENT;
            let rounds = (looked.rounds - last.rounds).max(1);
            self.is_on = is_busy && (looked.written_bytes - last.written_bytes) / rounds >= ROUND_BYTES;
            self.last = Some(looked);
        }
        self.is_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found after 100 ms in which the writer was busy for so long, with so many rounds of so many bytes.
    fn found(busy_ms: u64, rounds: u64, round_bytes: u64) -> bool {
        let (mut burst, began) = (Burst::default(), Instant::now());
        let before = Usage {
            rounds: 1000,
            round_us: 5_000_000,
            written_bytes: 1 << 40,
            ..Usage::default()
        };
        assert!(!burst.look(began, &before), "nothing is known yet");
        let after = Usage {
            rounds: before.rounds + rounds,
            round_us: before.round_us + busy_ms * 1000,
            written_bytes: before.written_bytes + rounds * round_bytes,
            ..Usage::default()
        };
        assert!(!burst.look(began + INTERVAL / 2, &after), "too soon to tell");
        burst.look(began + INTERVAL, &after)
    }

    #[test]
    fn a_burst_is_a_writer_that_is_busy_with_much_at_once() {
        assert!(found(95, 50, 4 << 20));
        assert!(!found(95, 900, 8 << 10), "small rounds, one after the other");
        assert!(!found(30, 20, 4 << 20), "the disk has time left");
        assert!(!found(0, 0, 0));
    }

    #[test]
    fn a_burst_ends_when_the_writer_has_nothing_to_do() {
        let (mut burst, began) = (Burst::default(), Instant::now());
        let at = |us| Usage {
            rounds: us / 1000,
            round_us: us,
            written_bytes: us * 1000,
            ..Usage::default()
        };
        burst.look(began, &at(0));
        assert!(burst.look(began + INTERVAL, &at(100_000)));
        assert!(
            burst.look(began + INTERVAL * 3 / 2, &at(100_000)),
            "still as it was"
        );
        assert!(!burst.look(began + INTERVAL * 2, &at(100_000)));
    }
}
