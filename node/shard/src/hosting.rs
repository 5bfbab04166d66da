//! Which shards have a replica on this node: they come and go with the controller's placement.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meridian_controller::Placement;
use meridian_journal::{Disk, Journal};
use meridian_peer::Lane;
use meridian_raft::{CheckpointStore, Group, GroupSettings, NetworkSettings, StartError};
use meridian_types::{NodeId, RaftIndex, ShardId};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::append::Appender;
use crate::message::{ReplicaAnswer, ReplicaQuestion, ReplicaState, kind};
use crate::region::Inner;
use crate::settings::RegionSettings;
use crate::shard::{Replica, Running, Shard};

/// Pause between rounds while nothing wakes them.
const ROUND_INTERVAL: Duration = Duration::from_millis(500);

/// Founders of a shard go one after the other, the preferred leader first, so that it is elected.
const FOUNDER_STEP: Duration = Duration::from_secs(2);

/// How long a report of a damaged replica counts. Its node repeats it each round.
const REPORT_MAX_AGE: Duration = Duration::from_secs(3);

/// Replicas of shards led here that their nodes have reported as damaged.
#[derive(Debug, Default)]
pub(crate) struct Damaged {
    reports: BTreeMap<(ShardId, NodeId), Instant>,
}

impl Damaged {
    pub(crate) fn note(&mut self, now: Instant, shard: ShardId, node: NodeId) {
        self.reports.insert((shard, node), now);
        self.reports.retain(|_, at| now - *at < REPORT_MAX_AGE);
    }

    pub(crate) fn of(&self, now: Instant, shard: ShardId) -> BTreeSet<NodeId> {
        let reports = self.reports.range((shard, NodeId(0))..=(shard, NodeId(u32::MAX)));
        reports
            .filter(|(_, at)| now - **at < REPORT_MAX_AGE)
            .map(|((_, node), _)| *node)
            .collect()
    }
}

pub(crate) fn group_settings(settings: &RegionSettings, shard: ShardId) -> GroupSettings {
    GroupSettings {
        shard,
        node: settings.peer.node,
        // Whether a group is to be founded takes a look around first.
        founders: BTreeSet::new(),
        heartbeat_interval: settings.heartbeat_interval,
        election_timeout: settings.election_timeout,
        network: NetworkSettings::default(),
    }
}

/// Runs until the region stops.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut applied = inner.control_group.applied();
    let mut topics_deleted = 0;
    let mut is_member = true;
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = tokio::time::sleep(ROUND_INTERVAL) => {}
            changed = applied.changed() => if changed.is_err() {
                return;
            }
        }
        round(&inner).await;
        let (deleted, is_registered) = {
            let controller = inner.control.controller();
            (
                controller.deleted_topics().len(),
                controller.node(inner.node()).is_some(),
            )
        };
        // A deleted topic's data goes at once, not with the next round.
        if std::mem::replace(&mut topics_deleted, deleted) < deleted {
            inner.maintain.notify_one();
        }
        if std::mem::replace(&mut is_member, is_registered) && !is_registered {
            tracing::error!("this node was removed from its region; stop it");
        }
    }
}

/// Brings this node in line with the facts as they are now.
pub(crate) async fn round(inner: &Arc<Inner>) {
    inner.pacing.set_nodes(&inner.nodes());
    let (control, is_draining) = {
        let controller = inner.control.controller();
        let control = controller.replicas_of(ShardId::CONTROLLER).to_vec();
        let own = controller.node(inner.node());
        (control, own.is_some_and(|node| node.draining))
    };
    inner.pacing.set_draining(is_draining);
    inner.pacing.set_replicas(ShardId::CONTROLLER, &control);
    let tending = inner.shards().iter().map(|shard| tend(inner, shard));
    futures::future::join_all(tending).await;
}

