//! One shard's group on this node, as the pacemaker sees it.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use meridian_types::{NodeId, RaftIndex, ShardId, Term};

use super::action::Action;
use super::beat::{HostedShard, NodePhase, ShardRole};
use super::clock::Clock;
use super::detector::Detector;
use super::following::Following;
use super::leaders::Leaders;
use super::leading::{Leading, Preference};
use super::random::Jitter;
use super::settings::Timing;

/// What this node's Raft group does, as openraft tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It knows no leader: it has just started, or is a candidate.
    Seeking,
    /// Another node leads.
    Following {
        /// That node.
        leader: NodeId,
        /// Its term.
        term: Term,
    },
    /// This node was elected, and may not serve: its state machine does not hold all entries of earlier terms
    /// yet, or it is handing over. It claims the shard in the first case, or it would be unseated while it
    /// catches up.
    Elected {
        /// Its term.
        term: Term,
    },
    /// This node leads and may serve.
    Leading {
        /// Its term.
        term: Term,
    },
}

impl Role {
    /// The term of the leader, where there is one.
    pub(super) fn term(self) -> Option<Term> {
        match self {
            Self::Seeking => None,
            Self::Following { term, .. } | Self::Elected { term } | Self::Leading { term } => Some(term),
        }
    }

    fn is_elected(self) -> bool {
        matches!(self, Self::Elected { .. } | Self::Leading { .. })
    }
}

/// Who belongs to a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    /// The voters. In a joint membership (Raft §6), those it leads to.
    pub(crate) voters: BTreeSet<NodeId>,
    /// In a joint membership, the voters it comes from; else empty.
    pub(crate) outgoing: BTreeSet<NodeId>,
    /// They have a copy and do not vote.
    pub(crate) learners: BTreeSet<NodeId>,
}

impl Members {
    /// Whether the node votes.
    pub(super) fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// Everybody.
    pub(super) fn all(&self) -> impl Iterator<Item = NodeId> {
        let voters = self.voters.union(&self.outgoing);
        let learners = self.learners.iter().filter(|node| !self.is_voter(**node));
        voters.chain(learners).copied()
    }

    /// Whether the voters for which `is_with` holds are a quorum, of both memberships while it is joint.
    pub(super) fn is_quorum(&self, is_with: impl Fn(NodeId) -> bool) -> bool {
        let majority = |voters: &BTreeSet<NodeId>| {
            let with = voters.iter().filter(|node| is_with(**node)).count();
            with > voters.len() / 2
        };
        majority(&self.voters) && (self.outgoing.is_empty() || majority(&self.outgoing))
    }
}

/// What a group looks at, beside itself, when it decides.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) node: NodeId,
    pub(super) phase: NodePhase,
    pub(super) timing: Timing,
    pub(super) clock: Clock,
    pub(super) detector: Detector,
    pub(super) leaders: Leaders,
}

impl Surroundings {
    /// Takes in what was heard, and what was not.
    pub(super) fn look_around(&mut self) {
        self.detector.check(&self.clock, &self.timing);
        self.leaders.rebuild(self.detector.beats());
    }

    /// When somebody may have been silent for too long, in lived time.
    pub(super) fn next_look(&self) -> Duration {
        self.detector.next_check(&self.timing).unwrap_or(Duration::MAX)
    }
}

/// What a decision changes outside of the group.
pub(super) struct Effects<'a> {
    pub(super) jitter: &'a mut Jitter,
    pub(super) actions: &'a mut VecDeque<Action>,
    /// The earliest time, in lived time, at which there may be something to decide again.
    pub(super) deadline: Duration,
}

impl Effects<'_> {
    /// The group wants to decide again at `at`, in lived time.
    pub(super) fn wake_at(&mut self, at: Duration) {
        self.deadline = at.min(self.deadline);
    }
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) shard: ShardId,
    /// The wished nodes, preferred leader first.
    pub(super) replicas: Vec<NodeId>,
    pub(super) members: Members,
    pub(super) role: Role,
    pub(super) applied: RaftIndex,
    pub(super) following: Following,
    pub(super) leading: Option<Leading>,
    pub(super) preference: Preference,
}

impl Group {
    pub(super) fn new(around: &Surroundings, shard: ShardId, replicas: Vec<NodeId>) -> Self {
        Self {
            shard,
            replicas,
            members: Members::default(),
            role: Role::Seeking,
            applied: RaftIndex(0),
            following: Following::new(around.clock.lived()),
            leading: None,
            preference: Preference::new(&around.timing),
        }
    }

