//! Which small extents to join. Pure.
//!
//! Rounds leave one small extent per partition every few seconds. Runs of neighbours of about one size are joined into
//! one, and those again, so that every byte is rewritten once per level: with eight to one, six times from 4 KiB to
//! 1 GiB. Partitions too small for an object of their own share one, each in one run.

use std::collections::{BTreeMap, BTreeSet};

use meridian_types::Partition;

use crate::manifest::{Extent, Manifest, ObjectId};

/// Extents below this size are all of the lowest level.
const LEVEL_BYTES: u64 = 4 << 10;

/// When and how much to merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeSettings {
    /// So many neighbours of one level or below are joined.
    pub extents_min: usize,
    /// The object that a plan makes is about so long at most; extents of half this size are left as they are.
    pub object_bytes_max: u64,
    /// A plan removes at least so many extents: a merge costs requests too.
    pub removed_min: usize,
    /// Objects of which less than a quarter counts are rewritten when so much comes free by it.
    pub freed_bytes_min: u64,
}

impl Default for MergeSettings {
    fn default() -> Self {
        Self {
            extents_min: 8,
            object_bytes_max: 64 << 20,
            removed_min: 7,
            freed_bytes_min: 64 << 20,
        }
    }
}

/// Neighbouring extents of one partition that are rewritten as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeRun {
    /// The partition.
    pub partition: Partition,
    /// Its extents, without gaps; at least one.
    pub extents: Vec<Extent>,
}

impl MergeRun {
    /// The offsets they cover.
    pub fn offsets(&self) -> std::ops::Range<meridian_types::Offset> {
        let end = self.extents.last().map(|extent| extent.end_offset);
        let base = self.extents.first().map(|extent| extent.base_offset);
        base.unwrap_or_default()..end.unwrap_or_default()
    }

    fn stored_bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.stored_bytes).sum()
    }
}

/// What goes into one new object: read the runs' extents, push them partition by partition into a bundle, upload it,
/// and commit it with [`Manifest::replace`] under `sequence`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergePlan {
    /// The manifest's sequence when the plan was made.
    pub sequence: u64,
    /// Ordered by partition, at most one of each.
    pub runs: Vec<MergeRun>,
}

impl MergePlan {
    /// Objects that must be read.
    pub fn sources(&self) -> impl Iterator<Item = ObjectId> {
        let extents = self.runs.iter().flat_map(|run| &run.extents);
        let ids: BTreeSet<_> = extents.map(|extent| extent.object).collect();
        ids.into_iter()
    }

    /// How many extents fewer there will be.
    pub fn removed(&self) -> usize {
        self.runs.iter().map(|run| run.extents.len() - 1).sum()
    }

    /// Bytes that must be read and written.
    pub fn stored_bytes(&self) -> u64 {
        self.runs.iter().map(MergeRun::stored_bytes).sum()
    }
}

/// The most rewarding merge, or else what frees the most, or `None` if nothing is worth its requests.
pub fn plan(manifest: &Manifest, settings: &MergeSettings) -> Option<MergePlan> {
    plan_without(manifest, settings, &BTreeSet::new())
}

/// The same, with nothing of some objects: those that are damaged stay as they are, and must not keep others from
/// being merged.
pub fn plan_without(
    manifest: &Manifest,
    settings: &MergeSettings,
    avoided: &BTreeSet<ObjectId>,
) -> Option<MergePlan> {
    plan_merge(manifest, settings, avoided).or_else(|| plan_reclaim(manifest, settings, avoided))
}

fn plan_merge(
    manifest: &Manifest,
    settings: &MergeSettings,
    avoided: &BTreeSet<ObjectId>,
) -> Option<MergePlan> {
    let mut candidates: Vec<MergeRun> = manifest
        .partitions()
        .filter_map(|(partition, extents)| best_run(partition, extents, settings, avoided))
        .collect();
    // Where a byte rewritten removes most extents; the order of partitions decides between equals.
    candidates.sort_by(|left, right| {
        let score = |run: &MergeRun| run.extents.len() as u128;
        let (left_bytes, right_bytes) = (u128::from(left.stored_bytes()), u128::from(right.stored_bytes()));
        (score(right) * left_bytes.max(1)).cmp(&(score(left) * right_bytes.max(1)))
    });
    let plan = fill(manifest, candidates, settings);
    (!plan.runs.is_empty() && plan.removed() >= settings.removed_min).then_some(plan)
}

