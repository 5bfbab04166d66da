//! A checkpoint of the owner on its way into a mirror's log, when the owner's log no longer reaches back to where the
//! mirror stands. Why it is so: `docs/decisions/0019-checkpoints-between-regions.md`.

use bytes::{Buf, Bytes};
use meridian_types::RaftIndex;
use thiserror::Error;

use crate::codec::{Fault, put_u64};
use crate::lineage::Relation;
use crate::progress::{Progress, Role};
use crate::standing::Standing;

/// Most bytes of a checkpoint that a log takes in.
pub const STAGED_BYTES_MAX: u64 = 256 << 20;

/// Most bytes of one part of it: what one entry of the log carries.
pub const STAGE_PART_BYTES_MAX: usize = 1 << 20;

/// A part of a checkpoint. Parts come in order; the first one takes the place of whatever was staged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagePart {
    /// Which checkpoint: drawn by who made it.
    pub checkpoint: u64,
    /// Bytes of the whole checkpoint.
    pub total_bytes: u64,
    /// Where the part begins.
    pub at: u64,
    /// The part.
    pub bytes: Bytes,
}

/// Why a part was not taken. Nothing was changed. Begin with a fresh checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StageRejected {
    /// This region owns the log, or did until a moment ago.
    #[error("this log takes no checkpoint: it is {role}")]
    NotMirror {
        /// What it is.
        role: Role,
    },
    /// The part does not continue what is staged.
    #[error("a part at byte {at} does not continue what is staged, which ends at {expected}")]
    OutOfStep {
        /// Where it begins.
        at: u64,
        /// Where what is staged ends.
        expected: u64,
    },
    /// No log takes such a checkpoint.
    #[error("a checkpoint of {total_bytes} bytes, with a part of {part_bytes}, is beyond the bounds")]
    TooLarge {
        /// Of the whole.
        total_bytes: u64,
        /// Of the part.
        part_bytes: u64,
    },
}

/// Why a checkpoint did not take the place of what a log has. What was there is there still.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InstallRejected {
    /// It is not there, or not whole: stage it first.
    #[error("the checkpoint is not staged")]
    NotStaged,
    /// This region owns the log, or did until a moment ago.
    #[error("this log takes no checkpoint: it is {role}")]
    NotMirror {
        /// What it is.
        role: Role,
    },
    /// The log has content that was never counted, so nobody can tell whether it is the owner's. Make the region anew.
    #[error("a log with content of its own cannot become a mirror")]
    History,
    /// The log has come as far by itself. Follow.
    #[error("the checkpoint is of sequence {sequence}, and this log is at {present}")]
    Stale {
        /// The checkpoint's.
        sequence: u64,
        /// The log's.
        present: u64,
    },
    /// The log has content that the owner never had.
    #[error("the histories part at sequence {fork}")]
    Diverged {
        /// The first sequence that differs.
        fork: u64,
    },
    /// It is no checkpoint of this log by its owner: damage, or a defect.
    #[error("the checkpoint cannot be used: {reason}")]
    Unusable {
        /// What is wrong.
        reason: String,
    },
}

/// The part of a checkpoint that has come so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staging {
    checkpoint: u64,
    total_bytes: u64,
    body: Vec<u8>,
}

impl StagePart {
    /// Bytes before the part in its encoded form.
    const HEAD_BYTES: usize = 3 * 8;

    /// Writes it behind the version and kind of its command.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.checkpoint);
        put_u64(out, self.total_bytes);
        put_u64(out, self.at);
        out.extend_from_slice(&self.bytes);
    }

    /// Reads what [`Self::encode`] wrote: all of `from`.
    pub fn decode(from: &mut &[u8]) -> Result<Self, Fault> {
        if from.len() < Self::HEAD_BYTES {
            return Err(Fault::Short);
        }
        let part = Self {
            checkpoint: from.get_u64_le(),
            total_bytes: from.get_u64_le(),
            at: from.get_u64_le(),
            bytes: Bytes::copy_from_slice(from),
        };
        from.advance(from.len());
        Ok(part)
    }
}

