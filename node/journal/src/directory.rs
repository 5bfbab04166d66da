//! The directory in a file's footer: all its frames, so that a restart reads no data.
//!
//! Frames lie one after another, so positions need not be stored; an entry that continues its shard's
//! log takes three to five bytes.

use std::collections::BTreeMap;

use meridian_types::{LogPosition, RaftIndex, ShardId, Term};

use crate::checkpoint::{Input, put_varint};
use crate::frame::{FrameKind, POSITION_MAX, frame_bytes};

/// A frame as the directory knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Position of the frame in the file, in bytes.
    pub(crate) at: u64,
    pub(crate) kind: FrameKind,
    pub(crate) flags: u8,
    pub(crate) shard: ShardId,
    pub(crate) sequence: u64,
    pub(crate) position: LogPosition,
    pub(crate) payload_len: u32,
    /// The payload was already found damaged when the directory was made.
    pub(crate) damaged: bool,
}

/// Writes a directory while the file grows.
#[derive(Default)]
pub(crate) struct DirectoryWriter {
    bytes: Vec<u8>,
    frames: u32,
    end: u64,
    shards: BTreeMap<ShardId, Context>,
}

#[derive(Clone, Copy, Default)]
struct Context {
    sequence: u64,
    position: LogPosition,
}

impl Context {
    fn continues(self, frame: &Listed) -> bool {
        frame.kind == FrameKind::Entry
            && frame.flags == 0
            && Some(frame.sequence) == self.sequence.checked_add(1)
            && frame.position.term == self.position.term
            && Some(frame.position.index.0) == self.position.index.0.checked_add(1)
    }
}

const KIND: u8 = 0x0f;
const REGULAR: u8 = 0x10;
const DAMAGED: u8 = 0x20;
const SKIP: u8 = 0x40;

/// Bytes that one more frame adds to a directory at most.
pub(crate) const LISTED_BYTES_MAX: u64 = 1 + 10 + 1 + 5 + 5 + 1 + 10 + 10 + 10;

impl DirectoryWriter {
    /// Bytes so far.
    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64 + 8
    }

    /// Adds the next frame of the file; bytes left out before it are unreadable.
    pub(crate) fn push(&mut self, frame: &Listed) {
        if frame.at > self.end {
            self.bytes.push(SKIP);
            put_varint(&mut self.bytes, frame.at - self.end);
        }
        let context = self.shards.entry(frame.shard).or_default();
        let regular = context.continues(frame);
        self.bytes.push(
            frame.kind as u8 | if regular { REGULAR } else { 0 } | if frame.damaged { DAMAGED } else { 0 },
        );
        put_varint(&mut self.bytes, u64::from(frame.payload_len));
        if frame.kind.of_shard() {
            put_varint(&mut self.bytes, u64::from(frame.shard.0));
            if !regular {
                self.bytes.push(frame.flags);
                put_varint(&mut self.bytes, frame.sequence);
                put_varint(&mut self.bytes, frame.position.term.0);
                put_varint(&mut self.bytes, frame.position.index.0);
            }
            context.sequence = frame.sequence;
            if frame.kind == FrameKind::Entry {
                context.position = frame.position;
            }
        }
        self.frames += 1;
        self.end = frame.at + frame_bytes(u64::from(frame.payload_len));
    }

    /// The directory's bytes.
    pub(crate) fn finish(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len() + 8);
        out.extend_from_slice(&self.frames.to_le_bytes());
        out.extend_from_slice(
            &u32::try_from(self.bytes.len())
                .expect("a directory is smaller than its file")
                .to_le_bytes(),
        );
        out.extend_from_slice(&self.bytes);
        out
    }
}

