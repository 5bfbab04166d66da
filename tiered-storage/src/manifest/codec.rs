//! A manifest as bytes, and back. Drawn in `docs/formats/manifest.md`.

use std::collections::BTreeMap;

use bytes::Buf;
use meridian_types::{Offset, Partition, RaftIndex, Term, TimestampMs};
use thiserror::Error;

use super::{Extent, Manifest, Object, ObjectId, ObjectName, Unlinked};
use crate::codec::{
    Fault, get_count, get_partition, get_signed_varint, get_u32_varint, get_uuid, get_varint, put_count,
    put_partition, put_signed_varint, put_u32, put_varint,
};

/// The version that [`Manifest::encode`] writes.
pub const MANIFEST_VERSION: u8 = 1;

/// Fewest bytes of an object: id, term, uuid, length, footer's place and checksum.
const OBJECT_BYTES_MIN: usize = 1 + 1 + 16 + 1 + 1 + 4;
/// Fewest bytes of a partition: itself, first offset, count, one extent.
const PARTITION_BYTES_MIN: usize = 20 + 1 + 1 + EXTENT_BYTES_MIN;
/// Fewest bytes of an extent: seven varints.
const EXTENT_BYTES_MIN: usize = 7;
/// Fewest bytes of an unlinked object: id, term, uuid, length, time.
const UNLINKED_BYTES_MIN: usize = 1 + 1 + 16 + 1 + 1;

/// Bytes that are not a manifest this version can read. Take another copy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// Written by a newer version of Meridian. Run that version.
    #[error("manifest has format version {version}; this version of Meridian reads up to {MANIFEST_VERSION}")]
    Version {
        /// The version found.
        version: u8,
    },
    /// The bytes end too early.
    #[error("manifest is cut short")]
    Truncated,
    /// What it says cannot be.
    #[error("manifest is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: String,
    },
}

impl From<Fault> for ManifestError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Short => Self::Truncated,
            Fault::Invalid(what) => malformed(what),
        }
    }
}

impl From<bytes::TryGetError> for ManifestError {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Truncated
    }
}

fn malformed(what: impl Into<String>) -> ManifestError {
    ManifestError::Malformed { what: what.into() }
}

impl Manifest {
    /// Appends the manifest to `out`. Equal manifests give equal bytes; there is no checksum, the caller has one.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(MANIFEST_VERSION);
        put_varint(out, self.sequence);
        put_varint(out, self.through.0);
        put_varint(out, self.next_object);
        put_count(out, self.objects.len());
        let mut ids = Ids::default();
        for (id, object) in &self.objects {
            ids.put(out, *id);
            put_name(out, &object.name);
            put_varint(out, object.bytes);
            put_varint(out, object.footer_at);
            put_u32(out, object.footer_crc);
        }
        put_count(out, self.partitions.len());
        for (partition, extents) in &self.partitions {
            put_partition(out, *partition);
            put_extents(out, extents);
        }
        put_count(out, self.unlinked.len());
        let mut ids = Ids::default();
        for (id, object) in &self.unlinked {
            ids.put(out, *id);
            put_name(out, &object.name);
            put_varint(out, object.bytes);
            put_signed_varint(out, object.since.0);
        }
    }

    /// Reads a manifest, which takes all of `bytes`. Trusts nothing; what it returns satisfies [`Manifest::check`].
    pub fn decode(mut bytes: &[u8]) -> Result<Self, ManifestError> {
        let from = &mut bytes;
        let version = from.try_get_u8()?;
        if version != MANIFEST_VERSION {
            return Err(ManifestError::Version { version });
        }
        let mut manifest = Self {
            sequence: get_varint(from)?,
            through: RaftIndex(get_varint(from)?),
            next_object: get_varint(from)?,
            ..Self::default()
        };
        let mut ids = Ids::default();
        for _ in 0..get_count(from, OBJECT_BYTES_MIN)? {
            let id = ids.get(from)?;
            manifest.objects.insert(id, get_object(from)?);
        }
        let mut before: Option<Partition> = None;
        for _ in 0..get_count(from, PARTITION_BYTES_MIN)? {
            let partition = get_partition(from)?;
            if before.is_some_and(|before| before >= partition) {
                return Err(malformed(format!("{partition} is out of order")));
            }
            before = Some(partition);
            let extents = get_extents(from, &mut manifest.objects)?;
            manifest.partitions.insert(partition, extents);
        }
        let mut ids = Ids::default();
        for _ in 0..get_count(from, UNLINKED_BYTES_MIN)? {
            let id = ids.get(from)?;
            let unlinked = Unlinked {
                name: get_name(from)?,
                bytes: get_varint(from)?,
                since: TimestampMs(get_signed_varint(from)?),
            };
            manifest.unlinked.insert(id, unlinked);
        }
        if !from.is_empty() {
            return Err(malformed(format!("{} bytes follow its end", from.len())));
        }
        manifest.check().map_err(malformed)?;
        Ok(manifest)
    }
}

