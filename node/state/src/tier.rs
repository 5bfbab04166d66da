//! The shard's part in the bucket: the manifest, and the commands that change it.

use std::collections::BTreeMap;

use meridian_tiered_storage::manifest::{
    Extent, Manifest, ManifestRejection, NewExtent, NewObject, ObjectId, Replacement,
};
use meridian_types::{LogPosition, Offset, Partition, RaftIndex, TimestampMs, TopicId};
use thiserror::Error;

use crate::partition::PartitionState;
use crate::state::State;

/// What the state knows of the bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tier {
    pub(crate) manifest: Manifest,
    /// The newest clock that a command named since the first bundle. It only says since when objects are
    /// unlinked; nothing is decided by it.
    pub(crate) clock: TimestampMs,
}

/// A change of the manifest that changed nothing, on every replica alike. What was uploaded for it is an orphan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TierRejected {
    /// It does not fit what is committed: another change came first. Look at the state and plan anew.
    #[error(transparent)]
    Manifest(#[from] ManifestRejection),
    /// It speaks of entries that are not applied yet: a fault in the leader that proposed it.
    #[error("the bundle is said to go through entry {through}, but only {applied} is applied")]
    Ahead {
        /// The entry named.
        through: RaftIndex,
        /// The last one applied before the command.
        applied: RaftIndex,
    },
    /// Records up to the entry named are neither in the bundle nor in the bucket; were it accepted, they could
    /// be lost (invariant 6). A fault in the leader that proposed it.
    #[error("the bundle lacks records of partition {partition} from {offset} on, which lie in entry {index}")]
    Incomplete {
        /// The partition.
        partition: Partition,
        /// The first offset that is missing.
        offset: Offset,
        /// Where it lies.
        index: RaftIndex,
    },
    /// The bundle claims records beyond the partition's end: a fault in the leader that proposed it.
    #[error(
        "the bundle has records of partition {partition} up to {end}, beyond its high watermark {high_watermark}"
    )]
    Beyond {
        /// The partition.
        partition: Partition,
        /// Where the bundle's records end.
        end: Offset,
        /// Where the partition ends.
        high_watermark: Offset,
    },
}

/// A bundle that was uploaded and verified, as its command names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiered<'a> {
    pub(crate) sequence: u64,
    pub(crate) through: RaftIndex,
    pub(crate) object: NewObject,
    pub(crate) extents: &'a [(Partition, NewExtent)],
    pub(crate) now: TimestampMs,
}

impl State {
    /// What is committed of the bucket.
    pub fn manifest(&self) -> &Manifest {
        &self.tier.manifest
    }

    /// The extents of a partition in the bucket, oldest first.
    pub fn extents(&self, partition: Partition) -> &[Extent] {
        self.tier.manifest.extents(partition)
    }

    /// The oldest Raft entry with records that only the log holds; `None` when there is none. The log before it
    /// may be released (invariant 6).
    pub fn oldest_index_needed(&self) -> Option<RaftIndex> {
        let through = if mutant!(ReleaseBeforeTiered) && self.is_tiered() {
            self.applied().index
        } else {
            self.tier.manifest.through()
        };
        let untiered = self
            .partitions()
            .filter_map(|(_, partition)| partition.first_index_beyond(through));
        untiered.chain(self.first_index_staged()).min()
    }

    /// Partitions with records that the bucket lacks, and where those begin.
    pub fn untiered(&self) -> impl Iterator<Item = (Partition, &PartitionState, Offset)> {
        self.partitions().filter_map(|(partition, state)| {
            let end = self.tier.manifest.end(partition).unwrap_or(Offset(0));
            let start = end.max(state.log_start_offset());
            (start < state.high_watermark()).then_some((partition, state, start))
        })
    }

    /// Bytes of the batches that the bucket lacks.
    pub fn untiered_bytes(&self) -> u64 {
        self.untiered()
            .map(|(_, state, start)| state.bytes_from(start))
            .sum()
    }

