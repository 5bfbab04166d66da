//! Compaction in the bucket: of topics that ask for it, the latest record of every key stays.
//!
//! Only what lies in the bucket is compacted; a record that is still in the log alone is always read. A pass goes over
//! one partition in steps, and afterwards the hot index begins where it ended, so that readers see what it has done.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use meridian_controller::{Controller, TopicSettings};
use meridian_state::Command;
use meridian_tiered_storage::bundle::BundleLimits;
use meridian_tiered_storage::compact::{
    self, CompactionPlan, CompactionSettings, Compactor, LatestOffsets, Noted,
};
use meridian_tiered_storage::manifest::Extent;
use meridian_tiered_storage::relocate::{self, ExtentReader};
use meridian_types::{Offset, Partition, TimestampMs, TopicId};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Tier;
use super::commit::commit;
use super::driver::Led;
use super::rewrite::{RewriteError, in_time};
use super::stats::add;
use super::step::Bringing;
use crate::region::Inner;

/// No producer was ever allowed a batch that decompresses to more.
const BATCH_BYTES_MAX: usize = 1 << 30;

/// What a leader remembers of the compaction of its shard. Another leader knows nothing of it, and makes one pass over
/// every partition that has nothing left to compact: that reads, and writes little.
pub(super) struct Compaction {
    cleaned: BTreeMap<Partition, Cleaned>,
    /// Partitions of which something in the bucket is damaged: they are left alone.
    damaged: BTreeSet<Partition>,
    pass: Option<Pass>,
}

/// The last pass over a partition.
#[derive(Clone, Copy, Debug)]
struct Cleaned {
    end: Offset,
    at: Instant,
}

/// A pass over one partition.
struct Pass {
    partition: Partition,
    /// When it began, by the leader's clock.
    now: TimestampMs,
    delete_retention_ms: u64,
    /// Keys are noted from here on.
    dirty_from: Offset,
    /// What becomes one object each.
    groups: Vec<Range<Offset>>,
    latest: LatestOffsets,
    stage: Stage,
    _memory: OwnedSemaphorePermit,
}

/// What is done next, with the group of this number.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Noting(usize),
    Rewriting(usize),
}

impl Compaction {
    pub(super) fn new() -> Self {
        Self {
            cleaned: BTreeMap::new(),
            damaged: BTreeSet::new(),
            pass: None,
        }
    }

    /// Begins a pass over the partition that has waited longest, if one is due and no other shard of the node makes one.
    fn begin(&mut self, inner: &Inner, tier: &Tier, led: &Led<'_>) {
        let controller = inner.control.controller();
        let state = led.shard.applied_state();
        let manifest = state.manifest();
        self.cleaned
            .retain(|partition, _| !manifest.extents(*partition).is_empty());
        let (now, at) = ((inner.clock)(), Instant::now());
        let mut first: Option<(Option<Instant>, Partition, CompactionPlan, u64)> = None;
        let mut last: Option<(TopicId, Option<Arc<TopicSettings>>)> = None;
        for (partition, extents) in manifest.partitions() {
            if last.as_ref().is_none_or(|(topic, _)| *topic != partition.topic) {
                last = Some((partition.topic, compacted(&controller, partition.topic)));
            }
            let Some((_, Some(topic))) = &last else { continue };
            let cleaned = self.cleaned.get(&partition).copied();
            let since = cleaned.map(|cleaned| cleaned.at);
            if since.is_some_and(|since| at - since < tier.settings.compaction_interval)
                || self.damaged.contains(&partition)
                || first.as_ref().is_some_and(|(before, ..)| *before <= since)
            {
                continue;
            }
            let settings = settings_of(topic, tier);
            let clean_end = cleaned.map(|cleaned| cleaned.end).unwrap_or_default();
            if let Some(plan) = compact::plan(extents, clean_end, now, &settings) {
                first = Some((since, partition, plan, settings.delete_retention_ms));
            }
        }
        let Some((_, partition, plan, delete_retention_ms)) = first else {
            return;
        };
        let Ok(memory) = Arc::clone(&tier.passes).try_acquire_owned() else {
            return;
        };
        let groups = plan.groups.iter().filter_map(|group| {
            let (first, last) = (group.first()?, group.last()?);
            Some(first.base_offset..last.end_offset)
        });
        self.pass = Some(Pass {
            partition,
            now,
            delete_retention_ms,
            dirty_from: plan.dirty_from,
            groups: groups.collect(),
            latest: LatestOffsets::new(tier.settings.compaction_keys_bytes, BATCH_BYTES_MAX),
            stage: Stage::Noting(0),
            _memory: memory,
        });
    }
}

/// Does one step of a pass, or begins one; false when none is due.
pub(super) async fn step(
    inner: &Inner,
    tier: &Tier,
    led: &Led<'_>,
    compaction: &mut Compaction,
) -> Result<bool, RewriteError> {
    if compaction.pass.is_none() {
        compaction.begin(inner, tier, led);
    }
    let Some(mut pass) = compaction.pass.take() else {
        return Ok(false);
    };
    match pass.advance(inner, tier, led).await {
        Ok(false) => compaction.pass = Some(pass),
        Ok(true) => {
            add(&tier.stats.compactions, 1);
            let (partition, end, keys) = (pass.partition, pass.latest.end(), pass.latest.len());
            tracing::debug!(shard = %led.shard.id(), %partition, %end, keys, "a partition is compacted");
            let at = Instant::now();
            compaction.cleaned.insert(partition, Cleaned { end, at });
        }
        Err(error) => {
            if error.damage().is_some() {
                compaction.damaged.insert(pass.partition);
            }
            return Err(error);
        }
    }
    Ok(true)
}

