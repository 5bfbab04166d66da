//! The directory of a bundle.

use std::ops::Range;

use bytes::Buf;
use meridian_types::{Offset, Partition, TimestampMs};

use super::{
    BUNDLE_VERSION, BundleError, Codec, FRAME_BYTES_MAX, Frame, HEAD_BYTES, MAGIC, TRAILER_BYTES, malformed,
};
use crate::codec::{
    Fault, crc32c, get_count, get_partition, get_signed_varint, get_u32_varint, get_varint, put_count,
    put_partition, put_signed_varint, put_u32, put_varint,
};

/// Fewest bytes of a frame: codec, two lengths, checksum, span, timestamp, missing records.
const FRAME_ENTRY_BYTES_MIN: usize = 1 + 1 + 1 + 4 + 1 + 1 + 1;
/// Fewest bytes of a partition: itself, base offset, count, one frame.
const PARTITION_ENTRY_BYTES_MIN: usize = 20 + 1 + 1 + FRAME_ENTRY_BYTES_MIN;

/// Where the footer of an object lies and what its checksum is, as the manifest says, or else the object's trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FooterPlace {
    /// Where it begins; it ends where the trailer begins.
    pub footer_at: u64,
    /// Its CRC32C.
    pub footer_crc: u32,
}

impl FooterPlace {
    /// Reads the trailer: the last [`TRAILER_BYTES`] of an object of `object_bytes`.
    pub fn of_trailer(trailer: &[u8], object_bytes: u64) -> Result<Self, BundleError> {
        let mut from = trailer
            .last_chunk::<{ TRAILER_BYTES as usize }>()
            .ok_or(BundleError::Truncated {
                need_bytes: TRAILER_BYTES,
                have_bytes: trailer.len() as u64,
            })?
            .as_slice();
        if !from.ends_with(&MAGIC) {
            return Err(BundleError::Magic);
        }
        let place = Self {
            footer_at: from.get_u64_le(),
            footer_crc: from.get_u32_le(),
        };
        let behind = object_bytes.saturating_sub(TRAILER_BYTES);
        if !(HEAD_BYTES..behind).contains(&place.footer_at) {
            return Err(malformed(format!(
                "its trailer puts the footer at {}, but the object has {object_bytes} bytes",
                place.footer_at
            )));
        }
        Ok(place)
    }

    /// Of a whole object in memory.
    pub fn of_object(bytes: &[u8]) -> Result<Self, BundleError> {
        Self::of_trailer(bytes, bytes.len() as u64)
    }

    fn trailer(&self) -> [u8; TRAILER_BYTES as usize] {
        let mut bytes = [0; TRAILER_BYTES as usize];
        bytes[0..8].copy_from_slice(&self.footer_at.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.footer_crc.to_le_bytes());
        bytes[12..16].copy_from_slice(&MAGIC);
        bytes
    }
}

/// Which frames hold a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FooterPartition {
    /// The partition.
    pub partition: Partition,
    /// Its frames, as positions in [`Footer::frames`]; at least one.
    pub frames: Range<u32>,
}

/// The directory of a bundle: every frame, and whose it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footer {
    /// Invariant: one behind the other in the object, from its head to the footer; grouped by partition.
    frames: Vec<Frame>,
    /// Invariant: in order, none twice, and together all frames.
    partitions: Vec<FooterPartition>,
}

impl Footer {
    /// Every frame, in the order of the object.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Every partition, in order.
    pub fn partitions(&self) -> &[FooterPartition] {
        &self.partitions
    }

    /// The frames of a partition, in the order of their offsets; empty if the bundle has none of it.
    pub fn frames_of(&self, partition: Partition) -> &[Frame] {
        match self
            .partitions
            .binary_search_by_key(&partition, |entry| entry.partition)
        {
            Ok(at) => {
                let Range { start, end } = self.partitions[at].frames;
                &self.frames[start as usize..end as usize]
            }
            Err(_) => &[],
        }
    }

