//! Which leader epoch each offset was written under (KIP-101, KIP-320).

use meridian_types::{LeaderEpoch, Offset};

/// Start offset of every leader epoch that has records at or after the log start.
///
/// Invariant 5: epochs rise; start offsets do not fall.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EpochMap {
    entries: Vec<(LeaderEpoch, Offset)>,
}

impl EpochMap {
    pub(crate) fn from_entries(entries: Vec<(LeaderEpoch, Offset)>) -> Self {
        Self { entries }
    }

    pub(crate) fn entries(&self) -> &[(LeaderEpoch, Offset)] {
        &self.entries
    }

    pub(crate) fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|(epoch, _)| *epoch)
    }

    /// Notes that a batch of `epoch` was appended at `start`.
    pub(crate) fn record(&mut self, epoch: LeaderEpoch, start: Offset) {
        if self.latest() == Some(epoch) {
            return;
        }
        debug_assert!(self.latest().is_none_or(|latest| latest < epoch), "invariant 5");
        if self.entries.is_empty() {
            // Most partitions live under one epoch; growth by doubling would start at four.
            self.entries.reserve_exact(1);
        }
        self.entries.push((epoch, start));
    }

    /// Forgets epochs that end at or before `log_start`; the one in force there starts there from now on.
    pub(crate) fn trim(&mut self, log_start: Offset) {
        let in_force = self.entries.partition_point(|(_, start)| *start <= log_start);
        if in_force > 0 {
            self.entries.drain(..in_force - 1);
            self.entries[0].1 = log_start;
        }
    }

    /// The epoch in force at `offset`.
    pub(crate) fn at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let next = self.entries.partition_point(|(_, start)| *start <= offset);
        Some(self.entries[next.checked_sub(1)?].0)
    }

    /// The greatest epoch not above `epoch`, and where it ends; see [`crate::PartitionState::end_offset_for`].
    pub(crate) fn end_of(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        if epoch > self.latest()? {
            return None;
        }
        let next = self.entries.partition_point(|(known, _)| *known <= epoch);
        let end = self.entries.get(next).map_or(log_end, |(_, start)| *start);
        // An epoch below the first known one ended where that one starts, under its own name.
        let known = next.checked_sub(1).map_or(epoch, |last| self.entries[last].0);
        Some((known, end))
    }

    pub(crate) fn check(&self, log_start: Offset, high_watermark: Offset) -> Result<(), String> {
        let entries = &self.entries;
        if !entries
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1)
        {
            return Err(format!("invariant 5: leader epochs fall: {entries:?}"));
        }
        let outside = entries
            .iter()
            .find(|(_, start)| *start < log_start || *start > high_watermark);
        match outside {
            Some((epoch, start)) => Err(format!(
                "epoch {epoch} starts at {start}, outside {log_start}..={high_watermark}"
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs() -> EpochMap {
        let mut map = EpochMap::default();
        for (epoch, start) in [(2, 0), (4, 10), (7, 30)] {
            map.record(LeaderEpoch(epoch), Offset(start));
        }
        map
    }

    #[test]
    fn end_offsets_follow_kip_320() {
        let end = |epoch| {
            epochs()
                .end_of(LeaderEpoch(epoch), Offset(50))
                .map(|(e, o)| (e.0, o.0))
        };
        assert_eq!(end(8), None, "an epoch of the future is undefined");
        assert_eq!(end(7), Some((7, 50)), "the latest ends at the log's end");
        assert_eq!(end(6), Some((4, 30)), "an unknown one is the greatest below it");
        assert_eq!(end(4), Some((4, 30)));
        assert_eq!(end(2), Some((2, 10)));
        assert_eq!(
            end(1),
            Some((1, 0)),
            "one before the first ends where the first starts"
        );
        assert_eq!(EpochMap::default().end_of(LeaderEpoch(0), Offset(0)), None);
    }

    #[test]
    fn trim_keeps_the_epoch_in_force_at_the_log_start() {
        for (start, want) in [
            (0, vec![(2, 0), (4, 10), (7, 30)]),
            (5, vec![(2, 5), (4, 10), (7, 30)]),
            (10, vec![(4, 10), (7, 30)]),
            (29, vec![(4, 29), (7, 30)]),
            (50, vec![(7, 50)]),
        ] {
            let mut map = epochs();
            map.trim(Offset(start));
            let got: Vec<_> = map
                .entries()
                .iter()
                .map(|(epoch, start)| (epoch.0, start.0))
                .collect();
            assert_eq!(got, want, "log start {start}");
        }
    }

    #[test]
    fn epoch_at_an_offset_is_the_last_that_started() {
        let at = |offset| epochs().at(Offset(offset)).map(|epoch| epoch.0);
        assert_eq!(
            [at(0), at(9), at(10), at(29), at(30), at(99)].map(Option::unwrap),
            [2, 2, 4, 4, 7, 7]
        );
        assert_eq!(EpochMap::default().at(Offset(0)), None);
    }
}
