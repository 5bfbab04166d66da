//! Makes bundles.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_types::{Offset, Partition, TimestampMs};
use meridian_wire::batch::{self, Batch, BatchError, Compression};
use thiserror::Error;

use super::{Bundle, Codec, FRAME_BYTES_MAX, Footer, Frame, HEAD};
use crate::codec::crc32c_parts;
use crate::manifest::NewExtent;

/// Raw frames of batches smaller than this on average are copied into one part: thousands of tiny parts cost more.
const PART_BYTES_MIN: usize = 16 << 10;

/// How bundles are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BundleLimits {
    /// Batches go into a frame until it has so many bytes; a larger batch has a frame of its own.
    pub frame_bytes: u32,
    /// Level at which frames are compressed.
    pub zstd_level: i32,
}

impl Default for BundleLimits {
    fn default() -> Self {
        Self {
            frame_bytes: 1 << 20,
            zstd_level: 3,
        }
    }
}

/// Batches that cannot go into a bundle; the writer is as it was before the batch in question.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PushError {
    /// A batch is damaged. Its copy here must not be tiered: stop, and repair it from a replica.
    #[error("{partition}: the batch at or behind offset {at} is damaged: {error}")]
    Batch {
        /// The partition.
        partition: Partition,
        /// End of the batches before it.
        at: Offset,
        /// What is wrong with it.
        error: BatchError,
    },
    /// A batch does not follow the one before. The caller is wrong.
    #[error("{partition}: a batch reaches from {base} to {end}, expected one behind {at}")]
    Order {
        /// The partition.
        partition: Partition,
        /// Where the batches before it end.
        at: Offset,
        /// Its first offset.
        base: Offset,
        /// The offset behind its last.
        end: Offset,
    },
    /// A batch is too large for a frame. No producer can send one.
    #[error("{partition}: a batch of {bytes} bytes is larger than a frame can be, {FRAME_BYTES_MAX}")]
    TooLarge {
        /// The partition.
        partition: Partition,
        /// Its size.
        bytes: usize,
    },
}

/// Collects batches, partition by partition or in any mixture, and makes one bundle of them.
///
/// Compresses as it goes and checks every batch's CRC: call it where a few milliseconds of work do no harm. Holds the
/// frames in memory; raw ones share it with the batches.
#[derive(Debug)]
pub struct BundleWriter {
    limits: BundleLimits,
    runs: BTreeMap<Partition, Run>,
    raw_bytes: u64,
}

impl BundleWriter {
    /// Of nothing yet. Frames are at most [`FRAME_BYTES_MAX`] long, whatever the limits say.
    pub fn new(mut limits: BundleLimits) -> Self {
        limits.frame_bytes = limits.frame_bytes.min(FRAME_BYTES_MAX);
        Self {
            limits,
            runs: BTreeMap::new(),
            raw_bytes: 0,
        }
    }

    /// Bytes of the batches pushed so far.
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Adds batches of a partition, each part one or more whole batches, without gaps behind those that were pushed.
    pub fn push(&mut self, partition: Partition, parts: &[Bytes]) -> Result<(), PushError> {
        self.push_parts(partition, None, parts)
    }

    /// Adds compacted batches of a partition, among which offsets may be missing. The extent begins at `base`, which
    /// must be where what was pushed before ends, and ends behind the last batch.
    pub fn push_compacted(
        &mut self,
        partition: Partition,
        base: Offset,
        parts: &[Bytes],
    ) -> Result<(), PushError> {
        self.push_parts(partition, Some(base), parts)
    }

