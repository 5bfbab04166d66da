//! From the members that a shard has to those that it is wished to have, one step at a time. Pure.
//!
//! The shard's leader runs this. Copies are only taken away once the wished ones hold everything, and the
//! leader moves before it is itself removed. Moving the leadership is the pacemaker's matter.

use std::collections::{BTreeMap, BTreeSet};

use meridian_types::{NodeId, RaftIndex};

/// A replica this far behind the leader's log still counts as caught up: the next change of membership is
/// itself an entry that a quorum must have.
const LAG_ENTRIES_MAX: u64 = 64;

/// What the leader sees.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) me: NodeId,
    /// The wished voters, the preferred leader first.
    pub(crate) wished: Vec<NodeId>,
    /// Nodes that are wished as learners (of the controller's group).
    pub(crate) wished_learners: BTreeSet<NodeId>,
    pub(crate) voters: BTreeSet<NodeId>,
    pub(crate) learners: BTreeSet<NodeId>,
    /// A change of voters was begun and not ended, by a leader before this one.
    pub(crate) is_joint: bool,
    /// The leader's last entry.
    pub(crate) last: RaftIndex,
    /// How far each member's log is known to match.
    pub(crate) matched: BTreeMap<NodeId, RaftIndex>,
    /// Nodes that are heard of, this one among them.
    pub(crate) alive: BTreeSet<NodeId>,
    /// Replicas that lost something: they neither vote nor acknowledge.
    pub(crate) damaged: BTreeSet<NodeId>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    AddLearner(NodeId),
    /// To exactly these voters. Whoever stops voting leaves the group.
    ChangeVoters(BTreeSet<NodeId>),
    RemoveLearner(NodeId),
}

impl View {
    /// The next step, if one is due.
    pub(crate) fn next_step(&self) -> Option<Step> {
        self.repair().or_else(|| self.change())
    }

    fn is_alive(&self, node: NodeId) -> bool {
        self.alive.contains(&node)
    }

    fn has_caught_up(&self, node: NodeId) -> bool {
        node == self.me
            || (self.is_alive(node)
                && !self.damaged.contains(&node)
                && self
                    .matched
                    .get(&node)
                    .is_some_and(|matched| matched.0 + LAG_ENTRIES_MAX >= self.last.0))
    }

    /// Takes damaged replicas out, so that they can begin anew.
    fn repair(&self) -> Option<Step> {
        let broken = |node: &&NodeId| **node != self.me && self.damaged.contains(node);
        if let Some(node) = self.voters.iter().find(broken) {
            let mut rest = self.voters.clone();
            rest.remove(node);
            let well = rest
                .iter()
                .filter(|node| self.is_alive(**node) && !self.damaged.contains(node));
            let has_quorum = well.count() > rest.len() / 2;
            return has_quorum.then_some(Step::ChangeVoters(rest));
        }
        self.learners
            .iter()
            .find(broken)
            .copied()
            .map(Step::RemoveLearner)
    }

    fn change(&self) -> Option<Step> {
        let wished: BTreeSet<_> = self.wished.iter().copied().collect();
        if wished.is_empty() {
            // Nothing is known of the wishes; the present members stay.
            return None;
        }
        let is_member = |node: &NodeId| self.voters.contains(node) || self.learners.contains(node);
        let wanted = self.wished.iter().chain(&self.wished_learners);
        let may_join =
            |node: &&NodeId| !is_member(node) && self.is_alive(**node) && !self.damaged.contains(node);
        if let Some(node) = wanted.copied().find(|node| may_join(&node)) {
            return Some(Step::AddLearner(node));
        }

        let ready: BTreeSet<_> = wished
            .iter()
            .copied()
            .filter(|node| {
                self.voters.contains(node) || (self.learners.contains(node) && self.has_caught_up(*node))
            })
            .collect();
        let with_ready: BTreeSet<_> = self.voters.union(&ready).copied().collect();
        if ready == wished && wished != self.voters {
            if wished.contains(&self.me) {
                return Some(Step::ChangeVoters(wished));
            }
            // Who is to go does not lead its own removal: the pacemaker hands over first.
            return (with_ready != self.voters).then_some(Step::ChangeVoters(with_ready));
        }
        // More copies do not wait for a wished node that is away.
        let waits = wished
            .iter()
            .any(|node| !ready.contains(node) && self.is_alive(*node) && !self.damaged.contains(node));
        if !waits && with_ready != self.voters {
            return Some(Step::ChangeVoters(with_ready));
        }
        if self.is_joint {
            return Some(Step::ChangeVoters(with_ready));
        }
        let is_wanted = |node: &NodeId| wished.contains(node) || self.wished_learners.contains(node);
        let surplus = self.learners.iter().copied().find(|node| !is_wanted(node))?;
        // While the wish is not fulfilled, every copy may yet be needed.
        (ready == wished).then_some(Step::RemoveLearner(surplus))
    }
}

#[cfg(test)]
mod tests;
