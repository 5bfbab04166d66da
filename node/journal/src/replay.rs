//! Rebuilds every shard's log from frames in the order they were written. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use meridian_types::{RaftIndex, ShardId};

use crate::checkpoint::{Checkpoint, ShardMark};
use crate::directory::Listed;
use crate::error::{Damage, DamageReason};
use crate::frame::{FLAG_EMPTY, FrameKind, Header};
use crate::shard_log::{ShardState, Slot};

/// Frames of all files, oldest first, go in; marks and logs come out.
#[derive(Default)]
pub(crate) struct Replay {
    pub(crate) marks: BTreeMap<ShardId, ShardMark>,
    pub(crate) logs: BTreeMap<ShardId, ShardState>,
    /// A checkpoint (or the very first file) said what came before the frames seen.
    based: bool,
    /// Shards that had live entries before the oldest file.
    older: BTreeMap<ShardId, RaftIndex>,
    /// Where a base was missed.
    unbased_at: Option<Damage>,
    /// The file before this one is not there.
    after_hole: bool,
    /// The last bytes between frames of which nobody can say what they held.
    gap: Option<Damage>,
    /// Shards with a frame behind `gap`, whose sequence tells whether they lost one there.
    behind_gap: BTreeSet<ShardId>,
}

impl Replay {
    /// Takes one frame of a shard. `vote` is the payload of a vote where it is known; votes in sealed files
    /// come with the footer's checkpoint.
    pub(crate) fn frame(&mut self, file: u64, frame: &Listed, vote: Option<Bytes>) {
        let here = |reason| Damage {
            file,
            position: frame.at,
            reason,
        };
        if !self.based {
            self.unbased_at.get_or_insert(here(DamageReason::LostState));
        }
        if self.gap.is_some() {
            self.behind_gap.insert(frame.shard);
        }
        let known = self.marks.contains_key(&frame.shard) || self.based;
        let mark = self.marks.entry(frame.shard).or_default();
        if known && frame.sequence <= mark.sequence {
            // No writer makes this. What it says may be old: leave the log as it is.
            mark.damaged.get_or_insert(here(DamageReason::LostFrames));
            return;
        }
        if known && frame.sequence - mark.sequence > 1 {
            mark.damaged.get_or_insert(here(DamageReason::LostFrames));
        }
        mark.sequence = frame.sequence;
        let log = self.logs.entry(frame.shard).or_default();
        match frame.kind {
            FrameKind::Entry => {
                if frame.damaged {
                    mark.damaged.get_or_insert(here(DamageReason::Payload));
                }
                let index = frame.position.index.0;
                // An entry over an existing one means that the truncation before it was lost.
                log.truncate_after(index.checked_sub(1).map(RaftIndex));
                if log.purged.is_none_or(|purged| purged.index.0 < index) {
                    let slot = Slot {
                        term: frame.position.term,
                        file: u32::try_from(file).unwrap_or(u32::MAX),
                        at: u32::try_from(frame.at).unwrap_or(u32::MAX),
                        payload_len: frame.payload_len,
                    };
                    log.push_slot(index, slot);
                }
                mark.appended(frame.position);
            }
            FrameKind::Vote => match vote {
                _ if frame.damaged => {
                    mark.damaged.get_or_insert(here(DamageReason::Payload));
                }
                Some(vote) => mark.vote = Some(vote),
                None => {}
            },
            FrameKind::Truncate => {
                let last = (frame.flags & FLAG_EMPTY == 0).then_some(frame.position);
                log.truncate_after(last.map(|last| last.index));
                mark.last = last;
                match (self.older.get_mut(&frame.shard), last) {
                    (Some(older), Some(last)) => *older = last.index.min(*older),
                    (Some(_), None) => drop(self.older.remove(&frame.shard)),
                    (None, _) => {}
                }
            }
            FrameKind::Purge => {
                log.purge(frame.position);
                mark.set_purged(frame.position);
            }
            FrameKind::Reset => {
                log.reset();
                *mark = ShardMark {
                    sequence: frame.sequence,
                    ..ShardMark::default()
                };
                self.older.remove(&frame.shard);
            }
            FrameKind::Checkpoint | FrameKind::Marker | FrameKind::Footer | FrameKind::Trailer => {}
        }
    }