/// Reads a directory; `None` when it contradicts itself or reaches beyond `file_bytes`.
pub(crate) fn read_directory(bytes: &[u8], file_bytes: u64, mut each: impl FnMut(&Listed)) -> Option<()> {
    let mut input = Input(bytes);
    let frames = input.u32()?;
    let len = input.u32()?;
    if input.0.len() != len as usize {
        return None;
    }
    let mut shards: BTreeMap<ShardId, Context> = BTreeMap::new();
    let mut at = 0_u64;
    for _ in 0..frames {
        let mut tag = input.take(1)?[0];
        if tag == SKIP {
            at = at.checked_add(input.varint()?)?;
            tag = input.take(1)?[0];
        }
        let kind = FrameKind::from_code(tag & KIND)?;
        let payload_len = u32::try_from(input.varint()?).ok()?;
        let mut frame = Listed {
            at,
            kind,
            flags: 0,
            shard: ShardId(0),
            sequence: 0,
            position: LogPosition::default(),
            payload_len,
            damaged: tag & DAMAGED != 0,
        };
        if kind.of_shard() {
            frame.shard = ShardId(u32::try_from(input.varint()?).ok()?);
            let context = shards.entry(frame.shard).or_default();
            if tag & REGULAR != 0 {
                frame.sequence = context.sequence.checked_add(1)?;
                frame.position.term = context.position.term;
                frame.position.index = RaftIndex(context.position.index.0.checked_add(1)?);
            } else {
                frame.flags = input.take(1)?[0];
                frame.sequence = input.varint()?;
                frame.position = LogPosition {
                    term: Term(input.varint()?),
                    index: RaftIndex(input.varint()?),
                };
            }
            context.sequence = frame.sequence;
            if kind == FrameKind::Entry {
                context.position = frame.position;
            }
        }
        let highest = frame
            .sequence
            .max(frame.position.term.0)
            .max(frame.position.index.0);
        at = at.checked_add(frame_bytes(u64::from(payload_len)))?;
        if at > file_bytes || highest > POSITION_MAX {
            return None;
        }
        each(&frame);
    }
    input.0.is_empty().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(at: u64, kind: FrameKind, shard: u32, sequence: u64, index: u64, payload_len: u32) -> Listed {
        let (flags, damaged) = (0, false);
        let position = LogPosition {
            term: Term(3),
            index: RaftIndex(index),
        };
        Listed {
            at,
            kind,
            flags,
            shard: ShardId(shard),
            sequence,
            position,
            payload_len,
            damaged,
        }
    }

    #[test]
    fn directory_survives_encoding_with_gaps_and_no_prefix_passes() {
        let mut frames = vec![
            frame(0, FrameKind::Entry, 1, 1, 1, 10),
            frame(80, FrameKind::Entry, 1, 2, 2, 0),
            frame(144, FrameKind::Vote, 7, 9, 0, 3),
            frame(1000, FrameKind::Entry, 1, 3, 3, 1 << 20),
            frame(1000 + 64 + (1 << 20), FrameKind::Truncate, 1, 4, 2, 0),
        ];
        frames[3].damaged = true;
        let mut writer = DirectoryWriter::default();
        let mut before = writer.len();
        for frame in &frames {
            writer.push(frame);
            assert!(writer.len() - before <= LISTED_BYTES_MAX);
            before = writer.len();
        }
        let bytes = writer.finish();
        assert_eq!(bytes.len() as u64, writer.len());
        let mut read = Vec::new();
        assert!(read_directory(&bytes, 2 << 20, |frame| read.push(*frame)).is_some());
        assert_eq!(read, frames);
        for len in 0..bytes.len() {
            assert!(read_directory(&bytes[..len], 2 << 20, |_| {}).is_none());
        }
        assert!(
            read_directory(&bytes, 4096, |_| {}).is_none(),
            "reaches beyond the file"
        );
    }

    #[test]
    fn an_entry_that_continues_its_log_takes_four_bytes() {
        let mut writer = DirectoryWriter::default();
        writer.push(&frame(0, FrameKind::Entry, 1, 1, 1, 1000));
        let before = writer.len();
        writer.push(&frame(1064, FrameKind::Entry, 1, 2, 2, 1000));
        assert_eq!(writer.len() - before, 4);
    }
}
