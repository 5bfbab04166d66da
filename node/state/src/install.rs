//! How a checkpoint of the owner takes the place of a mirror's content. Why it is so:
//! `docs/decisions/0019-checkpoints-between-regions.md`.
//!
//! It comes in through the log, so that every replica has it in the same place: the owner's snapshot in parts, then the
//! batches that the bucket does not hold, each in the entry that brings it. Nobody sees anything of it until the last
//! command, which takes it whole or not at all.

use std::collections::BTreeMap;

use meridian_lineage::{InstallRejected, StagePart, StageRejected, Staging, Standing};
use meridian_tiered_storage::manifest::Manifest;
use meridian_types::{LogPosition, Offset, Partition, RaftIndex};
use thiserror::Error;

use crate::chunk::{Chunk, ChunkIndex};
use crate::command::{FillGroup, Install, fill_header_bytes};
use crate::hasher::IdMap;
use crate::mirror::Mirrored;
use crate::partition::PartitionState;
use crate::state::State;

/// Why batches for a checkpoint were not taken. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FillRejected {
    /// The checkpoint is not staged, or not whole: look again.
    #[error("the checkpoint is not staged")]
    NotStaged,
    /// The batches do not continue what was filled: look again where it ends.
    #[error("batches of {partition} at {base_offset} do not continue what was filled")]
    OutOfStep {
        /// The partition.
        partition: Partition,
        /// Where they begin.
        base_offset: Offset,
    },
}

/// A checkpoint of the owner, as far as it has come.
#[derive(Clone, Debug)]
pub(crate) struct Staged {
    pub(crate) staging: Staging,
    /// Batches that came for it. Invariant: no list is empty.
    pub(crate) filled: BTreeMap<Partition, ChunkIndex>,
}

impl State {
    /// The checkpoint that is whole here and not installed yet: its name and its bytes.
    pub fn staged(&self) -> Option<(u64, &[u8])> {
        let staging = &self.staged.as_ref()?.staging;
        Some((staging.checkpoint(), staging.whole()?))
    }

    /// Whether a checkpoint is on its way in.
    pub fn is_staging(&self) -> bool {
        self.staged.is_some()
    }

    /// From where to where batches of a partition have come for the staged checkpoint.
    pub fn filled(&self, partition: Partition) -> Option<(Offset, Offset)> {
        let chunks = self.staged.as_ref()?.filled.get(&partition)?;
        Some((chunks.first()?.base_offset, chunks.last()?.end_offset()))
    }

    /// From where on the batches of a partition are needed, for a checkpoint in which it stands like `theirs`; `None` if
    /// everything is here. `tiered_end`: up to where the bucket will have them.
    pub fn missing_from(
        &self,
        partition: Partition,
        theirs: &PartitionState,
        tiered_end: Option<Offset>,
    ) -> Option<Offset> {
        let base = base_of(theirs, tiered_end);
        let own = self
            .partition(partition)
            .filter(|own| continues(own, theirs, base));
        let from = own.map_or(base, PartitionState::high_watermark);
        let from = self.filled(partition).map_or(from, |(_, end)| end);
        (from < theirs.high_watermark).then_some(from)
    }

    pub(crate) fn stage(&mut self, part: &StagePart) -> Result<(), StageRejected> {
        self.standing.check_stage()?;
        let mut staging = self.staged.take().map(|staged| *staged);
        let filled = match (&mut staging, part.at) {
            (Some(staged), 1..) => std::mem::take(&mut staged.filled),
            _ => BTreeMap::new(),
        };
        let mut staging = staging.map(|staged| staged.staging);
        let taken = Staging::take(&mut staging, part);
        self.staged = staging.map(|staging| Box::new(Staged { staging, filled }));
        taken
    }

    pub(crate) fn fill(
        &mut self,
        index: RaftIndex,
        checkpoint: u64,
        groups: &[FillGroup],
    ) -> Result<(), FillRejected> {
        let staged = self
            .staged
            .as_mut()
            .filter(|staged| staged.staging.checkpoint() == checkpoint && staged.staging.whole().is_some());
        let staged = staged.ok_or(FillRejected::NotStaged)?;
        // All or nothing.
        let mut ends: BTreeMap<Partition, Offset> = BTreeMap::new();
        let mut at = fill_header_bytes(groups);
        let mut chunks = Vec::with_capacity(groups.len());
        for group in groups {
            let FillGroup {
                partition,
                base_offset,
                end_offset,
                ..
            } = *group;
            let out_of_step = FillRejected::OutOfStep {
                partition,
                base_offset,
            };
            let end = ends.get(&partition).copied().or_else(|| {
                let last = staged.filled.get(&partition)?.last()?;
                Some(last.end_offset())
            });
            let count = end_offset.0.checked_sub(base_offset.0).filter(|count| *count > 0);
            let count = count.and_then(|count| u32::try_from(count).ok());
            let lengths = (u32::try_from(at).ok(), u32::try_from(group.bytes.len()).ok());
            let is_whole = end.is_none_or(|end| end == base_offset) && i64::try_from(end_offset.0).is_ok();
            let (Some(count), (Some(place), Some(bytes)), true) = (count, lengths, is_whole) else {
                return Err(out_of_step);
            };
            chunks.push((
                partition,
                Chunk {
                    base_offset,
                    index,
                    max_timestamp: group.max_timestamp,
                    count,
                    at: place,
                    bytes,
                },
            ));
            ends.insert(partition, end_offset);
            at += group.bytes.len();
        }
        for (partition, chunk) in chunks {
            staged.filled.entry(partition).or_default().push(chunk);
        }
        Ok(())
    }

