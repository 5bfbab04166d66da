//! Under which region epoch each content command was added.

use meridian_types::RegionEpoch;

use crate::codec::{Fault, get_count, get_epoch, put_count, put_u32, put_u64};
use bytes::Buf;

/// Region epochs, each with the sequence at which it begins: the epoch in force for content command `n` is the last
/// that begins at or before `n`.
///
/// Epochs and begins rise. An epoch under which nothing was added leaves no trace once the next one begins. Empty for
/// a log that is not counted yet; otherwise the first begins at 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    spans: Vec<(RegionEpoch, u64)>,
}

/// What a follower's content is to a source's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The follower has what the source has.
    Equal,
    /// The follower has a part of it, from the start on: it goes on from its sequence.
    Behind,
    /// The source has a part of what the follower has. Of a source that has just come to lead and has not applied
    /// everything yet: ask again. Otherwise the follower has diverged at the source's sequence.
    Ahead,
    /// From content command `fork` on they differ: it was added under different epochs (invariant 9).
    Diverged {
        /// The first content command that they do not share.
        fork: u64,
    },
}

impl Lineage {
    /// A lineage read from elsewhere: `None` unless epochs and begins rise, and the first begins at 0.
    pub fn from_spans(spans: Vec<(RegionEpoch, u64)>) -> Option<Self> {
        let rises = spans
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        let begins = spans.first().is_none_or(|(_, begin)| *begin == 0);
        let fits = spans.last().is_none_or(|(epoch, _)| *epoch <= RegionEpoch::MAX);
        (rises && begins && fits).then_some(Self { spans })
    }

    /// Epochs with where they begin, oldest first.
    pub fn spans(&self) -> &[(RegionEpoch, u64)] {
        &self.spans
    }

    /// Whether no epoch has begun.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The epoch in force now.
    pub fn epoch(&self) -> Option<RegionEpoch> {
        self.spans.last().map(|(epoch, _)| *epoch)
    }

    /// The epoch under which content command `sequence` was, or will be, added.
    pub fn epoch_at(&self, sequence: u64) -> Option<RegionEpoch> {
        let next = self.spans.partition_point(|(_, begin)| *begin <= sequence);
        Some(self.spans[next.checked_sub(1)?].0)
    }

    /// Where the epoch in force at `sequence` ends: the next one's begin. `None` for the last.
    pub fn end_of_epoch_at(&self, sequence: u64) -> Option<u64> {
        let next = self.spans.partition_point(|(_, begin)| *begin <= sequence);
        self.spans.get(next).map(|(_, begin)| *begin)
    }

    /// Begins an epoch at `sequence`. The caller has checked that it is newer, and that nothing lies beyond.
    pub(crate) fn begin(&mut self, epoch: RegionEpoch, sequence: u64) {
        debug_assert!(self.epoch().is_none_or(|last| last < epoch), "invariant 5");
        match self.spans.last_mut() {
            Some(last) if last.1 == sequence => last.0 = epoch,
            _ => self.spans.push((epoch, sequence)),
        }
    }