    /// The frames of an extent: those from `frame` on that hold `offsets`.
    ///
    /// Errors: `Malformed` when the directory does not agree with what the manifest says of the extent.
    pub fn frames_of_extent(
        &self,
        partition: Partition,
        frame: u32,
        offsets: Range<Offset>,
    ) -> Result<&[Frame], BundleError> {
        let disagrees = || {
            malformed(format!(
                "its footer has no frames from {frame} on that hold offsets {} to {} of {partition}",
                offsets.start, offsets.end
            ))
        };
        let at = self
            .partitions
            .binary_search_by_key(&partition, |entry| entry.partition)
            .map_err(|_| disagrees())?;
        let whole = &self.partitions[at].frames;
        if !whole.contains(&frame) {
            return Err(disagrees());
        }
        let frames = &self.frames[frame as usize..whole.end as usize];
        let count = frames.partition_point(|frame| frame.base_offset < offsets.end);
        let frames = &frames[..count];
        match (frames.first(), frames.last()) {
            (Some(first), Some(last))
                if first.base_offset == offsets.start && last.end_offset == offsets.end =>
            {
                Ok(frames)
            }
            _ => Err(disagrees()),
        }
    }

    /// Reads the footer. `tail` is the object from `place.footer_at` to its end, trailer included.
    ///
    /// Trusts nothing: every length, offset and count in it has been held against the others.
    pub fn decode(tail: &[u8], place: FooterPlace) -> Result<Self, BundleError> {
        let Some((body, trailer)) = tail.split_last_chunk::<{ TRAILER_BYTES as usize }>() else {
            return Err(BundleError::Truncated {
                need_bytes: TRAILER_BYTES,
                have_bytes: tail.len() as u64,
            });
        };
        let computed = crc32c(body);
        if computed != place.footer_crc {
            return Err(BundleError::Checksum {
                part: "footer",
                at: place.footer_at,
                expected: place.footer_crc,
                computed,
            });
        }
        let object_bytes = place.footer_at.saturating_add(tail.len() as u64);
        if FooterPlace::of_trailer(trailer, object_bytes)? != place {
            return Err(malformed("its trailer contradicts the manifest"));
        }
        let footer = Self::decode_body(body).map_err(|fault| match fault {
            Refusal::Fault(Fault::Short) => malformed("its footer ends too early"),
            Refusal::Fault(Fault::Invalid(what)) => malformed(what),
            Refusal::Bundle(error) => error,
        })?;
        let end = footer.frames.last().map_or(HEAD_BYTES, |frame| frame.range().end);
        if end != place.footer_at {
            return Err(malformed(format!(
                "its frames end at {end}, its footer begins at {}",
                place.footer_at
            )));
        }
        Ok(footer)
    }

    fn decode_body(mut body: &[u8]) -> Result<Self, Refusal> {
        let from = &mut body;
        let version = from.try_get_u8().map_err(Fault::from)?;
        if version != BUNDLE_VERSION {
            return Err(BundleError::Version { version }.into());
        }
        let mut footer = Self::default();
        let mut at = HEAD_BYTES;
        for _ in 0..get_count(from, PARTITION_ENTRY_BYTES_MIN)? {
            let partition = get_partition(from)?;
            if footer
                .partitions
                .last()
                .is_some_and(|last| last.partition >= partition)
            {
                return Err(malformed(format!("{partition} is out of order in its footer")).into());
            }
            let mut base = get_varint(from)?;
            let count = get_count(from, FRAME_ENTRY_BYTES_MIN)?;
            if count == 0 {
                return Err(malformed(format!("{partition} has no frame in its footer")).into());
            }
            let first = footer.frames.len() as u32;
            let mut timestamp = 0;
            for _ in 0..count {
                let frame = get_frame(from, at, base, timestamp)?;
                at = frame.range().end;
                base = frame.end_offset.0;
                timestamp = frame.max_timestamp.0;
                footer.frames.push(frame);
            }
            footer.partitions.push(FooterPartition {
                partition,
                frames: first..footer.frames.len() as u32,
            });
        }
        if !from.is_empty() {
            return Err(malformed(format!("{} bytes follow the end of its footer", from.len())).into());
        }
        Ok(footer)
    }

