//! Checkpoints of a shard's state, so that a restart replays only what came after.
//!
//! A checkpoint is one immutable file, drawn in `docs/formats/checkpoint.md`. A replica that is too far
//! behind receives the same file, byte for byte. States may be large: they stay on the disk until a
//! machine is to take one in.

mod ladder;
mod store;

use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use meridian_journal::DiskFile;
use meridian_types::{LogPosition, RaftIndex, ShardId, Term};

pub(crate) use ladder::step_below;
pub(crate) use store::save;
pub use store::{CheckpointError, CheckpointStore};

const MAGIC: &[u8; 8] = b"MRDNCKP1";
/// Magic, shard, position, membership position with its flag, two lengths.
const HEADER_BYTES: usize = 8 + 4 + 16 + 1 + 16 + 4 + 8;
const CRC_BYTES: usize = 4;
/// A membership is some hundred bytes; more is damage.
const MEMBERSHIP_BYTES_MAX: usize = 1 << 20;
/// Bytes read at once while a file is checked.
const VERIFY_BYTES: usize = 1 << 20;

/// What a checkpoint holds beside the machine's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The last applied entry.
    pub(crate) position: LogPosition,
    /// The entry that set the membership, if one did.
    pub(crate) membership_position: Option<LogPosition>,
    /// The membership, in this crate's encoding.
    pub(crate) membership: Bytes,
}

/// A checkpoint's file, open. It stays readable when its name goes.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) head: Head,
    pub(crate) name: String,
    /// Length of the whole file.
    pub(crate) bytes: u64,
    state_bytes: u64,
    file: Arc<dyn DiskFile>,
}

impl Stored {
    /// Reads the head of a checkpoint file. The inner error says what is wrong with the file.
    fn open(shard: ShardId, name: String, file: Arc<dyn DiskFile>) -> io::Result<Result<Self, String>> {
        let bytes = file.bytes()?;
        let smallest = (HEADER_BYTES + CRC_BYTES) as u64;
        if bytes < smallest {
            return Ok(Err(format!("{bytes} bytes, at least {smallest} expected")));
        }
        let mut head = BytesMut::zeroed(HEADER_BYTES);
        file.read_at(0, &mut head)?;
        let (mut head, membership_bytes, state_bytes) = match decode_head(shard, head.freeze()) {
            Ok(decoded) => decoded,
            Err(reason) => return Ok(Err(reason)),
        };
        let expected = state_bytes.checked_add(smallest + membership_bytes as u64);
        if expected != Some(bytes) {
            return Ok(Err("its lengths do not add up".to_owned()));
        }
        if membership_bytes > MEMBERSHIP_BYTES_MAX {
            return Ok(Err(format!("a membership of {membership_bytes} bytes")));
        }
        let mut membership = BytesMut::zeroed(membership_bytes);
        file.read_at(HEADER_BYTES as u64, &mut membership)?;
        head.membership = membership.freeze();
        Ok(Ok(Self {
            head,
            name,
            bytes,
            state_bytes,
            file,
        }))
    }

    /// Bytes of the file from `at` on, at most `bytes_max`; none at its end.
    pub(crate) fn read(&self, at: u64, bytes_max: usize) -> io::Result<Bytes> {
        let length = self.bytes.saturating_sub(at).min(bytes_max as u64);
        let mut chunk = BytesMut::zeroed(usize::try_from(length).expect("at most bytes_max"));
        self.file.read_at(at, &mut chunk)?;
        Ok(chunk.freeze())
    }

    /// Whether the file is what was written, by its checksum. Reads it piece by piece.
    pub(crate) fn verify(&self) -> io::Result<Result<(), String>> {
        let covered = self.bytes - CRC_BYTES as u64;
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        let mut at = 0;
        while at < covered {
            let length = (covered - at).min(VERIFY_BYTES as u64);
            let chunk = self.read(at, usize::try_from(length).expect("a chunk"))?;
            digest.update(&chunk);
            at += length;
        }
        let stored = self.read(covered, CRC_BYTES)?;
        Ok(check(digest.finalize(), &stored))
    }

    /// The machine's state, checked. The inner error says what is wrong with the file.
    pub(crate) fn state(&self) -> io::Result<Result<Bytes, String>> {
        let Ok(bytes) = usize::try_from(self.bytes) else {
            return Ok(Err("larger than memory".to_owned()));
        };
        let content = self.read(0, bytes)?;
        let (covered, crc) = content.split_at(bytes - CRC_BYTES);
        let found = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, covered);
        Ok(check(found, crc).map(|()| {
            let end = bytes - CRC_BYTES;
            let start = end - usize::try_from(self.state_bytes).expect("less than the file");
            content.slice(start..end)
        }))
    }
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stored")
            .field("name", &self.name)
            .field("position", &self.head.position)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

fn check(found: u64, stored: &[u8]) -> Result<(), String> {
    let stored = u64::from(u32::from_le_bytes(stored.try_into().expect("four bytes")));
    if found == stored {
        Ok(())
    } else {
        Err(format!("checksum {found:08x}, expected {stored:08x}"))
    }
}

/// The bytes before and after the membership and the state.
fn frame(shard: ShardId, head: &Head, state: &[Bytes]) -> (Bytes, Bytes) {
    let state_bytes: usize = state.iter().map(Bytes::len).sum();
    let mut start = BytesMut::with_capacity(HEADER_BYTES);
    start.put_slice(MAGIC);
    start.put_u32_le(shard.0);
    put_position(&mut start, head.position);
    start.put_u8(u8::from(head.membership_position.is_some()));
    put_position(&mut start, head.membership_position.unwrap_or_default());
    start.put_u32_le(u32::try_from(head.membership.len()).expect("a membership is small"));
    start.put_u64_le(state_bytes as u64);
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&start);
    digest.update(&head.membership);
    for piece in state {
        digest.update(piece);
    }
    let crc = u32::try_from(digest.finalize()).expect("a CRC of 32 bits");
    (start.freeze(), Bytes::copy_from_slice(&crc.to_le_bytes()))
}

/// A head without its membership, and the lengths of membership and state.
fn decode_head(shard: ShardId, mut bytes: Bytes) -> Result<(Head, usize, u64), String> {
    if bytes.split_to(MAGIC.len()) != MAGIC.as_slice() {
        return Err("not a checkpoint of this version".to_owned());
    }
    let of = ShardId(bytes.get_u32_le());
    if of != shard {
        return Err(format!("it is of shard {of}"));
    }
    let position = get_position(&mut bytes);
    let has_membership_position = bytes.get_u8() != 0;
    let membership_position = get_position(&mut bytes);
    let head = Head {
        position,
        membership_position: has_membership_position.then_some(membership_position),
        membership: Bytes::new(),
    };
    Ok((head, bytes.get_u32_le() as usize, bytes.get_u64_le()))
}

fn put_position(bytes: &mut BytesMut, position: LogPosition) {
    bytes.put_u64_le(position.term.0);
    bytes.put_u64_le(position.index.0);
}

fn get_position(bytes: &mut Bytes) -> LogPosition {
    LogPosition {
        term: Term(bytes.get_u64_le()),
        index: RaftIndex(bytes.get_u64_le()),
    }
}

#[cfg(test)]
mod tests;
