//! A run of content commands on its way from the owner's log to a mirror's.

use bytes::{Buf, Bytes};
use meridian_types::{RegionEpoch, RegionNumber};
use thiserror::Error;

use crate::codec::{Fault, get_count, get_epoch, put_count, put_u32, put_u64};
use crate::command::{ContentCommand, Effect, Turn};
use crate::digest::ContentDigest;
use crate::progress::{Progress, Role};

/// Consecutive content commands, as the owner encoded them.
///
/// All are of one region epoch: that under which the owner added them, which may be older than the one in force there.
/// Without commands it says that the content from `first_sequence` on is of `region_epoch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentRun {
    /// The epoch under which the owner added them.
    pub region_epoch: RegionEpoch,
    /// Sequence of the first: how many content commands come before it.
    pub first_sequence: u64,
    /// Whole encoded content commands.
    pub commands: Vec<Bytes>,
    /// The owner's digest behind the last.
    pub digest: ContentDigest,
}

/// A run that changed nothing, on every replica alike.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MirrorRejected {
    /// This region takes no runs: it owns the log, or has not begun to follow.
    #[error("this log takes no runs: it is {role} in region epoch {region_epoch}")]
    NotMirror {
        /// What it is.
        role: Role,
        /// The epoch in force.
        region_epoch: RegionEpoch,
    },
    /// The run is of an older epoch than this log is in (invariant 8). Its sender is no source for this log.
    #[error("the run is of region epoch {sent}, and {present} is in force")]
    OldEpoch {
        /// The run's epoch.
        sent: RegionEpoch,
        /// The epoch in force.
        present: RegionEpoch,
    },
    /// The run is of a newer epoch. Begin that epoch here first.
    #[error("the run is of region epoch {sent}, which has not begun here; {present} is in force")]
    NewEpoch {
        /// The run's epoch.
        sent: RegionEpoch,
        /// The epoch in force.
        present: RegionEpoch,
    },
    /// Content is missing between. Ask the source from `sequence` on.
    #[error("the run begins at {first}, but this log is at {sequence}")]
    Gap {
        /// Where the run begins.
        first: u64,
        /// Where the log is.
        sequence: u64,
    },
    /// What is in the run, or what is here, is not what the owner has: corruption, on the way or at rest. Fetch it
    /// again; if it says so again, the regions have diverged.
    #[error("behind content command {at} the digest is {ours:016x}, and the owner's {theirs:016x}")]
    DigestDiffers {
        /// The sequence at which they were compared.
        at: u64,
        /// What comes out here.
        ours: u64,
        /// What the owner says.
        theirs: u64,
    },
    /// A command in it is none that the owner could have added there. As [`Self::DigestDiffers`].
    #[error("content command {sequence} is malformed: {reason}")]
    Malformed {
        /// Its sequence.
        sequence: u64,
        /// What is wrong.
        reason: String,
    },
}

/// The first part of an encoded run: everything but the commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunHead {
    region_epoch: RegionEpoch,
    first_sequence: u64,
    digest: ContentDigest,
    lengths: Vec<u32>,
}

/// A run that fits: the commands that are new, each with where it starts in the encoded run, and how the log stands
/// behind them.
#[derive(Debug)]
pub(crate) struct Admitted<C> {
    pub(crate) commands: Vec<(u64, C)>,
    pub(crate) progress: Progress,
}

/// Version and kind of the command that carries the run, epoch, sequence, digest and count.
const HEAD_FIXED_BYTES: usize = 2 + 4 + 8 + 8 + 4;

impl ContentRun {
    /// The command that carries the run, as parts: one head, then each command as it is, uncopied.
    pub fn encode(&self, version: u8, kind: u8) -> Vec<Bytes> {
        let mut head = Vec::with_capacity(self.head_bytes());
        head.extend_from_slice(&[version, kind]);
        put_u32(&mut head, self.region_epoch.0);
        put_u64(&mut head, self.first_sequence);
        put_u64(&mut head, self.digest.0);
        put_count(&mut head, self.commands.len());
        for command in &self.commands {
            put_count(&mut head, command.len());
        }
        debug_assert_eq!(head.len(), self.head_bytes());
        std::iter::once(head.into())
            .chain(self.commands.iter().cloned())
            .collect()
    }