    /// Compares a follower with this lineage and `sequence` to a source.
    ///
    /// Only epochs with content below both sequences count.
    pub fn relation(&self, sequence: u64, source: &Self, source_sequence: u64) -> Relation {
        let common = sequence.min(source_sequence);
        // Both are constant between begins, so the first difference lies on one.
        let begins = self.spans.iter().chain(&source.spans).map(|(_, begin)| *begin);
        let differs = |at: &u64| *at < common && self.epoch_at(*at) != source.epoch_at(*at);
        match begins.filter(differs).min() {
            Some(fork) => Relation::Diverged { fork },
            None if sequence == source_sequence => Relation::Equal,
            None if sequence < source_sequence => Relation::Behind,
            None => Relation::Ahead,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_count(out, self.spans.len());
        for (epoch, begin) in &self.spans {
            put_u32(out, epoch.0);
            put_u64(out, *begin);
        }
    }

    pub(crate) fn decode(from: &mut &[u8]) -> Result<Self, Fault> {
        let count = get_count(from, 4 + 8)?;
        let mut spans = Vec::with_capacity(count);
        for _ in 0..count {
            spans.push((get_epoch(from)?, from.try_get_u64_le()?));
        }
        Self::from_spans(spans).ok_or(Fault::Invalid("a lineage does not rise from 0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(spans: &[(u32, u64)]) -> Lineage {
        let spans = spans.iter().map(|(epoch, begin)| (RegionEpoch(*epoch), *begin));
        Lineage::from_spans(spans.collect()).expect("the test gives a lineage")
    }

    /// The epoch of every content command, spelled out.
    fn spelled(lineage: &Lineage, sequence: u64) -> Vec<Option<RegionEpoch>> {
        (0..sequence).map(|at| lineage.epoch_at(at)).collect()
    }

    /// Every lineage with epochs below 4 and begins below 5.
    fn every_small_one() -> Vec<Lineage> {
        let mut all = vec![Vec::new()];
        for epoch in 0..4 {
            let mut longer = Vec::new();
            for spans in &all {
                for begin in 0..5 {
                    let spans: Vec<_> = spans
                        .iter()
                        .copied()
                        .chain([(RegionEpoch(epoch), begin)])
                        .collect();
                    longer.extend(Lineage::from_spans(spans.clone()).map(|_| spans));
                }
            }
            all.extend(longer);
        }
        let lineages = all.into_iter().filter(|spans| !spans.is_empty());
        lineages
            .map(|spans| Lineage::from_spans(spans).expect("checked above"))
            .collect()
    }

    #[test]
    fn the_relation_is_what_the_epochs_spelled_out_say() {
        let all = every_small_one();
        assert!(all.len() > 50);
        for follower in &all {
            for source in &all {
                for (ours, theirs) in (0..6).flat_map(|ours| (0..6).map(move |theirs| (ours, theirs))) {
                    let (a, b) = (spelled(follower, ours), spelled(source, theirs));
                    let fork = a.iter().zip(&b).position(|(a, b)| a != b);
                    let want = match fork {
                        Some(fork) => Relation::Diverged { fork: fork as u64 },
                        None if ours == theirs => Relation::Equal,
                        None if ours < theirs => Relation::Behind,
                        None => Relation::Ahead,
                    };
                    assert_eq!(
                        follower.relation(ours, source, theirs),
                        want,
                        "{follower:?} at {ours}, {source:?} at {theirs}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_epoch_without_content_leaves_no_trace() {
        let mut lineage = lineage(&[(1, 0), (3, 7)]);
        lineage.begin(RegionEpoch(4), 7);
        assert_eq!(lineage.spans(), [(RegionEpoch(1), 0), (RegionEpoch(4), 7)]);
        lineage.begin(RegionEpoch(6), 9);
        assert_eq!(lineage.epoch_at(8), Some(RegionEpoch(4)));
        assert_eq!(
            (lineage.end_of_epoch_at(3), lineage.end_of_epoch_at(9)),
            (Some(7), None)
        );
    }

    #[test]
    fn what_does_not_rise_is_no_lineage() {
        for spans in [
            vec![(1, 1)],
            vec![(1, 0), (1, 5)],
            vec![(2, 0), (1, 5)],
            vec![(1, 0), (2, 0)],
            vec![(1, 0), (3000, 4)],
        ] {
            let given = spans.iter().map(|(epoch, begin)| (RegionEpoch(*epoch), *begin));
            assert_eq!(Lineage::from_spans(given.collect()), None, "{spans:?}");
        }
    }

    #[test]
    fn a_lineage_returns_from_its_bytes() {
        for lineage in every_small_one() {
            let mut bytes = Vec::new();
            lineage.encode(&mut bytes);
            let mut from = &bytes[..];
            assert_eq!(Lineage::decode(&mut from), Ok(lineage));
            assert!(from.is_empty());
        }
    }
}
