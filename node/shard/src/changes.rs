//! Carries out placements: the leader of a shard brings its members in line with what the controller wishes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meridian_raft::Group;
use meridian_types::{NodeId, RaftIndex, ShardId};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::reconcile::{Step, View};
use crate::region::Inner;

/// Pause between looks.
const ROUND_INTERVAL: Duration = Duration::from_millis(200);

/// Runs until the region stops.
pub(crate) async fn run(inner: Arc<Inner>) {
    let busy: Arc<Mutex<BTreeSet<ShardId>>> = Arc::default();
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = tokio::time::sleep(ROUND_INTERVAL) => {}
        }
        let led: Vec<_> = inner.pacing.view().led.keys().copied().collect();
        for shard in led {
            if busy.lock().contains(&shard) {
                continue;
            }
            let Some((group, view)) = view(&inner, shard) else {
                continue;
            };
            let Some(step) = view.next_step() else { continue };
            busy.lock().insert(shard);
            let busy = Arc::clone(&busy);
            tokio::spawn(async move {
                carry_out(&group, step).await;
                busy.lock().remove(&shard);
            });
        }
    }
}

/// What the leader sees of a shard that this node leads; `None` when it does not.
pub(crate) fn view(inner: &Inner, shard: ShardId) -> Option<(Group, View)> {
    let group = inner.led_group(shard)?;
    let progress = group.progress()?;
    let members = group.members().borrow().clone();
    let (wished, wished_learners) = {
        let controller = inner.control.controller();
        let wished = controller.replicas_of(shard).to_vec();
        // Every node has the region's facts.
        let learners: BTreeSet<_> = match shard {
            ShardId::CONTROLLER => controller.nodes().map(|node| node.registration.node).collect(),
            _ => BTreeSet::new(),
        };
        (wished, learners)
    };
    let matched: BTreeMap<NodeId, RaftIndex> = progress
        .matched
        .iter()
        .filter_map(|(node, matched)| Some((*node, (*matched)?)))
        .collect();
    let view = View {
        me: inner.node(),
        wished,
        wished_learners,
        voters: members.voters,
        learners: members.learners,
        is_joint: members.joint.is_some(),
        last: progress.last.unwrap_or_default(),
        matched,
        alive: inner.pacing.view().alive.clone(),
        damaged: inner.damaged.lock().of(Instant::now(), shard),
    };
    Some((group, view))
}

async fn carry_out(group: &Group, step: Step) {
    let shard = group.shard();
    tracing::info!(%shard, ?step, "changing the members of a shard");
    let done = match &step {
        Step::AddLearner(node) => group.add_learner(*node).await.map_err(|error| error.to_string()),
        Step::ChangeVoters(voters) => {
            let changed = group.change_voters(voters.clone()).await;
            changed.map_err(|error| error.to_string())
        }
        Step::RemoveLearner(node) => group
            .remove_learner(*node)
            .await
            .map_err(|error| error.to_string()),
    };
    if let Err(error) = done {
        tracing::warn!(%shard, ?step, error, "the members of a shard were not changed; it is tried again");
        tokio::time::sleep(ROUND_INTERVAL * 5).await;
    }
}