async fn tend(inner: &Arc<Inner>, shard: &Shard) {
    let id = shard.id();
    let placement = inner.control.controller().placement(id).cloned();
    let Some(placement) = placement else { return };
    let is_placed = placement.contains(inner.node());
    match &*shard.replica() {
        Replica::Absent => {
            // What is left of a replica may still be needed by its group.
            let is_left = inner.replica_state(id) != ReplicaState::Absent;
            if is_placed || is_left {
                start(inner, shard, &placement).await;
            }
        }
        Replica::Running(running) => {
            let is_damaged = is_damaged(inner, &running.group);
            inner
                .pacing
                .set_replicas(id, &may_lead(inner, id, &placement, is_damaged));
            if let Some(reason) = running.group.stopped() {
                if !inner.stop.is_cancelled() {
                    tracing::error!(shard = %id, %reason, "the shard has stopped on this node");
                    inner.pacing.remove(id);
                    // What it could not read may be whole on others.
                    let is_lost = inner.journal.log(id).damaged.is_some() && !inner.nodes().is_empty();
                    let replica = if is_lost {
                        Replica::Damaged
                    } else {
                        Replica::Failed
                    };
                    shard.set_replica(replica(reason.into()));
                }
            } else if !running.group.is_initialized() {
                found(inner, &running.group, running.since, &placement).await;
            } else if !is_placed && is_dismissed(inner, shard, ReplicaState::Present).await {
                dismiss(
                    inner,
                    shard,
                    &running.group,
                    "the shard has moved away from this node",
                )
                .await;
            } else if is_damaged && is_dismissed(inner, shard, ReplicaState::Damaged).await {
                let what = "the damaged replica is gone; a new one is made from the others";
                dismiss(inner, shard, &running.group, what).await;
            }
        }
        Replica::Damaged(_) => {
            if is_dismissed(inner, shard, ReplicaState::Damaged).await {
                begin_anew(inner, shard).await;
            }
        }
        Replica::Failed(_) => {}
    }
}

/// Whether a replica that runs has lost something, as a read has shown, that others still have. It keeps its vote until
/// its leader has taken it out: what it lost is committed, and it goes on with what comes.
pub(crate) fn is_damaged(inner: &Inner, group: &Group) -> bool {
    let is_elsewhere = group
        .members()
        .borrow()
        .voters
        .iter()
        .any(|voter| *voter != inner.node());
    is_elsewhere && inner.journal.log(group.shard()).damaged.is_some()
}

/// The replicas that may lead, the preferred one first: those that lost nothing, or all if there is none.
fn may_lead(inner: &Inner, shard: ShardId, placement: &Placement, am_damaged: bool) -> Vec<NodeId> {
    let mut damaged = inner.damaged.lock().of(Instant::now(), shard);
    if am_damaged {
        damaged.insert(inner.node());
    }
    let whole = placement.replicas.iter().filter(|node| !damaged.contains(node));
    let whole: Vec<_> = whole.copied().collect();
    match whole.is_empty() {
        true => placement.replicas.clone(),
        false => whole,
    }
}

/// Starts the replica that belongs here.
async fn start(inner: &Arc<Inner>, shard: &Shard, placement: &Placement) {
    let id = shard.id();
    match start_group(inner, shard).await {
        Ok(group) => {
            let stop = CancellationToken::new();
            let led = watch::channel(None).0;
            let appender = Appender {
                group: group.clone(),
                led: led.subscribe(),
                stop: stop.clone(),
                machine: Arc::clone(shard.machine()),
                queue: Arc::clone(shard.queue()),
                settings: inner.settings.shard.clone(),
                writes: shard.writing().open(),
                clock: Arc::clone(&inner.clock),
                pacing: inner.pacing.clone(),
            };
            let since = Instant::now();
            let running = Running {
                group: group.clone(),
                led,
                since,
                stop,
            };
            shard.set_replica(Replica::Running(running));
            tokio::spawn(appender.run());
            inner.pacing.add(group.clone(), placement.replicas.clone());
            if !group.is_initialized() {
                found(inner, &group, since, placement).await;
            }
        }
        // In a region of one node nobody else has what is lost.
        Err(StartError::Recovery { reason, .. }) if !inner.nodes().is_empty() => {
            tracing::error!(shard = %id, %reason, "the replica is damaged; it is made anew from the others");
            shard.set_replica(Replica::Damaged(reason.into()));
        }
        Err(error) => {
            tracing::error!(shard = %id, %error, "the shard does not start on this node");
            shard.set_replica(Replica::Failed(error.to_string().into()));
        }
    }
}

async fn start_group(inner: &Arc<Inner>, shard: &Shard) -> Result<Group, StartError> {
    let id = shard.id();
    check_undamaged(&inner.journal, id)?;
    Group::start(
        group_settings(&inner.settings, id),
        inner.journal.clone(),
        CheckpointStore::new(Arc::clone(&inner.checkpoints), id),
        Arc::clone(shard.machine()) as Arc<dyn meridian_raft::Machine>,
        Some(inner.peers.clone()),
    )
    .await
}

/// A log that lost something must not be taken for the whole.
pub(crate) fn check_undamaged(journal: &Journal, shard: ShardId) -> Result<(), StartError> {
    match journal.log(shard).damaged {
        None => Ok(()),
        Some(damage) => Err(StartError::Recovery {
            shard,
            reason: format!(
                "{} (journal file {}, position {})",
                damage.reason, damage.file, damage.position
            ),
        }),
    }
}

