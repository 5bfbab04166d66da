//! What of a shard is committed to lie in the bucket.
//!
//! The manifest is part of the shard's replicated state: it changes only by commands of the shard's log, so it, and
//! never a listing or an error of the store, says which objects hold which offsets. Format:
//! `docs/formats/manifest.md`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use meridian_types::{Offset, Partition, RaftIndex, ShardId, Term, TimestampMs, TopicId, Uuid};

mod change;
mod check;
mod codec;
#[cfg(test)]
mod tests;

pub use change::{ManifestRejection, Replacement};
pub use codec::{MANIFEST_VERSION, ManifestError};

/// Number of an object in its shard's manifest, in the order of their commits; never given twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub u64);

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Name of a bundle in the bucket: unique for ever, so that a retried upload harms nothing and a leader that was
/// deposed can only leave an orphan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Term of the leader that wrote it.
    pub term: Term,
    /// Drawn for this object.
    pub id: Uuid,
}

impl ObjectName {
    /// Key of the bundle, below the store's prefix: `<cluster>/<shard>/<term>-<id>.bundle`.
    pub fn key(&self, cluster: &str, shard: ShardId) -> String {
        format!("{}/{self}", Self::prefix(cluster, shard))
    }

    /// What the keys of all bundles of a shard begin with, without the last `/`. State objects of the shard lie
    /// deeper below it.
    pub fn prefix(cluster: &str, shard: ShardId) -> String {
        format!("{cluster}/{shard}")
    }

    /// Reads the last part of a key; `None` unless it is that of a bundle.
    pub fn parse(file_name: &str) -> Option<Self> {
        let (term, id) = file_name.strip_suffix(".bundle")?.split_once('-')?;
        let name = Self {
            term: Term(u64::from_str_radix(term, 16).ok()?),
            id: Uuid::try_parse(id).ok()?,
        };
        (name.to_string() == file_name).then_some(name)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}.bundle", self.term.0, self.id)
    }
}

/// A bundle that is about to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewObject {
    /// Its name.
    pub name: ObjectName,
    /// Length of the whole object.
    pub bytes: u64,
    /// Where its footer begins; the rest of the object is the footer.
    pub footer_at: u64,
    /// CRC32C of the footer, from `footer_at` to the trailer.
    pub footer_crc: u32,
}

/// A bundle that holds offsets which still count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub name: ObjectName,
    /// Length of the whole object.
    pub bytes: u64,
    /// Where its footer begins; the rest of the object is the footer.
    pub footer_at: u64,
    /// CRC32C of the footer, from `footer_at` to the trailer.
    pub footer_crc: u32,
    /// Stored bytes of the extents that still lie in it. Invariant: their sum.
    pub live_bytes: u64,
    /// How many extents still lie in it. Invariant: at least 1.
    pub extents: u32,
}

/// A run of one partition's offsets in a bundle that is about to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewExtent {
    /// Its first offset; after compaction possibly one without a record.
    pub base_offset: Offset,
    /// The offset behind its last.
    pub end_offset: Offset,
    /// Its first frame in the bundle's directory; it takes all frames of its partition from there up to `end_offset`.
    pub frame: u32,
    /// Bytes of its batches.
    pub raw_bytes: u64,
    /// Bytes of its frames as they lie in the object.
    pub stored_bytes: u64,
    /// Greatest timestamp of its batches.
    pub max_timestamp: TimestampMs,
    /// Records in it: as many as offsets, fewer after compaction.
    pub records: u64,
}

/// A run of one partition's offsets in one object. Those of a partition follow one another without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its first offset; after compaction possibly one without a record.
    pub base_offset: Offset,
    /// The offset behind its last.
    pub end_offset: Offset,
    /// The object that holds it.
    pub object: ObjectId,
    /// Its first frame in the bundle's directory; it takes all frames of its partition from there up to `end_offset`.
    pub frame: u32,
    /// Bytes of its batches.
    pub raw_bytes: u64,
    /// Bytes of its frames as they lie in the object.
    pub stored_bytes: u64,
    /// Greatest timestamp of its batches.
    pub max_timestamp: TimestampMs,
    /// Records in it: as many as offsets, fewer after compaction.
    pub records: u64,
}

impl Extent {
    /// Its offsets.
    pub fn offsets(&self) -> Range<Offset> {
        self.base_offset..self.end_offset
    }

    fn new(object: ObjectId, extent: &NewExtent) -> Self {
        Self {
            base_offset: extent.base_offset,
            end_offset: extent.end_offset,
            object,
            frame: extent.frame,
            raw_bytes: extent.raw_bytes,
            stored_bytes: extent.stored_bytes,
            max_timestamp: extent.max_timestamp,
            records: extent.records,
        }
    }
}

/// An object whose last extent is gone. It is deleted after the grace period, then forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unlinked {
    /// Its name.
    pub name: ObjectName,
    /// Length of the whole object.
    pub bytes: u64,
    /// When it was unlinked, by the clock of the leader that proposed the command.
    pub since: TimestampMs,
}

/// What a manifest holds, in sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Objects with extents.
    pub objects: u64,
    /// Their bytes.
    pub object_bytes: u64,
    /// Bytes of them that extents take; the rest is footers and what nobody needs any more.
    pub live_bytes: u64,
    /// Partitions with extents.
    pub partitions: u64,
    /// Extents.
    pub extents: u64,
    /// Bytes of their batches.
    pub raw_bytes: u64,
    /// Records in them.
    pub records: u64,
    /// Objects that wait for their deletion.
    pub unlinked: u64,
    /// Their bytes.
    pub unlinked_bytes: u64,
}

