//! How far the region is from where it should be.

use std::collections::BTreeSet;
use std::time::Duration;

use meridian_types::{NodeId, ShardId};

use super::layout::{Layout, Rules};
use super::{PlanSettings, Sight};
use crate::controller::Controller;

/// What is still to be moved. Shards count together with the controller's group, which is one more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Each registered node, by id.
    pub nodes: Vec<NodeProgress>,
    /// Shards whose members are on their way.
    pub moving: usize,
    /// Shards that nobody leads, or whose leader has not told its members yet.
    pub unknown: usize,
}

/// What is still to be moved to one node, and away from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeProgress {
    /// The node.
    pub node: NodeId,
    /// Whether it is there.
    pub presence: Presence,
    /// Whether it is drained.
    pub draining: bool,
    /// Shards that it votes for now.
    pub replicas: usize,
    /// Shards that it leads now.
    pub leads: usize,
    /// Replicas that are to come: placed here but not yet there, or to be placed here later.
    pub arriving: usize,
    /// Replicas that are to go.
    pub leaving: usize,
    /// Replicas that should go and have nowhere to go to: another node is missing, or
    /// `default.replication.factor` is higher than the nodes left can carry.
    pub stuck: usize,
}

/// Whether a node is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It answers.
    Alive,
    /// It does not answer since this long. If it is back in time, nothing is moved.
    Silent(Duration),
    /// It does not answer since this long, and its replicas are made anew elsewhere.
    Dead(Duration),
}

/// How far the region is from where [`super::next_steps`] leads it, as things are now.
pub fn progress(controller: &Controller, sight: &Sight, settings: &PlanSettings) -> Progress {
    let mut layout = Layout::new(controller, sight, settings);
    let (moving, unknown) = layout.motions();
    layout.settle(Rules::SETTLE);
    let rows: Vec<_> = layout
        .placements()
        .into_iter()
        .map(|(shard, target)| (shard, target, holders(controller, sight, shard)))
        .collect();
    let node = |node: &crate::node::Node| {
        let id = node.registration.node;
        let presence = match sight.silent.get(&id) {
            None => Presence::Alive,
            Some(silent) if *silent >= settings.dead_after => Presence::Dead(*silent),
            Some(silent) => Presence::Silent(*silent),
        };
        let should_leave = node.draining || matches!(presence, Presence::Dead(_));
        let count = |is_counted: &dyn Fn(bool, bool) -> bool| {
            let is_counted = |(_, target, held): &&(_, Vec<NodeId>, BTreeSet<NodeId>)| {
                is_counted(held.contains(&id), target.contains(&id))
            };
            rows.iter().filter(is_counted).count()
        };
        NodeProgress {
            node: id,
            presence,
            draining: node.draining,
            replicas: count(&|held, _| held),
            leads: sight
                .members
                .values()
                .filter(|members| members.leader == id)
                .count(),
            arriving: count(&|held, target| target && !held),
            leaving: count(&|held, target| held && !target),
            stuck: count(&|_, target| target && should_leave),
        }
    };
    Progress {
        nodes: controller.nodes().map(node).collect(),
        moving,
        unknown,
    }
}

/// Who holds a shard now; of one that nobody tells about, who should.
fn holders(controller: &Controller, sight: &Sight, shard: ShardId) -> BTreeSet<NodeId> {
    match sight.members.get(&shard) {
        Some(members) => members.voters.clone(),
        None => controller.replicas_of(shard).iter().copied().collect(),
    }
}