/// Moves what is left in mostly dead objects. What comes of it is dense, so it is not moved again for this reason.
fn plan_reclaim(
    manifest: &Manifest,
    settings: &MergeSettings,
    avoided: &BTreeSet<ObjectId>,
) -> Option<MergePlan> {
    let sparse: BTreeSet<ObjectId> = manifest
        .objects()
        .filter(|(_, object)| object.live_bytes < object.footer_at / 4)
        .map(|(id, _)| id)
        .filter(|id| !avoided.contains(id))
        .collect();
    if sparse.is_empty() {
        return None;
    }
    let is_sparse = |extent: &Extent| sparse.contains(&extent.object);
    let candidates = manifest.partitions().filter_map(|(partition, extents)| {
        let mut runs = extents.chunk_by(|left, right| is_sparse(left) && is_sparse(right));
        let run = within(runs.find(|run| is_sparse(&run[0]))?, settings.object_bytes_max);
        (!run.is_empty()).then(|| MergeRun {
            partition,
            extents: run.to_vec(),
        })
    });
    let plan = fill(manifest, candidates.collect(), settings);
    // Only objects that lose their last extent come free.
    let mut left: BTreeMap<ObjectId, u32> = BTreeMap::new();
    for extent in plan.runs.iter().flat_map(|run| &run.extents) {
        *left.entry(extent.object).or_default() += 1;
    }
    let freed: u64 = left
        .iter()
        .filter_map(|(id, moved)| manifest.object(*id).filter(|object| object.extents == *moved))
        .map(|object| object.bytes - object.live_bytes)
        .sum();
    (freed >= settings.freed_bytes_min).then_some(plan)
}

/// As many candidates as fit into one object, in their order; at least the first.
fn fill(manifest: &Manifest, candidates: Vec<MergeRun>, settings: &MergeSettings) -> MergePlan {
    let mut runs: BTreeMap<Partition, MergeRun> = BTreeMap::new();
    let mut bytes = 0;
    for run in candidates {
        bytes += run.stored_bytes();
        if bytes > settings.object_bytes_max && !runs.is_empty() {
            break;
        }
        runs.insert(run.partition, run);
    }
    MergePlan {
        sequence: manifest.sequence(),
        runs: runs.into_values().collect(),
    }
}

/// The lowest level at which enough neighbours are found, and the oldest of them.
fn best_run(
    partition: Partition,
    extents: &[Extent],
    settings: &MergeSettings,
    avoided: &BTreeSet<ObjectId>,
) -> Option<MergeRun> {
    let fan_in = settings.extents_min.max(2);
    let small = |extent: &Extent| {
        extent.stored_bytes < settings.object_bytes_max / 2 && !avoided.contains(&extent.object)
    };
    let level_max = extents
        .iter()
        .filter(|extent| small(extent))
        .map(|extent| level(extent, fan_in))
        .max()?;
    for at in 0..=level_max {
        let belongs = |extent: &Extent| small(extent) && level(extent, fan_in) <= at;
        for run in extents.chunk_by(|left, right| belongs(left) && belongs(right)) {
            if run.len() < fan_in || !belongs(&run[0]) {
                continue;
            }
            let run = within(run, settings.object_bytes_max);
            // What does not fit together is found again at a higher level, or is large enough.
            if run.len() >= fan_in.min(4) {
                return Some(MergeRun {
                    partition,
                    extents: run.to_vec(),
                });
            }
        }
    }
    None
}

/// The first extents of a run that are not longer than `bytes_max` together.
fn within(run: &[Extent], bytes_max: u64) -> &[Extent] {
    let mut bytes = 0;
    let count = run
        .iter()
        .take_while(|extent| {
            bytes += extent.stored_bytes;
            bytes <= bytes_max
        })
        .count();
    &run[..count]
}

/// 0 up to [`LEVEL_BYTES`], and one more for each `fan_in` times as much.
fn level(extent: &Extent, fan_in: usize) -> u32 {
    (extent.stored_bytes / LEVEL_BYTES).max(1).ilog(fan_in as u64)
}

#[cfg(test)]
mod tests;
