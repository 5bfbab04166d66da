//! Decides which replicas move where, one step after the other. Pure: the controller's leader calls it about
//! every second with what it sees, and proposes what it answers.
//!
//! What is wanted, the most important first:
//! 1. Each shard has the copies wanted, or as many as there are nodes for them.
//! 2. No copy is on a node that is drained or dead, if another node can take it.
//! 3. The copies of a shard lie in different racks.
//! 4. Nodes hold equally many copies, and lead equally many shards.
//!
//! A shard is never given a second change before its first is done, and a change never takes more away than a
//! dead node or a copy beyond those wanted: a replica goes only together with the arrival of another. When
//! nothing is to be done, nothing is answered: a region at rest costs no command.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meridian_types::{NodeId, ShardId};

use crate::command::Command;
use crate::controller::Controller;
use crate::node::{NodeRegistration, RemoveNodeError};

mod layout;
mod progress;

use layout::{Layout, Rules};
pub use progress::{NodeProgress, Presence, Progress, progress};

/// How the planner is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanSettings {
    /// A node that is silent for this long is dead: its replicas are made anew elsewhere. A node that comes
    /// back earlier finds everything as it was.
    pub dead_after: Duration,
    /// Most replicas that may be on their way to one node at a time.
    pub arriving_max: usize,
}

impl Default for PlanSettings {
    fn default() -> Self {
        Self {
            dead_after: Duration::from_secs(5 * 60),
            arriving_max: 4,
        }
    }
}

/// What the controller's leader sees of the region at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Nodes that do not answer, and for how long. All others are alive.
    pub silent: BTreeMap<NodeId, Duration>,
    /// The members of each shard, and of the controller, as its present leader tells them. A shard that has no
    /// leader, or whose leader has not been heard yet, is left out, and then left alone.
    pub members: BTreeMap<ShardId, Members>,
}

/// Who is in a shard's group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Who leads it.
    pub leader: NodeId,
    /// Who votes. Amid a change these may be the nodes before it, after it, or both.
    pub voters: BTreeSet<NodeId>,
    /// Whether no change of voters is under way in Raft (no joint configuration).
    pub settled: bool,
}

/// Where the shards of a new region belong: the controller last, each with its preferred leader first.
pub(crate) fn initial(shards: u32, nodes: &[NodeRegistration], copies: usize) -> Vec<(ShardId, Vec<NodeId>)> {
    let mut layout = Layout::empty(nodes, shards, copies);
    layout.settle(Rules::SETTLE);
    layout.placements()
}

/// The next steps, at most one per shard: [`Command::SetPlacement`]s to be proposed now.
///
/// They stay the same until they are applied, so calling again too early does no harm: the epochs in them
/// let each apply only once.
pub fn next_steps(controller: &Controller, sight: &Sight, settings: &PlanSettings) -> Vec<Command> {
    let rules = Rules {
        arriving_max: settings.arriving_max,
        ..Rules::SETTLE
    };
    steps(controller, sight, settings, rules)
}

/// Everything that evens out copies and leaders among the nodes alive, at once: for an operator who does not
/// want to wait. [`next_steps`] does the same by and by, but rests while a node is silent and not yet dead.
pub fn balance(controller: &Controller, sight: &Sight, settings: &PlanSettings) -> Vec<Command> {
    steps(controller, sight, settings, Rules::AT_ONCE)
}

/// Whether a node can be removed: what [`Command::RemoveNode`] would answer, and what only the controller's
/// leader can see. To be asked before that command is proposed.
///
/// A node without replicas may go, alive or not. By force goes a node that holds some, but only while it is
/// silent.
pub fn check_remove(
    controller: &Controller,
    sight: &Sight,
    node: NodeId,
    force: bool,
) -> Result<(), RemoveNodeError> {
    controller.check_remove_node(node, force)?;
    let votes = || {
        sight
            .members
            .values()
            .filter(|members| members.voters.contains(&node))
    };
    match votes().count() {
        0 if controller.check_remove_node(node, false).is_ok() => Ok(()),
        _ if force && sight.silent.contains_key(&node) => Ok(()),
        _ if force => Err(RemoveNodeError::Alive { node }),
        replicas => Err(RemoveNodeError::HoldsReplicas { node, replicas }),
    }
}

fn steps(controller: &Controller, sight: &Sight, settings: &PlanSettings, rules: Rules) -> Vec<Command> {
    let mut layout = Layout::new(controller, sight, settings);
    while layout.step(rules) {}
    let changed = layout.changed().into_iter().map(|(shard, replicas)| {
        let placement = controller.placement(shard);
        Command::SetPlacement {
            shard,
            replicas,
            expected: placement.expect("rows come from placements").epoch,
        }
    });
    changed.collect()
}

#[cfg(test)]
mod tests;
