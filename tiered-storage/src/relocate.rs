//! Carries merges and compaction out: reads extents from the bucket and makes the bundle that takes their place.
//!
//! Nothing is written here: upload the bundle ([`crate::upload`]), then propose the replacements. What is read lies in
//! memory as it lies in the bucket, at most as much as the plan or the group says, and the new bundle beside it.
//! Decompresses and compresses a frame at a time, a few milliseconds each.

use bytes::Bytes;
use meridian_types::{Offset, Partition, TimestampMs};
use meridian_wire::batch::{self, RecordsError};
use thiserror::Error;
use tokio::task::yield_now;

use crate::bundle::{Bundle, BundleError, BundleLimits, BundleWriter, PushError};
use crate::compact::{Compacted, Compactor, LatestOffsets, Noted};
use crate::manifest::{Extent, NewExtent, ObjectId, Replacement};
use crate::merge::MergePlan;
use crate::store::StoreError;

mod extents;

pub use extents::ExtentReader;

/// Extents that could not be rewritten. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RelocateError {
    /// The store failed. When it is retriable, plan again later.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An extent names an object that the manifest does not have. Plan anew from the present manifest.
    #[error("object {object} is not in the manifest")]
    UnknownObject {
        /// The object.
        object: ObjectId,
    },
    /// An object is damaged. Report it; what it holds cannot be rewritten.
    #[error("{key}: {error}")]
    Damaged {
        /// The object.
        object: ObjectId,
        /// Its key.
        key: String,
        /// What is wrong with it.
        error: BundleError,
    },
    /// Batches do not fit together, or are damaged inside. Report it.
    #[error(transparent)]
    Batches(#[from] PushError),
    /// The records of a batch cannot be read. Report it; do not compact the partition.
    #[error("{partition}: {error}")]
    Records {
        /// The partition.
        partition: Partition,
        /// What is wrong.
        error: RecordsError,
    },
}

/// Makes the bundle of a merge, and says what it replaces.
pub async fn merge(
    reader: &mut ExtentReader<'_>,
    plan: &MergePlan,
    limits: BundleLimits,
) -> Result<Option<(Bundle, Vec<Replacement>)>, RelocateError> {
    let extents = plan
        .runs
        .iter()
        .flat_map(|run| run.extents.iter().map(|extent| (run.partition, *extent)));
    let fetched = reader.fetch(&extents.collect::<Vec<_>>()).await?;
    let mut writer = BundleWriter::new(limits);
    for run in &plan.runs {
        let base = run.offsets().start;
        for extent in &run.extents {
            for frame in reader.frames(run.partition, extent)? {
                if frame.raw_len >= limits.frame_bytes / 2 {
                    // Large enough as it is: it costs no compression.
                    let stored = reader.stored(&fetched, extent, frame)?;
                    writer.push_frame(run.partition, frame, stored)?;
                } else {
                    // Extents may have been compacted, so offsets may be missing between batches.
                    let part = reader.unframe(&fetched, extent, frame)?;
                    writer.push_compacted(run.partition, base, &[part])?;
                }
                yield_now().await;
            }
        }
    }
    Ok(writer.finish().map(|bundle| {
        let replacements = plan.runs.iter().map(|run| {
            let mut extents = extents_of(&bundle, run.partition);
            // What the manifest says of batches without timestamps is not in the batches.
            if let Some(extent) = extents.last_mut() {
                extent.max_timestamp = greatest_timestamp(&run.extents).max(extent.max_timestamp);
            }
            Replacement {
                partition: run.partition,
                offsets: run.offsets(),
                extents,
            }
        });
        let replacements = replacements.collect();
        (bundle, replacements)
    }))
}