    fn push_parts(
        &mut self,
        partition: Partition,
        compacted_base: Option<Offset>,
        parts: &[Bytes],
    ) -> Result<(), PushError> {
        for part in parts {
            let mut batches = batch::batches(part);
            for batch in &mut batches {
                let at = self.end(partition).or(compacted_base).unwrap_or_default();
                let batch = batch.map_err(|error| PushError::Batch { partition, at, error })?;
                batch::verify_crc(&batch.bytes).map_err(|error| PushError::Batch { partition, at, error })?;
                self.push_batch(partition, compacted_base, batch)?;
            }
            let rest = batches.rest();
            if !rest.is_empty() {
                let error = BatchError::Truncated {
                    need_bytes: batch::HEADER_BYTES.max(rest.len() + 1),
                    have_bytes: rest.len(),
                };
                let at = self.end(partition).or(compacted_base).unwrap_or_default();
                return Err(PushError::Batch { partition, at, error });
            }
        }
        Ok(())
    }

    fn end(&self, partition: Partition) -> Option<Offset> {
        self.runs.get(&partition).map(|run| run.end)
    }

    fn push_batch(
        &mut self,
        partition: Partition,
        compacted_base: Option<Offset>,
        batch: Batch,
    ) -> Result<(), PushError> {
        let header = batch.header;
        let (base, end) = (header.base_offset, header.next_offset());
        let at = self.end(partition).or(compacted_base).unwrap_or(base);
        let follows = match compacted_base {
            None => base == at,
            Some(_) => base >= at,
        };
        let fits = u64::from(header.record_count) <= end.0 - base.0 && end.0 <= i64::MAX as u64;
        if !follows || !fits {
            return Err(PushError::Order {
                partition,
                at,
                base,
                end,
            });
        }
        let bytes = batch.bytes.len();
        if bytes > FRAME_BYTES_MAX as usize {
            return Err(PushError::TooLarge { partition, bytes });
        }
        let run = self.runs.entry(partition).or_insert_with(|| Run::new(at));
        if run.open.bytes > 0 && run.open.bytes + bytes > self.limits.frame_bytes as usize {
            run.close(self.limits.zstd_level);
        }
        run.push(batch);
        self.raw_bytes += bytes as u64;
        Ok(())
    }

    /// Adds a frame of another bundle as it is stored there. It must begin where what was pushed of its partition ends.
    /// Neither its checksum nor its batches are checked here.
    pub(crate) fn push_frame(
        &mut self,
        partition: Partition,
        frame: &Frame,
        stored: Bytes,
    ) -> Result<(), PushError> {
        let (base, end) = (frame.base_offset, frame.end_offset);
        let at = self.end(partition).unwrap_or(base);
        if at != base {
            return Err(PushError::Order {
                partition,
                at,
                base,
                end,
            });
        }
        let run = self.runs.entry(partition).or_insert_with(|| Run::new(base));
        run.close(self.limits.zstd_level);
        run.frames.push((*frame, vec![stored]));
        run.end = end;
        run.open = OpenFrame::at(end);
        self.raw_bytes += u64::from(frame.raw_len);
        Ok(())
    }

    /// Makes the bundle. `None` if nothing was pushed.
    pub fn finish(self) -> Option<Bundle> {
        if self.runs.is_empty() {
            return None;
        }
        let mut footer = Footer::default();
        let mut parts = vec![Bytes::from_static(&HEAD)];
        let mut extents = Vec::with_capacity(self.runs.len());
        let mut at = HEAD.len() as u64;
        for (partition, mut run) in self.runs {
            run.close(self.limits.zstd_level);
            let first = footer.frames().len() as u32;
            extents.push((partition, run.extent(first)));
            let mut frames = Vec::with_capacity(run.frames.len());
            for (mut frame, mut stored) in run.frames {
                frame.at = at;
                at += u64::from(frame.stored_len);
                frames.push(frame);
                parts.append(&mut stored);
            }
            footer.push(partition, frames);
        }
        let (tail, place) = footer.encode();
        let bytes = at + tail.len() as u64;
        parts.push(tail.into());
        Some(Bundle {
            parts,
            bytes,
            footer_at: place.footer_at,
            footer_crc: place.footer_crc,
            extents,
        })
    }
}

/// The batches of one partition.
#[derive(Debug)]
struct Run {
    base: Offset,
    end: Offset,
    /// Closed frames, which do not know their place yet, with their bytes.
    frames: Vec<(Frame, Vec<Bytes>)>,
    open: OpenFrame,
}