    /// The footer and the trailer, as they end the object.
    pub(super) fn encode(&self) -> (Vec<u8>, FooterPlace) {
        let mut out = vec![BUNDLE_VERSION];
        put_count(&mut out, self.partitions.len());
        for FooterPartition { partition, frames } in &self.partitions {
            let frames = &self.frames[frames.start as usize..frames.end as usize];
            put_partition(&mut out, *partition);
            put_varint(&mut out, frames.first().map_or(0, |frame| frame.base_offset.0));
            put_count(&mut out, frames.len());
            let mut timestamp_before = 0;
            for frame in frames {
                put_frame(&mut out, frame, timestamp_before);
                timestamp_before = frame.max_timestamp.0;
            }
        }
        let place = FooterPlace {
            footer_at: self.frames.last().map_or(HEAD_BYTES, |frame| frame.range().end),
            footer_crc: crc32c(&out),
        };
        out.extend_from_slice(&place.trailer());
        (out, place)
    }

    /// Adds the frames of a partition, which comes behind all that were added. The writer sees to the invariants.
    pub(super) fn push(&mut self, partition: Partition, frames: impl IntoIterator<Item = Frame>) {
        let first = self.frames.len() as u32;
        self.frames.extend(frames);
        self.partitions.push(FooterPartition {
            partition,
            frames: first..self.frames.len() as u32,
        });
    }
}

/// Why the body of a footer is refused.
enum Refusal {
    Fault(Fault),
    Bundle(BundleError),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<BundleError> for Refusal {
    fn from(error: BundleError) -> Self {
        Self::Bundle(error)
    }
}

/// Offsets follow one another and frames lie one behind the other, so neither is written.
fn put_frame(out: &mut Vec<u8>, frame: &Frame, timestamp_before: i64) {
    let span = frame.end_offset.0 - frame.base_offset.0;
    out.push(frame.codec as u8);
    put_varint(out, frame.stored_len.into());
    put_varint(out, frame.raw_len.into());
    put_u32(out, frame.crc);
    put_varint(out, span);
    put_signed_varint(out, frame.max_timestamp.0.wrapping_sub(timestamp_before));
    put_varint(out, span - frame.records);
}

fn get_frame(from: &mut &[u8], at: u64, base: u64, timestamp_before: i64) -> Result<Frame, Refusal> {
    let code = from.try_get_u8().map_err(Fault::from)?;
    let codec = Codec::from_code(code).ok_or_else(|| malformed(format!("frame codec {code} is unknown")))?;
    let stored_len = get_u32_varint(from)?;
    let raw_len = get_u32_varint(from)?;
    let crc = from.try_get_u32_le().map_err(Fault::from)?;
    let span = get_varint(from)?;
    let timestamp = timestamp_before.wrapping_add(get_signed_varint(from)?);
    let missing = get_varint(from)?;
    let fits = 1..=FRAME_BYTES_MAX;
    if !fits.contains(&stored_len) || !fits.contains(&raw_len) {
        return Err(malformed(format!(
            "a frame of {raw_len} bytes, stored as {stored_len}, is impossible; at most {FRAME_BYTES_MAX}"
        ))
        .into());
    }
    if codec == Codec::Raw && stored_len != raw_len {
        return Err(malformed(format!(
            "a raw frame of {raw_len} bytes is stored as {stored_len}"
        ))
        .into());
    }
    let end = base
        .checked_add(span)
        .filter(|end| span > 0 && *end <= i64::MAX as u64);
    let (Some(end), Some(records)) = (end, span.checked_sub(missing)) else {
        return Err(malformed(format!(
            "a frame at offset {base} cannot span {span} offsets of which {missing} have no record"
        ))
        .into());
    };
    Ok(Frame {
        at,
        stored_len,
        raw_len,
        codec,
        crc,
        base_offset: Offset(base),
        end_offset: Offset(end),
        max_timestamp: TimestampMs(timestamp),
        records,
    })
}
