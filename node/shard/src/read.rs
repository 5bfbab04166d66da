//! From an offset to the bytes that the producer sent.

use bytes::Bytes;
use meridian_journal::{Journal, ReadError as JournalReadError};
use meridian_raft::ENTRY_PREFIX_BYTES;
use meridian_state::Chunk;
use meridian_types::{LeaderEpoch, Offset, RaftIndex, ShardId};
use meridian_wire::batch::BatchHeader;

use crate::errors::ReadError;

/// Who may answer a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// The shard's leader only.
    Leader,
    /// Any replica, from what it has applied (KIP-392).
    Any,
}

/// What a partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    /// The first offset that can be read.
    pub log_start_offset: Offset,
    /// The end of what read_committed consumers see.
    pub last_stable_offset: Offset,
    /// The end of what is committed; the next record's offset.
    pub high_watermark: Offset,
    /// The epoch of the present leader.
    pub leader_epoch: LeaderEpoch,
}

/// Whole batches in offset order, as stored.
#[derive(Clone, Debug)]
pub struct Batches {
    /// Pieces that follow one another; batches may span them only at whole-batch borders.
    pub records: Vec<Bytes>,
    /// Their length together.
    pub bytes: usize,
    /// What the partition held when they were found.
    pub positions: Positions,
}

/// Reads the stored bytes of `chunks`: from memory where the journal still has them, else on a blocking thread. Ends
/// early at a later one that the journal does not give; `None` when it does not give the first: it has given it up, or it
/// is damaged there and the bucket has it, as it has all entries up to `tiered`.
pub(crate) async fn read_chunks(
    journal: &Journal,
    shard: ShardId,
    chunks: &[Chunk],
    tiered: RaftIndex,
) -> Result<Option<Vec<Bytes>>, ReadError> {
    let mut records = Vec::with_capacity(chunks.len());
    for (done, chunk) in chunks.iter().enumerate() {
        match journal.read_cached(shard, chunk.index, chunk.at + ENTRY_PREFIX_BYTES, chunk.bytes) {
            Some(parts) => records.extend(parts),
            None => {
                let (journal, rest) = (journal.clone(), chunks[done..].to_vec());
                let (parts, is_gone) =
                    meridian_raft::blocking(move || read_files(&journal, shard, &rest, tiered))
                        .await
                        .map_err(|error| storage(&error))?
                        .map_err(|error| storage(&error))?;
                records.extend(parts);
                if is_gone && records.is_empty() {
                    return Ok(None);
                }
                break;
            }
        }
    }
    Ok(Some(records))
}

/// What the journal gives of `chunks`, and whether it lacks one.
fn read_files(
    journal: &Journal,
    shard: ShardId,
    chunks: &[Chunk],
    tiered: RaftIndex,
) -> Result<(Vec<Bytes>, bool), JournalReadError> {
    let mut parts = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        match journal.read(shard, chunk.index, chunk.at + ENTRY_PREFIX_BYTES, chunk.bytes) {
            Ok(read) => parts.extend(read),
            Err(JournalReadError::Missing { .. }) => return Ok((parts, true)),
            // The journal remembers the damage; whoever reads need not suffer from it.
            Err(error) if chunk.index <= tiered && !matches!(error, JournalReadError::OutOfBounds { .. }) => {
                tracing::warn!(%shard, index = %chunk.index, %error, "read from the bucket instead");
                return Ok((parts, true));
            }
            Err(error) => return Err(error),
        }
    }
    Ok((parts, false))
}

pub(crate) fn storage(error: &dyn std::fmt::Display) -> ReadError {
    ReadError::Storage {
        reason: error.to_string(),
    }
}

/// Cuts `records` to the batches from the one that contains `from`, up to `bytes_max` (soft: the
/// first batch stays whole, KIP-74).
pub(crate) fn trim(records: Vec<Bytes>, from: Offset, bytes_max: usize) -> Result<Vec<Bytes>, ReadError> {
    let mut kept = Vec::with_capacity(records.len());
    let mut bytes = 0;
    for piece in records {
        let mut start = 0;
        let mut end = 0;
        while end < piece.len() {
            let header = BatchHeader::parse(&piece[end..]).map_err(|error| storage(&error))?;
            let size = header.size();
            if size > piece.len() - end {
                return Err(storage(&"a stored batch is longer than its span"));
            }
            if header.last_offset() < from {
                start = end + size;
            } else if bytes > 0 && bytes + size > bytes_max {
                keep(&mut kept, piece.slice(start..end));
                return Ok(kept);
            } else {
                bytes += size;
            }
            end += size;
        }
        keep(&mut kept, piece.slice(start..end));
    }
    Ok(kept)
}

fn keep(kept: &mut Vec<Bytes>, piece: Bytes) {
    if !piece.is_empty() {
        kept.push(piece);
    }
}
