//! Small extents become large ones, so that manifests stay small and catch-up reads are long.

use std::collections::BTreeSet;

use meridian_state::Command;
use meridian_tiered_storage::bundle::BundleLimits;
use meridian_tiered_storage::manifest::ObjectId;
use meridian_tiered_storage::merge::{self, MergePlan};
use meridian_tiered_storage::relocate::{self, ExtentReader, RelocateError};

use super::Tier;
use super::commit::commit;
use super::driver::Led;
use super::rewrite::{RewriteError, in_time};
use super::stats::add;
use super::step::Bringing;
use crate::region::Inner;

/// What a leader remembers of the merges of its shard.
pub(super) struct Merger {
    /// The manifest, by its sequence, in which nothing was to be merged.
    settled: Option<u64>,
    /// Objects that are damaged; what they hold is left where it is.
    damaged: BTreeSet<ObjectId>,
}

impl Merger {
    pub(super) fn new() -> Self {
        Self {
            settled: None,
            damaged: BTreeSet::new(),
        }
    }
}

/// Merges once; whether there was anything to merge.
pub(super) async fn step(
    inner: &Inner,
    tier: &Tier,
    led: &Led<'_>,
    merger: &mut Merger,
) -> Result<bool, RewriteError> {
    let settings = &tier.settings.merge;
    if settings.extents_min == 0 {
        return Ok(false);
    }
    let (plan, mut reader) = {
        let state = led.shard.applied_state();
        let manifest = state.manifest();
        let sequence = manifest.sequence();
        if merger.settled == Some(sequence) {
            return Ok(false);
        }
        let Some(plan) = merge::plan_without(manifest, settings, &merger.damaged) else {
            merger.settled = Some(sequence);
            return Ok(false);
        };
        let reader = ExtentReader::new(&tier.store, &tier.cluster, led.shard.id(), manifest);
        (plan, reader)
    };
    let done = carry_out(inner, tier, led, &plan, &mut reader).await;
    add(&tier.stats.rewrite_read_bytes, reader.read_bytes());
    match done.as_ref().err().and_then(RewriteError::damage) {
        Some(RelocateError::Damaged { object, .. }) => {
            merger.damaged.insert(*object);
        }
        // Which of the objects it is does not show.
        Some(_) => merger.damaged.extend(plan.sources()),
        None => {}
    }
    done.map(|()| true)
}

async fn carry_out(
    inner: &Inner,
    tier: &Tier,
    led: &Led<'_>,
    plan: &MergePlan,
    reader: &mut ExtentReader<'_>,
) -> Result<(), RewriteError> {
    let merged = in_time(tier, relocate::merge(reader, plan, BundleLimits::default())).await?;
    let Some((bundle, replaced)) = merged else {
        return Ok(());
    };
    let (sequence, now) = (plan.sequence, (inner.clock)());
    let command = |object| Command::Replaced {
        sequence,
        object,
        replaced,
        now,
    };
    commit(inner, tier, led, Bringing::Merge, &bundle, command).await?;
    add(&tier.stats.merges, 1);
    add(&tier.stats.rewrite_written_bytes, bundle.bytes);
    tracing::debug!(
        shard = %led.shard.id(),
        removed = plan.removed(),
        partitions = plan.runs.len(),
        object_bytes = bundle.bytes,
        "small extents are merged"
    );
    Ok(())
}
