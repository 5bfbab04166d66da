//! Who an idempotent producer is, and how it numbers its records. Pure.

use meridian_types::ProducerId;

/// What InitProducerId gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: ProducerId,
    pub(crate) epoch: i16,
}

/// Where a batch stands in the producer's series for a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    pub(super) id: ProducerId,
    pub(super) epoch: i16,
    pub(super) base: i32,
}

/// Numbers the records of one partition. The server takes a batch only if it follows the last one, or begins a
/// new epoch with 0.
#[derive(Clone, Debug)]
pub(super) struct Numbering {
    identity: Identity,
    /// Epochs of this partition beyond that of the identity: each begins a new series.
    bumps: i16,
    next: i32,
}

impl Numbering {
    pub(super) fn new(identity: Identity) -> Self {
        Self {
            identity,
            bumps: 0,
            next: 0,
        }
    }

    /// The identity it numbers for.
    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Numbers the next `count` records.
    pub(super) fn take(&mut self, count: u32) -> Sequence {
        let sequence = Sequence {
            id: self.identity.id,
            epoch: self.identity.epoch + self.bumps,
            base: self.next,
        };
        // After 2147483647 comes 0.
        self.next = ((i64::from(self.next) + i64::from(count)) & i64::from(i32::MAX)) as i32;
        sequence
    }

    /// Goes back: what was numbered from `base` on is certainly not written.
    pub(super) fn go_back(&mut self, base: i32) {
        self.next = base;
    }

    /// Begins a new series: nobody knows how much of the old one is written. `false`: there are no epochs left,
    /// and a new identity is needed.
    pub(super) fn bump(&mut self) -> bool {
        if self.identity.epoch.checked_add(self.bumps + 1).is_none() {
            return false;
        }
        self.bumps += 1;
        self.next = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(epoch: i16) -> Identity {
        Identity {
            id: ProducerId(1),
            epoch,
        }
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let mut numbering = Numbering::new(identity(0));
        numbering.go_back(i32::MAX - 1);
        assert_eq!(numbering.take(3).base, i32::MAX - 1);
        assert_eq!(numbering.take(1).base, 1);
    }

    #[test]
    fn a_bump_begins_at_zero_and_epochs_run_out() {
        let mut numbering = Numbering::new(identity(i16::MAX - 1));
        numbering.take(5);
        assert!(numbering.bump());
        let sequence = numbering.take(1);
        assert_eq!((sequence.epoch, sequence.base), (i16::MAX, 0));
        assert!(!numbering.bump());
    }
}
