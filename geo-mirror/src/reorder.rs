//! Frames of one shard, back in order. Pure.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::frame::EntriesFrame;

/// Frames that came before their turn, and which sequence is next. Bounded by bytes.
#[derive(Debug)]
pub struct Reorder {
    next_sequence: u64,
    /// By first sequence and the one after the last; no two overlap, and none begins below `next_sequence`. One without
    /// commands comes before the one that begins where it stands.
    waiting: BTreeMap<(u64, u64), EntriesFrame>,
    commands: u64,
    bytes: usize,
    bytes_max: usize,
}

/// A frame that the source should not have sent. The shard is asked for again.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReorderError {
    /// More came than was asked for.
    #[error("frames of {bytes} bytes wait for earlier ones, at most {bytes_max} were asked for")]
    Full {
        /// With this frame.
        bytes: usize,
        /// The window.
        bytes_max: usize,
    },
    /// It shares some commands, not all, with what came before.
    #[error("a frame with sequences {first} to {end} overlaps another")]
    Overlap {
        /// Its first.
        first: u64,
        /// After its last.
        end: u64,
    },
}

impl Reorder {
    /// Waits for `next_sequence`.
    pub fn new(next_sequence: u64, bytes_max: usize) -> Self {
        Self {
            next_sequence,
            waiting: BTreeMap::new(),
            commands: 0,
            bytes: 0,
            bytes_max,
        }
    }

    /// Takes a frame. `false`: its commands were there already, and it is dropped.
    pub fn insert(&mut self, frame: EntriesFrame) -> Result<bool, ReorderError> {
        let (first, end) = (frame.first_sequence, frame.end_sequence());
        let is_behind = end < self.next_sequence || (end == self.next_sequence && frame.count > 0);
        if is_behind || self.waiting.contains_key(&(first, end)) {
            return Ok(false);
        }
        let overlaps_before = self
            .waiting
            .range(..=(first, end))
            .next_back()
            .is_some_and(|(_, before)| before.end_sequence() > first);
        let overlaps_after = self
            .waiting
            .range((first, end)..)
            .next()
            .is_some_and(|(at, _)| at.0 < end);
        if first < self.next_sequence || overlaps_before || overlaps_after {
            return Err(ReorderError::Overlap { first, end });
        }
        let bytes = self.bytes + frame.wire_bytes();
        if bytes > self.bytes_max && !self.waiting.is_empty() {
            return Err(ReorderError::Full {
                bytes,
                bytes_max: self.bytes_max,
            });
        }
        self.bytes = bytes;
        self.commands += u64::from(frame.count);
        self.waiting.insert((first, end), frame);
        Ok(true)
    }

    /// The frames whose turn it is: of one region epoch, and together of at most `raw_bytes_max` before compression, or one.
    pub fn pop_run(&mut self, raw_bytes_max: usize) -> Vec<EntriesFrame> {
        let mut run: Vec<EntriesFrame> = self.pop().into_iter().collect();
        let mut raw_bytes = run.first().map_or(0, |frame| frame.raw_bytes as usize);
        while let (Some(last), Some((at, next))) = (run.last(), self.waiting.first_key_value()) {
            raw_bytes += next.raw_bytes as usize;
            let fits = at.0 == self.next_sequence
                && next.region_epoch == last.region_epoch
                && raw_bytes <= raw_bytes_max;
            if !fits {
                break;
            }
            run.extend(self.pop());
        }
        run
    }

    /// The frame whose turn it is.
    pub fn pop(&mut self) -> Option<EntriesFrame> {
        let entry = self.waiting.first_entry()?;
        if entry.key().0 != self.next_sequence {
            return None;
        }
        let frame = entry.remove();
        self.bytes -= frame.wire_bytes();
        self.commands -= u64::from(frame.count);
        self.next_sequence = frame.end_sequence();
        Some(frame)
    }

    /// Whether frames wait for one that has not come.
    pub fn has_gap(&self) -> bool {
        self.waiting
            .first_key_value()
            .is_some_and(|((first, _), _)| *first != self.next_sequence)
    }

    /// The sequence that is waited for.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Commands and bytes that wait.
    pub fn waiting(&self) -> (u64, usize) {
        (self.commands, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::link::tests::frame;

    #[test]
    fn frames_that_overlap_or_exceed_the_window_are_refused_and_duplicates_dropped() {
        let mut reorder = Reorder::new(10, 4 * frame(1, 0, 1).wire_bytes());
        assert_eq!(reorder.insert(frame(1, 5, 5)), Ok(false));
        assert_eq!(
            reorder.insert(frame(1, 9, 5)),
            Err(ReorderError::Overlap { first: 9, end: 14 })
        );
        assert_eq!(reorder.insert(frame(1, 20, 5)), Ok(true));
        assert_eq!(reorder.insert(frame(1, 20, 5)), Ok(false));
        for (first, count) in [(18, 3), (20, 4), (21, 1), (24, 9)] {
            assert!(reorder.insert(frame(1, first, count)).is_err(), "{first}");
        }
        assert_eq!(reorder.pop(), None);
        assert!(reorder.has_gap());
        // One without commands only says an epoch: its place is before what begins there.
        assert_eq!(reorder.insert(frame(2, 20, 0)), Ok(true));
        assert_eq!(reorder.insert(frame(2, 20, 0)), Ok(false));
        assert_eq!(reorder.insert(frame(2, 10, 0)), Ok(true));
        assert_eq!(reorder.insert(frame(1, 10, 10)), Ok(true));
        let taken: Vec<_> = std::iter::from_fn(|| reorder.pop()).collect();
        let taken: Vec<_> = taken
            .iter()
            .map(|frame| (frame.first_sequence, frame.count))
            .collect();
        assert_eq!(taken, [(10, 0), (10, 10), (20, 0), (20, 5)]);
        assert_eq!(reorder.insert(frame(2, 20, 0)), Ok(false));
        for first in [30, 35, 40, 45] {
            assert_eq!(reorder.insert(frame(1, first, 5)), Ok(true));
        }
        assert!(matches!(
            reorder.insert(frame(1, 50, 5)),
            Err(ReorderError::Full { .. })
        ));
    }

    proptest! {
        #[test]
        fn whatever_the_order_everything_comes_out_once_and_in_order(
            counts in prop::collection::vec(1_u32..5, 1..30),
            order in prop::collection::vec(any::<u32>(), 60),
        ) {
            let mut first = 7;
            let mut frames: Vec<_> = counts.iter().map(|count| {
                let made = frame(1, first, *count);
                first += u64::from(*count);
                made
            }).collect();
            // Each twice, shuffled.
            frames.extend(frames.clone());
            let mut keyed: Vec<_> = order.iter().zip(frames).collect();
            keyed.sort_by_key(|(key, _)| **key);
            let mut reorder = Reorder::new(7, usize::MAX);
            let mut next = 7;
            for (_, frame) in keyed {
                prop_assert!(reorder.insert(frame).is_ok());
                while let Some(frame) = reorder.pop() {
                    prop_assert_eq!(frame.first_sequence, next);
                    next = frame.end_sequence();
                }
            }
            prop_assert_eq!(next, first);
            prop_assert_eq!(reorder.waiting(), (0, 0));
        }
    }
}
