//! What a node does by itself, round after round: retention, expiry, checkpoints, releases.

use std::collections::BTreeSet;
use std::sync::Arc;

use meridian_controller::TopicSettings;
use meridian_raft::Group;
use meridian_state::Command;
use meridian_types::{Partition, RaftIndex, ShardId, TimestampMs, TopicId};
use tokio::sync::watch;

use crate::region::Inner;
use crate::shard::Shard;

/// Log starts moved by one command.
const STARTS_MAX: usize = 1000;
/// Idempotent producers are swept this often.
const PRODUCER_SWEEP_MS: i64 = 10 * 60 * 1000;

/// What one shard remembers from round to round.
#[derive(Default)]
struct Progress {
    /// Entries up to here are covered by the newest checkpoint, and by the one before.
    checkpoints: (RaftIndex, RaftIndex),
    released: RaftIndex,
    /// Bytes that were applied when the newest checkpoint was made.
    checkpoint_bytes: u64,
    producers_swept: Option<TimestampMs>,
}

/// What one round sees of a shard.
struct Now {
    /// The oldest entry that a hot index refers to.
    needed: Option<RaftIndex>,
    /// It keeps a file that the journal wants to give up.
    pins: bool,
    applied_bytes: u64,
}

/// Runs until the region stops.
pub(crate) async fn maintain(inner: Arc<Inner>) {
    let mut data: Vec<Progress> = inner.shards.iter().map(|_| Progress::default()).collect();
    let mut control = Progress::default();
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = inner.maintain.notified() => {}
            () = tokio::time::sleep(inner.settings.maintenance_interval) => {}
        }
        let pinning = pinning(&inner);
        for (shard, progress) in inner.shards.iter().zip(&mut data) {
            if inner.stop.is_cancelled() {
                return;
            }
            let Ok(group) = shard.group() else { continue };
            shard.sweep_waiters();
            if shard.leading().is_some() {
                tend(&inner, shard, progress).await;
            }
            let needed = shard.applied_state().oldest_index_needed();
            let now = Now {
                needed,
                pins: pinning.contains(&shard.id()),
                applied_bytes: shard.applied_bytes(),
            };
            checkpoint(&inner, group, progress, now).await;
        }
        // The controller's state needs no entry once a checkpoint holds it.
        let pins = pinning.contains(&ShardId::CONTROLLER);
        let now = Now {
            needed: None,
            pins,
            applied_bytes: 0,
        };
        checkpoint(&inner, &inner.control_group, &mut control, now).await;
    }
}

/// What only the leader decides.
async fn tend(inner: &Inner, shard: &Shard, progress: &mut Progress) {
    let now = (inner.clock)();
    let (starts, gone) = decide(inner, shard, now);
    let mut commands: Vec<Command> = gone
        .into_iter()
        .map(|topic| Command::DropTopic { topic, now })
        .collect();
    commands.extend(starts.chunks(STARTS_MAX).map(|starts| Command::SetLogStart {
        starts: starts.to_vec(),
    }));
    if progress
        .producers_swept
        .is_none_or(|swept| now.0 - swept.0 >= PRODUCER_SWEEP_MS)
    {
        progress.producers_swept = Some(now);
        commands.push(Command::ExpireProducers { now });
    }
    for command in commands {
        if let Err(error) = shard.propose(&command).await {
            tracing::debug!(shard = %shard.id(), %error, command = command.name(), "left for the next round");
            return;
        }
    }
}

/// New log starts by retention, and topics that exist no more.
fn decide(
    inner: &Inner,
    shard: &Shard,
    now: TimestampMs,
) -> (Vec<(Partition, meridian_types::Offset)>, BTreeSet<TopicId>) {
    let mut starts = Vec::new();
    let mut gone = BTreeSet::new();
    let controller = inner.control.controller();
    let state = shard.applied_state();
    let mut last: Option<(TopicId, Arc<TopicSettings>)> = None;
    for (partition, held) in state.partitions() {
        if last.as_ref().is_none_or(|(topic, _)| *topic != partition.topic) {
            let Some(settings) = controller.topic_settings(partition.topic) else {
                // Unknown is not deleted: this node's view of the controller may lag.
                gone.extend(controller.deleted_topic(partition.topic).map(|_| partition.topic));
                continue;
            };
            last = Some((partition.topic, settings));
        }
        let Some((_, settings)) = &last else { continue };
        if !settings.deletes() {
            continue;
        }
        if let Some(start) = held.retention_start(settings.retention_ms(), settings.retention_bytes(), now) {
            starts.push((partition, start));
        }
    }
    let committed: BTreeSet<TopicId> = state
        .groups()
        .flat_map(|(_, group)| group.offsets.keys().map(|partition| partition.topic))
        .collect();
    gone.extend(
        committed
            .into_iter()
            .filter(|topic| controller.deleted_topic(*topic).is_some()),
    );
    (starts, gone)
}