/// Rising ids, each as the difference to the one before less one.
#[derive(Default)]
struct Ids {
    next: u64,
}

impl Ids {
    fn put(&mut self, out: &mut Vec<u8>, id: ObjectId) {
        put_varint(out, id.0 - self.next);
        self.next = id.0 + 1;
    }

    fn get(&mut self, from: &mut &[u8]) -> Result<ObjectId, ManifestError> {
        let id = self.next.checked_add(get_varint(from)?);
        let id = id
            .filter(|id| *id < u64::MAX)
            .ok_or_else(|| malformed("an id is out of range"))?;
        self.next = id + 1;
        Ok(ObjectId(id))
    }
}

fn put_name(out: &mut Vec<u8>, name: &ObjectName) {
    put_varint(out, name.term.0);
    out.extend_from_slice(name.id.as_bytes());
}

fn get_name(from: &mut &[u8]) -> Result<ObjectName, ManifestError> {
    Ok(ObjectName {
        term: Term(get_varint(from)?),
        id: get_uuid(from)?,
    })
}

/// Its extents and live bytes are counted as the extents are read.
fn get_object(from: &mut &[u8]) -> Result<Object, ManifestError> {
    Ok(Object {
        name: get_name(from)?,
        bytes: get_varint(from)?,
        footer_at: get_varint(from)?,
        footer_crc: from.try_get_u32_le()?,
        live_bytes: 0,
        extents: 0,
    })
}

/// Extents have no gaps, so only the first has a base offset.
fn put_extents(out: &mut Vec<u8>, extents: &[Extent]) {
    put_varint(out, extents.first().map_or(0, |extent| extent.base_offset.0));
    put_count(out, extents.len());
    let mut timestamp_before: i64 = 0;
    for extent in extents {
        let span = extent.end_offset.0 - extent.base_offset.0;
        put_varint(out, span);
        put_varint(out, extent.object.0);
        put_varint(out, extent.frame.into());
        put_varint(out, extent.raw_bytes);
        put_varint(out, extent.stored_bytes);
        put_signed_varint(out, extent.max_timestamp.0.wrapping_sub(timestamp_before));
        put_varint(out, span - extent.records);
        timestamp_before = extent.max_timestamp.0;
    }
}

fn get_extents(
    from: &mut &[u8],
    objects: &mut BTreeMap<ObjectId, Object>,
) -> Result<Vec<Extent>, ManifestError> {
    let mut base = get_varint(from)?;
    let count = get_count(from, EXTENT_BYTES_MIN)?;
    let mut extents = Vec::with_capacity(count);
    let mut timestamp: i64 = 0;
    for _ in 0..count {
        let span = get_varint(from)?;
        let end = base
            .checked_add(span)
            .ok_or_else(|| malformed("an offset is out of range"))?;
        let object = ObjectId(get_varint(from)?);
        let frame = get_u32_varint(from)?;
        let raw_bytes = get_varint(from)?;
        let stored_bytes = get_varint(from)?;
        timestamp = timestamp.wrapping_add(get_signed_varint(from)?);
        let missing = get_varint(from)?;
        let extent = Extent {
            base_offset: Offset(base),
            end_offset: Offset(end),
            object,
            frame,
            raw_bytes,
            stored_bytes,
            max_timestamp: TimestampMs(timestamp),
            records: span
                .checked_sub(missing)
                .ok_or_else(|| malformed("an extent lacks more records than it spans"))?,
        };
        // An object that is not there is found by the check at the end.
        if let Some(object) = objects.get_mut(&object) {
            object.extents = object.extents.saturating_add(1);
            object.live_bytes = object.live_bytes.saturating_add(stored_bytes);
        }
        extents.push(extent);
        base = end;
    }
    Ok(extents)
}
