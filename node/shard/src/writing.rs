//! Whether a shard takes writes in this region, and under which region epoch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use meridian_lineage::{Progress, Role, Standing};
use meridian_types::{LeaderEpoch, RegionEpoch, RegionNumber};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

/// What the controller has decided about ownership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Regions have numbers here, so that content is counted.
    pub(crate) is_counted: bool,
    /// The epoch in force.
    pub(crate) region_epoch: RegionEpoch,
    /// This region owns, and is not being drained.
    pub(crate) is_ours: bool,
}

impl Rule {
    /// Writes are taken under the epoch of the founding, whoever owns the cluster: of a shard whose topics stay in this region,
    /// and of every shard before anything else is known.
    pub(crate) fn uncounted(founded: RegionEpoch) -> Self {
        Self {
            is_counted: false,
            region_epoch: founded,
            is_ours: true,
        }
    }

    /// `founded` is the epoch that the region was founded or restored with: it counts as long as content does not.
    pub(crate) fn of(standing: &Standing, own: RegionNumber, founded: RegionEpoch) -> Self {
        let Progress {
            region_epoch,
            owner,
            draining_to,
            ..
        } = *standing.progress();
        Self {
            is_counted: standing.is_counted(),
            region_epoch: match standing.is_counted() {
                true => region_epoch,
                false => founded,
            },
            is_ours: !standing.is_counted() || (owner == own && draining_to.is_none()),
        }
    }
}

/// How the shard's own log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    is_counted: bool,
    region_epoch: RegionEpoch,
    role: Role,
}

/// Both together, for one shard: the controller decides, and the shard's own log says how far it has followed.
pub(crate) struct Writing {
    now: Mutex<(Rule, Place)>,
    open: watch::Sender<Option<RegionEpoch>>,
    /// Woken when anything of this changes.
    changed: Arc<Notify>,
    /// Epoch of the leader in the owner's region, as its card told last; 0 before.
    owner_epoch: AtomicU32,
}

impl Writing {
    pub(crate) fn new(changed: Arc<Notify>) -> Self {
        let rule = Rule::uncounted(RegionEpoch(0));
        let place = Place {
            is_counted: false,
            region_epoch: RegionEpoch(0),
            role: Role::Owner,
        };
        Self {
            now: Mutex::new((rule, place)),
            open: watch::channel(Some(RegionEpoch(0))).0,
            changed,
            owner_epoch: AtomicU32::new(0),
        }
    }

    /// The controller has decided something.
    pub(crate) fn set_rule(&self, rule: Rule) {
        self.set(|now| now.0 = rule);
    }

    /// The shard's log has gone on.
    pub(crate) fn set_standing(&self, standing: &Standing) {
        let place = Place {
            is_counted: standing.is_counted(),
            region_epoch: standing.region_epoch(),
            role: standing.role(),
        };
        self.set(|now| now.1 = place);
    }

    fn set(&self, change: impl FnOnce(&mut (Rule, Place))) {
        let mut now = self.now.lock();
        let before = *now;
        change(&mut now);
        if *now == before {
            return;
        }
        self.open.send_replace(open(*now));
        drop(now);
        self.changed.notify_one();
    }

    /// The region epoch under which the shard takes writes; `None` while it takes none here. Changes wake the receiver.
    pub(crate) fn open(&self) -> watch::Receiver<Option<RegionEpoch>> {
        self.open.subscribe()
    }

    /// Whether it takes writes now.
    pub(crate) fn is_open(&self) -> bool {
        self.open.borrow().is_some()
    }

    /// Whether the leader here speaks for the shard, to those who read: also one that has stopped to write and waits for
    /// its successor.
    pub(crate) fn speaks(&self) -> bool {
        let (rule, place) = *self.now.lock();
        match place.is_counted {
            true => place.role != Role::Mirror,
            false => rule.is_ours,
        }
    }

    /// The region epoch that leaders here stamp with.
    pub(crate) fn region_epoch(&self) -> RegionEpoch {
        let (rule, place) = *self.now.lock();
        match place.is_counted {
            true => place.region_epoch,
            false => rule.region_epoch,
        }
    }

    /// The owner's card names a leader with this epoch.
    pub(crate) fn set_owner_epoch(&self, epoch: LeaderEpoch) {
        self.owner_epoch.store(epoch.0, Ordering::Relaxed);
    }

    /// The epoch of the leader at the owner, where this region mirrors; of an unknown leader the first of its region
    /// epoch.
    pub(crate) fn owner_epoch(&self) -> LeaderEpoch {
        let told = LeaderEpoch(self.owner_epoch.load(Ordering::Relaxed));
        told.max(LeaderEpoch::new(self.region_epoch(), 0))
    }
}

fn open((rule, place): (Rule, Place)) -> Option<RegionEpoch> {
    let is_open = match (rule.is_counted, place.is_counted) {
        (false, false) => true,
        // The controller's log is behind: it counts from its founding.
        (false, true) => place.role == Role::Owner,
        (true, false) => false,
        (true, true) => rule.is_ours && place.role == Role::Owner && place.region_epoch == rule.region_epoch,
    };
    is_open.then_some(match place.is_counted {
        true => place.region_epoch,
        false => rule.region_epoch,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(epoch: u32, is_ours: bool) -> Rule {
        Rule {
            is_counted: true,
            region_epoch: RegionEpoch(epoch),
            is_ours,
        }
    }

    fn place(epoch: u32, role: Role) -> Place {
        Place {
            is_counted: true,
            region_epoch: RegionEpoch(epoch),
            role,
        }
    }

    #[test]
    fn a_shard_takes_writes_only_where_controller_and_log_say_so_under_one_epoch() {
        assert_eq!(open((rule(3, true), place(3, Role::Owner))), Some(RegionEpoch(3)));
        for (rule, place) in [
            (rule(3, false), place(3, Role::Owner)),
            (rule(4, true), place(3, Role::Owner)),
            (rule(3, true), place(3, Role::Fenced)),
            (rule(4, true), place(3, Role::Mirror)),
            (
                rule(0, true),
                Place {
                    is_counted: false,
                    ..place(0, Role::Owner)
                },
            ),
        ] {
            assert_eq!(open((rule, place)), None, "{rule:?} {place:?}");
        }
    }

    #[test]
    fn a_region_without_a_number_writes_as_ever() {
        let writing = Writing::new(Arc::default());
        assert!(writing.is_open() && writing.speaks());
        assert_eq!(writing.region_epoch(), RegionEpoch(0));
    }

    #[test]
    fn a_mirror_names_the_epoch_of_the_owners_leader() {
        let writing = Writing::new(Arc::default());
        writing.set_rule(rule(2, false));
        assert!(!writing.is_open() && !writing.speaks());
        assert_eq!(writing.owner_epoch(), LeaderEpoch::new(RegionEpoch(2), 0));
        writing.set_owner_epoch(LeaderEpoch::new(RegionEpoch(2), 7));
        assert_eq!(writing.owner_epoch(), LeaderEpoch::new(RegionEpoch(2), 7));
    }
}