/// Notes the keys of extents that were not compacted yet ([`crate::compact::CompactionPlan::dirty`]), one after the other,
/// from `dirty_from` on. When they do not fit, or nothing is left to note, the pass reaches up to [`LatestOffsets::end`].
pub async fn note_keys(
    reader: &mut ExtentReader<'_>,
    partition: Partition,
    extents: &[Extent],
    dirty_from: Offset,
    latest: &mut LatestOffsets,
) -> Result<Noted, RelocateError> {
    let fetched = reader.fetch(&of(partition, extents)).await?;
    for extent in extents {
        for frame in reader.frames(partition, extent)? {
            let part = reader.unframe(&fetched, extent, frame)?;
            for batch in batch::batches(&part) {
                let batch = batch.map_err(|error| RelocateError::Records {
                    partition,
                    error: error.into(),
                })?;
                if batch.header.next_offset() <= dirty_from {
                    continue;
                }
                let noted = latest
                    .note(&batch.bytes)
                    .map_err(|error| RelocateError::Records { partition, error })?;
                if noted == Noted::Full {
                    return Ok(Noted::Full);
                }
            }
            yield_now().await;
        }
    }
    Ok(Noted::Yes)
}

/// Makes the bundle of one group of a compaction, and says what it replaces; `None` if it would change nothing.
pub async fn compact(
    reader: &mut ExtentReader<'_>,
    partition: Partition,
    group: &[Extent],
    compactor: &Compactor<'_>,
    limits: BundleLimits,
) -> Result<Option<(Bundle, Replacement)>, RelocateError> {
    let (Some(first), Some(last)) = (group.first(), group.last()) else {
        return Ok(None);
    };
    // No key was noted that could have made anything here old.
    if first.base_offset >= compactor.latest.end() {
        return Ok(None);
    }
    let offsets = first.base_offset..last.end_offset;
    let mut writer = BundleWriter::new(limits);
    let mut is_changed = group.len() > 1;
    let fetched = reader.fetch(&of(partition, group)).await?;
    for extent in group {
        for frame in reader.frames(partition, extent)? {
            let part = reader.unframe(&fetched, extent, frame)?;
            is_changed |= compact_part(&mut writer, partition, &part, &offsets, compactor)?;
            yield_now().await;
        }
    }
    if !is_changed {
        return Ok(None);
    }
    Ok(writer.finish().map(|bundle| {
        let mut extents = extents_of(&bundle, partition);
        // As in a merge; where there are timestamps, those of the records that are left count.
        for extent in extents
            .iter_mut()
            .filter(|extent| extent.max_timestamp < TimestampMs(0))
        {
            extent.max_timestamp = greatest_timestamp(group);
        }
        let replacement = Replacement {
            partition,
            offsets,
            extents,
        };
        (bundle, replacement)
    }))
}

/// Pushes what is left of some batches; whether that is less than they were.
fn compact_part(
    writer: &mut BundleWriter,
    partition: Partition,
    part: &Bytes,
    offsets: &std::ops::Range<Offset>,
    compactor: &Compactor<'_>,
) -> Result<bool, RelocateError> {
    let records = |error| RelocateError::Records { partition, error };
    let mut is_changed = false;
    for batch in batch::batches(part) {
        let batch = batch.map_err(|error| records(error.into()))?;
        let is_last = batch.header.next_offset() == offsets.end;
        let left = match compactor.batch(&batch.bytes, is_last).map_err(records)? {
            Compacted::Unchanged => batch.bytes,
            Compacted::Rewritten(bytes) => {
                is_changed = true;
                bytes
            }
            Compacted::Gone => {
                is_changed = true;
                continue;
            }
        };
        writer.push_compacted(partition, offsets.start, &[left])?;
    }
    Ok(is_changed)
}

fn of(partition: Partition, extents: &[Extent]) -> Vec<(Partition, Extent)> {
    extents.iter().map(|extent| (partition, *extent)).collect()
}

fn greatest_timestamp(extents: &[Extent]) -> TimestampMs {
    let timestamps = extents.iter().map(|extent| extent.max_timestamp);
    timestamps.max().unwrap_or(TimestampMs(-1))
}

fn extents_of(bundle: &Bundle, partition: Partition) -> Vec<NewExtent> {
    bundle
        .extents
        .iter()
        .filter(|(of, _)| *of == partition)
        .map(|(_, extent)| *extent)
        .collect()
}