/// What of a shard is committed to lie in the bucket. Equal manifests encode to equal bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Rises by one with every bundle that is added and with every replacement; guards both against a proposer that
    /// did not see the last one.
    sequence: u64,
    /// Batches of all entries up to here lie in the bucket, unless they were deleted before.
    through: RaftIndex,
    /// Invariant: higher than every id below.
    next_object: u64,
    objects: BTreeMap<ObjectId, Object>,
    /// Invariant: no list is empty or has gaps; every extent's object is in `objects`.
    partitions: BTreeMap<Partition, Vec<Extent>>,
    /// Invariant: no id is also in `objects`.
    unlinked: BTreeMap<ObjectId, Unlinked>,
}

impl Manifest {
    /// Nothing lies in the bucket.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the next [`Self::add_bundle`] or [`Self::replace`] must name as the one it expects.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The last entry of the shard's log whose batches lie in the bucket, with those of all before it.
    pub fn through(&self) -> RaftIndex {
        self.through
    }

    /// Whether nothing lies in the bucket and nothing is waiting to be deleted there.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.unlinked.is_empty()
    }

    /// Partitions that have extents, in order.
    pub fn partitions(&self) -> impl Iterator<Item = (Partition, &[Extent])> {
        self.partitions
            .iter()
            .map(|(partition, extents)| (*partition, extents.as_slice()))
    }

    /// Extents of a partition in the order of their offsets, without gaps; empty if it has none.
    pub fn extents(&self, partition: Partition) -> &[Extent] {
        self.partitions.get(&partition).map_or(&[], Vec::as_slice)
    }

    /// First offset of a partition in the bucket.
    pub fn start(&self, partition: Partition) -> Option<Offset> {
        self.extents(partition).first().map(|extent| extent.base_offset)
    }

    /// Offset behind the last of a partition in the bucket.
    pub fn end(&self, partition: Partition) -> Option<Offset> {
        self.extents(partition).last().map(|extent| extent.end_offset)
    }

    /// Bytes of the batches of a partition's extents that begin before `end`.
    pub fn raw_bytes_before(&self, partition: Partition, end: Offset) -> u64 {
        let extents = self.extents(partition);
        extents[..extents.partition_point(|extent| extent.base_offset < end)]
            .iter()
            .map(|extent| extent.raw_bytes)
            .sum()
    }

    /// Objects that hold extents, by id.
    pub fn objects(&self) -> impl Iterator<Item = (ObjectId, &Object)> {
        self.objects.iter().map(|(id, object)| (*id, object))
    }

    /// An object that holds extents.
    pub fn object(&self, id: ObjectId) -> Option<&Object> {
        self.objects.get(&id)
    }

    /// Objects that wait for their deletion, by id.
    pub fn unlinked(&self) -> impl Iterator<Item = (ObjectId, &Unlinked)> {
        self.unlinked.iter().map(|(id, object)| (*id, object))
    }

    /// Names of all objects the manifest knows, those that wait for their deletion included. Others of the shard in
    /// the bucket are orphans, or bundles on their way.
    pub fn names(&self) -> impl Iterator<Item = ObjectName> {
        let live = self.objects.values().map(|object| object.name);
        live.chain(self.unlinked.values().map(|object| object.name))
    }

    /// The extent that covers `offset`.
    pub fn find(&self, partition: Partition, offset: Offset) -> Option<(&Extent, &Object)> {
        let extents = self.extents(partition);
        let at = extents.partition_point(|extent| extent.end_offset <= offset);
        let extent = extents.get(at).filter(|extent| extent.base_offset <= offset)?;
        Some((extent, self.objects.get(&extent.object)?))
    }

    /// The first extent that reaches beyond `from` and has a batch of `timestamp` or later. The record looked for may
    /// still lie in a later one: batches before `from` count into the extent's greatest timestamp.
    pub fn find_timestamp(
        &self,
        partition: Partition,
        timestamp: TimestampMs,
        from: Offset,
    ) -> Option<&Extent> {
        let extents = self.extents(partition);
        let at = extents.partition_point(|extent| extent.end_offset <= from);
        extents[at..]
            .iter()
            .find(|extent| extent.max_timestamp >= timestamp)
    }

    /// Sums over everything; takes time in proportion to the manifest.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            objects: self.objects.len() as u64,
            partitions: self.partitions.len() as u64,
            unlinked: self.unlinked.len() as u64,
            ..Totals::default()
        };
        for object in self.objects.values() {
            totals.object_bytes += object.bytes;
            totals.live_bytes += object.live_bytes;
        }
        for extent in self.partitions.values().flatten() {
            totals.extents += 1;
            totals.raw_bytes += extent.raw_bytes;
            totals.records += extent.records;
        }
        totals.unlinked_bytes = self.unlinked.values().map(|object| object.bytes).sum();
        totals
    }

    /// The range of keys that holds every partition of a topic.
    fn of_topic(topic: TopicId) -> std::ops::RangeInclusive<Partition> {
        Partition { topic, index: 0 }..=Partition {
            topic,
            index: u32::MAX,
        }
    }
}
