//! Compaction: of every key the latest record stays, as with Kafka's `cleanup.policy=compact`. Pure.
//!
//! A pass over a partition: [`plan`] says whether it is due and how far it reaches; [`LatestOffsets`] notes the latest
//! offset of every key in the part that was not compacted before; [`Compactor::batch`] then says of each batch, from
//! the partition's first extent on, what is left of it. Offsets, timestamps and the producer's fields are kept.

use std::cell::Cell;
use std::collections::HashMap;

use bytes::Bytes;
use meridian_types::{Offset, TimestampMs};
use meridian_wire::batch::{self, BatchHeader, RecordsError, records, retain};

use crate::manifest::Extent;

/// Bytes that a key costs in [`LatestOffsets`] besides its own.
const KEY_OVERHEAD_BYTES: usize = 64;

/// When a topic is compacted, by its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CompactionSettings {
    /// `min.cleanable.dirty.ratio`: what was not compacted yet must make up so much of the bytes.
    pub dirty_ratio_min: f64,
    /// `min.compaction.lag.ms`: younger batches are left alone.
    pub lag_min_ms: u64,
    /// `max.compaction.lag.ms`: whatever the ratio, older batches are compacted.
    pub lag_max_ms: u64,
    /// `delete.retention.ms`: so long after they were first compacted, tombstones can be read.
    pub delete_retention_ms: u64,
    /// A compacted object is about so long at most.
    pub object_bytes_max: u64,
}

impl Default for CompactionSettings {
    fn default() -> Self {
        Self {
            dirty_ratio_min: 0.5,
            lag_min_ms: 0,
            lag_max_ms: i64::MAX as u64,
            delete_retention_ms: 24 * 60 * 60 * 1000,
            object_bytes_max: 64 << 20,
        }
    }
}

/// A pass over a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactionPlan {
    /// Keys are noted from here on: what lies before was compacted by the last pass.
    pub dirty_from: Offset,
    /// The partition's first extents, up to where the pass reaches, in groups of one new object each. Rewrite the groups
    /// in order, each with one `Replaced` of its own.
    pub groups: Vec<Vec<Extent>>,
}

impl CompactionPlan {
    /// The offset behind the last batch that takes part.
    pub fn end(&self) -> Offset {
        let last = self.groups.last().and_then(|group| group.last());
        last.map_or(self.dirty_from, |extent| extent.end_offset)
    }

    /// The extents in which keys are noted.
    pub fn dirty(&self) -> impl Iterator<Item = &Extent> {
        let dirty_from = self.dirty_from;
        self.groups
            .iter()
            .flatten()
            .filter(move |extent| extent.end_offset > dirty_from)
    }
}

/// Whether a pass is due, and what it covers.
///
/// `extents` are all of the partition's, `clean_end` is where the last pass ended, as far as the caller knows; when it
/// forgot, it starts with 0 and one pass more is made.
pub fn plan(
    extents: &[Extent],
    clean_end: Offset,
    now: TimestampMs,
    settings: &CompactionSettings,
) -> Option<CompactionPlan> {
    let youngest = now.0.saturating_sub_unsigned(settings.lag_min_ms);
    let count = extents
        .iter()
        .position(|extent| extent.max_timestamp.0 > youngest)
        .unwrap_or(extents.len());
    let extents = &extents[..count];
    let dirty_from = extents.partition_point(|extent| extent.end_offset <= clean_end);
    let (clean, dirty) = extents.split_at(dirty_from);
    let bytes = |extents: &[Extent]| extents.iter().map(|extent| extent.raw_bytes).sum::<u64>() as f64;
    let oldest = now.0.saturating_sub_unsigned(settings.lag_max_ms);
    let is_overdue = dirty.iter().any(|extent| extent.max_timestamp.0 < oldest);
    let first = dirty.first()?;
    if !is_overdue && bytes(dirty) < settings.dirty_ratio_min * (bytes(clean) + bytes(dirty)) {
        return None;
    }
    let mut groups: Vec<Vec<Extent>> = Vec::new();
    let mut group_bytes = 0;
    for extent in extents {
        group_bytes += extent.stored_bytes;
        match groups.last_mut() {
            Some(group) if group_bytes <= settings.object_bytes_max => group.push(*extent),
            _ => {
                groups.push(vec![*extent]);
                group_bytes = extent.stored_bytes;
            }
        }
    }
    Some(CompactionPlan {
        // A pass may have ended within an extent: were that noted from its beginning, no pass might ever come further.
        dirty_from: first.base_offset.max(clean_end),
        groups,
    })
}

/// Whether a batch's keys were noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// They were.
    Yes,
    /// There is no room: none of them was. The pass ends before this batch.
    Full,
}

