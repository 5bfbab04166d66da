//! Objects and extents as commands carry them.

use bytes::Buf;
use meridian_tiered_storage::manifest::{NewExtent, NewObject, ObjectName, Replacement};
use meridian_types::{Offset, Term, TimestampMs, Uuid};

use crate::codec::{
    Fault, PARTITION_BYTES, get_count, get_partition, put_count, put_i64, put_partition, put_u32, put_u64,
};

/// Bytes of an extent.
pub(super) const EXTENT_BYTES: usize = 8 + 8 + 4 + 8 + 8 + 8 + 8;

/// Bytes of a replacement without extents.
pub(super) const REPLACEMENT_BYTES_MIN: usize = PARTITION_BYTES + 8 + 8 + 4;

pub(super) fn put_object(out: &mut Vec<u8>, object: &NewObject) {
    put_u64(out, object.name.term.0);
    out.extend_from_slice(object.name.id.as_bytes());
    put_u64(out, object.bytes);
    put_u64(out, object.footer_at);
    put_u32(out, object.footer_crc);
}

pub(super) fn get_object(from: &mut &[u8]) -> Result<NewObject, Fault> {
    let term = Term(from.try_get_u64_le()?);
    let mut id = [0; 16];
    from.try_copy_to_slice(&mut id)?;
    Ok(NewObject {
        name: ObjectName {
            term,
            id: Uuid::from_bytes(id),
        },
        bytes: from.try_get_u64_le()?,
        footer_at: from.try_get_u64_le()?,
        footer_crc: from.try_get_u32_le()?,
    })
}

pub(super) fn put_extent(out: &mut Vec<u8>, extent: &NewExtent) {
    put_u64(out, extent.base_offset.0);
    put_u64(out, extent.end_offset.0);
    put_u32(out, extent.frame);
    put_u64(out, extent.raw_bytes);
    put_u64(out, extent.stored_bytes);
    put_i64(out, extent.max_timestamp.0);
    put_u64(out, extent.records);
}

pub(super) fn get_extent(from: &mut &[u8]) -> Result<NewExtent, Fault> {
    Ok(NewExtent {
        base_offset: Offset(from.try_get_u64_le()?),
        end_offset: Offset(from.try_get_u64_le()?),
        frame: from.try_get_u32_le()?,
        raw_bytes: from.try_get_u64_le()?,
        stored_bytes: from.try_get_u64_le()?,
        max_timestamp: TimestampMs(from.try_get_i64_le()?),
        records: from.try_get_u64_le()?,
    })
}

pub(super) fn put_replacement(out: &mut Vec<u8>, replacement: &Replacement) {
    put_partition(out, replacement.partition);
    put_u64(out, replacement.offsets.start.0);
    put_u64(out, replacement.offsets.end.0);
    put_count(out, replacement.extents.len());
    for extent in &replacement.extents {
        put_extent(out, extent);
    }
}

pub(super) fn get_replacement(from: &mut &[u8]) -> Result<Replacement, Fault> {
    let partition = get_partition(from)?;
    let offsets = Offset(from.try_get_u64_le()?)..Offset(from.try_get_u64_le()?);
    let count = get_count(from, EXTENT_BYTES)?;
    let mut extents = Vec::with_capacity(count);
    for _ in 0..count {
        extents.push(get_extent(from)?);
    }
    Ok(Replacement {
        partition,
        offsets,
        extents,
    })
}
