//! Where in the Raft log a place in the content lies.

use bytes::Buf;
use meridian_types::RaftIndex;

use crate::codec::{Fault, get_count, put_count, put_u64};
use crate::progress::{PROGRESS_BYTES_MIN, Progress};

/// Content commands between two points of the index.
pub const POINT_STRIDE: u64 = 64;

/// Most points that are kept. Beyond it every second of the older half goes: near the end, where mirrors read, the index
/// stays dense, and the whole log stays within reach.
pub const POINTS_MAX: usize = 2048;

/// A place from which the content can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequencePoint {
    /// The entry to begin at.
    pub index: RaftIndex,
    /// How the log stood before it.
    pub progress: Progress,
}

/// Points in the order of the log. The log may have given up the entries of the oldest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SequenceIndex {
    /// Sequences rise; indexes rise.
    points: Vec<SequencePoint>,
}

impl SequenceIndex {
    /// Every point, oldest first.
    pub fn points(&self) -> &[SequencePoint] {
        &self.points
    }

    /// Where to begin for the content from `sequence` on: the newest point at or before it. `None` below the first.
    pub fn at_or_before(&self, sequence: u64) -> Option<&SequencePoint> {
        let next = self
            .points
            .partition_point(|point| point.progress.sequence <= sequence);
        self.points.get(next.checked_sub(1)?)
    }

    /// The oldest point that a log can serve which begins at `first`.
    pub fn oldest_from(&self, first: RaftIndex) -> Option<&SequencePoint> {
        self.points
            .get(self.points.partition_point(|point| point.index < first))
    }

    /// Notes how the log stands before the entry at `index`, if the last point lies far enough back.
    pub(crate) fn note(&mut self, index: RaftIndex, progress: &Progress) {
        let last = self.points.last().map(|point| point.progress.sequence);
        if last.is_none_or(|last| progress.sequence >= last.saturating_add(POINT_STRIDE)) {
            self.push(index, progress);
        }
    }

    /// Notes how the log stands before the entry at `index`, because its role or epoch is new.
    pub(crate) fn push(&mut self, index: RaftIndex, progress: &Progress) {
        let point = SequencePoint {
            index,
            progress: *progress,
        };
        if let Some(last) = self.points.last_mut()
            && last.progress.sequence == progress.sequence
        {
            *last = point;
            return;
        }
        self.points.push(point);
        if self.points.len() > POINTS_MAX {
            let older = self.points.len() / 2;
            let mut place = 0;
            self.points.retain(|_| {
                place += 1;
                place > older || place % 2 == 1
            });
        }
    }

    pub(crate) fn check(&self, progress: &Progress) -> Result<(), String> {
        let rises = |pair: &[SequencePoint]| {
            pair[0].index < pair[1].index && pair[0].progress.sequence < pair[1].progress.sequence
        };
        if !self.points.windows(2).all(rises) {
            return Err("the points of the sequence index do not rise".into());
        }
        match self.points.last() {
            Some(last) if last.progress.sequence > progress.sequence => Err(format!(
                "a point of the sequence index lies at {}, beyond {}",
                last.progress.sequence, progress.sequence
            )),
            _ if self.points.len() > POINTS_MAX => Err("the sequence index has too many points".into()),
            _ => Ok(()),
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_count(out, self.points.len());
        for point in &self.points {
            put_u64(out, point.index.0);
            point.progress.encode(out);
        }
    }

    pub(crate) fn decode(from: &mut &[u8]) -> Result<Self, Fault> {
        let count = get_count(from, 8 + PROGRESS_BYTES_MIN)?;
        let mut points = Vec::with_capacity(count);
        for _ in 0..count {
            points.push(SequencePoint {
                index: RaftIndex(from.try_get_u64_le()?),
                progress: Progress::decode(from)?,
            });
        }
        Ok(Self { points })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sequence: u64) -> Progress {
        Progress {
            sequence,
            ..Progress::default()
        }
    }

    #[test]
    fn points_stay_bounded_dense_at_the_end_and_reach_back_to_the_first() {
        let mut index = SequenceIndex::default();
        for n in 0..20_000_u64 {
            index.note(RaftIndex(n + 1), &at(n * 1000));
            index.check(&at(n * 1000)).expect("it holds");
        }
        assert!(index.points().len() <= POINTS_MAX);
        assert_eq!(index.points()[0].progress.sequence, 0);
        for sequence in [0, 1, 5_000_000, 19_999_000, u64::MAX] {
            let point = index.at_or_before(sequence).expect("the first is kept");
            assert!(point.progress.sequence <= sequence);
            assert_eq!(point.progress.sequence, (point.index.0 - 1) * 1000);
        }
        let last = index.at_or_before(19_999_000).expect("there are some");
        assert!(19_999_000 - last.progress.sequence <= 2 * POINT_STRIDE);
    }

    #[test]
    fn a_point_of_the_same_sequence_takes_the_place_of_the_last() {
        let mut index = SequenceIndex::default();
        index.push(RaftIndex(1), &at(0));
        index.push(RaftIndex(9), &at(0));
        assert_eq!(index.points().len(), 1);
        assert_eq!(index.at_or_before(0).map(|point| point.index), Some(RaftIndex(9)));
    }

    #[test]
    fn a_log_serves_only_points_that_it_still_holds() {
        let mut index = SequenceIndex::default();
        for n in 0..3 {
            index.push(RaftIndex(10 * n + 1), &at(n * 5000));
        }
        let oldest = |first| {
            index
                .oldest_from(RaftIndex(first))
                .map(|point| point.progress.sequence)
        };
        assert_eq!(
            (oldest(0), oldest(1), oldest(2), oldest(21), oldest(22)),
            (Some(0), Some(0), Some(5000), Some(10_000), None)
        );
        assert_eq!(
            index.at_or_before(4999).map(|point| point.progress.sequence),
            Some(0)
        );
    }
}
