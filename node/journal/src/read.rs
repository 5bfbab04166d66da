//! Reads entries from files.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Buf, Bytes};
use meridian_types::{RaftIndex, ShardId};

use crate::error::ReadError;
use crate::file::JournalFile;
use crate::frame::{FrameKind, HEADER_BYTES, Header, crc32c, frame_bytes};
use crate::journal::Shared;
use crate::shard_log::Slot;

/// An entry to be read from a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) index: u64,
    pub(crate) slot: Slot,
}

/// Frames this close together are read in one call.
const GAP_BYTES: u64 = 32 << 10;
/// One call reads at most this, unless one frame is larger.
const READ_BYTES: u64 = 1 << 20;
/// Frames up to this size are read and checked whole even when a part is asked for.
const WHOLE_BYTES: u64 = 64 << 10;

impl Shared {
    /// Payloads of entries in the order given, each checked. Stops at the first failure; what was read
    /// before comes with it.
    pub(crate) fn read_wanted(&self, shard: ShardId, wanted: &[Wanted]) -> (Vec<Bytes>, Option<ReadError>) {
        let mut payloads = Vec::with_capacity(wanted.len());
        let mut rest = wanted;
        while let Some(first) = rest.first() {
            let start = u64::from(first.slot.at);
            let mut end = start + frame_bytes(u64::from(first.slot.payload_len));
            let mut count = 1;
            for next in &rest[1..] {
                let next_end = u64::from(next.slot.at) + frame_bytes(u64::from(next.slot.payload_len));
                let near = next.slot.file == first.slot.file
                    && u64::from(next.slot.at) >= end
                    && u64::from(next.slot.at) - end <= GAP_BYTES;
                if !near || next_end - start > READ_BYTES {
                    break;
                }
                end = next_end;
                count += 1;
            }
            let read = self
                .file_of(shard, first)
                .and_then(|file| self.read_span(&file, start, end - start).map(|span| (file, span)));
            let (file, span) = match read {
                Ok(read) => read,
                Err(error) => return (payloads, Some(error)),
            };
            for one in &rest[..count] {
                let from = usize::try_from(u64::from(one.slot.at) - start).expect("inside the span");
                match self.check_whole(shard, one, &file, &span.slice(from..)) {
                    Ok(payload) => payloads.push(payload),
                    Err(error) => return (payloads, Some(error)),
                }
            }
            rest = &rest[count..];
        }
        (payloads, None)
    }

    /// Bytes `at..at + len` of one payload.
    pub(crate) fn read_part(
        &self,
        shard: ShardId,
        wanted: Wanted,
        at: u32,
        len: u32,
    ) -> Result<Bytes, ReadError> {
        let payload_len = u64::from(wanted.slot.payload_len);
        let (from, end) = (u64::from(at), u64::from(at) + u64::from(len));
        if end > payload_len {
            let index = RaftIndex(wanted.index);
            return Err(ReadError::OutOfBounds {
                shard,
                index,
                at: from,
                end,
                len: payload_len,
            });
        }
        let file = self.file_of(shard, &wanted)?;
        let frame_at = u64::from(wanted.slot.at);
        let cut = |bytes: &Bytes, from: u64| {
            let from = usize::try_from(from).expect("inside the payload");
            bytes.slice(from..from + len as usize)
        };
        if end - from == payload_len || payload_len <= WHOLE_BYTES {
            let span = self.read_span(&file, frame_at, frame_bytes(payload_len))?;
            return self
                .check_whole(shard, &wanted, &file, &span)
                .map(|payload| cut(&payload, from));
        }
        if from <= WHOLE_BYTES {
            let span = self.read_span(&file, frame_at, HEADER_BYTES + end)?;
            self.check_header(shard, &wanted, &file, &span)?;
            return Ok(cut(&span, HEADER_BYTES + from));
        }
        let header = self.read_span(&file, frame_at, HEADER_BYTES)?;
        self.check_header(shard, &wanted, &file, &header)?;
        self.read_span(&file, frame_at + HEADER_BYTES + from, end - from)
    }

    fn file_of(&self, shard: ShardId, wanted: &Wanted) -> Result<Arc<JournalFile>, ReadError> {
        let missing = ReadError::Missing {
            shard,
            index: RaftIndex(wanted.index),
        };
        self.files.get(u64::from(wanted.slot.file)).ok_or(missing)
    }

    fn read_span(&self, file: &JournalFile, at: u64, len: u64) -> Result<Bytes, ReadError> {
        self.counters.disk_reads.fetch_add(1, Relaxed);
        let mut span = vec![0; usize::try_from(len).expect("bounded by the file")];
        file.disk_file
            .read_at(at, &mut span)
            .map_err(|error| ReadError::Io(format!("file {:016x} at {at}: {error}", file.number).into()))?;
        Ok(span.into())
    }

    fn check_header(
        &self,
        shard: ShardId,
        wanted: &Wanted,
        file: &JournalFile,
        bytes: &Bytes,
    ) -> Result<Header, ReadError> {
        let header = Header::decode(bytes, file.salt).filter(|header| {
            header.kind == FrameKind::Entry
                && header.shard == shard
                && header.position.index.0 == wanted.index
                && header.position.term == wanted.slot.term
                && header.payload_len == wanted.slot.payload_len
        });
        header.ok_or_else(|| self.corrupt(shard, wanted, "its header is not the one that was written"))
    }

    fn check_whole(
        &self,
        shard: ShardId,
        wanted: &Wanted,
        file: &JournalFile,
        bytes: &Bytes,
    ) -> Result<Bytes, ReadError> {
        let header = self.check_header(shard, wanted, file, bytes)?;
        let mut payload = bytes.clone();
        payload.advance(usize::try_from(HEADER_BYTES).expect("small"));
        payload.truncate(header.payload_len as usize);
        if crc32c(&payload) == header.payload_crc {
            Ok(payload)
        } else {
            Err(self.corrupt(shard, wanted, "its payload does not match its checksum"))
        }
    }

    fn corrupt(&self, shard: ShardId, wanted: &Wanted, reason: &'static str) -> ReadError {
        let (file, position) = (u64::from(wanted.slot.file), u64::from(wanted.slot.at));
        tracing::error!(%shard, index = wanted.index, file, position, reason, "journal: a damaged entry");
        self.note_damage(shard, file, position);
        ReadError::Corrupt {
            shard,
            index: RaftIndex(wanted.index),
            file,
            position,
            reason,
        }
    }
}
