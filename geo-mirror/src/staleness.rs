//! How old a mirror's copy is. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use meridian_types::TimestampMs;
use tokio::time::Instant;

use crate::source::Watermark;

/// Watermarks kept that are not reached yet.
const PENDING_MAX: usize = 1024;

/// What a mirror knows about how far behind it is. Without a watermark it knows nothing, and says so; a watermark that is
/// reached grows old with this side's own clock, so that silence never looks like being up to date.
#[derive(Clone, Debug, Default)]
pub struct Staleness {
    /// Not reached yet, rising, and when each came.
    pending: VecDeque<(Watermark, Instant)>,
    reached: Option<(Watermark, Instant)>,
    newest: Option<(Watermark, Instant)>,
    applied: u64,
}

impl Staleness {
    /// The owner promised something. Promises that others have overtaken on the way are dropped.
    pub fn handle_watermark(&mut self, now: Instant, watermark: Watermark) {
        if self.newest.is_some_and(|(newest, _)| {
            watermark.sequence < newest.sequence || watermark.closed_at < newest.closed_at
        }) {
            return;
        }
        self.newest = Some((watermark, now));
        if watermark.sequence <= self.applied {
            self.pending.clear();
            self.reached = Some((watermark, now));
            return;
        }
        if self.pending.len() == PENDING_MAX {
            // Every second one is enough to tell the age of a copy that is that far behind.
            let mut keep = false;
            self.pending.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.pending.push_back((watermark, now));
    }

    /// Everything below `sequence` is applied.
    pub fn handle_applied(&mut self, sequence: u64) {
        self.applied = sequence;
        while let Some((watermark, at)) = self.pending.front().copied() {
            if watermark.sequence > sequence {
                break;
            }
            self.reached = Some((watermark, at));
            self.pending.pop_front();
        }
    }

    /// Another source, or the same after a break: what it promises is compared with nothing before. The age goes on.
    pub fn handle_restart(&mut self) {
        self.pending.clear();
        self.newest = None;
    }

    /// How long ago the copy was complete, as far as is known. `way` is how long a watermark travels. `None`: never known.
    pub fn age(&self, now: Instant, way: Duration) -> Option<Duration> {
        let (_, at) = self.reached?;
        // At least a millisecond: nothing that travelled is of this moment.
        Some((now.saturating_duration_since(at) + way).max(Duration::from_millis(1)))
    }

    /// Everything that the owner took before this moment of its clock is here.
    pub fn complete_until(&self) -> Option<TimestampMs> {
        self.reached.map(|(watermark, _)| watermark.closed_at)
    }

    /// Commands that the owner has and this side has not, by the newest watermark. `None`: not known.
    pub fn lag(&self) -> Option<u64> {
        self.newest
            .map(|(newest, _)| newest.sequence.saturating_sub(self.applied))
    }

    /// When the newest watermark came.
    pub fn heard_at(&self) -> Option<Instant> {
        self.newest.map(|(_, at)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watermark(sequence: u64, closed_at: i64) -> Watermark {
        Watermark {
            sequence,
            closed_at: TimestampMs(closed_at),
        }
    }

    const WAY: Duration = Duration::from_millis(40);

    #[tokio::test]
    async fn without_a_watermark_nothing_is_known() {
        let mut staleness = Staleness::default();
        staleness.handle_applied(100);
        assert_eq!(staleness.age(Instant::now(), WAY), None);
        assert_eq!(staleness.lag(), None);
    }

    #[tokio::test]
    async fn the_age_grows_in_silence_and_while_a_watermark_is_not_reached() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut staleness = Staleness::default();
        staleness.handle_applied(10);
        staleness.handle_watermark(start, watermark(10, 1000));
        assert_eq!(staleness.age(start, WAY), Some(WAY));
        assert_eq!(staleness.age(at(5), WAY), Some(WAY + Duration::from_secs(5)));
        staleness.handle_watermark(at(6), watermark(20, 7000));
        assert_eq!(staleness.age(at(6), WAY), Some(WAY + Duration::from_secs(6)));
        assert_eq!(staleness.lag(), Some(10));
        // Applied late, it is as old as the watermark is.
        staleness.handle_applied(20);
        assert_eq!(staleness.age(at(8), WAY), Some(WAY + Duration::from_secs(2)));
        assert_eq!(staleness.complete_until(), Some(TimestampMs(7000)));
        assert_eq!(staleness.lag(), Some(0));
        // After a break the age goes on.
        staleness.handle_restart();
        assert_eq!(staleness.age(at(9), WAY), Some(WAY + Duration::from_secs(3)));
        assert_eq!(staleness.lag(), None);
    }

    #[tokio::test]
    async fn an_overtaken_watermark_changes_nothing() {
        let now = Instant::now();
        let mut staleness = Staleness::default();
        staleness.handle_watermark(now, watermark(20, 2000));
        staleness.handle_watermark(now, watermark(10, 1000));
        staleness.handle_applied(10);
        assert_eq!(staleness.age(now, WAY), None);
    }

    #[tokio::test]
    async fn a_copy_far_behind_keeps_few_watermarks() {
        let start = Instant::now();
        let mut staleness = Staleness::default();
        for n in 1..100_000_u64 {
            let at = start + Duration::from_millis(n);
            staleness.handle_watermark(at, watermark(n, i64::try_from(n).expect("small")));
        }
        assert!(staleness.pending.len() <= PENDING_MAX);
        staleness.handle_applied(99_999);
        let now = start + Duration::from_millis(100_000);
        assert!(staleness.age(now, WAY).expect("known") < Duration::from_secs(1));
    }
}