    /// Sequence behind the last command; `None` where there is no such number.
    pub fn end_sequence(&self) -> Option<u64> {
        self.first_sequence.checked_add(self.commands.len() as u64)
    }

    fn head_bytes(&self) -> usize {
        HEAD_FIXED_BYTES + 4 * self.commands.len()
    }

    /// Holds the run against how the log stands. What the log has already is left out; nothing is admitted unless all of
    /// it fits, digest included.
    pub(crate) fn admit<C: ContentCommand>(
        &self,
        progress: &Progress,
        own: RegionNumber,
    ) -> Result<Admitted<C>, MirrorRejected> {
        let (sent, present) = (self.region_epoch, progress.region_epoch);
        if progress.role != Role::Mirror {
            return Err(MirrorRejected::NotMirror {
                role: progress.role,
                region_epoch: present,
            });
        }
        if sent < present {
            return Err(MirrorRejected::OldEpoch { sent, present });
        }
        if sent > present {
            return Err(MirrorRejected::NewEpoch { sent, present });
        }
        let (first, sequence) = (self.first_sequence, progress.sequence);
        if first > sequence {
            return Err(MirrorRejected::Gap { first, sequence });
        }
        let mut after = *progress;
        let mut commands = Vec::new();
        let known = usize::try_from(sequence - first).unwrap_or(usize::MAX);
        if known > self.commands.len() {
            // It ends below: there is nothing to compare with.
            return Ok(Admitted {
                commands,
                progress: after,
            });
        }
        let mut at = self.head_bytes() as u64;
        for (place, bytes) in self.commands.iter().enumerate() {
            if place >= known {
                let command = admit_one::<C>(bytes, &mut after, (sent, own)).map_err(|reason| {
                    MirrorRejected::Malformed {
                        sequence: after.sequence,
                        reason,
                    }
                })?;
                commands.push((at, command));
            }
            at += bytes.len() as u64;
        }
        if after.digest != self.digest {
            return Err(MirrorRejected::DigestDiffers {
                at: after.sequence,
                ours: after.digest.0,
                theirs: self.digest.0,
            });
        }
        Ok(Admitted {
            commands,
            progress: after,
        })
    }
}

fn admit_one<C: ContentCommand>(
    bytes: &Bytes,
    after: &mut Progress,
    (region_epoch, own): (RegionEpoch, RegionNumber),
) -> Result<C, String> {
    if after.region_epoch != region_epoch {
        return Err("it stands behind the end of the run's region epoch".to_owned());
    }
    let command = C::read(bytes).map_err(|error| error.to_string())?;
    let turn: Option<Turn> = match command.effect() {
        Effect::Content(turn) => turn,
        _ => return Err("it is no content".to_owned()),
    };
    after
        .as_owner()
        .check_content(turn)
        .map_err(|rejected| rejected.to_string())?;
    after.advance(command.fold(after.digest), turn, own);
    Ok(command)
}

impl RunHead {
    /// Reads the head of an encoded command that carries a run, from its version byte on. Also how long the head is.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), Fault> {
        let from = &mut bytes.get(2..).ok_or(Fault::Short)?;
        let region_epoch = get_epoch(from)?;
        let first_sequence = from.try_get_u64_le()?;
        let digest = ContentDigest(from.try_get_u64_le()?);
        let count = get_count(from, 4)?;
        let mut lengths = Vec::with_capacity(count);
        for _ in 0..count {
            lengths.push(from.try_get_u32_le()?);
        }
        let head = Self {
            region_epoch,
            first_sequence,
            digest,
            lengths,
        };
        Ok((head, bytes.len() - from.len()))
    }

    /// The run, its commands taken one after the other.
    pub fn with_commands<E>(self, mut take: impl FnMut(usize) -> Result<Bytes, E>) -> Result<ContentRun, E> {
        let commands = self.lengths.iter().map(|length| take(*length as usize));
        let commands = commands.collect::<Result<_, _>>()?;
        Ok(ContentRun {
            region_epoch: self.region_epoch,
            first_sequence: self.first_sequence,
            commands,
            digest: self.digest,
        })
    }
}
