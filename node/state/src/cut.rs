//! A state cut to what the bucket holds: how a shard begins again when its log is lost.
//!
//! A copy of the state that lies in the bucket may be ahead of the bundles there: it knows records that only the journals
//! had. What is left of it is what was so when the last bundle ended, as far as any client can tell
//! (`docs/decisions/0015-restore.md`).

use meridian_lineage::Standing;
use meridian_types::{LeaderEpoch, LogPosition, Offset, Partition};

use crate::chunk::ChunkIndex;
use crate::epochs::EpochMap;
use crate::partition::PartitionState;
use crate::producers::{Producer, Producers};
use crate::state::State;

/// What a cut took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Partitions that end earlier than the state said.
    pub partitions: u64,
    /// Offsets between their new ends and their old ones.
    pub records: u64,
    /// Idempotent producers of whose batches nothing is known any more: they begin anew.
    pub producers: u64,
}

/// Where a partition ends after a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutEnd {
    /// Its high watermark.
    pub end: Offset,
    /// The epoch of its last record, if it has one.
    pub leader_epoch: Option<LeaderEpoch>,
}

impl State {
    /// Cuts every partition where the bucket ends, and lets the log begin anew behind `at`, which must lie beyond every
    /// entry of the log that was lost.
    ///
    /// Nothing is hot any more: what can be read lies in the manifest (invariant 6). Producers forget the batches that are
    /// gone, so that none is told that a lost batch is a duplicate. Committed offsets are left as they are: their
    /// partitions may lie in other shards, see [`State::clamp_offsets`].
    pub fn cut(&mut self, at: LogPosition) -> Cut {
        let mut cut = Cut::default();
        let manifest = &self.tier.manifest;
        for (topic, partitions) in &mut self.topics {
            partitions.retain(|index, state| {
                let partition = Partition {
                    topic: *topic,
                    index: *index,
                };
                let tiered_end = manifest.end(partition).unwrap_or(Offset(0));
                let end = tiered_end.max(state.log_start_offset);
                cut_partition(state, end, &mut cut);
                // One that never had a record has no state.
                state.high_watermark > Offset(0)
            });
        }
        self.topics.retain(|_, partitions| !partitions.is_empty());
        // Regions that are compared with this one find out that it has another history now.
        self.standing = Standing::default();
        self.staged = None;
        self.applied = at;
        cut
    }

    /// Where a partition ends; 0 while it has no records.
    pub fn cut_end(&self, partition: Partition) -> CutEnd {
        let Some(state) = self.partition(partition) else {
            return CutEnd {
                end: Offset(0),
                leader_epoch: None,
            };
        };
        CutEnd {
            end: state.high_watermark,
            leader_epoch: state.latest_epoch(),
        }
    }

    /// Takes committed offsets back that lie behind the ends of their partitions, and forgets those of partitions that
    /// are no more (`end` gives `None`). Returns how many were taken back.
    pub fn clamp_offsets(&mut self, end: impl Fn(Partition) -> Option<CutEnd>) -> u64 {
        let mut clamped = 0;
        let mut changes = Vec::new();
        for (name, group) in self.groups() {
            for (partition, committed) in &group.offsets {
                match end(*partition) {
                    None => changes.push((name.to_owned(), *partition, None)),
                    Some(cut) if committed.offset > cut.end => {
                        let mut committed = committed.clone();
                        committed.offset = cut.end;
                        committed.leader_epoch = cut.leader_epoch;
                        changes.push((name.to_owned(), *partition, Some(committed)));
                        clamped += 1;
                    }
                    Some(_) => {}
                }
            }
        }
        for (name, partition, committed) in changes {
            match committed {
                Some(committed) => {
                    self.groups.entry(&name).offsets.insert(partition, committed);
                }
                None => self.groups.remove_offsets(&name, &[partition]),
            }
        }
        clamped
    }
}

fn cut_partition(state: &mut PartitionState, end: Offset, cut: &mut Cut) {
    state.chunks = ChunkIndex::default();
    state.size_bytes = 0;
    if end >= state.high_watermark {
        return;
    }
    cut.partitions += 1;
    cut.records += state.high_watermark.0 - end.0;
    state.high_watermark = end;
    state.digest = branch(state.digest, end);

    let log_start = state.log_start_offset;
    let entries = state.epochs.entries().iter();
    // The one in force at the start of a partition without records tells nothing wrong: whoever read under it and
    // asks is sent back to where it ends, which is here.
    let stays = |(_, start): &&(LeaderEpoch, Offset)| *start < end || (*start == end && end == log_start);
    state.epochs = EpochMap::from_entries(entries.filter(stays).copied().collect());

    let before = state.producers.entries().len();
    let known = state.producers.entries().iter();
    let left: Vec<Producer> = known.filter_map(|producer| cut_producer(producer, end)).collect();
    cut.producers += (before - left.len()) as u64;
    state.producers = Producers::from_entries(left);
}

/// The producer without the batches at and behind `end`; `None` when none is left. It was known before the five that are
/// remembered, but not by which sequence it went on, so it begins as one that nobody knows.
fn cut_producer(producer: &Producer, end: Offset) -> Option<Producer> {
    let batches = producer.batches();
    let left = batches.partition_point(|batch| batch.base_offset < end);
    let whole = || {
        Producer::restore(
            producer.id,
            producer.epoch,
            producer.last_append_at,
            &batches[..left],
        )
    };
    (left > 0).then(whole)
}

/// A digest that no log has which was not cut here: the CRCs of the batches that went are not known, so what it was
/// at `end` cannot be told, and two logs must never be taken for equal that are not.
fn branch(digest: u64, end: Offset) -> u64 {
    const MARK: u64 = 0x6d65_7269_6469_616e;
    let mixed = digest.rotate_left(17) ^ end.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ MARK;
    mixed.wrapping_mul(0x0000_0100_0000_01b3)
}

#[cfg(test)]
mod tests;
