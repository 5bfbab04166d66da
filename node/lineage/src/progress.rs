//! How far a log's content has come, and what may be added to it next.

use std::fmt;

use bytes::Buf;
use meridian_types::{RegionEpoch, RegionNumber};
use thiserror::Error;

use crate::codec::{Fault, get_epoch, get_flag, get_region, put_u16, put_u32, put_u64};
use crate::command::{BeginEpoch, Turn};
use crate::digest::ContentDigest;

/// What a region may do with a log. A cycle: Mirror, promoted: Owner, fenced: Fenced, under the next epoch: Mirror, or
/// Owner again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It adds content.
    Owner,
    /// It was the owner and takes nothing until the next epoch.
    Fenced,
    /// It takes what the owner has added, and nothing else.
    Mirror,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Owner => "owner",
            Self::Fenced => "fenced",
            Self::Mirror => "mirror",
        })
    }
}

/// How far a log's content has come, under which epoch and role.
///
/// What the log takes next depends on this and the command alone: a reader of the log that starts with the progress of
/// a [`crate::SequencePoint`] tells content from what was refused without the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Content commands so far.
    pub sequence: u64,
    /// Over all of them.
    pub digest: ContentDigest,
    /// The epoch in force.
    pub region_epoch: RegionEpoch,
    /// Who owns the log under it.
    pub owner: RegionNumber,
    /// What this region may do.
    pub role: Role,
    /// The region that the log is drained for (the controller's log only).
    pub draining_to: Option<RegionNumber>,
}

/// This region does not add content now: not an error of the command. Go to the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("region {owner} owns this log in region epoch {region_epoch}; here it is {role}")]
pub struct NotOwner {
    /// Who owns it.
    pub owner: RegionNumber,
    /// Under which epoch.
    pub region_epoch: RegionEpoch,
    /// What this region is instead.
    pub role: Role,
}

/// Why the ownership of a log was not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TurnRejected {
    /// Only the owner decides. Go to it.
    #[error(transparent)]
    NotOwner(#[from] NotOwner),
    /// The log has no owner in this sense: the region was founded without a number.
    #[error("this region was founded without a number, so that there is no ownership to move")]
    NotCounted,
    /// Somebody was faster. Look at the ownership again.
    #[error("asked for in region epoch {asked}, where {expected} was expected")]
    Epoch {
        /// The epoch named.
        asked: RegionEpoch,
        /// The one that would have been taken.
        expected: RegionEpoch,
    },
    /// A drain is under way: wait for its end.
    #[error("it is being drained for region {to} already")]
    Draining {
        /// The region that is to get it.
        to: RegionNumber,
    },
    /// The ownership moves by a drain only. Begin one.
    #[error("it is not being drained")]
    NotDraining,
    /// A drain ends with the old owner or with the region that it was for, and is for another one than the owner.
    #[error("region {region} cannot be named here")]
    Region {
        /// The region named.
        region: RegionNumber,
    },
    /// Region epochs end at 2047.
    #[error("there is no region epoch after {epoch}")]
    Exhausted {
        /// The last one.
        epoch: RegionEpoch,
    },
}

/// Why an epoch did not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BeginRejected {
    /// The epoch in force is as new or newer (invariant 8). Look again: it may have been done already.
    #[error("region epoch {asked} is not newer than {present}, which is in force")]
    Epoch {
        /// The epoch named.
        asked: RegionEpoch,
        /// The epoch in force.
        present: RegionEpoch,
    },
    /// Content came in between. Look again.
    #[error("expected sequence {expected}, but the log is at {present}")]
    Sequence {
        /// What the proposer saw.
        expected: u64,
        /// Where the log is.
        present: u64,
    },
    /// A mirror begins empty, and this log has content of its own. Make the region anew.
    #[error("a log with content of its own cannot begin as a mirror")]
    History,
    /// It would not fit a leader epoch.
    #[error("region epoch {asked} is beyond 2047")]
    Range {
        /// The epoch named.
        asked: RegionEpoch,
    },
}

/// Why an owner was not fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FenceRejected {
    /// Another epoch is in force. Look again.
    #[error("region epoch {asked} is not the one in force, which is {present}")]
    Epoch {
        /// The epoch named.
        asked: RegionEpoch,
        /// The epoch in force.
        present: RegionEpoch,
    },
    /// There is nothing to fence.
    #[error("a mirror adds nothing that could be fenced")]
    Mirror,
    /// The log has no owner in this sense: no epoch has begun.
    #[error("no region epoch has begun in this log")]
    NotCounted,
}

impl Default for Progress {
    /// Before the first epoch: nothing is counted.
    fn default() -> Self {
        Self {
            sequence: 0,
            digest: ContentDigest::EMPTY,
            region_epoch: RegionEpoch(0),
            owner: RegionNumber(0),
            role: Role::Owner,
            draining_to: None,
        }
    }
}

impl Progress {
    /// Whether this region may add a content command.
    pub fn check_content(&self, turn: Option<Turn>) -> Result<(), TurnRejected> {
        match turn {
            None => Ok(self.check_owner()?),
            Some(turn) => self.check_turn(turn),
        }
    }

