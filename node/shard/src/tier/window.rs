//! How far in a shard's log one round goes.

use std::collections::BTreeMap;

use meridian_types::RaftIndex;

/// The oldest entries that wait for the bucket, up to a number of bytes and at least one.
///
/// Takes chunks in any order, and holds no more than the entries it will name: after a long outage far more may wait
/// than fits in memory.
#[derive(Debug)]
pub(super) struct Window {
    bytes_max: u64,
    entries: BTreeMap<RaftIndex, u64>,
    bytes: u64,
    /// The oldest entry that did not fit.
    cut: Option<RaftIndex>,
}

impl Window {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            entries: BTreeMap::new(),
            bytes: 0,
            cut: None,
        }
    }

    /// Offers bytes of an entry; false when neither it nor any later one fits.
    pub(super) fn offer(&mut self, index: RaftIndex, bytes: u64) -> bool {
        if self.cut.is_some_and(|cut| index >= cut) {
            return false;
        }
        *self.entries.entry(index).or_default() += bytes;
        self.bytes += bytes;
        while self.bytes > self.bytes_max && self.entries.len() > 1 {
            let Some((last, bytes)) = self.entries.pop_last() else {
                break;
            };
            self.bytes -= bytes;
            self.cut = Some(last);
        }
        self.cut.is_none_or(|cut| index < cut)
    }

    /// The last entry of the round, when the state is as of `applied`; `None` when nothing waits. Entries without
    /// records at its end are taken in.
    pub(super) fn through(&self, applied: RaftIndex) -> Option<RaftIndex> {
        let (last, _) = self.entries.last_key_value()?;
        Some(match self.cut {
            Some(_) => *last,
            None => applied.max(*last),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(bytes_max: u64, offers: &[(u64, u64)]) -> Window {
        let mut window = Window::new(bytes_max);
        for (index, bytes) in offers {
            window.offer(RaftIndex(*index), *bytes);
        }
        window
    }

    #[test]
    fn what_fits_goes_together_with_the_entries_behind_it() {
        let window = window(100, &[(3, 40), (5, 20), (3, 40)]);
        assert_eq!(window.through(RaftIndex(9)), Some(RaftIndex(9)));
        assert_eq!(Window::new(100).through(RaftIndex(9)), None);
    }

    #[test]
    fn the_oldest_entries_go_whole_whatever_the_order_of_chunks() {
        let chunks = [(7, 30), (3, 40), (9, 10), (5, 50), (3, 5), (8, 1)];
        for turn in 0..chunks.len() {
            let mut chunks = chunks;
            chunks.rotate_left(turn);
            let window = window(100, &chunks);
            assert_eq!(window.through(RaftIndex(20)), Some(RaftIndex(5)), "turn {turn}");
        }
    }

    #[test]
    fn an_entry_larger_than_the_limit_goes_alone() {
        let window = window(100, &[(4, 500), (5, 1)]);
        assert_eq!(window.through(RaftIndex(9)), Some(RaftIndex(4)));
    }

    #[test]
    fn chunks_behind_the_cut_are_refused() {
        let mut window = window(100, &[(1, 60), (2, 60)]);
        assert!(!window.offer(RaftIndex(2), 1));
        assert!(!window.offer(RaftIndex(3), 1));
        assert!(window.offer(RaftIndex(1), 1));
        assert_eq!(window.entries.len(), 1);
    }
}
