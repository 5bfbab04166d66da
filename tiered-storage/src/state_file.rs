//! The copy of a shard's or the controller's state in the bucket: what a region is rebuilt from. Pure.
//!
//! Drawn in `docs/formats/state-file.md`. The state itself is opaque here: its bytes are those of a snapshot, as a
//! checkpoint holds them.

use std::cmp::Ordering;
use std::fmt;

use bytes::Bytes;
use meridian_types::{LogPosition, RaftIndex, ShardId, Term, TimestampMs, Uuid};
use thiserror::Error;

use crate::codec::{crc32c, crc32c_parts};

const MAGIC: &[u8; 8] = b"MRDNSTA1";

/// Bytes in front of the state: magic, shard, term, index, written at, length of the state.
const HEAD_BYTES: usize = 8 + 4 + 8 + 8 + 8 + 8;

const CRC_BYTES: usize = 4;

/// A state as of one place of its log.
#[derive(Clone, PartialEq)]
pub struct StateFile {
    /// The shard, or [`ShardId::CONTROLLER`].
    pub shard: ShardId,
    /// Term of the leader that wrote it, and the last entry that the state holds.
    pub position: LogPosition,
    /// When it was written, by its writer's clock.
    pub written_at: TimestampMs,
    /// The state: a snapshot of the shard, or of the controller.
    pub state: Bytes,
}

impl fmt::Debug for StateFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateFile")
            .field("shard", &self.shard)
            .field("position", &self.position)
            .field("written_at", &self.written_at)
            .field("state_bytes", &self.state.len())
            .finish()
    }
}

/// What a key of a state file says. Ordered as keys sort: by index first, whatever the term, which begins anew with a
/// region that was rebuilt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateKey {
    /// Term of the leader that wrote it, and the last entry that the state holds.
    pub position: LogPosition,
    /// Drawn for this file.
    pub id: Uuid,
}

impl Ord for StateKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = |key: &Self| (key.position.index, key.position.term, key.id);
        order(self).cmp(&order(other))
    }
}

impl PartialOrd for StateKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A state file cannot be read: another object was taken for one, or it is damaged. Take an older one.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum StateFileError {
    /// Not a state file of a version known here.
    #[error(
        "it does not begin with {:?}: it is no copy of a state, or one of a newer version",
        String::from_utf8_lossy(MAGIC)
    )]
    Magic,
    /// It ends early, or is longer than its fields.
    #[error("it has {have_bytes} bytes where its fields take {need_bytes}")]
    Length {
        /// Bytes that its fields take, as far as they can be read.
        need_bytes: u64,
        /// Bytes that are there.
        have_bytes: u64,
    },
    /// It is damaged.
    #[error("its CRC32C is {stored:#010x}, its bytes give {computed:#010x}")]
    Crc {
        /// The checksum at its end.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// It is whole, but of another shard than its key says.
    #[error("it is of {}", named(*found))]
    Shard {
        /// The shard that it names.
        found: ShardId,
    },
}

fn named(shard: ShardId) -> String {
    match shard {
        ShardId::CONTROLLER => "the controller".to_owned(),
        shard => format!("shard {shard}"),
    }
}

impl StateFile {
    /// Key of a new file: `<cluster>/<shard>/state/<index, 20 digits>-<term, 16 hexadecimal digits>-<id>.state`, below the
    /// bucket's prefix. The newest sorts last. The controller's shard is called `controller`.
    pub fn key(cluster: &str, shard: ShardId, key: &StateKey) -> String {
        let StateKey { position, id } = key;
        let prefix = Self::prefix(cluster, shard);
        format!(
            "{prefix}{:020}-{:016x}-{id}.state",
            position.index.0, position.term.0
        )
    }

    /// What the keys of all state files of a shard begin with.
    pub fn prefix(cluster: &str, shard: ShardId) -> String {
        match shard {
            ShardId::CONTROLLER => format!("{cluster}/controller/state/"),
            shard => format!("{cluster}/{shard}/state/"),
        }
    }

    /// Reads the last part of a key; `None` unless it is that of a state file.
    pub fn parse_key(file_name: &str) -> Option<StateKey> {
        let mut parts = file_name.strip_suffix(".state")?.splitn(3, '-');
        let index = RaftIndex(parts.next()?.parse().ok()?);
        let term = Term(u64::from_str_radix(parts.next()?, 16).ok()?);
        let id = Uuid::try_parse(parts.next()?).ok()?;
        let position = LogPosition { term, index };
        Some(StateKey { position, id })
    }

