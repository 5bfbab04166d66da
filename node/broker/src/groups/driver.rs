//! Follows the leadership of the shards, and lets offsets expire.

use std::sync::Arc;
use std::time::Duration;

use meridian_shard::LeadershipView;
use meridian_state::Command;
use meridian_types::{LeaderEpoch, ShardId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::expiry;
use crate::context::Context;

/// A shard that is led but cannot be read yet is tried again so soon.
const LOAD_RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Whether it is time to look for expired offsets is asked at least so often.
const EXPIRY_STEP: Duration = Duration::from_secs(1);
/// Figures about groups are renewed so often.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// Starts the tasks; they end with `stop`.
pub(crate) fn start(context: &Arc<Context>, tasks: &TaskTracker, stop: &CancellationToken) {
    tasks.spawn(until(stop.clone(), follow_leadership(context.clone())));
    tasks.spawn(until(stop.clone(), expire_offsets(context.clone())));
    tasks.spawn(until(stop.clone(), count_groups(context.clone())));
}

async fn until(stop: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = task => {}
    }
}

/// Loads the groups of a shard when this node begins to lead it, and forgets them when it stops.
async fn follow_leadership(context: Arc<Context>) {
    let mut leadership = context.region.leadership();
    let mut loaded: Vec<Option<LeaderEpoch>> = Vec::new();
    loop {
        let view: LeadershipView = leadership.borrow_and_update().clone();
        loaded.resize(view.len(), None);
        let mut is_complete = true;
        for (index, (now, before)) in view.iter().zip(&mut loaded).enumerate() {
            let shard = ShardId(u32::try_from(index).expect("a region has few shards"));
            if *now == *before {
                continue;
            }
            let coordinator = context.groups.coordinator();
            if before.take().is_some() {
                coordinator.unload(shard);
            }
            if let Some(epoch) = *now {
                coordinator.begin_load(shard);
                match load(&context, shard, epoch) {
                    true => *before = *now,
                    false => is_complete = false,
                }
            }
        }
        let changed = if is_complete {
            leadership.changed().await
        } else {
            tokio::time::timeout(LOAD_RETRY_INTERVAL, leadership.changed())
                .await
                .unwrap_or(Ok(()))
        };
        if changed.is_err() {
            return;
        }
    }
}

/// False while the shard cannot be read under the leadership of `epoch`.
fn load(context: &Context, shard: ShardId, epoch: LeaderEpoch) -> bool {
    let saved: Vec<_> = {
        let Ok(state) = context.region.state(shard) else {
            return false;
        };
        // Led again meanwhile: the next look loads under that leadership, or what is saved now would be refused.
        if context.region.leader_epoch(shard) != Some(epoch) {
            return false;
        }
        let saved = |(name, group): (&str, &meridian_state::Group)| {
            Some((name.to_owned(), group.saved.as_ref()?.body.clone()))
        };
        state.groups().filter_map(saved).collect()
    };
    let count = saved.len();
    let problems = context.groups.coordinator().load(shard, epoch, saved);
    for problem in problems {
        tracing::error!(%shard, ?problem, "a saved group cannot be read; it starts empty, its offsets are kept");
    }
    if count > 0 {
        tracing::info!(%shard, groups = count, "coordinating the groups of a shard");
    }
    true
}

async fn expire_offsets(context: Arc<Context>) {
    let mut checked = Instant::now();
    loop {
        // In small steps, so that a shorter interval takes effect before the longer one is over.
        let interval = context.configs().offsets_retention_check_interval;
        tokio::time::sleep(interval.min(EXPIRY_STEP)).await;
        if checked.elapsed() < interval {
            continue;
        }
        checked = Instant::now();
        for shard in (0..context.region.shards()).map(ShardId) {
            expire_in(&context, shard).await;
        }
    }
}

async fn expire_in(context: &Context, shard: ShardId) {
    let now = context.region.now();
    let retention_ms = context.configs().offsets_retention_ms;
    let coordinator = context.groups.coordinator();
    // What is seen below is true of this leadership or an earlier one; a later one may have newer commits.
    let Some(epoch) = context.region.leader_epoch(shard) else {
        return;
    };
    let expired = {
        let Ok(state) = context.region.state(shard) else {
            return;
        };
        let controller = context.region.controller();
        coordinator.query(|core| {
            expiry::expired(
                now,
                retention_ms,
                state.groups(),
                |name| core.offset_expiry(name),
                |name, topic| {
                    crate::catalog::topic_name(&controller, topic)
                        .is_some_and(|topic| core.is_subscribed(name, topic))
                },
            )
        })
    };
    if !expired.offsets.is_empty() {
        let groups = expired.offsets.len();
        match context
            .region
            .propose_at(
                shard,
                epoch,
                Command::ExpireOffsets {
                    now,
                    expired: expired.offsets,
                },
            )
            .await
        {
            Ok(_) => tracing::info!(%shard, groups, "committed offsets have expired"),
            Err(error) => tracing::debug!(%shard, %error, "expired offsets are left for the next round"),
        }
    }
    for group in expired.groups {
        if !context.groups.has_offsets(&group)
            && let Err(error) = coordinator.delete(&group, false).await
        {
            tracing::debug!(group, %error, "an empty group is left for the next round");
        }
    }
}

async fn count_groups(context: Arc<Context>) {
    let mut ticks = tokio::time::interval(COUNT_INTERVAL);
    loop {
        ticks.tick().await;
        let counts = context.groups.coordinator().query(|core| core.counts());
        context.metrics.groups.reset();
        for (state, count) in counts {
            let state = state.to_string();
            context
                .metrics
                .groups
                .with_label_values(&[&state])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
