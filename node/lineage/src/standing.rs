//! Where a log stands among the regions.

use bytes::Buf;
use meridian_types::{RaftIndex, RegionEpoch, RegionNumber};

use crate::codec::{Fault, get_flag, put_u64};
use crate::command::{BeginEpoch, ContentCommand, Effect, Turn};
use crate::digest::ContentDigest;
use crate::index::SequenceIndex;
use crate::lineage::Lineage;
use crate::progress::{BeginRejected, FenceRejected, NotOwner, Progress, Role, TurnRejected};
use crate::run::{ContentRun, MirrorRejected};

/// Where a log stands among the regions: how far its content has come, under which epochs, and who may add to it.
///
/// Until the first epoch begins nothing is counted, and the log takes everything, as in a deployment of one region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    progress: Progress,
    lineage: Lineage,
    index: SequenceIndex,
    diverged_at: Option<u64>,
}

impl Standing {
    /// Whether an epoch has begun, so that content is counted.
    pub fn is_counted(&self) -> bool {
        !self.lineage.is_empty()
    }

    /// How far the content has come.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// What this region may do with the log.
    pub fn role(&self) -> Role {
        self.progress.role
    }

    /// Who owns the log.
    pub fn owner(&self) -> RegionNumber {
        self.progress.owner
    }

    /// The epoch in force.
    pub fn region_epoch(&self) -> RegionEpoch {
        self.progress.region_epoch
    }

    /// Content commands so far: the cursor of a mirror.
    pub fn sequence(&self) -> u64 {
        self.progress.sequence
    }

    /// The digest over all of them.
    pub fn digest(&self) -> ContentDigest {
        self.progress.digest
    }

    /// Under which epoch each was added.
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// Where in the Raft log they lie.
    pub fn index(&self) -> &SequenceIndex {
        &self.index
    }

    /// The sequence at which the last run was found to differ from what is here, unless one has fitted since. Do not
    /// promote such a log unless somebody says so.
    pub fn diverged_at(&self) -> Option<u64> {
        self.diverged_at
    }

    /// Whether this region adds content to the log.
    pub fn check_owner(&self) -> Result<(), NotOwner> {
        self.progress.check_owner()
    }

    /// Whether this region may add a content command.
    pub fn check_content(&self, turn: Option<Turn>) -> Result<(), TurnRejected> {
        if !self.is_counted() && turn.is_some() {
            return Err(TurnRejected::NotCounted);
        }
        self.progress.check_content(turn)
    }

    /// Counts a content command that has been checked and lies in the entry at `index`. `own` is this region.
    pub fn add(&mut self, index: RaftIndex, command: &impl ContentCommand, own: RegionNumber) {
        if !self.is_counted() {
            return;
        }
        let Effect::Content(turn) = command.effect() else {
            debug_assert!(false, "only content is counted");
            return;
        };
        self.index.note(index, &self.progress);
        let digest = command.fold(self.progress.digest);
        self.progress.advance(digest, turn, own);
        self.follow_turn(index);
    }

    /// Takes a run that lies in the entry at `index`: the commands to apply, each with where it starts in the encoded
    /// entry. A run that does not fit changes nothing but [`Self::diverged_at`].
    pub fn admit<C: ContentCommand>(
        &mut self,
        index: RaftIndex,
        run: &ContentRun,
        own: RegionNumber,
    ) -> Result<Vec<(u64, C)>, MirrorRejected> {
        let admitted = run
            .admit::<C>(&self.progress, own)
            .inspect_err(|rejected| match rejected {
                MirrorRejected::DigestDiffers { at, .. } => self.diverged_at = Some(*at),
                MirrorRejected::Malformed { sequence, .. } => self.diverged_at = Some(*sequence),
                _ => {}
            })?;
        if run.end_sequence() >= Some(self.progress.sequence) {
            self.diverged_at = None;
        }
        if !admitted.commands.is_empty() {
            self.index.note(index, &self.progress);
            self.progress = admitted.progress;
            self.follow_turn(index);
        }
        Ok(admitted.commands)
    }