    /// A bundle becomes part of the shard: all or nothing.
    pub(crate) fn apply_tiered(&mut self, at: LogPosition, tiered: Tiered<'_>) -> Result<(), TierRejected> {
        let Tiered {
            sequence,
            through,
            object,
            extents,
            now,
        } = tiered;
        if through >= at.index {
            return Err(TierRejected::Ahead {
                through,
                applied: RaftIndex(at.index.0 - 1),
            });
        }
        if !mutant!(LeaveOutPartition) {
            self.check_complete(through, extents)?;
        }
        let topics = &self.topics;
        let log_start = |partition: Partition| {
            let state = topics.get(&partition.topic)?.get(&partition.index)?;
            Some(state.log_start_offset)
        };
        self.tier
            .manifest
            .add_bundle(sequence, through, object, extents, log_start, now)?;
        self.tick(now);
        Ok(())
    }

    /// An object takes the place of parts of others, with the same records or with what compaction left.
    pub(crate) fn apply_replaced(
        &mut self,
        sequence: u64,
        object: NewObject,
        replaced: &[Replacement],
        now: TimestampMs,
    ) -> Result<(), TierRejected> {
        self.tier.manifest.replace(sequence, object, replaced, now)?;
        Ok(())
    }

    /// Unlinked objects were deleted from the bucket.
    pub(crate) fn apply_tier_deleted(&mut self, objects: &[ObjectId]) {
        self.tier.manifest.forget(objects);
    }

    /// Moves starts of hot indexes, as far as the bucket has what goes.
    pub(crate) fn apply_local_starts(&mut self, starts: &[(Partition, Offset)]) {
        for (partition, start) in starts {
            let Some(end) = self.tier.manifest.end(*partition) else {
                continue;
            };
            if let Some(state) = self.partition_mut(*partition) {
                state.set_local_start((*start).min(end));
            }
        }
    }

    /// The log start of a partition has moved: what lies before it goes from the manifest too.
    pub(crate) fn trim_tier(&mut self, partition: Partition) {
        let Some(log_start) = self.partition(partition).map(PartitionState::log_start_offset) else {
            return;
        };
        let now = self.tier.clock;
        self.tier.manifest.trim(partition, log_start, now);
    }

    pub(crate) fn drop_topic_tier(&mut self, topic: TopicId, now: TimestampMs) {
        self.tier.manifest.drop_topic(topic, now);
    }

    /// Takes over a command's clock, once anything is in the bucket.
    pub(crate) fn tick(&mut self, now: TimestampMs) {
        if self.is_tiered() {
            self.tier.clock = self.tier.clock.max(now);
        }
    }

    /// Whether the shard ever had anything in the bucket. Until then its snapshots have the format that every
    /// node reads.
    pub(crate) fn is_tiered(&self) -> bool {
        self.tier.manifest.sequence() > 0
    }

    /// Everything up to `through` must be in the bucket or in the bundle, and nothing that is not in the log.
    fn check_complete(
        &self,
        through: RaftIndex,
        extents: &[(Partition, NewExtent)],
    ) -> Result<(), TierRejected> {
        let mut ends: BTreeMap<Partition, Offset> = BTreeMap::new();
        for (partition, extent) in extents {
            let end = ends.entry(*partition).or_default();
            *end = (*end).max(extent.end_offset);
        }
        for (partition, state) in self.partitions() {
            let bundled = ends.get(&partition).copied();
            let high_watermark = state.high_watermark();
            if let Some(end) = bundled.filter(|end| *end > high_watermark) {
                return Err(TierRejected::Beyond {
                    partition,
                    end,
                    high_watermark,
                });
            }
            let end = bundled
                .max(self.tier.manifest.end(partition))
                .unwrap_or(Offset(0));
            if end >= high_watermark {
                continue;
            }
            let next = state.chunks_from(end).next();
            if let Some(chunk) = next.filter(|chunk| chunk.index <= through) {
                return Err(TierRejected::Incomplete {
                    partition,
                    offset: chunk.base_offset.max(end),
                    index: chunk.index,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