    /// The file's bytes, in parts, the state among them as it was given: it may be large.
    pub fn encode(
        shard: ShardId,
        position: LogPosition,
        written_at: TimestampMs,
        state: Vec<Bytes>,
    ) -> Vec<Bytes> {
        let state_bytes: usize = state.iter().map(Bytes::len).sum();
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&shard.0.to_le_bytes());
        head.extend_from_slice(&position.term.0.to_le_bytes());
        head.extend_from_slice(&position.index.0.to_le_bytes());
        head.extend_from_slice(&written_at.0.to_le_bytes());
        head.extend_from_slice(&(state_bytes as u64).to_le_bytes());
        let mut parts = Vec::with_capacity(state.len() + 2);
        parts.push(Bytes::from(head));
        parts.extend(state);
        let crc = crc32c_parts(parts.iter().map(Bytes::as_ref));
        parts.push(Bytes::copy_from_slice(&crc.to_le_bytes()));
        parts
    }

    /// Reads a file that is expected to be of `shard`.
    pub fn decode(shard: ShardId, bytes: &Bytes) -> Result<Self, StateFileError> {
        if !bytes.starts_with(MAGIC) {
            return Err(StateFileError::Magic);
        }
        let length = |need_bytes: u64| StateFileError::Length {
            need_bytes,
            have_bytes: bytes.len() as u64,
        };
        let least = (HEAD_BYTES + CRC_BYTES) as u64;
        if (bytes.len() as u64) < least {
            return Err(length(least));
        }
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
        let state_bytes = u64_at(HEAD_BYTES - 8);
        let need_bytes = state_bytes.saturating_add(least);
        if need_bytes != bytes.len() as u64 {
            return Err(length(need_bytes));
        }
        let crc_at = bytes.len() - CRC_BYTES;
        let (stored, computed) = (u32_at(crc_at), crc32c(&bytes[..crc_at]));
        if stored != computed {
            return Err(StateFileError::Crc { stored, computed });
        }
        let found = ShardId(u32_at(8));
        if found != shard {
            return Err(StateFileError::Shard { found });
        }
        Ok(Self {
            shard,
            position: LogPosition {
                term: Term(u64_at(12)),
                index: RaftIndex(u64_at(20)),
            },
            written_at: TimestampMs(u64_at(28) as i64),
            state: bytes.slice(HEAD_BYTES..crc_at),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn file() -> StateFile {
        StateFile {
            shard: ShardId(3),
            position: LogPosition {
                term: Term(5),
                index: RaftIndex(1000),
            },
            written_at: TimestampMs(1_700_000_000_000),
            state: Bytes::from_static(b"a snapshot"),
        }
    }

    fn encoded(file: &StateFile) -> Bytes {
        let parts = vec![file.state.slice(..3), file.state.slice(3..)];
        let parts = StateFile::encode(file.shard, file.position, file.written_at, parts);
        parts.concat().into()
    }

    #[test]
    fn version_1_is_what_was_stored() {
        fixture::assert("state-file-v1.bin", &encoded(&file()));
    }

    #[test]
    fn a_file_comes_back() {
        for shard in [ShardId(3), ShardId::CONTROLLER] {
            let file = StateFile { shard, ..file() };
            assert_eq!(StateFile::decode(shard, &encoded(&file)), Ok(file));
        }
    }

    #[test]
    fn every_damage_is_noticed() {
        let bytes = encoded(&file());
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x40;
            assert!(
                StateFile::decode(ShardId(3), &damaged.into()).is_err(),
                "byte {at}"
            );
            assert!(
                StateFile::decode(ShardId(3), &bytes.slice(..at)).is_err(),
                "cut at {at}"
            );
        }
        let longer = Bytes::from([&bytes[..], b"x"].concat());
        assert!(matches!(
            StateFile::decode(ShardId(3), &longer),
            Err(StateFileError::Length { .. })
        ));
        assert_eq!(
            StateFile::decode(ShardId(4), &bytes),
            Err(StateFileError::Shard { found: ShardId(3) })
        );
    }

    #[test]
    fn keys_sort_by_index_and_tell_their_position() {
        let key = |index, term| StateKey {
            position: LogPosition {
                term: Term(term),
                index: RaftIndex(index),
            },
            id: Uuid::from_u128(9),
        };
        let text = |key: &StateKey| StateFile::key("c", ShardId(3), key);
        assert!(text(&key(9, 0xff)) < text(&key(10, 1)));
        assert!(key(9, 0xff) < key(10, 1) && key(9, 1) < key(9, 2));
        let name = text(&key(10, 0xab));
        let name = name.strip_prefix("c/3/state/").expect("below the prefix");
        assert_eq!(StateFile::parse_key(name), Some(key(10, 0xab)));
        for other in [
            "",
            "1.state",
            "1-2.state",
            "x-1-00000000-0000-0000-0000-000000000009.state",
            "1-1-9.json",
        ] {
            assert_eq!(StateFile::parse_key(other), None, "{other}");
        }
        assert_eq!(StateFile::prefix("c", ShardId::CONTROLLER), "c/controller/state/");
    }
}
