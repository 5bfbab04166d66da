//! What always holds in a manifest.

use std::collections::BTreeMap;

use super::{Extent, Manifest, ObjectId};
use crate::bundle::{HEAD_BYTES, TRAILER_BYTES};

/// No object and no extent is longer: sums over any manifest that fits into memory stay far below 64 bits.
const BYTES_MAX: u64 = 1 << 40;

/// Kafka's offsets are signed.
const OFFSET_MAX: u64 = i64::MAX as u64;

impl Manifest {
    /// Whether everything that must hold does; the error says what does not.
    ///
    /// Holds after every change and after decoding. Takes time in proportion to the manifest.
    pub fn check(&self) -> Result<(), String> {
        let mut live: BTreeMap<ObjectId, (u32, u64)> = BTreeMap::new();
        for (partition, extents) in &self.partitions {
            let Some(first) = extents.first() else {
                return Err(format!("{partition} has an empty list of extents"));
            };
            let mut at = first.base_offset;
            for extent in extents {
                check_extent(extent).map_err(|what| format!("{partition}: {what}"))?;
                if extent.base_offset != at {
                    return Err(format!(
                        "{partition}: an extent begins at {}, not at {at}",
                        extent.base_offset
                    ));
                }
                at = extent.end_offset;
                let (count, bytes) = live.entry(extent.object).or_default();
                *count += 1;
                *bytes = bytes.saturating_add(extent.stored_bytes);
            }
        }
        for (id, object) in &self.objects {
            check_shape(object.bytes, object.footer_at, object.live_bytes)
                .map_err(|what| format!("object {id}: {what}"))?;
            let found = live.remove(id).unwrap_or_default();
            if found != (object.extents, object.live_bytes) || object.extents == 0 {
                return Err(format!(
                    "object {id} counts {} extents of {} bytes, but has {} of {}",
                    object.extents, object.live_bytes, found.0, found.1
                ));
            }
        }
        if let Some((id, _)) = live.first_key_value() {
            return Err(format!(
                "an extent lies in object {id}, which is not in the manifest"
            ));
        }
        if let Some(id) = self.unlinked.keys().find(|id| self.objects.contains_key(id)) {
            return Err(format!("object {id} is both in use and unlinked"));
        }
        if let Some((id, _)) = self.unlinked.iter().find(|(_, object)| object.bytes > BYTES_MAX) {
            return Err(format!("unlinked object {id} is longer than {BYTES_MAX} bytes"));
        }
        let last = self.objects.keys().chain(self.unlinked.keys()).max();
        if let Some(id) = last.filter(|id| id.0 >= self.next_object) {
            return Err(format!(
                "object {id} is not below the next id {}",
                self.next_object
            ));
        }
        let counters = [self.sequence, self.through.0, self.next_object];
        if counters.iter().any(|counter| *counter > u64::MAX / 2) {
            return Err("a counter is near the end of its range".into());
        }
        Ok(())
    }
}

/// Whether an extent makes sense by itself.
pub(super) fn check_extent(extent: &Extent) -> Result<(), String> {
    let Extent {
        base_offset,
        end_offset,
        raw_bytes,
        stored_bytes,
        records,
        ..
    } = extent;
    if base_offset >= end_offset || end_offset.0 > OFFSET_MAX {
        return Err(format!(
            "an extent cannot reach from {base_offset} to {end_offset}"
        ));
    }
    if *records > end_offset.0 - base_offset.0 {
        return Err(format!(
            "the extent from {base_offset} to {end_offset} cannot hold {records} records"
        ));
    }
    let fits = 1..=BYTES_MAX;
    if !fits.contains(raw_bytes) || !fits.contains(stored_bytes) {
        return Err(format!(
            "the extent from {base_offset} to {end_offset} cannot have {raw_bytes} bytes, stored as {stored_bytes}"
        ));
    }
    Ok(())
}

/// Whether an object of `bytes` with its footer at `footer_at` can hold `stored_bytes` of frames.
pub(super) fn check_shape(bytes: u64, footer_at: u64, stored_bytes: u64) -> Result<(), String> {
    let room = footer_at.saturating_sub(HEAD_BYTES);
    let has_trailer = bytes
        .checked_sub(footer_at)
        .is_some_and(|rest| rest > TRAILER_BYTES);
    if bytes > BYTES_MAX || !has_trailer || stored_bytes > room {
        return Err(format!(
            "an object of {bytes} bytes with its footer at {footer_at} cannot hold extents of {stored_bytes} bytes"
        ));
    }
    Ok(())
}