/// Makes a checkpoint when enough was applied since the last, or when the shard keeps a file that the
/// journal wants to give up; and releases what is covered.
///
/// Bytes go only when the checkpoint *before* the newest covers them: should the newest turn out
/// unreadable, the one before and the log still make the state.
async fn checkpoint(inner: &Inner, group: &Group, progress: &mut Progress, now: Now) {
    let Now {
        needed,
        pins,
        applied_bytes,
    } = now;
    let applied = group.applied().borrow().index;
    let (newest, before) = progress.checkpoints;
    let settings = &inner.settings.shard;
    let due = applied.0 >= newest.0 + settings.checkpoint_entries
        || applied_bytes >= progress.checkpoint_bytes + settings.checkpoint_bytes;
    let wanted = pins && needed.is_none_or(|needed| needed > progress.released.next());
    if !due && !wanted {
        return;
    }
    if applied == newest {
        if before < newest {
            // An idle shard: move its index, so that the next round's checkpoint covers this one.
            if let Err(error) = group.barrier().await {
                tracing::debug!(shard = %group.shard(), %error, "no barrier in this round");
            }
        }
        return;
    }
    // A checkpoint ahead of the synced log would outlive entries that a power cut takes.
    if inner
        .journal
        .durable(group.shard())
        .is_none_or(|durable| durable < applied)
    {
        return;
    }
    match group.checkpoint().await {
        Ok(position) => {
            progress.checkpoints = (position.index, newest);
            progress.checkpoint_bytes = applied_bytes;
        }
        Err(error) => {
            tracing::warn!(shard = %group.shard(), %error, "no checkpoint in this round");
            return;
        }
    }
    let covered = progress.checkpoints.1;
    let through = needed.map_or(covered, |needed| {
        covered.min(RaftIndex(needed.0.saturating_sub(1)))
    });
    if through > progress.released {
        if let Err(error) = group.purge(through).await {
            tracing::warn!(shard = %group.shard(), %error, "the log is not purged in this round");
            return;
        }
        inner.journal.release(group.shard(), through);
        progress.released = through;
    }
}

/// The shards that keep the oldest file, while the journal is over its budget.
fn pinning(inner: &Inner) -> Vec<ShardId> {
    let usage = inner.journal.usage();
    if usage.disk_bytes > inner.settings.journal_bytes_max {
        usage.oldest_file_pinned_by
    } else {
        Vec::new()
    }
}

/// Keeps the view of what this node leads up to date, and wakes waiting fetches when it changes.
pub(crate) async fn watch_leadership(
    inner: Arc<Inner>,
    sender: watch::Sender<crate::region::LeadershipView>,
) {
    let mut receivers: Vec<_> = inner
        .shards
        .iter()
        .map(|shard| shard.group().ok().map(Group::leadership))
        .collect();
    loop {
        let view: crate::region::LeadershipView = inner.shards.iter().map(Shard::leading).collect();
        let before = sender.send_replace(Arc::clone(&view));
        for ((shard, now), before) in inner.shards.iter().zip(view.iter()).zip(before.iter()) {
            if now != before {
                shard.wake_all();
            }
        }
        let changes = receivers
            .iter_mut()
            .flatten()
            .map(|receiver| Box::pin(receiver.changed()));
        let changes: Vec<_> = changes.collect();
        if changes.is_empty() {
            inner.stop.cancelled().await;
            return;
        }
        tokio::select! {
            () = inner.stop.cancelled() => return,
            (changed, _, _) = futures::future::select_all(changes) => if changed.is_err() {
                return;
            }
        }
    }
}