    /// Begins an epoch by the entry at `index`. `history`: a digest of what the log holds that was never counted, if it
    /// holds anything; it counts as one content command, which no run can carry.
    pub fn begin(
        &mut self,
        index: RaftIndex,
        begin: &BeginEpoch,
        history: Option<ContentDigest>,
    ) -> Result<(), BeginRejected> {
        if self.is_counted() {
            self.progress.begin(begin)?;
        } else {
            self.progress.check_begin(begin)?;
            if !begin.is_owner && history.is_some() {
                return Err(BeginRejected::History);
            }
            self.progress.take(begin);
            self.lineage.begin(begin.region_epoch, 0);
            if let Some(history) = history {
                self.progress.sequence = 1;
                self.progress.digest = ContentDigest::EMPTY.mix(history.0);
            }
        }
        self.follow_role(index);
        Ok(())
    }

    /// Stops the owner by the entry at `index`. Once more changes nothing.
    pub fn fence(&mut self, index: RaftIndex, region_epoch: RegionEpoch) -> Result<(), FenceRejected> {
        if !self.is_counted() {
            return Err(FenceRejected::NotCounted);
        }
        self.progress.fence(region_epoch)?;
        self.follow_role(index);
        Ok(())
    }

    /// Behind content that may have moved the ownership.
    fn follow_turn(&mut self, index: RaftIndex) {
        if self.lineage.epoch() != Some(self.progress.region_epoch) {
            self.follow_role(index);
        }
    }

    /// Behind an entry that gave the log another role or epoch.
    fn follow_role(&mut self, index: RaftIndex) {
        if self.lineage.epoch() != Some(self.progress.region_epoch) {
            self.lineage
                .begin(self.progress.region_epoch, self.progress.sequence);
        }
        self.index.push(index.next(), &self.progress);
    }

    /// Of a log whose content lies in none of its entries up to `index`: it is read from there on.
    pub(crate) fn begun(progress: Progress, lineage: Lineage, index: RaftIndex) -> Self {
        let mut points = SequenceIndex::default();
        points.push(index.next(), &progress);
        Self {
            progress,
            lineage,
            index: points,
            diverged_at: None,
        }
    }

    /// Asserts what must hold; says what does not.
    pub fn check(&self) -> Result<(), String> {
        let Progress {
            sequence,
            region_epoch,
            role,
            draining_to,
            ..
        } = self.progress;
        if !self.is_counted() {
            return match *self == Self::default() {
                true => Ok(()),
                false => Err("content is counted before an epoch has begun".into()),
            };
        }
        if self.lineage.epoch() != Some(region_epoch) {
            return Err(format!(
                "region epoch {region_epoch} is not the last of the lineage"
            ));
        }
        let begin = self.lineage.spans().last().map_or(0, |(_, begin)| *begin);
        if begin > sequence {
            return Err(format!(
                "region epoch {region_epoch} begins at {begin}, beyond {sequence}"
            ));
        }
        if role == Role::Owner && draining_to.is_some() {
            return Err("an owner that is being drained is not fenced".into());
        }
        if self.index.points().is_empty() {
            return Err("the sequence index has no point".into());
        }
        self.index.check(&self.progress)
    }

    /// Writes it for a snapshot.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.progress.encode(out);
        self.lineage.encode(out);
        self.index.encode(out);
        out.push(self.diverged_at.is_some().into());
        if let Some(at) = self.diverged_at {
            put_u64(out, at);
        }
    }

    /// Reads what [`Self::encode`] wrote. What it returns is counted, and satisfies [`Self::check`].
    pub fn decode(from: &mut &[u8]) -> Result<Self, Fault> {
        let standing = Self {
            progress: Progress::decode(from)?,
            lineage: Lineage::decode(from)?,
            index: SequenceIndex::decode(from)?,
            diverged_at: get_flag(from)?.then(|| from.try_get_u64_le()).transpose()?,
        };
        match standing.is_counted() && standing.check().is_ok() {
            true => Ok(standing),
            false => Err(Fault::Invalid(
                "the standing among the regions breaks an invariant",
            )),
        }
    }
}

#[cfg(test)]
mod tests;