    pub(crate) fn check_owner(&self) -> Result<(), NotOwner> {
        match self.role {
            Role::Owner => Ok(()),
            role => Err(NotOwner {
                owner: self.owner,
                region_epoch: self.region_epoch,
                role,
            }),
        }
    }

    fn check_turn(&self, turn: Turn) -> Result<(), TurnRejected> {
        if self.role == Role::Mirror {
            self.check_owner()?;
        }
        match turn {
            Turn::Drain { region_epoch, to } => {
                if let Some(to) = self.draining_to {
                    return Err(TurnRejected::Draining { to });
                }
                check_epoch(region_epoch, self.region_epoch)?;
                if to == self.owner {
                    return Err(TurnRejected::Region { region: to });
                }
            }
            Turn::Hold { region_epoch, owner } => {
                let to = self.draining_to.ok_or(TurnRejected::NotDraining)?;
                let Some(next) = self.region_epoch.next() else {
                    let epoch = self.region_epoch;
                    return Err(TurnRejected::Exhausted { epoch });
                };
                check_epoch(region_epoch, next)?;
                if owner != to && owner != self.owner {
                    return Err(TurnRejected::Region { region: owner });
                }
            }
        }
        Ok(())
    }

    /// How the owner stood when it was here: by it a mirror judges what the owner has added.
    pub(crate) fn as_owner(&self) -> Self {
        let role = match self.draining_to {
            Some(_) => Role::Fenced,
            None => Role::Owner,
        };
        Self { role, ..*self }
    }

    /// Behind one more content command, which has been checked. `own` is the region of the log.
    pub(crate) fn advance(&mut self, digest: ContentDigest, turn: Option<Turn>, own: RegionNumber) {
        self.sequence += 1;
        self.digest = digest;
        match turn {
            None => {}
            Some(Turn::Drain { to, .. }) => {
                self.draining_to = Some(to);
                if self.role == Role::Owner {
                    self.role = Role::Fenced;
                }
            }
            Some(Turn::Hold { region_epoch, owner }) => {
                self.region_epoch = region_epoch;
                self.owner = owner;
                self.draining_to = None;
                self.role = if owner == own { Role::Owner } else { Role::Mirror };
            }
        }
    }

    /// Begins an epoch after the first.
    pub(crate) fn begin(&mut self, begin: &BeginEpoch) -> Result<(), BeginRejected> {
        let asked = begin.region_epoch;
        if asked <= self.region_epoch {
            let present = self.region_epoch;
            return Err(BeginRejected::Epoch { asked, present });
        }
        self.check_begin(begin)?;
        self.take(begin);
        Ok(())
    }

    pub(crate) fn check_begin(&self, begin: &BeginEpoch) -> Result<(), BeginRejected> {
        let asked = begin.region_epoch;
        if asked > RegionEpoch::MAX {
            return Err(BeginRejected::Range { asked });
        }
        if begin.expected_sequence != self.sequence {
            return Err(BeginRejected::Sequence {
                expected: begin.expected_sequence,
                present: self.sequence,
            });
        }
        Ok(())
    }

    pub(crate) fn take(&mut self, begin: &BeginEpoch) {
        self.region_epoch = begin.region_epoch;
        self.owner = begin.owner;
        self.draining_to = None;
        self.role = if begin.is_owner { Role::Owner } else { Role::Mirror };
    }

    pub(crate) fn fence(&mut self, asked: RegionEpoch) -> Result<(), FenceRejected> {
        let present = self.region_epoch;
        if self.role == Role::Mirror {
            return Err(FenceRejected::Mirror);
        }
        if asked != present {
            return Err(FenceRejected::Epoch { asked, present });
        }
        self.role = Role::Fenced;
        Ok(())
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.sequence);
        put_u64(out, self.digest.0);
        put_u32(out, self.region_epoch.0);
        put_u16(out, self.owner.0);
        out.push(match self.role {
            Role::Owner => 1,
            Role::Fenced => 2,
            Role::Mirror => 3,
        });
        out.push(self.draining_to.is_some().into());
        if let Some(to) = self.draining_to {
            put_u16(out, to.0);
        }
    }

    pub(crate) fn decode(from: &mut &[u8]) -> Result<Self, Fault> {
        Ok(Self {
            sequence: from.try_get_u64_le()?,
            digest: ContentDigest(from.try_get_u64_le()?),
            region_epoch: get_epoch(from)?,
            owner: get_region(from)?,
            role: match from.try_get_u8()? {
                1 => Role::Owner,
                2 => Role::Fenced,
                3 => Role::Mirror,
                _ => return Err(Fault::Invalid("a role is not one of 1 to 3")),
            },
            draining_to: get_flag(from)?.then(|| get_region(from)).transpose()?,
        })
    }
}

/// The fewest bytes of [`Progress::encode`].
pub(crate) const PROGRESS_BYTES_MIN: usize = 8 + 8 + 4 + 2 + 1 + 1;

fn check_epoch(asked: RegionEpoch, expected: RegionEpoch) -> Result<(), TurnRejected> {
    match asked == expected {
        true => Ok(()),
        false => Err(TurnRejected::Epoch { asked, expected }),
    }
}