    /// A frame was here that cannot be read.
    pub(crate) fn lost(&mut self, file: u64, at: u64, header: &Header) {
        if !header.kind.of_shard() {
            return;
        }
        let mark = self.marks.entry(header.shard).or_default();
        mark.damaged.get_or_insert(lost_frames(file, at));
        mark.sequence = mark.sequence.max(header.sequence);
        self.logs.entry(header.shard).or_default();
    }

    /// Frames of any shard may have been here. A later frame or checkpoint says whether a shard lost one; the shards
    /// of which none says it are taken for damaged in the end.
    pub(crate) fn gap(&mut self, file: u64, at: u64) {
        self.gap = Some(lost_frames(file, at));
        self.behind_gap.clear();
    }

    /// Compares what was rebuilt with what the writer knew at this place, and takes over what frames
    /// do not say.
    pub(crate) fn checkpoint(&mut self, file: u64, at: u64, checkpoint: Checkpoint) {
        // Files are deleted oldest first, but a deletion may fail to last. What a missing file said is in this
        // checkpoint; the last checks find whether entries are missed.
        let after_hole = std::mem::take(&mut self.after_hole);
        let lost = lost_frames(file, at);
        for (shard, said) in checkpoint.shards {
            let first_time = !self.marks.contains_key(&shard);
            let mark = self.marks.entry(shard).or_default();
            let log = self.logs.entry(shard).or_default();
            if first_time && !self.based {
                if let Some(last) = said.last {
                    self.older.insert(shard, last.index);
                }
                log.purged = said.purged;
                *mark = said;
                continue;
            }
            if mark.sequence < said.sequence {
                if !after_hole {
                    mark.damaged.get_or_insert(lost);
                }
                if let Some(purged) = said.purged {
                    log.purge(purged);
                }
                log.truncate_after(said.last.map(|last| last.index));
                mark.sequence = said.sequence;
                mark.last = said.last;
            }
            mark.vote = said.vote;
            mark.purged = said.purged.max(mark.purged);
            log.purged = mark.purged;
            mark.released = said.released.max(mark.released);
            mark.damaged = mark.damaged.or(said.damaged);
        }
        self.based = true;
        self.unbased_at = None;
        self.gap = None;
    }

    /// The next frames are from this file; `previous` was the one before, if any.
    pub(crate) fn begin_file(&mut self, number: u64, previous: Option<u64>) {
        // Before the very first file no shard had anything.
        self.based |= number == 1;
        self.after_hole = previous.is_some_and(|previous| previous + 1 != number);
    }

    /// The last checks, when all frames are in. Returns damage that concerns any shard whatever, known or not.
    pub(crate) fn finish(&mut self) -> Option<Damage> {
        for (shard, log) in &mut self.logs {
            let mark = self.marks.entry(*shard).or_default();
            // Only what is above the purged entries must be there.
            let purged = mark.purged.map_or(0, |purged| purged.index.0);
            let from_older = self
                .older
                .get(shard)
                .is_some_and(|last| last.0 > purged && mark.last.is_some());
            let first = log.log().first.map(|first| first.index.0);
            let front_missing = from_older
                && mark
                    .purged
                    .is_none_or(|purged| first.is_none_or(|first| first > purged.index.0 + 1));
            let last_missing = mark.last != log.last();
            if front_missing || last_missing || log.first_hole().is_some() {
                let slot = first.and_then(|first| log.slot(first));
                mark.damaged.get_or_insert(Damage {
                    file: slot.map_or(0, |slot| u64::from(slot.file)),
                    position: slot.map_or(0, |slot| u64::from(slot.at)),
                    reason: DamageReason::LostEntries,
                });
            }
            if let Some(damage) = self.unbased_at {
                mark.damaged.get_or_insert(damage);
            }
            if let Some(damage) = self.gap.filter(|_| !self.behind_gap.contains(shard)) {
                mark.damaged.get_or_insert(damage);
            }
            log.adopt(mark);
            mark.last = log.last();
        }
        self.unbased_at.or(self.gap)
    }
}

fn lost_frames(file: u64, position: u64) -> Damage {
    Damage {
        file,
        position,
        reason: DamageReason::LostFrames,
    }
}