    pub(crate) fn install(
        &mut self,
        at: LogPosition,
        install: &Install,
    ) -> Result<Mirrored, InstallRejected> {
        let staged = self.staged.as_ref();
        let staged = staged.filter(|staged| staged.staging.checkpoint() == install.checkpoint);
        let staged = staged.ok_or(InstallRejected::NotStaged)?;
        let body = staged.staging.whole().ok_or(InstallRejected::NotStaged)?;
        let is_empty = self.topics.is_empty() && self.groups.iter().len() == 0 && self.dropped.is_empty();
        if !self.standing.is_counted() && !is_empty {
            return Err(InstallRejected::History);
        }
        let theirs = Self::decode_snapshot(body).map_err(|error| unusable(error.to_string()))?;
        if theirs.shard != self.shard {
            return Err(unusable(format!("it is of shard {}", theirs.shard)));
        }
        self.standing.check_install(&theirs.standing)?;
        let next = self.installed(at, theirs, &staged.filled, install)?;
        next.check().map_err(unusable)?;
        *self = next;
        let moved: Vec<Partition> = self.partitions().map(|(partition, _)| partition).collect();
        Ok(Mirrored {
            sequence: self.standing.sequence(),
            commands: 0,
            moved,
        })
    }

    /// The state with the content of `theirs`.
    fn installed(
        &self,
        at: LogPosition,
        theirs: Self,
        filled: &BTreeMap<Partition, ChunkIndex>,
        install: &Install,
    ) -> Result<Self, InstallRejected> {
        let starts: BTreeMap<Partition, Offset> = install.starts.iter().copied().collect();
        let tiered = match install.has_objects {
            true => theirs.tier.manifest.clone(),
            false => Manifest::default(),
        };
        let mut topics: IdMap<_, BTreeMap<u32, Box<PartitionState>>> = IdMap::default();
        for (topic, partitions) in theirs.topics {
            let mut installed = BTreeMap::new();
            for (index, mut state) in partitions {
                let partition = Partition { topic, index };
                state.drop_chunks();
                if let Some(start) = starts.get(&partition) {
                    state.set_log_start(*start);
                }
                let base = base_of(&state, tiered.end(partition));
                let own = self
                    .partition(partition)
                    .filter(|own| continues(own, &state, base));
                let chunks = chunks(&state, base, own, filled.get(&partition)).map_err(|missing| {
                    unusable(format!("records of {partition} from {missing} on are missing"))
                })?;
                let log_start = state.log_start_offset();
                for chunk in chunks.into_iter().filter(|chunk| chunk.end_offset() > log_start) {
                    state.push_chunk(chunk);
                }
                installed.insert(index, state);
            }
            topics.insert(topic, installed);
        }
        let mut next = Self {
            shard: self.shard,
            applied: at,
            topics,
            groups: theirs.groups,
            dropped: theirs.dropped,
            tier: self.tier.clone(),
            standing: Standing::mirror_of(&theirs.standing, at.index),
            staged: None,
        };
        if self.is_tiered() || !tiered.is_empty() {
            next.tier.manifest.adopt(&tiered, install.now);
            next.tick(install.now);
            for partition in starts.keys() {
                next.trim_tier(*partition);
            }
        }
        Ok(next)
    }

    /// The oldest entry with batches for a staged checkpoint.
    pub(crate) fn first_index_staged(&self) -> Option<RaftIndex> {
        let filled = self.staged.iter().flat_map(|staged| staged.filled.values());
        filled.filter_map(|chunks| Some(chunks.first()?.index)).min()
    }
}

/// From where on the log must hold the batches.
fn base_of(theirs: &PartitionState, tiered_end: Option<Offset>) -> Offset {
    tiered_end.unwrap_or(Offset(0)).max(theirs.log_start_offset)
}

/// Whether what is here of a partition is the beginning of what the log must hold.
fn continues(own: &PartitionState, theirs: &PartitionState, base: Offset) -> bool {
    let holds = own.local_start_offset() <= base && base <= own.high_watermark;
    holds && own.high_watermark <= theirs.high_watermark && own.high_watermark > Offset(0)
}

/// The chunks from `base` to the end: those that are here, where filling went on behind them, and those that came.
/// Errors: from where on they are missing.
fn chunks(
    theirs: &PartitionState,
    base: Offset,
    own: Option<&PartitionState>,
    filled: Option<&ChunkIndex>,
) -> Result<Vec<Chunk>, Offset> {
    let end = theirs.high_watermark;
    let came = filled.and_then(|chunks| Some((chunks.first()?.base_offset, chunks.last()?.end_offset())));
    let own_end = own.map(PartitionState::high_watermark);
    let (uses_own, uses_filled) = match came {
        _ if base >= end => (false, false),
        Some((start, came_end)) if came_end == end && start <= base => (false, true),
        Some((start, came_end)) if came_end == end && own_end == Some(start) => (true, true),
        Some((_, came_end)) if came_end < end => return Err(came_end),
        None if own_end == Some(end) => (true, false),
        _ => return Err(base),
    };
    let own = own
        .filter(|_| uses_own)
        .into_iter()
        .flat_map(PartitionState::chunks);
    let filled = filled
        .filter(|_| uses_filled)
        .into_iter()
        .flat_map(ChunkIndex::iter);
    Ok(own.chain(filled).collect())
}

fn unusable(reason: String) -> InstallRejected {
    InstallRejected::Unusable { reason }
}

#[cfg(test)]
mod tests;