impl Pass {
    /// Whether that was the last step.
    async fn advance(&mut self, inner: &Inner, tier: &Tier, led: &Led<'_>) -> Result<bool, RewriteError> {
        if compacted(&inner.control.controller(), self.partition.topic).is_none() {
            return Ok(true);
        }
        match self.stage {
            Stage::Noting(group) => {
                let Some(offsets) = self.groups.get(group) else {
                    self.stage = Stage::Rewriting(0);
                    return Ok(false);
                };
                let (_, extents, mut reader) = self.look(tier, led, offsets);
                let dirty_from = self.dirty_from;
                let dirty: Vec<Extent> = extents
                    .into_iter()
                    .filter(|extent| extent.end_offset > dirty_from)
                    .collect();
                let (partition, latest) = (self.partition, &mut self.latest);
                let noting = relocate::note_keys(&mut reader, partition, &dirty, dirty_from, latest);
                let noted = in_time(tier, noting).await;
                add(&tier.stats.rewrite_read_bytes, reader.read_bytes());
                self.stage = match noted? {
                    Noted::Yes => Stage::Noting(group + 1),
                    Noted::Full => Stage::Rewriting(0),
                };
                Ok(false)
            }
            Stage::Rewriting(group) => {
                let end = self.latest.end();
                let Some(offsets) = self.groups.get(group).filter(|offsets| offsets.start < end) else {
                    self.show(inner, led).await?;
                    return Ok(true);
                };
                let (sequence, extents, mut reader) = self.look(tier, led, offsets);
                let compactor = Compactor {
                    latest: &self.latest,
                    now: self.now,
                    delete_retention_ms: self.delete_retention_ms,
                };
                let limits = BundleLimits::default();
                let rewriting = relocate::compact(&mut reader, self.partition, &extents, &compactor, limits);
                let rewritten = in_time(tier, rewriting).await;
                add(&tier.stats.rewrite_read_bytes, reader.read_bytes());
                if let Some((bundle, replacement)) = rewritten? {
                    let now = (inner.clock)();
                    let command = |object| Command::Replaced {
                        sequence,
                        object,
                        replaced: vec![replacement],
                        now,
                    };
                    commit(inner, tier, led, Bringing::Compaction, &bundle, command).await?;
                    add(&tier.stats.rewrite_written_bytes, bundle.bytes);
                }
                self.stage = Stage::Rewriting(group + 1);
                Ok(false)
            }
        }
    }

    /// What the manifest has of a group now: retention may have taken its first extents, and nothing else changes them
    /// while the pass goes on.
    fn look<'a>(
        &self,
        tier: &'a Tier,
        led: &Led<'_>,
        offsets: &Range<Offset>,
    ) -> (u64, Vec<Extent>, ExtentReader<'a>) {
        let state = led.shard.applied_state();
        let manifest = state.manifest();
        let is_meant =
            |extent: &&Extent| extent.base_offset >= offsets.start && extent.end_offset <= offsets.end;
        let extents = manifest.extents(self.partition).iter().filter(is_meant);
        let reader = ExtentReader::new(&tier.store, &tier.cluster, led.shard.id(), manifest);
        (manifest.sequence(), extents.copied().collect(), reader)
    }

    /// Lets readers see what was done: below, they read from the bucket from now on.
    async fn show(&self, inner: &Inner, led: &Led<'_>) -> Result<(), RewriteError> {
        let end = self.latest.end();
        let is_hot = {
            let state = led.shard.applied_state();
            let held = state.partition(self.partition);
            held.is_some_and(|held| held.local_start_offset() < end)
        };
        if is_hot {
            let starts = vec![(self.partition, end)];
            led.propose(inner, &Command::SetLocalStart { starts }).await?;
        }
        Ok(())
    }
}

/// The settings of a topic, if it is to be compacted.
fn compacted(controller: &Controller, topic: TopicId) -> Option<Arc<TopicSettings>> {
    controller
        .topic_settings(topic)
        .filter(|settings| settings.compacts)
}

fn settings_of(topic: &TopicSettings, tier: &Tier) -> CompactionSettings {
    CompactionSettings {
        dirty_ratio_min: topic.min_cleanable_dirty_ratio,
        lag_min_ms: topic.min_compaction_lag_ms,
        lag_max_ms: topic.max_compaction_lag_ms,
        delete_retention_ms: topic.delete_retention_ms,
        object_bytes_max: tier.settings.merge.object_bytes_max,
    }
}

/// Topics that ask for compaction in a region without a bucket, where nothing is compacted. Of each it is said once.
#[derive(Default)]
pub(crate) struct Uncompacted {
    told: BTreeSet<TopicId>,
}

impl Uncompacted {
    /// Says which have come since the last look.
    pub(crate) fn look(&mut self, controller: &Controller) {
        let topics = controller.topics().filter(|topic| topic.settings.compacts);
        let mut present = BTreeSet::new();
        for topic in topics {
            if !self.told.contains(&topic.id) {
                tracing::warn!(
                    topic = %topic.name,
                    "the topic asks for compaction, which needs a bucket: all its records are kept until the region has \
                     one (tier.url)"
                );
            }
            present.insert(topic.id);
        }
        self.told = present;
    }
}
