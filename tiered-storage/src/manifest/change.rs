//! The changes of a manifest: each is checked whole, then made whole.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use meridian_types::{Offset, Partition, RaftIndex, TimestampMs, TopicId};
use thiserror::Error;

use super::check::{check_extent, check_shape};
use super::{Extent, Manifest, NewExtent, NewObject, Object, ObjectId, ObjectName, Unlinked};

/// A run of a partition's offsets that lies in a new object from now on: merged or compacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// The partition.
    pub partition: Partition,
    /// What is replaced: from the base of one extent to the end of the same or a later one.
    pub offsets: Range<Offset>,
    /// What takes its place: the same offsets, without gaps.
    pub extents: Vec<NewExtent>,
}

/// A change that the manifest refuses; nothing was changed. Whatever was uploaded for it is an orphan: plan anew from
/// the manifest as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ManifestRejection {
    /// Another change came first.
    #[error(
        "the manifest is at sequence {actual}, the command expects {expected}: another change came first"
    )]
    Sequence {
        /// What the command named.
        expected: u64,
        /// What the manifest has.
        actual: u64,
    },
    /// The bundle brings nothing new.
    #[error("the bundle goes through entry {through}, the manifest already goes through {actual}")]
    Through {
        /// What the command named.
        through: RaftIndex,
        /// What the manifest has.
        actual: RaftIndex,
    },
    /// The object has a name that the manifest knows already.
    #[error("object {name} is already in the manifest; names are never used twice")]
    Name {
        /// The name.
        name: String,
    },
    /// Object or extents contradict themselves. The proposer is wrong.
    #[error("the command is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: String,
    },
    /// Offsets between what lies in the bucket and the new extent would be missing, though they can still be read.
    #[error("{partition}: offsets {end} to {base} would be missing in the bucket")]
    Gap {
        /// The partition.
        partition: Partition,
        /// Where the bucket must go on.
        end: Offset,
        /// Where the new extent begins.
        base: Offset,
    },
    /// The new extent begins before the end of what lies in the bucket.
    #[error("{partition}: an extent at {base} overlaps what lies in the bucket up to {end}")]
    Overlap {
        /// The partition.
        partition: Partition,
        /// Where the bucket goes on.
        end: Offset,
        /// Where the new extent begins.
        base: Offset,
    },
    /// What is to be replaced does not begin and end with extents.
    #[error("{partition}: no extents of the bucket cover exactly the offsets {start} to {end}")]
    NotCovered {
        /// The partition.
        partition: Partition,
        /// First offset of what is to be replaced.
        start: Offset,
        /// Offset behind its last.
        end: Offset,
    },
}

fn malformed(what: impl Into<String>) -> ManifestRejection {
    ManifestRejection::Malformed { what: what.into() }
}

impl Manifest {
    /// Takes over what `theirs` has in its bucket, whose objects lie in this one's bucket too, under the same names; what
    /// it had itself is unlinked. No entry of the log counts as tiered afterwards: the offsets alone say what is.
    pub fn adopt(&mut self, theirs: &Self, now: TimestampMs) {
        let names: BTreeSet<ObjectName> = theirs.objects.values().map(|object| object.name).collect();
        self.sequence += 1;
        self.through = RaftIndex(0);
        self.partitions.clear();
        let own = std::mem::take(&mut self.objects).into_iter();
        self.unlinked.extend(own.map(|(id, object)| {
            let unlinked = Unlinked {
                name: object.name,
                bytes: object.bytes,
                since: now,
            };
            (id, unlinked)
        }));
        self.unlinked
            .retain(|_, unlinked| !names.contains(&unlinked.name));
        let mut ids = BTreeMap::new();
        for (id, object) in &theirs.objects {
            let own = ObjectId(self.next_object);
            self.next_object += 1;
            ids.insert(*id, own);
            self.objects.insert(own, *object);
        }
        for (partition, extents) in &theirs.partitions {
            let extents = extents.iter().filter_map(|extent| {
                let object = *ids.get(&extent.object)?;
                Some(Extent { object, ..*extent })
            });
            self.partitions.insert(*partition, extents.collect());
        }
    }

