//! Checkpoints of a shard's state, so that a restart replays only what came after.
//!
//! A checkpoint is one immutable file `<shard>-<index>.checkpoint`, drawn in
//! `docs/formats/checkpoint.md`. It is written under another name, synced, renamed, and the
//! directory is synced; the one before stays until the next, in case the newest cannot be read.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use meridian_journal::Disk;
use meridian_types::{LogPosition, RaftIndex, ShardId, Term};
use thiserror::Error;

const MAGIC: &[u8; 8] = b"MRDNCKP1";
const SUFFIX: &str = ".checkpoint";
/// Magic, shard, position, membership position with its flag, two lengths.
const HEADER_BYTES: usize = 8 + 4 + 16 + 1 + 16 + 4 + 8;
const CRC_BYTES: usize = 4;
/// Checkpoints kept per shard.
const KEPT: usize = 2;

/// The state of a shard after the entry at `position`, with what Raft must know beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last applied entry.
    pub position: LogPosition,
    /// The entry that set the membership, if one did.
    pub membership_position: Option<LogPosition>,
    /// The membership, in this crate's encoding.
    pub membership: Bytes,
    /// The machine's own encoding of its state.
    pub state: Bytes,
}

/// Why checkpoints cannot be read or written.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The disk failed. A read may be retried; after a failed write stop the node.
    #[error("checkpoint {name}: {source}")]
    Io {
        /// The file.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// Every checkpoint of the shard is damaged. Restore this node from its peers or the bucket.
    #[error("no readable checkpoint of shard {shard}: {reason}")]
    Damaged {
        /// The shard.
        shard: ShardId,
        /// What is wrong with the newest.
        reason: String,
    },
}

/// The checkpoints of one shard on this node's disk.
pub struct CheckpointStore {
    disk: Arc<dyn Disk>,
    shard: ShardId,
}

impl CheckpointStore {
    /// The checkpoints of `shard` in the directory of `disk`, which other shards may share.
    pub fn new(disk: Arc<dyn Disk>, shard: ShardId) -> Self {
        Self { disk, shard }
    }

    /// The newest readable checkpoint; `None` when none was ever written. Reads the whole file.
    pub fn load(&self) -> Result<Option<Checkpoint>, CheckpointError> {
        let mut newest_problem = None;
        for (index, name) in self.names()?.into_iter().rev() {
            match self.read(&name)? {
                Ok(checkpoint) if checkpoint.position.index == index => return Ok(Some(checkpoint)),
                Ok(_) => newest_problem.get_or_insert(format!("{name} holds another position than its name")),
                Err(reason) => newest_problem.get_or_insert(format!("{name}: {reason}")),
            };
            tracing::error!(shard = %self.shard, name, "a checkpoint cannot be read, trying the one before");
        }
        match newest_problem {
            None => Ok(None),
            Some(reason) => Err(CheckpointError::Damaged {
                shard: self.shard,
                reason,
            }),
        }
    }

    /// Makes `checkpoint` durable, then removes all but the newest two.
    pub fn save(&self, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
        let name = format!("{}-{:020}{SUFFIX}", self.shard, checkpoint.position.index);
        let unfinished = format!("{}-unfinished", self.shard);
        let failed = |source| CheckpointError::Io {
            name: name.clone(),
            source,
        };
        let (head, tail) = encode(self.shard, checkpoint);
        let bytes = head.len() + checkpoint.membership.len() + checkpoint.state.len() + tail.len();

        // A crash or a full disk may have left one behind.
        if self
            .disk
            .list()
            .map_err(failed)?
            .iter()
            .any(|file| file.name == unfinished)
        {
            self.disk.remove(&unfinished).map_err(failed)?;
        }
        let file = self.disk.create(&unfinished, bytes as u64).map_err(failed)?;
        let mut parts = [
            IoSlice::new(&head),
            IoSlice::new(&checkpoint.membership),
            IoSlice::new(&checkpoint.state),
            IoSlice::new(&tail),
        ];
        file.write_at(0, &mut parts).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        self.disk.rename(&unfinished, &name).map_err(failed)?;
        self.disk.sync_dir().map_err(failed)?;

        let names = self.names()?;
        for (_, old) in names.iter().take(names.len().saturating_sub(KEPT)) {
            self.disk.remove(old).map_err(failed)?;
        }
        Ok(())
    }

