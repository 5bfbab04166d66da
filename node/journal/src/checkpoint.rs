//! The state of all shards at one place of the journal, as checkpoints and footers hold it.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_types::{LogPosition, RaftIndex, ShardId, Term};

use crate::error::{Damage, DamageReason};
use crate::frame::{POSITION_MAX, u32_at, u64_at};

/// Longest vote that is accepted, in bytes.
pub(crate) const VOTE_BYTES_MAX: usize = 4096;

/// What the journal says about one shard up to some place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShardMark {
    /// Number of the shard's last frame; its first has 1.
    pub(crate) sequence: u64,
    pub(crate) vote: Option<Bytes>,
    pub(crate) purged: Option<LogPosition>,
    /// Last entry above `purged`.
    pub(crate) last: Option<LogPosition>,
    pub(crate) released: Option<RaftIndex>,
    pub(crate) damaged: Option<Damage>,
}

impl ShardMark {
    /// An entry was appended: behind the purged ones, unless the purge overtook it.
    pub(crate) fn appended(&mut self, position: LogPosition) {
        if self.purged.is_none_or(|purged| purged.index < position.index) {
            self.last = Some(position);
        }
    }

    /// The log was purged.
    pub(crate) fn set_purged(&mut self, through: LogPosition) {
        if self.purged.is_none_or(|purged| purged.index < through.index) {
            self.purged = Some(through);
        }
        self.last = self.last.filter(|last| last.index > through.index);
    }
}

/// A checkpoint: who wrote it, where, and all shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) journal_id: u64,
    pub(crate) file: u64,
    pub(crate) shards: BTreeMap<ShardId, ShardMark>,
}

const HAS_VOTE: u8 = 1;
const HAS_PURGED: u8 = 2;
const HAS_LAST: u8 = 4;
const HAS_RELEASED: u8 = 8;
const HAS_DAMAGE: u8 = 16;

impl Checkpoint {
    /// Bytes that one shard takes at most, its vote not counted.
    pub(crate) const SHARD_BYTES_MAX: u64 = 96;

    /// Bytes that a checkpoint of these shards takes at most.
    pub(crate) fn bytes_max(shards: &BTreeMap<ShardId, ShardMark>) -> u64 {
        20 + shards
            .values()
            .map(|mark| Self::SHARD_BYTES_MAX + mark.vote.as_ref().map_or(0, Bytes::len) as u64)
            .sum::<u64>()
    }

    pub(crate) fn encode(journal_id: u64, file: u64, shards: &BTreeMap<ShardId, ShardMark>) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&journal_id.to_le_bytes());
        out.extend_from_slice(&file.to_le_bytes());
        out.extend_from_slice(
            &u32::try_from(shards.len())
                .expect("fewer shards than ids")
                .to_le_bytes(),
        );
        for (shard, mark) in shards {
            out.extend_from_slice(&shard.0.to_le_bytes());
            out.extend_from_slice(&mark.sequence.to_le_bytes());
            let flag = |has: bool, flag: u8| if has { flag } else { 0 };
            out.push(
                flag(mark.vote.is_some(), HAS_VOTE)
                    | flag(mark.purged.is_some(), HAS_PURGED)
                    | flag(mark.last.is_some(), HAS_LAST)
                    | flag(mark.released.is_some(), HAS_RELEASED)
                    | flag(mark.damaged.is_some(), HAS_DAMAGE),
            );
            if let Some(vote) = &mark.vote {
                out.extend_from_slice(
                    &u16::try_from(vote.len())
                        .expect("votes are bounded")
                        .to_le_bytes(),
                );
                out.extend_from_slice(vote);
            }
            for position in [mark.purged, mark.last].into_iter().flatten() {
                out.extend_from_slice(&position.term.0.to_le_bytes());
                out.extend_from_slice(&position.index.0.to_le_bytes());
            }
            if let Some(released) = mark.released {
                out.extend_from_slice(&released.0.to_le_bytes());
            }
            if let Some(damage) = mark.damaged {
                out.extend_from_slice(&damage.file.to_le_bytes());
                out.extend_from_slice(&damage.position.to_le_bytes());
                out.push(damage.reason as u8);
            }
        }
        out
    }

    /// `None` when the bytes are not a checkpoint of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        let mut checkpoint = Self {
            journal_id: input.u64()?,
            file: input.u64()?,
            shards: BTreeMap::new(),
        };
        for _ in 0..input.u32()? {
            let shard = ShardId(input.u32()?);
            let mut mark = ShardMark {
                sequence: input.bounded()?,
                ..ShardMark::default()
            };
            let flags = input.take(1)?[0];
            if flags & HAS_VOTE != 0 {
                let len = usize::from(u16::from_le_bytes(input.take(2)?.try_into().ok()?));
                mark.vote = Some(Bytes::copy_from_slice(input.take(len)?));
            }
            if flags & HAS_PURGED != 0 {
                mark.purged = Some(input.position()?);
            }
            if flags & HAS_LAST != 0 {
                mark.last = Some(input.position()?);
            }
            if flags & HAS_RELEASED != 0 {
                mark.released = Some(RaftIndex(input.bounded()?));
            }
            if flags & HAS_DAMAGE != 0 {
                let (file, position) = (input.u64()?, input.u64()?);
                let reason = DamageReason::from_code(input.take(1)?[0])?;
                mark.damaged = Some(Damage {
                    file,
                    position,
                    reason,
                });
            }
            checkpoint.shards.insert(shard, mark);
        }
        input.0.is_empty().then_some(checkpoint)
    }
}

/// Bytes left to decode; every step checks what is left.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| u32_at(bytes, 0))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|bytes| u64_at(bytes, 0))
    }

    /// A number that arithmetic cannot overflow.
    fn bounded(&mut self) -> Option<u64> {
        self.u64().filter(|value| *value <= POSITION_MAX)
    }

    fn position(&mut self) -> Option<LogPosition> {
        Some(LogPosition {
            term: Term(self.bounded()?),
            index: RaftIndex(self.bounded()?),
        })
    }

    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            if shift == 63 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards() -> BTreeMap<ShardId, ShardMark> {
        let at = |term, index| {
            Some(LogPosition {
                term: Term(term),
                index: RaftIndex(index),
            })
        };
        BTreeMap::from([
            (ShardId(0), ShardMark::default()),
            (
                ShardId::CONTROLLER,
                ShardMark {
                    sequence: POSITION_MAX,
                    vote: Some(Bytes::from_static(b"vote")),
                    purged: at(3, 7),
                    last: at(4, 9),
                    released: Some(RaftIndex(5)),
                    damaged: Some(Damage {
                        file: 3,
                        position: 8,
                        reason: DamageReason::LostFrames,
                    }),
                },
            ),
        ])
    }

    #[test]
    fn checkpoint_survives_encoding_and_no_prefix_passes_for_one() {
        let bytes = Checkpoint::encode(11, 12, &shards());
        assert!(bytes.len() as u64 <= Checkpoint::bytes_max(&shards()));
        assert_eq!(
            Checkpoint::decode(&bytes),
            Some(Checkpoint {
                journal_id: 11,
                file: 12,
                shards: shards()
            })
        );
        for len in 0..bytes.len() {
            assert_eq!(Checkpoint::decode(&bytes[..len]), None);
        }
    }

    #[test]
    fn varints_survive_encoding_and_overlong_ones_are_refused() {
        for value in [0, 1, 127, 128, 16384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(Input(&out).varint(), Some(value));
        }
        assert_eq!(Input(&[0xff; 10]).varint(), None);
        assert_eq!(Input(&[0x80]).varint(), None);
    }
}