    /// Commits a bundle: from now on the batches of all entries up to `through` lie in the bucket.
    ///
    /// `extents` are ordered by partition, those of a partition by offset. `log_starts` gives where the log of a
    /// partition starts now, `None` if its topic is gone: what lies below is not taken in, and only there may the
    /// offsets have gaps. `now` is the proposer's clock.
    pub fn add_bundle(
        &mut self,
        expected: u64,
        through: RaftIndex,
        object: NewObject,
        extents: &[(Partition, NewExtent)],
        log_starts: impl Fn(Partition) -> Option<Offset>,
        now: TimestampMs,
    ) -> Result<(), ManifestRejection> {
        self.expect_sequence(expected)?;
        if through <= self.through {
            return Err(ManifestRejection::Through {
                through,
                actual: self.through,
            });
        }
        self.check_object(&object, extents.iter().map(|(_, extent)| extent))?;
        let mut before: Option<(Partition, Offset)> = None;
        for (partition, extent) in extents {
            if before.is_some_and(|(last, _)| last > *partition) {
                return Err(malformed(format!("{partition} is out of order")));
            }
            let log_start = log_starts(*partition);
            let end = match before {
                Some((last, end)) if last == *partition => Some(end),
                _ => self.end(*partition),
            };
            check_continues(*partition, end, extent.base_offset, log_start)?;
            before = Some((*partition, extent.end_offset));
        }

        let id = self.begin(through);
        let mut live = Live::default();
        for group in extents.chunk_by(|left, right| left.0 == right.0) {
            let partition = group[0].0;
            let Some(log_start) = log_starts(partition) else {
                continue;
            };
            let fresh = group
                .iter()
                .map(|(_, extent)| extent)
                .filter(|extent| extent.end_offset > log_start);
            let list = self.partitions.entry(partition).or_default();
            list.extend(fresh.map(|extent| live.take(id, extent)));
            // Only extents below the log start can be followed by a gap.
            self.trim(partition, log_start, now);
        }
        self.insert(id, object, live, now);
        Ok(())
    }

    /// Puts merged or compacted extents in the place of those they were made from.
    ///
    /// `replacements` are ordered by partition, then offset. What was trimmed or dropped since the plan was made stays
    /// so. `now` is the proposer's clock.
    pub fn replace(
        &mut self,
        expected: u64,
        object: NewObject,
        replacements: &[Replacement],
        now: TimestampMs,
    ) -> Result<(), ManifestRejection> {
        self.expect_sequence(expected)?;
        self.check_object(
            &object,
            replacements.iter().flat_map(|replacement| &replacement.extents),
        )?;
        let mut before: Option<(Partition, Offset)> = None;
        for replacement in replacements {
            let Replacement {
                partition, offsets, ..
            } = replacement;
            if before.is_some_and(|before| before > (*partition, offsets.start)) {
                return Err(malformed(format!("{partition} is out of order")));
            }
            check_covers(replacement)?;
            self.find_replaced(replacement)?;
            before = Some((*partition, offsets.end));
        }

        let id = self.begin(self.through);
        let mut live = Live::default();
        for replacement in replacements {
            let replaced = self
                .find_replaced(replacement)
                .expect("checked above, and ranges do not overlap");
            let Some(list) = self.partitions.get_mut(&replacement.partition) else {
                continue;
            };
            if replaced.is_empty() {
                continue;
            }
            let start = list[replaced.start].base_offset;
            let fresh: Vec<Extent> = replacement
                .extents
                .iter()
                .filter(|extent| extent.end_offset > start)
                .map(|extent| live.take(id, extent))
                .collect();
            let old: Vec<Extent> = list.splice(replaced, fresh).collect();
            self.release(&old, now);
        }
        self.insert(id, object, live, now);
        Ok(())
    }

    /// Drops the extents that end at or before `log_start`.
    pub fn trim(&mut self, partition: Partition, log_start: Offset, now: TimestampMs) {
        let Some(list) = self.partitions.get_mut(&partition) else {
            return;
        };
        let gone = list.partition_point(|extent| extent.end_offset <= log_start);
        let old: Vec<Extent> = list.drain(..gone).collect();
        if list.is_empty() {
            self.partitions.remove(&partition);
        }
        self.release(&old, now);
    }

    /// Drops all extents of a topic.
    pub fn drop_topic(&mut self, topic: TopicId, now: TimestampMs) {
        let partitions: Vec<Partition> = self
            .partitions
            .range(Self::of_topic(topic))
            .map(|(partition, _)| *partition)
            .collect();
        for partition in partitions {
            let old = self.partitions.remove(&partition).unwrap_or_default();
            self.release(&old, now);
        }
    }

    /// Forgets unlinked objects after they were deleted from the bucket. Others are passed over.
    pub fn forget(&mut self, deleted: &[ObjectId]) {
        for id in deleted {
            self.unlinked.remove(id);
        }
    }

    fn expect_sequence(&self, expected: u64) -> Result<(), ManifestRejection> {
        if expected == self.sequence {
            return Ok(());
        }
        Err(ManifestRejection::Sequence {
            expected,
            actual: self.sequence,
        })
    }