    /// openraft has told a new role.
    pub(super) fn set_role(&mut self, around: &Surroundings, role: Role) {
        let now = around.clock.lived();
        let before = std::mem::replace(&mut self.role, role);
        if role.is_elected() {
            if !before.is_elected() || before.term() != role.term() {
                self.following = Following::new(now);
                self.leading = Some(Leading::new(now, around.timing.heartbeats_after));
                self.preference.leader_is(&around.timing, around.node);
            }
            return;
        }
        if self.leading.take().is_some() {
            // Whoever took over has not claimed the shard yet.
            self.following = Following::new(now);
        }
        if let Role::Following { leader, .. } = role {
            self.following.leader_is_new(now, leader);
            self.preference.leader_is(&around.timing, leader);
        }
    }

    /// The preferred leader may be another: it has to prove itself anew.
    pub(super) fn placement_changed(&mut self) {
        if let Some(leading) = &mut self.leading {
            leading.doubt_preferred();
        }
    }

    /// This process stood still.
    pub(super) fn handle_stall(&mut self) {
        self.following.handle_stall();
        self.placement_changed();
    }

    /// Something happens in the group: where this node leads it, it is to have heartbeats for a while.
    pub(super) fn wake(&mut self, around: &Surroundings) {
        if let Some(leading) = &mut self.leading {
            leading.wake(around.clock.lived(), around.timing.heartbeats_after);
        }
    }

    /// Decides what is due.
    pub(super) fn decide(&mut self, around: &Surroundings, effects: &mut Effects<'_>) {
        if self.leading.is_some() {
            self.lead(around, effects);
        } else {
            self.follow(around, effects);
        }
    }

    /// Whether this node claims to lead the shard.
    pub(super) fn is_claimed(&self) -> bool {
        self.leading.as_ref().is_some_and(Leading::is_claimed)
    }

    /// How this node's beat shows the group.
    pub(super) fn hosted(&self, leaders: &Leaders) -> HostedShard {
        let role = match self.role {
            Role::Following { .. } => ShardRole::Follows,
            Role::Elected { .. } | Role::Leading { .. } if self.is_claimed() => ShardRole::Leads,
            _ => ShardRole::Seeks,
        };
        let leader_seen = match self.leading {
            Some(_) => self.is_claimed() || leaders.claim(self.shard).is_some(),
            None => !self.following.is_gone(),
        };
        HostedShard {
            shard: self.shard,
            role,
            leader_seen,
            term: self.role.term().unwrap_or_default(),
            applied: self.applied,
        }
    }

    /// The voters that live, this node among them, in the order in which they should lead: the placement's,
    /// with those last that are to leave.
    pub(super) fn ranked_voters(&self, around: &Surroundings) -> Vec<NodeId> {
        let phase = |node| match node == around.node {
            true => around.phase,
            false => around.detector.phase(node),
        };
        let lives = |node: &NodeId| *node == around.node || around.detector.is_alive(*node);
        let voters = self.members.voters.union(&self.members.outgoing).copied();
        let stays = |node: &NodeId| phase(*node) != NodePhase::Stopping;
        let mut ranked: Vec<_> = voters.filter(lives).filter(stays).collect();
        ranked.sort_by_key(|node| {
            let placed = self.replicas.iter().position(|replica| replica == node);
            (phase(*node), placed.unwrap_or(usize::MAX), *node)
        });
        ranked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u32]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn a_joint_membership_needs_a_quorum_on_both_sides() {
        let members = Members {
            voters: nodes(&[1, 2, 4]),
            outgoing: nodes(&[1, 2, 3]),
            learners: nodes(&[3, 9]),
        };
        let is_quorum = |with: &[u32]| members.is_quorum(|node| with.contains(&node.0));
        assert!(is_quorum(&[1, 2]));
        assert!(is_quorum(&[1, 3, 4]));
        assert!(!is_quorum(&[1, 4]));
        assert!(!is_quorum(&[1, 3, 9]));
        assert!(members.is_voter(NodeId(3)) && !members.is_voter(NodeId(9)));
        assert_eq!(members.all().collect::<BTreeSet<_>>(), nodes(&[1, 2, 3, 4, 9]));
        assert_eq!(members.all().count(), 5);
    }

    #[test]
    fn half_the_voters_are_no_quorum_and_nobody_is_none() {
        let even = Members {
            voters: nodes(&[1, 2]),
            ..Members::default()
        };
        assert!(!even.is_quorum(|node| node == NodeId(1)));
        assert!(!Members::default().is_quorum(|_| true));
    }
}
