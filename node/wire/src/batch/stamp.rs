//! Patches of single header fields, in place.

use meridian_types::{LeaderEpoch, Offset, ProducerId, TimestampMs};

use super::error::BatchError;
use super::header::{HEADER_BYTES, TimestampType, whole_batch};
use super::layout;

/// Writes base offset and leader epoch into a batch, as the leader does when it appends.
///
/// Both fields lie outside the CRC, so it stays valid. Needs the header only.
/// Errors: `Truncated` when `batch` is shorter than a header; nothing is written then.
#[inline]
pub fn stamp(batch: &mut [u8], base_offset: Offset, leader_epoch: LeaderEpoch) -> Result<(), BatchError> {
    if batch.len() < HEADER_BYTES {
        return Err(BatchError::Truncated {
            need_bytes: HEADER_BYTES,
            have_bytes: batch.len(),
        });
    }
    put(batch, layout::BASE_OFFSET, base_offset.0.to_be_bytes());
    put(batch, layout::LEADER_EPOCH, leader_epoch.0.to_be_bytes());
    Ok(())
}

/// Makes `now` the time of every record: timestamp type `LogAppendTime`, max timestamp `now`.
///
/// The CRC is computed anew, unless both fields already stand like this.
/// Errors: `Truncated` and `Length` when the batch is not whole; nothing is written then.
pub fn set_log_append_time(batch: &mut [u8], now: TimestampMs) -> Result<(), BatchError> {
    set_max_timestamp(batch, TimestampType::LogAppendTime, now)
}

/// Writes timestamp type and max timestamp, with a new CRC unless both already stand like this.
///
/// A leader calls it when a producer's header does not give the true greatest timestamp of its records
/// (see [`super::Validated::max_timestamp`]): time indexes trust the header.
/// Errors: `Truncated` and `Length` when the batch is not whole; nothing is written then.
pub fn set_max_timestamp(
    batch: &mut [u8],
    timestamp_type: TimestampType,
    max_timestamp: TimestampMs,
) -> Result<(), BatchError> {
    let (raw, whole) = whole_batch(batch)?;
    let size = whole.len();
    let old = raw.attributes();
    let new = match timestamp_type {
        TimestampType::CreateTime => old & !layout::LOG_APPEND_TIME_BIT,
        TimestampType::LogAppendTime => old | layout::LOG_APPEND_TIME_BIT,
    };
    if new == old && raw.max_timestamp() == max_timestamp.0 {
        return Ok(());
    }
    put(batch, layout::ATTRIBUTES, new.to_be_bytes());
    put(batch, layout::MAX_TIMESTAMP, max_timestamp.0.to_be_bytes());
    renew_crc(&mut batch[..size]);
    Ok(())
}

/// Writes the producer's fields, with a new CRC: for a producer that must send a built batch under a new
/// epoch, or that gives out sequences late.
///
/// Errors: `Truncated` and `Length` when the batch is not whole; nothing is written then.
pub fn set_producer(
    batch: &mut [u8],
    producer_id: ProducerId,
    producer_epoch: i16,
    base_sequence: i32,
) -> Result<(), BatchError> {
    let size = whole_batch(batch)?.1.len();
    put(batch, layout::PRODUCER_ID, producer_id.0.to_be_bytes());
    put(batch, layout::PRODUCER_EPOCH, producer_epoch.to_be_bytes());
    put(batch, layout::BASE_SEQUENCE, base_sequence.to_be_bytes());
    renew_crc(&mut batch[..size]);
    Ok(())
}

/// Computes and writes the CRC of `batch`, one whole batch.
pub(super) fn renew_crc(batch: &mut [u8]) {
    let crc = layout::compute_crc(batch);
    put(batch, layout::CRC, crc.to_be_bytes());
}

/// `batch` is at least a header long.
pub(super) fn put<const LEN: usize>(batch: &mut [u8], at: usize, bytes: [u8; LEN]) {
    batch[at..at + LEN].copy_from_slice(&bytes);
}