    fn check_object<'a>(
        &self,
        object: &NewObject,
        extents: impl Iterator<Item = &'a NewExtent>,
    ) -> Result<(), ManifestRejection> {
        if self.names().any(|name| name == object.name) {
            return Err(ManifestRejection::Name {
                name: object.name.to_string(),
            });
        }
        let mut stored_bytes: u64 = 0;
        for extent in extents {
            check_extent(&Extent::new(ObjectId(0), extent)).map_err(malformed)?;
            stored_bytes = stored_bytes.saturating_add(extent.stored_bytes);
        }
        if stored_bytes == 0 {
            return Err(malformed("the object holds no extent"));
        }
        check_shape(object.bytes, object.footer_at, stored_bytes).map_err(malformed)
    }

    /// The extents that a replacement replaces, as positions in its partition's list; empty if they are all gone.
    fn find_replaced(&self, replacement: &Replacement) -> Result<Range<usize>, ManifestRejection> {
        let Replacement {
            partition, offsets, ..
        } = replacement;
        let list = self.extents(*partition);
        let first = list.partition_point(|extent| extent.end_offset <= offsets.start);
        let behind = list.partition_point(|extent| extent.base_offset < offsets.end);
        if list
            .first()
            .is_none_or(|extent| extent.base_offset >= offsets.end)
        {
            return Ok(0..0);
        }
        let begins = list.get(first).is_some_and(|extent| {
            extent.base_offset == offsets.start || (first == 0 && extent.base_offset > offsets.start)
        });
        let ends = behind > first && list[behind - 1].end_offset == offsets.end;
        if !begins || !ends {
            return Err(ManifestRejection::NotCovered {
                partition: *partition,
                start: offsets.start,
                end: offsets.end,
            });
        }
        Ok(first..behind)
    }

    fn begin(&mut self, through: RaftIndex) -> ObjectId {
        let id = ObjectId(self.next_object);
        self.next_object += 1;
        self.sequence += 1;
        self.through = through;
        id
    }

    fn insert(&mut self, id: ObjectId, object: NewObject, live: Live, now: TimestampMs) {
        let NewObject {
            name,
            bytes,
            footer_at,
            footer_crc,
        } = object;
        if live.extents == 0 {
            let unlinked = Unlinked {
                name,
                bytes,
                since: now,
            };
            self.unlinked.insert(id, unlinked);
            return;
        }
        let object = Object {
            name,
            bytes,
            footer_at,
            footer_crc,
            live_bytes: live.stored_bytes,
            extents: live.extents,
        };
        self.objects.insert(id, object);
    }

    /// Takes extents off their objects; an object without any is unlinked.
    fn release(&mut self, extents: &[Extent], now: TimestampMs) {
        for extent in extents {
            let Some(object) = self.objects.get_mut(&extent.object) else {
                continue;
            };
            object.extents -= 1;
            object.live_bytes -= extent.stored_bytes;
            if object.extents > 0 {
                continue;
            }
            let unlinked = Unlinked {
                name: object.name,
                bytes: object.bytes,
                since: now,
            };
            self.objects.remove(&extent.object);
            self.unlinked.insert(extent.object, unlinked);
        }
    }
}

/// What of a new object counts.
#[derive(Clone, Copy, Debug, Default)]
struct Live {
    extents: u32,
    stored_bytes: u64,
}

impl Live {
    fn take(&mut self, object: ObjectId, extent: &NewExtent) -> Extent {
        self.extents += 1;
        self.stored_bytes += extent.stored_bytes;
        Extent::new(object, extent)
    }
}

/// Whether an extent at `base` may follow what lies in the bucket up to `end`.
fn check_continues(
    partition: Partition,
    end: Option<Offset>,
    base: Offset,
    log_start: Option<Offset>,
) -> Result<(), ManifestRejection> {
    // A deleted topic's extents are not taken in, so they need not fit.
    let Some(log_start) = log_start else {
        return Ok(());
    };
    let continues_at = end.unwrap_or(log_start).max(log_start);
    if end.is_some_and(|end| base < end) {
        return Err(ManifestRejection::Overlap {
            partition,
            end: end.unwrap_or_default(),
            base,
        });
    }
    if base > continues_at {
        return Err(ManifestRejection::Gap {
            partition,
            end: continues_at,
            base,
        });
    }
    Ok(())
}

/// Whether the new extents of a replacement cover what it replaces, without gaps.
fn check_covers(replacement: &Replacement) -> Result<(), ManifestRejection> {
    let Replacement {
        partition,
        offsets,
        extents,
    } = replacement;
    let mut at = offsets.start;
    for extent in extents {
        if extent.base_offset != at {
            return Err(malformed(format!(
                "{partition}: an extent begins at {}, not at {at}",
                extent.base_offset
            )));
        }
        at = extent.end_offset;
    }
    if extents.is_empty() || at != offsets.end {
        return Err(malformed(format!(
            "{partition}: the new extents end at {at}, not at {}",
            offsets.end
        )));
    }
    Ok(())
}
