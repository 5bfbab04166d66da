//! What a node does by itself, round after round: retention, expiry, checkpoints, releases.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use meridian_controller::TopicSettings;
use meridian_peer::Lane;
use meridian_raft::{Group, Leadership};
use meridian_state::Command;
use meridian_types::{Partition, RaftIndex, ShardId, TimestampMs, TopicId};
use tokio::time::Instant;

use crate::message::kind;
use crate::region::{Inner, LeadershipView};
use crate::shard::{Replica, Shard};
use crate::tier::compaction::Uncompacted;

/// Log starts moved by one command.
const STARTS_MAX: usize = 1000;
/// Idempotent producers are swept this often.
const PRODUCER_SWEEP_MS: i64 = 10 * 60 * 1000;

/// What one shard remembers from round to round.
#[derive(Default)]
struct Progress {
    /// When the replica that this is about was started; another one begins anew.
    since: Option<Instant>,
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
    let mut data: Vec<Progress> = inner.shards().iter().map(|_| Progress::default()).collect();
    let mut control = Progress::default();
    let mut uncompacted = Uncompacted::default();
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = inner.maintain.notified() => {}
            () = tokio::time::sleep(inner.settings.maintenance_interval) => {}
        }
        if inner.tier().is_none() && inner.led_group(ShardId::CONTROLLER).is_some() {
            uncompacted.look(&inner.control.controller());
        }
        let pinning = pinning(&inner);
        for (shard, progress) in inner.shards().iter().zip(&mut data) {
            if inner.stop.is_cancelled() {
                return;
            }
            shard.sweep_waiters();
            let (group, since) = match &*shard.replica() {
                Replica::Running(running) => (running.group.clone(), running.since),
                _ => continue,
            };
            if progress.since != Some(since) {
                *progress = Progress {
                    since: Some(since),
                    ..Progress::default()
                };
            }
            // Only the leader decides; every replica makes its own checkpoints.
            if shard.leading().is_some() {
                tend(&inner, shard, progress).await;
            }
            let needed = shard.applied_state().oldest_index_needed();
            let now = Now {
                needed,
                pins: pinning.contains(&shard.id()),
                applied_bytes: shard.applied_bytes(),
            };
            checkpoint(&inner, &group, progress, now).await;
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
        if let Err(error) = inner.propose(shard.id(), &command, None).await {
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
        let tiered = state.extents(partition);
        let (ms, bytes) = (settings.retention_ms(), settings.retention_bytes());
        if let Some(start) = held.retention_start(ms, bytes, now, tiered) {
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
/// Bytes go only when a checkpoint *before* the newest covers them: should the newest turn out unreadable, one
/// before it and the log still make the state, here and on a replica that begins empty.
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
            nudge(inner, group).await;
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
    match group.release(needed).await {
        Ok(through) if through > progress.released => {
            inner.journal.release(group.shard(), through);
            progress.released = through;
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(shard = %group.shard(), %error, "the log is not purged in this round"),
    }
}

/// Gives an idle shard's log one more entry: as its leader, or by asking it to. The leader's own disk may have no need.
async fn nudge(inner: &Inner, group: &Group) {
    if inner.led_group(group.shard()).is_some() {
        if let Err(error) = group.barrier().await {
            tracing::debug!(shard = %group.shard(), %error, "no barrier in this round");
        }
    } else if let Leadership::Following { leader, .. } = *group.leadership().borrow() {
        inner.peers.notify(
            leader,
            Lane::Bulk,
            kind::NUDGE,
            group.shard(),
            Vec::<Bytes>::new(),
        );
    }
}

/// Answers [`kind::NUDGE`]; a node that does not lead the shard lets it be.
pub(crate) fn nudged(inner: &Arc<Inner>, shard: ShardId) {
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        if let Some(group) = inner.led_group(shard)
            && let Err(error) = group.barrier().await
        {
            tracing::debug!(%shard, %error, "no barrier for a replica that asked");
        }
    });
}

/// The shards that keep the oldest file, while the journal is over its budget or the disk has no room for two files
/// more: once it is full, no checkpoint comes that would cover what is kept only for the newest records.
fn pinning(inner: &Inner) -> Vec<ShardId> {
    let usage = inner.journal.usage();
    let file_bytes = usage.disk_bytes / usage.files.max(1) as u64;
    let is_tight = usage.free_bytes.is_some_and(|free| free < 2 * file_bytes);
    if usage.disk_bytes > inner.settings.journal_bytes_max || is_tight || usage.full.is_some() {
        usage.oldest_file_pinned_by
    } else {
        Vec::new()
    }
}

/// Tells the shards what the pacemaker lets them lead, keeps the view of it up to date, and wakes waiting fetches
/// when it changes. Runs until the region stops.
pub(crate) async fn follow_view(inner: Arc<Inner>) {
    let mut changes = inner.pacing.changes();
    loop {
        changes.mark_unchanged();
        publish(&inner);
        tokio::select! {
            () = inner.stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() {
                return;
            },
            () = inner.writing_changed.notified() => {}
        }
    }
}

/// One round of [`follow_view`].
pub(crate) fn publish(inner: &Inner) {
    let led = &inner.pacing.view().led;
    for shard in inner.shards() {
        if let Replica::Running(running) = &*shard.replica() {
            let now = led.get(&shard.id()).copied();
            running
                .led
                .send_if_modified(|before| std::mem::replace(before, now) != now);
        }
    }
    let view: LeadershipView = inner.shards().iter().map(Shard::leading).collect();
    let mut before = None;
    inner.leadership.send_if_modified(|present| {
        let is_new = **present != *view;
        before = is_new.then(|| std::mem::replace(present, Arc::clone(&view)));
        is_new
    });
    let Some(before) = before else { return };
    for (place, shard) in inner.shards().iter().enumerate() {
        if before.get(place).copied().flatten() != view[place] {
            shard.wake_all();
        }
    }
}