/// The latest offset of every key, exactly: keys are compared whole.
#[derive(Clone, Debug)]
pub struct LatestOffsets {
    offsets: HashMap<Box<[u8]>, Offset>,
    bytes: usize,
    bytes_max: usize,
    /// The offset behind the last batch that was noted.
    end: Offset,
    decompressed_bytes_max: usize,
}

impl LatestOffsets {
    /// Of nothing yet, with room for about `bytes_max`. Batches decompress to at most `decompressed_bytes_max`.
    pub fn new(bytes_max: usize, decompressed_bytes_max: usize) -> Self {
        Self {
            offsets: HashMap::new(),
            bytes: 0,
            bytes_max,
            end: Offset(0),
            decompressed_bytes_max,
        }
    }

    /// The offset behind the last batch that was noted. Records from here on are left alone.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Keys noted.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether no key was noted.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Notes the keys of a batch. Batches come in the order of their offsets.
    ///
    /// Errors: the batch is damaged; nothing of it was noted. Do not compact the partition, report the damage.
    pub fn note(&mut self, batch: &Bytes) -> Result<Noted, RecordsError> {
        let header = BatchHeader::parse(batch)?;
        if !header.is_control {
            let mut keys = Vec::with_capacity(header.record_count.min(1 << 16) as usize);
            let mut bytes = 0;
            for record in records(batch, self.decompressed_bytes_max)? {
                let record = record?;
                if let Some(key) = record.key {
                    if !self.offsets.contains_key(&key[..]) {
                        bytes += key.len() + KEY_OVERHEAD_BYTES;
                    }
                    keys.push((key, record.offset));
                }
            }
            if self.bytes + bytes > self.bytes_max && !self.offsets.is_empty() {
                return Ok(Noted::Full);
            }
            for (key, offset) in keys {
                if let Some(latest) = self.offsets.get_mut(&key[..]) {
                    *latest = (*latest).max(offset);
                } else {
                    self.bytes += key.len() + KEY_OVERHEAD_BYTES;
                    self.offsets.insert(key.to_vec().into_boxed_slice(), offset);
                }
            }
        }
        self.end = header.next_offset();
        Ok(Noted::Yes)
    }

    fn is_latest(&self, key: &[u8], offset: Offset) -> bool {
        self.offsets.get(key).is_none_or(|latest| offset >= *latest)
    }
}

/// What is left of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compacted {
    /// All of it: write it as it is.
    Unchanged,
    /// Some of it, or its tombstones were given the time at which they go.
    Rewritten(Bytes),
    /// Nothing.
    Gone,
}

/// Says of each batch what is left of it.
#[derive(Clone, Copy, Debug)]
pub struct Compactor<'a> {
    /// The latest offset of each key.
    pub latest: &'a LatestOffsets,
    /// The leader's clock.
    pub now: TimestampMs,
    /// `delete.retention.ms`.
    pub delete_retention_ms: u64,
}

impl Compactor<'_> {
    /// What is left of `batch`. The last batch of a group is kept even if it is empty (`is_last`), so that offsets which
    /// were are never taken for offsets that are to come.
    ///
    /// Records without a key go, as in Kafka; transaction markers stay. A tombstone stays until `delete.retention.ms`
    /// after the pass that first met it, which is written into the batch (KIP-534).
    /// Errors: the batch is damaged. Give the pass up and report the damage.
    pub fn batch(&self, batch: &Bytes, is_last: bool) -> Result<Compacted, RecordsError> {
        let header = BatchHeader::parse(batch)?;
        batch::verify_crc(batch)?;
        if header.is_control || header.base_offset >= self.latest.end() {
            return Ok(Compacted::Unchanged);
        }
        let keeps_tombstones = header.delete_horizon.is_none_or(|horizon| self.now < horizon);
        let has_tombstone = Cell::new(false);
        let count = Cell::new(0_u32);
        let keep = |record: &batch::Record| {
            let is_latest = record
                .key
                .as_ref()
                .is_some_and(|key| self.latest.is_latest(key, record.offset));
            let stays = is_latest && (record.value.is_some() || keeps_tombstones);
            has_tombstone.set(has_tombstone.get() || stays && record.value.is_none());
            count.set(count.get() + u32::from(stays));
            stays
        };
        let limit = self.latest.decompressed_bytes_max;
        let mut rebuilt = retain(batch, limit, None, keep)?;
        let kept = count.get();
        if has_tombstone.get() && header.delete_horizon.is_none() {
            let horizon = self.now.0.saturating_add_unsigned(self.delete_retention_ms);
            rebuilt = retain(batch, limit, Some(TimestampMs(horizon)), keep)?;
        }
        Ok(match rebuilt {
            // An empty batch may already lie there, from an earlier pass.
            _ if kept == 0 && !is_last => Compacted::Gone,
            None => Compacted::Unchanged,
            Some(rebuilt) => Compacted::Rewritten(rebuilt),
        })
    }
}

#[cfg(test)]
mod tests;
