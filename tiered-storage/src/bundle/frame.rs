//! Frames: from the object's bytes to batches.

use bytes::Bytes;
use meridian_wire::batch::{self, Compression};

use super::{BundleError, Codec, Frame, malformed};
use crate::codec::crc32c;

/// So much is read with one request when whole runs of frames are needed; a longer frame is read alone.
const WINDOW_BYTES: u64 = 8 << 20;

/// Turns a frame's bytes in the object into its batches, whole and one behind the other.
///
/// A raw frame is not copied. Memory grows to the frame's raw length at most, which the footer bounds.
/// Errors: `Truncated`, `Checksum`, `Compression`.
pub fn unframe(frame: &Frame, stored: &Bytes) -> Result<Bytes, BundleError> {
    if stored.len() != frame.stored_len as usize {
        return Err(BundleError::Truncated {
            need_bytes: frame.stored_len.into(),
            have_bytes: stored.len() as u64,
        });
    }
    check_stored(frame, stored)?;
    let raw = match frame.codec {
        Codec::Raw => stored.clone(),
        Codec::Zstd => batch::decompress(Compression::Zstd, stored, frame.raw_len as usize)
            .map_err(|error| BundleError::Compression { at: frame.at, error })?
            .into(),
    };
    if raw.len() != frame.raw_len as usize {
        return Err(malformed(format!(
            "the frame at byte {} gives {} bytes, not {}",
            frame.at,
            raw.len(),
            frame.raw_len
        )));
    }
    Ok(raw)
}

/// Checks a frame's bytes in the object against its checksum.
pub(crate) fn check_stored(frame: &Frame, stored: &[u8]) -> Result<(), BundleError> {
    let computed = crc32c(stored);
    if computed != frame.crc {
        return Err(BundleError::Checksum {
            part: "frame",
            at: frame.at,
            expected: frame.crc,
            computed,
        });
    }
    Ok(())
}

/// Checks every batch of an un-framed frame, and that the footer says the truth about them.
pub fn check_frame(frame: &Frame, raw: &Bytes) -> Result<(), BundleError> {
    let wrong = |what: String| malformed(format!("the frame at byte {}: {what}", frame.at));
    let mut batches = batch::batches(raw);
    let mut at = frame.base_offset;
    let mut max_timestamp = None;
    let mut records = 0;
    for batch in &mut batches {
        let batch = batch.map_err(|error| wrong(error.to_string()))?;
        batch::verify_crc(&batch.bytes)
            .map_err(|error| wrong(format!("batch at offset {}: {error}", batch.header.base_offset)))?;
        let header = batch.header;
        if header.base_offset < at || header.next_offset() > frame.end_offset {
            return Err(wrong(format!(
                "a batch of offsets {} to {} lies outside of {at} to {}",
                header.base_offset,
                header.next_offset(),
                frame.end_offset
            )));
        }
        at = header.next_offset();
        max_timestamp = max_timestamp.max(Some(header.max_timestamp));
        records += u64::from(header.record_count);
    }
    if !batches.rest().is_empty() {
        return Err(wrong(format!(
            "{} bytes follow its last batch",
            batches.rest().len()
        )));
    }
    if at != frame.end_offset || max_timestamp != Some(frame.max_timestamp) || records != frame.records {
        return Err(wrong(format!(
            "its batches end at {at} with {records} records, the footer says {} with {}",
            frame.end_offset, frame.records
        )));
    }
    Ok(())
}

/// Runs of frames that are read with one request each.
pub(crate) fn windows(frames: &[Frame]) -> impl Iterator<Item = &[Frame]> {
    let mut rest = frames;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let count = rest
            .iter()
            .take_while(|frame| frame.range().end - first.at <= WINDOW_BYTES)
            .count();
        let (window, others) = rest.split_at(count.max(1));
        rest = others;
        Some(window)
    })
}
