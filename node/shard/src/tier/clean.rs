//! Deletes from the bucket what nobody needs there any more.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use meridian_raft::ProposeError;
use meridian_state::Command;
use meridian_tiered_storage::manifest::{ObjectId, ObjectName};
use meridian_tiered_storage::store::StoreError;
use thiserror::Error;
use tokio::time::Instant;

use super::Tier;
use super::driver::{Led, Work};
use super::owner::{self, NotOurs};
use super::stats::add;
use super::step::TierStep;
use crate::errors::ControlError;
use crate::region::Inner;

/// Objects deleted in one go; the rest waits for the next.
const DELETES_MAX: usize = 100;

/// Why the bucket is cleaned another time.
#[derive(Debug, Error)]
pub(super) enum CleanError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Propose(#[from] ControlError),
    #[error(transparent)]
    NotOurs(#[from] NotOurs),
    #[error("leadership is not sure: {0}")]
    Barrier(#[from] ProposeError),
}

/// Deletes unlinked objects whose grace period is over, and now and then searches for orphans.
pub(super) async fn tend(
    inner: &Inner,
    tier: &Tier,
    led: &Led<'_>,
    work: &mut Work,
) -> Result<(), CleanError> {
    delete_unlinked(inner, tier, led, work).await?;
    let settings = &tier.settings;
    let pause = if work.orphans.is_empty() {
        settings.sweep_interval
    } else {
        settings.sweep_interval.min(settings.delete_grace)
    };
    if work.swept.elapsed() >= pause.max(Duration::from_millis(1)) {
        work.swept = Instant::now();
        sweep(tier, led, work).await?;
    }
    Ok(())
}

async fn delete_unlinked(
    inner: &Inner,
    tier: &Tier,
    led: &Led<'_>,
    work: &mut Work,
) -> Result<(), CleanError> {
    let unlinked = &mut work.copies.unlinked;
    let due: BTreeSet<ObjectId> = unlinked
        .due(Instant::now(), tier.settings.delete_grace)
        .into_iter()
        .collect();
    if due.is_empty() {
        return Ok(());
    }
    // Whoever is led by another now must not decide by what it knew: the other's manifest may differ.
    led.group.barrier().await?;
    let doomed: Vec<(ObjectId, String)> = {
        let state = led.shard.applied_state();
        let objects = state.manifest().unlinked();
        objects
            .filter(|(id, _)| due.contains(id))
            .map(|(id, object)| (id, object.name.key(&tier.cluster, led.shard.id())))
            .take(DELETES_MAX)
            .collect()
    };
    if !doomed.is_empty() {
        owner::confirm(tier, owner::DELETE_AGE_MAX).await?;
        tier.reach(TierStep::DeletionDue).await;
    }
    let mut deleted = Vec::with_capacity(doomed.len());
    let mut failed = None;
    for (id, key) in doomed {
        match tier.store.delete(&key).await {
            Ok(()) => {
                tier.reach(TierStep::ObjectDeleted).await;
                deleted.push(id);
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    if !deleted.is_empty() {
        let objects = deleted.clone();
        led.propose(inner, &Command::TierDeleted { objects }).await?;
        tier.reach(TierStep::DeletionTold).await;
        add(&tier.stats.deleted, deleted.len() as u64);
        deleted.iter().for_each(|id| unlinked.done(id));
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Objects of the shard that its manifest does not know: bundles of rounds that failed, or of leaders that were
/// deposed. No round of this shard is under way meanwhile, and none of an earlier term can commit after the barrier.
async fn sweep(tier: &Tier, led: &Led<'_>, work: &mut Work) -> Result<(), CleanError> {
    if led.shard.applied_state().is_staging() {
        // Objects come for a manifest that is not the shard's yet.
        return Ok(());
    }
    led.group.barrier().await?;
    let known: BTreeSet<ObjectName> = led.shard.applied_state().manifest().names().collect();
    let prefix = ObjectName::prefix(&tier.cluster, led.shard.id());
    let mut orphans = Vec::new();
    let mut listing = tier.store.list(&prefix);
    while let Some(listed) = listing.next().await {
        let key = listed?.key;
        // What lies deeper is no bundle.
        let name = key.strip_prefix(&prefix).map(|rest| rest.trim_start_matches('/'));
        let name = name.and_then(ObjectName::parse);
        if name.is_some_and(|name| !known.contains(&name)) {
            orphans.push(key);
        }
    }
    let now = Instant::now();
    work.orphans.seen(now, orphans);
    let due = work.orphans.due(now, tier.settings.delete_grace);
    if !due.is_empty() {
        owner::confirm(tier, owner::DELETE_AGE_MAX).await?;
        tier.reach(TierStep::OrphansDue).await;
    }
    for key in due {
        tier.store.delete(&key).await?;
        tier.reach(TierStep::OrphanDeleted).await;
        work.orphans.done(&key);
        add(&tier.stats.deleted, 1);
        add(&tier.stats.orphans_deleted, 1);
        tracing::info!(key, "an object that no manifest names is deleted");
    }
    Ok(())
}
