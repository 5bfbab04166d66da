//! Finding batches and records in what was read. Pure.

use bytes::Bytes;
use meridian_types::{Offset, TimestampMs};
use meridian_wire::batch::{Batch, Batches, RecordsError, batches, records};

use super::{BatchRow, FoundRecord};

/// Largest block of records that one batch may decompress to here; as for reads from the local log.
const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;

/// Batches that are being gathered for a read.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) batches: BatchRow,
    pub(super) bytes: usize,
    /// The offset that follows the last of them.
    pub(super) next: Offset,
}

/// Whether to go on gathering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Left,
    Full,
}

impl Gathered {
    /// Takes the whole batches of `row` from the one that holds `from`, or the first behind it, up to `bytes_max`
    /// bytes; the first of all is taken whatever its size.
    ///
    /// Errors: what is wrong with the batch that cannot be read, in words.
    pub(super) fn take(&mut self, row: &Bytes, from: Offset, bytes_max: usize) -> Result<Room, String> {
        let mut rest = batches(row);
        for batch in &mut rest {
            let Batch { header, bytes } = batch.map_err(|error| error.to_string())?;
            if header.last_offset() < from {
                continue;
            }
            if !self.batches.is_empty() && self.bytes.saturating_add(bytes.len()) > bytes_max {
                return Ok(Room::Full);
            }
            self.bytes += bytes.len();
            self.next = header.next_offset();
            self.batches.push(bytes);
        }
        whole(&rest)?;
        Ok(if self.bytes < bytes_max {
            Room::Left
        } else {
            Room::Full
        })
    }
}

/// The first record at or behind `from` whose timestamp is `timestamp` or later.
///
/// Errors: what is wrong with the batch that cannot be read, in words.
pub(crate) fn find_in_batches(
    row: &Bytes,
    from: Offset,
    timestamp: TimestampMs,
) -> Result<Option<FoundRecord>, String> {
    let mut rest = batches(row);
    for batch in &mut rest {
        let Batch { header, bytes } = batch.map_err(|error| error.to_string())?;
        if header.last_offset() < from || header.max_timestamp < timestamp {
            continue;
        }
        if let Some(found) = find_in_batch(&bytes, from, timestamp).map_err(|error| error.to_string())? {
            return Ok(Some(found));
        }
    }
    whole(&rest)?;
    Ok(None)
}

fn find_in_batch(
    batch: &Bytes,
    from: Offset,
    timestamp: TimestampMs,
) -> Result<Option<FoundRecord>, RecordsError> {
    let records = records(batch, DECOMPRESSED_BYTES_MAX)?;
    let header = *records.header();
    if header.is_control {
        return Ok(None);
    }
    for record in records {
        let record = record?;
        if record.offset >= from && record.timestamp >= timestamp {
            return Ok(Some(FoundRecord {
                offset: record.offset,
                timestamp: record.timestamp,
                leader_epoch: header.leader_epoch,
            }));
        }
    }
    Ok(None)
}

fn whole(rest: &Batches) -> Result<(), String> {
    match rest.rest().len() {
        0 => Ok(()),
        bytes => Err(format!("{bytes} bytes behind its last whole batch")),
    }
}