/// Makes the group, if it was never made: every node must say that it has nothing of it. A replica here that
/// was made empty again must not found what the others hold.
async fn found(inner: &Inner, group: &Group, since: Instant, placement: &Placement) {
    let node = inner.node();
    let Some(rank) = placement.replicas.iter().position(|replica| *replica == node) else {
        return;
    };
    let turn = FOUNDER_STEP * u32::try_from(rank).unwrap_or(u32::MAX);
    if !placement.founders.contains(&node) || since.elapsed() < turn {
        return;
    }
    let others = inner.nodes();
    let shard = group.shard();
    let asking = others
        .keys()
        .map(|other| ask(inner, *other, shard, ReplicaState::Absent));
    let answers = futures::future::join_all(asking).await;
    let is_new = answers
        .iter()
        .all(|answer| matches!(answer, Some(answer) if answer.theirs == ReplicaState::Absent));
    if is_new {
        group
            .initialize(placement.founders.iter().copied().collect())
            .await;
    }
}

async fn ask(inner: &Inner, node: NodeId, shard: ShardId, mine: ReplicaState) -> Option<ReplicaAnswer> {
    let body = vec![ReplicaQuestion { mine }.encode()];
    let answer = inner
        .peers
        .call(node, Lane::Urgent, kind::REPLICA, shard, body)
        .await;
    match answer.map(|body| ReplicaAnswer::decode(&body)) {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            tracing::warn!(%node, %shard, %error, "an unreadable answer about a replica");
            None
        }
        Err(error) => {
            tracing::debug!(%node, %shard, %error, "no answer about a replica");
            None
        }
    }
}

/// Whether the shard's leader says that this node is no member of its group any more. To a leader that still counts
/// on it, the question tells that the replica here is damaged.
async fn is_dismissed(inner: &Inner, shard: &Shard, mine: ReplicaState) -> bool {
    let id = shard.id();
    let leader = inner.pacing.view().leaders.get(&id).map(|leader| leader.node);
    let Some(leader) = leader.filter(|leader| *leader != inner.node()) else {
        return false;
    };
    let Some(answer) = ask(inner, leader, id, mine).await else {
        return false;
    };
    let Some(says) = answer.members else { return false };
    // A leader that is one no more may not know yet that this node has come back.
    let known = shard.group().and_then(|group| group.members().borrow().position);
    let known = known.map_or(RaftIndex(0), |position| position.index);
    !says.members.contains(&inner.node()) && says.at.index >= known
}

/// The replica is no member of its group any more: forgets it.
async fn dismiss(inner: &Inner, shard: &Shard, group: &Group, what: &str) {
    let id = shard.id();
    inner.pacing.remove(id);
    shard.set_replica(Replica::Absent);
    match group.erase().await {
        Ok(()) => {
            shard.machine().clear();
            tracing::info!(shard = %id, "{what}");
        }
        Err(reason) => {
            tracing::error!(shard = %id, reason, "what is left of the shard here cannot be removed");
            shard.set_replica(Replica::Failed(reason.into()));
        }
    }
}

/// A damaged replica was taken out of its group: it may begin as a new one.
async fn begin_anew(inner: &Inner, shard: &Shard) {
    let id = shard.id();
    match erase(&inner.journal, &inner.checkpoints, id).await {
        Ok(()) => {
            tracing::info!(shard = %id, "the damaged replica is gone; a new one is made from the others");
            shard.machine().clear();
            shard.set_replica(Replica::Absent);
        }
        Err(reason) => {
            tracing::error!(shard = %id, reason, "the damaged replica cannot be removed");
            shard.set_replica(Replica::Failed(reason.into()));
        }
    }
}

/// Removes the log, vote and checkpoints of a replica that does not run. Never of one whose vote may still count.
pub(crate) async fn erase(
    journal: &Journal,
    checkpoints: &Arc<dyn Disk>,
    shard: ShardId,
) -> Result<(), String> {
    let (sender, done) = tokio::sync::oneshot::channel();
    let report = move |result: Result<(), _>| drop(sender.send(result));
    journal.reset(shard, Box::new(report));
    done.await
        .map_err(|_| "the journal stopped".to_owned())?
        .map_err(|error| error.to_string())?;
    let store = CheckpointStore::new(Arc::clone(checkpoints), shard);
    meridian_raft::blocking(move || store.clear())
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_for_its_shard_and_for_a_while() {
        let mut damaged = Damaged::default();
        let now = Instant::now();
        damaged.note(now, ShardId(3), NodeId(1));
        assert_eq!(damaged.of(now, ShardId(3)), BTreeSet::from([NodeId(1)]));
        assert!(damaged.of(now, ShardId(2)).is_empty());
        assert!(damaged.of(now + REPORT_MAX_AGE, ShardId(3)).is_empty());
        damaged.note(now + REPORT_MAX_AGE, ShardId(4), NodeId(2));
        assert_eq!(damaged.reports.len(), 1, "old reports go");
    }
}