/// The frame that is being filled.
#[derive(Debug)]
struct OpenFrame {
    base: Offset,
    batches: Vec<Bytes>,
    bytes: usize,
    /// Bytes of those batches that are compressed already.
    compressed_bytes: usize,
    max_timestamp: Option<TimestampMs>,
    records: u64,
}

impl OpenFrame {
    fn at(base: Offset) -> Self {
        Self {
            base,
            batches: Vec::new(),
            bytes: 0,
            compressed_bytes: 0,
            max_timestamp: None,
            records: 0,
        }
    }
}

impl Run {
    fn new(base: Offset) -> Self {
        Self {
            base,
            end: base,
            frames: Vec::new(),
            open: OpenFrame::at(base),
        }
    }

    fn push(&mut self, batch: Batch) {
        let Batch { header, bytes } = batch;
        let open = &mut self.open;
        open.bytes += bytes.len();
        if header.compression != Compression::None {
            open.compressed_bytes += bytes.len();
        }
        open.max_timestamp = open.max_timestamp.max(Some(header.max_timestamp));
        open.records += u64::from(header.record_count);
        open.batches.push(bytes);
        self.end = header.next_offset();
    }

    fn close(&mut self, zstd_level: i32) {
        let open = std::mem::replace(&mut self.open, OpenFrame::at(self.end));
        let Some(max_timestamp) = open.max_timestamp else {
            return;
        };
        let (codec, stored) = store(open.batches, open.bytes, open.compressed_bytes, zstd_level);
        let stored_len: usize = stored.iter().map(Bytes::len).sum();
        let frame = Frame {
            at: 0,
            stored_len: u32::try_from(stored_len).expect("no longer than the frame is raw"),
            raw_len: u32::try_from(open.bytes).expect("a frame is at most FRAME_BYTES_MAX long"),
            codec,
            crc: crc32c_parts(stored.iter().map(|part| &part[..])),
            base_offset: open.base,
            end_offset: self.end,
            max_timestamp,
            records: open.records,
        };
        self.frames.push((frame, stored));
    }

    fn extent(&self, first_frame: u32) -> NewExtent {
        let frames = self.frames.iter().map(|(frame, _)| frame);
        NewExtent {
            base_offset: self.base,
            end_offset: self.end,
            frame: first_frame,
            raw_bytes: frames.clone().map(|frame| u64::from(frame.raw_len)).sum(),
            stored_bytes: frames.clone().map(|frame| u64::from(frame.stored_len)).sum(),
            max_timestamp: frames
                .clone()
                .map(|frame| frame.max_timestamp)
                .max()
                .unwrap_or_default(),
            records: frames.map(|frame| frame.records).sum(),
        }
    }
}

/// How a frame's batches are stored: compressed if most of them are not, and if it makes them shorter.
fn store(batches: Vec<Bytes>, bytes: usize, compressed_bytes: usize, zstd_level: i32) -> (Codec, Vec<Bytes>) {
    let is_compressed = compressed_bytes > bytes / 2;
    if is_compressed && bytes / batches.len() >= PART_BYTES_MIN {
        return (Codec::Raw, batches);
    }
    let joined = join(batches, bytes);
    if is_compressed {
        return (Codec::Raw, vec![joined]);
    }
    let mut stored = Vec::new();
    match batch::compress(Compression::Zstd, Some(zstd_level), &joined, &mut stored) {
        Ok(()) if stored.len() < joined.len() => {
            // The buffer was made for what does not compress; a bundle holds dozens of them.
            stored.shrink_to_fit();
            (Codec::Zstd, vec![stored.into()])
        }
        _ => (Codec::Raw, vec![joined]),
    }
}

fn join(mut parts: Vec<Bytes>, bytes: usize) -> Bytes {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let mut joined = Vec::with_capacity(bytes);
    for part in &parts {
        joined.extend_from_slice(part);
    }
    joined.into()
}