impl Staging {
    /// Which checkpoint.
    pub fn checkpoint(&self) -> u64 {
        self.checkpoint
    }

    /// Bytes of the whole.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// What has come.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The checkpoint, once all of it has come.
    pub fn whole(&self) -> Option<&[u8]> {
        (self.body.len() as u64 == self.total_bytes).then_some(self.body.as_slice())
    }

    /// Adds a part to what is staged, or begins anew with it.
    pub fn take(staged: &mut Option<Self>, part: &StagePart) -> Result<(), StageRejected> {
        let part_bytes = part.bytes.len() as u64;
        let end = part.at.checked_add(part_bytes);
        let is_bounded = part.total_bytes <= STAGED_BYTES_MAX
            && part.bytes.len() <= STAGE_PART_BYTES_MAX
            && end.is_some_and(|end| end <= part.total_bytes);
        if !is_bounded {
            return Err(StageRejected::TooLarge {
                total_bytes: part.total_bytes,
                part_bytes,
            });
        }
        if part.at == 0 {
            *staged = Some(Self {
                checkpoint: part.checkpoint,
                total_bytes: part.total_bytes,
                body: part.bytes.to_vec(),
            });
            return Ok(());
        }
        let same = |staging: &&mut Self| {
            (staging.checkpoint, staging.total_bytes) == (part.checkpoint, part.total_bytes)
        };
        let staging = staged.as_mut().filter(same);
        let expected = staging.as_ref().map_or(0, |staging| staging.body.len() as u64);
        match staging.filter(|_| part.at == expected) {
            Some(staging) => {
                staging.body.extend_from_slice(&part.bytes);
                Ok(())
            }
            None => Err(StageRejected::OutOfStep {
                at: part.at,
                expected,
            }),
        }
    }

    /// Takes it from a snapshot.
    pub fn restore(checkpoint: u64, total_bytes: u64, body: Vec<u8>) -> Result<Self, Fault> {
        match total_bytes <= STAGED_BYTES_MAX && body.len() as u64 <= total_bytes {
            true => Ok(Self {
                checkpoint,
                total_bytes,
                body,
            }),
            false => Err(Fault::Invalid("a staged checkpoint is beyond its bounds")),
        }
    }
}

impl Standing {
    /// Whether a checkpoint of the owner may be staged.
    pub fn check_stage(&self) -> Result<(), StageRejected> {
        match self.role() {
            Role::Mirror => Ok(()),
            Role::Owner if !self.is_counted() => Ok(()),
            role => Err(StageRejected::NotMirror { role }),
        }
    }

    /// Whether a checkpoint in which the owner stood like `theirs` may take the place of the content here.
    pub fn check_install(&self, theirs: &Self) -> Result<(), InstallRejected> {
        self.check_stage()
            .map_err(|_| InstallRejected::NotMirror { role: self.role() })?;
        if !theirs.is_counted() || theirs.role() == Role::Mirror {
            let reason = "whoever made it did not own the log".to_owned();
            return Err(InstallRejected::Unusable { reason });
        }
        let (sequence, present) = (theirs.sequence(), self.sequence());
        match self.lineage().relation(present, theirs.lineage(), sequence) {
            Relation::Diverged { fork } => Err(InstallRejected::Diverged { fork }),
            Relation::Equal if !self.is_counted() => Ok(()),
            Relation::Equal | Relation::Ahead => Err(InstallRejected::Stale { sequence, present }),
            Relation::Behind if theirs.region_epoch() < self.region_epoch() => {
                Err(InstallRejected::Stale { sequence, present })
            }
            Relation::Behind => Ok(()),
        }
    }

    /// How a mirror stands that has `theirs` installed by the entry at `index`.
    pub fn mirror_of(theirs: &Self, index: RaftIndex) -> Self {
        let progress = Progress {
            role: Role::Mirror,
            ..*theirs.progress()
        };
        Self::begun(progress, theirs.lineage().clone(), index)
    }
}

#[cfg(test)]
mod tests;
