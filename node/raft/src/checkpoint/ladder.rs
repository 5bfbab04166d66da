//! Which checkpoints are kept.
//!
//! The newest two: should the newest be unreadable, a restart takes the one before. The base, the oldest that the
//! log still continues: a replica that begins empty gets it and the log after it, so nothing that it names
//! may be gone. And a ladder between: as entries retire, the base climbs to the highest step that names no
//! entry still needed.

use meridian_types::RaftIndex;

/// Checkpoints kept per shard.
pub(crate) const KEPT_MAX: usize = 8;

/// The checkpoints of `kept` (ascending) that may go, when the log begins after `purged`.
pub(crate) fn surplus(kept: &[RaftIndex], purged: Option<RaftIndex>) -> Vec<RaftIndex> {
    // The log does not continue what is older: such a checkpoint is of no use to anybody.
    let base = kept
        .iter()
        .position(|index| Some(*index) >= purged)
        .unwrap_or(kept.len().saturating_sub(1));
    let mut gone = kept[..base].to_vec();
    let mut steps = kept[base..].to_vec();
    while steps.len() > KEPT_MAX {
        // The step whose absence leaves the smallest gap; never the base, nor the newest two.
        let least = (1..steps.len() - 2)
            .min_by_key(|at| steps[at + 1].0 - steps[at - 1].0)
            .expect("there are more than three steps");
        gone.push(steps.remove(least));
    }
    gone
}

/// The checkpoint through which the log may be purged when entries from `needed` on must stay: the highest below
/// it that is not the newest. `None` needed: no entry is.
pub(crate) fn step_below(kept: &[RaftIndex], needed: Option<RaftIndex>) -> Option<RaftIndex> {
    let (_, older) = kept.split_last()?;
    older
        .iter()
        .rev()
        .find(|index| needed.is_none_or(|needed| **index < needed))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indexes(numbers: &[u64]) -> Vec<RaftIndex> {
        numbers.iter().copied().map(RaftIndex).collect()
    }

    #[test]
    fn base_and_newest_two_always_stay() {
        let mut kept = Vec::new();
        for index in 1..=200u64 {
            kept.push(RaftIndex(index * 10));
            let gone = surplus(&kept, Some(RaftIndex(10)));
            kept.retain(|index| !gone.contains(index));
            assert!(kept.len() <= KEPT_MAX);
            assert_eq!(kept[0], RaftIndex(10));
            assert_eq!(*kept.last().expect("one"), RaftIndex(index * 10));
            if index > 1 {
                assert_eq!(kept[kept.len() - 2], RaftIndex(index * 10 - 10));
            }
        }
        // The steps between stay spread: no gap is more than half of the whole.
        let widest = kept.windows(2).map(|pair| pair[1].0 - pair[0].0).max();
        assert!(widest <= Some(1000), "{kept:?}");
    }

    #[test]
    fn checkpoints_that_the_log_does_not_continue_go() {
        let kept = indexes(&[10, 20, 30, 40]);
        assert_eq!(surplus(&kept, Some(RaftIndex(30))), indexes(&[10, 20]));
        assert_eq!(surplus(&kept, Some(RaftIndex(25))), indexes(&[10, 20]));
        assert_eq!(surplus(&kept, None), []);
        assert_eq!(surplus(&kept, Some(RaftIndex(99))), indexes(&[10, 20, 30]));
        assert_eq!(surplus(&[], Some(RaftIndex(1))), []);
    }

    #[test]
    fn the_log_is_purged_below_what_is_needed_and_never_through_the_newest() {
        let kept = indexes(&[10, 20, 30]);
        assert_eq!(step_below(&kept, None), Some(RaftIndex(20)));
        assert_eq!(step_below(&kept, Some(RaftIndex(25))), Some(RaftIndex(20)));
        assert_eq!(step_below(&kept, Some(RaftIndex(20))), Some(RaftIndex(10)));
        assert_eq!(step_below(&kept, Some(RaftIndex(10))), None);
        assert_eq!(step_below(&indexes(&[10]), None), None);
        assert_eq!(step_below(&[], None), None);
    }
}