    /// Names of this shard's checkpoints, oldest first.
    fn names(&self) -> Result<Vec<(RaftIndex, String)>, CheckpointError> {
        let files = self.disk.list().map_err(|source| CheckpointError::Io {
            name: "(list)".to_owned(),
            source,
        })?;
        let prefix = format!("{}-", self.shard);
        let mut names: Vec<_> = files
            .into_iter()
            .filter_map(|file| {
                let index = file
                    .name
                    .strip_prefix(&prefix)?
                    .strip_suffix(SUFFIX)?
                    .parse()
                    .ok()?;
                Some((RaftIndex(index), file.name))
            })
            .collect();
        names.sort();
        Ok(names)
    }

    fn read(&self, name: &str) -> Result<Result<Checkpoint, String>, CheckpointError> {
        let failed = |source| CheckpointError::Io {
            name: name.to_owned(),
            source,
        };
        let file = self.disk.open(name).map_err(failed)?;
        let bytes = file.bytes().map_err(failed)?;
        let Ok(bytes) = usize::try_from(bytes) else {
            return Ok(Err("larger than memory".to_owned()));
        };
        let mut content = BytesMut::zeroed(bytes);
        file.read_at(0, &mut content).map_err(failed)?;
        Ok(decode(self.shard, &content.freeze()))
    }
}

fn encode(shard: ShardId, checkpoint: &Checkpoint) -> (Bytes, Bytes) {
    let mut head = BytesMut::with_capacity(HEADER_BYTES);
    head.put_slice(MAGIC);
    head.put_u32_le(shard.0);
    put_position(&mut head, checkpoint.position);
    head.put_u8(u8::from(checkpoint.membership_position.is_some()));
    put_position(&mut head, checkpoint.membership_position.unwrap_or_default());
    head.put_u32_le(u32::try_from(checkpoint.membership.len()).expect("a membership is small"));
    head.put_u64_le(checkpoint.state.len() as u64);
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&head);
    digest.update(&checkpoint.membership);
    digest.update(&checkpoint.state);
    let crc = u32::try_from(digest.finalize()).expect("a CRC of 32 bits");
    (head.freeze(), Bytes::copy_from_slice(&crc.to_le_bytes()))
}

fn decode(shard: ShardId, content: &Bytes) -> Result<Checkpoint, String> {
    if content.len() < HEADER_BYTES + CRC_BYTES {
        return Err(format!(
            "{} bytes, at least {} expected",
            content.len(),
            HEADER_BYTES + CRC_BYTES
        ));
    }
    let (covered, crc) = content.split_at(content.len() - CRC_BYTES);
    let found = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, covered);
    let stored = u64::from(u32::from_le_bytes(crc.try_into().expect("four bytes")));
    if found != stored {
        return Err(format!("checksum {found:08x}, expected {stored:08x}"));
    }
    let mut head = content.slice(..HEADER_BYTES);
    if head.split_to(MAGIC.len()) != MAGIC.as_slice() {
        return Err("not a checkpoint of this version".to_owned());
    }
    let of = ShardId(head.get_u32_le());
    if of != shard {
        return Err(format!("it is of shard {of}"));
    }
    let position = get_position(&mut head);
    let has_membership_position = head.get_u8() != 0;
    let membership_position = get_position(&mut head);
    let membership_bytes = head.get_u32_le() as usize;
    let state_bytes = head.get_u64_le();
    let body = content.slice(HEADER_BYTES..content.len() - CRC_BYTES);
    if body.len() as u64 != (membership_bytes as u64).saturating_add(state_bytes) {
        return Err("its lengths do not add up".to_owned());
    }
    Ok(Checkpoint {
        position,
        membership_position: has_membership_position.then_some(membership_position),
        membership: body.slice(..membership_bytes),
        state: body.slice(membership_bytes..),
    })
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
