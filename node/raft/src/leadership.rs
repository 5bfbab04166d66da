//! Who leads a group, and who is part of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meridian_journal::Journal;
use meridian_types::{LogPosition, NodeId, RaftIndex, ShardId, Term};
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::TransferLeaderRequest;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::config::{Raft, StoredMembership, Vote, node_id, position};
use crate::contact::Contact;
use crate::log_store::admit;

/// Who leads the group, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// No leader is known, or this node is handing leadership over.
    Unknown,
    /// Another node leads.
    Following {
        /// That node.
        leader: NodeId,
        /// The term that it leads.
        term: Term,
    },
    /// This node leads, and its state machine holds every entry of earlier terms: commands may be
    /// sequenced under `term`.
    Leading {
        /// The term of this leadership.
        term: Term,
    },
}

/// Who is part of the group, by the newest membership in this node's log; it may not be committed yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Nodes whose votes count; while a change of voters is under way, those of both sides.
    pub voters: BTreeSet<NodeId>,
    /// Nodes that only follow the log.
    pub learners: BTreeSet<NodeId>,
    /// The change of voters that is under way, if one is.
    pub joint: Option<Joint>,
    /// The entry that says so; `None` while the group knows no members.
    pub position: Option<LogPosition>,
}

/// A change of voters that is under way: of both sides a quorum must agree to everything (Raft §6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joint {
    /// The voters before it.
    pub from: BTreeSet<NodeId>,
    /// The voters after it.
    pub to: BTreeSet<NodeId>,
}

impl Members {
    /// Voters and learners.
    pub fn all(&self) -> impl Iterator<Item = NodeId> {
        self.voters.iter().chain(&self.learners).copied()
    }

    pub(crate) fn of(membership: &StoredMembership) -> Self {
        let nodes = |ids: &mut dyn Iterator<Item = u64>| ids.map(node_id).collect();
        let joint = match membership.membership().get_joint_config().as_slice() {
            [from, .., to] => Some(Joint {
                from: nodes(&mut from.iter().copied()),
                to: nodes(&mut to.iter().copied()),
            }),
            _ => None,
        };
        Self {
            voters: nodes(&mut membership.membership().voter_ids()),
            learners: nodes(&mut membership.membership().learner_ids()),
            joint,
            position: membership.log_id().as_ref().map(position),
        }
    }
}

/// How far the members of a group are, as its leader knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The term that this node leads.
    pub term: Term,
    /// The last entry of the log; `None` in an empty one.
    pub last: Option<RaftIndex>,
    /// The last committed entry.
    pub committed: Option<RaftIndex>,
    /// Per member, the leader included, the last entry that it is known to hold; `None` while unknown.
    pub matched: BTreeMap<NodeId, Option<RaftIndex>>,
    /// Since when a quorum was not heard; `None` when it never was, in this term. Zero in a group of one.
    pub quorum_silent: Option<Duration>,
}

/// What the node's pacemaker asks of a group. openraft's own timers are off.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Nudge {
    EndLease { leader: NodeId, term: Term },
    Elect,
    Beat,
    Reconnected { node: NodeId },
}

/// Carries out nudges in their order, until the group ends.
pub(crate) struct Nudged {
    pub(crate) raft: Raft,
    pub(crate) shard: ShardId,
    pub(crate) node: NodeId,
    pub(crate) founders: BTreeSet<NodeId>,
    pub(crate) journal: Journal,
    pub(crate) contact: Arc<Mutex<Contact>>,
    pub(crate) lease: Duration,
}

impl Nudged {
    pub(crate) async fn run(self, mut nudges: mpsc::Receiver<Nudge>) {
        while let Some(nudge) = nudges.recv().await {
            let done = match nudge {
                Nudge::EndLease { leader, term } => self.end_lease(leader, term).await,
                Nudge::Elect => self.elect().await,
                Nudge::Beat => self.raft.trigger().heartbeat().await.is_ok(),
                Nudge::Reconnected { node } => self.reconnected(node).await,
            };
            if !done {
                return;
            }
        }
    }

    /// openraft ends the lease when the leader says that it hands over; so we say that it does, to itself.
    async fn end_lease(&self, leader: NodeId, term: Term) -> bool {
        if leader == self.node {
            return true;
        }
        self.contact.lock().end(leader, term, Instant::now());
        let leader = u64::from(leader.0);
        let word = TransferLeaderRequest::new(Vote::new_committed(term.0, leader), leader, None);
        self.raft.handle_transfer_leader(word).await.is_ok()
    }

    async fn elect(&self) -> bool {
        if let Some((leader, term)) = self.contact.lock().stands_by(Instant::now(), self.lease) {
            tracing::debug!(shard = %self.shard, %leader, %term, "no election: the leader is heard");
            return true;
        }
        // A leader begins with an entry, and openraft takes a refused one for a broken disk.
        if let Err(refusal) = admit(&self.journal, 0, 1) {
            tracing::warn!(shard = %self.shard, %refusal, "this node does not stand for election");
            return true;
        }
        match self.raft.is_initialized().await {
            Err(_) => false,
            Ok(true) => self.raft.trigger().elect(true).await.is_ok(),
            Ok(false) => {
                initialize(&self.raft, self.node, &self.founders).await;
                true
            }
        }
    }

    async fn reconnected(&self, node: NodeId) -> bool {
        let node = u64::from(node.0);
        self.raft.trigger().reset_backoff([node]).await.is_ok()
            && self.raft.trigger().heartbeat().await.is_ok()
    }
}

/// Writes the first entry of a group, with its voters, and stands for election. Harmless when another founder
/// did it before.
pub(crate) async fn initialize(raft: &Raft, node: NodeId, voters: &BTreeSet<NodeId>) {
    if !voters.contains(&node) {
        return;
    }
    let voters: BTreeSet<u64> = voters.iter().map(|node| node.0.into()).collect();
    if let Err(error) = raft.initialize(voters).await {
        tracing::debug!(%error, "the group was founded before");
    }
}

/// Publishes who leads and who is a member, until the group ends. "Leading" waits until an entry of the own term
/// is applied: only then does the state hold everything that earlier leaders committed.
pub(crate) async fn publish(
    raft: Raft,
    node: NodeId,
    mut applied: watch::Receiver<LogPosition>,
    mut handing_over: watch::Receiver<Option<Term>>,
    leadership: watch::Sender<Leadership>,
    members: watch::Sender<Members>,
) {
    let leadership = Published(leadership);
    let mut metrics = raft.server_metrics();
    loop {
        let (now, membership) = {
            let metrics = metrics.borrow_watched();
            let term = Term(metrics.vote.leader_id.term);
            let elected = metrics
                .current_leader
                .filter(|leader| metrics.vote.committed && *leader == metrics.vote.leader_id.voted_for);
            let now = match elected.map(node_id) {
                Some(leader) if leader != node => Leadership::Following { leader, term },
                Some(_)
                    if metrics.state == ServerState::Leader
                        && (applied.borrow_and_update().term == term || mutant!(LeadBeforeApplied))
                        && *handing_over.borrow_and_update() != Some(term) =>
                {
                    Leadership::Leading { term }
                }
                _ => Leadership::Unknown,
            };
            (now, Members::of(&metrics.membership_config))
        };
        members.send_if_modified(|before| {
            let changed = *before != membership;
            *before = membership;
            changed
        });
        leadership
            .0
            .send_if_modified(|before| std::mem::replace(before, now) != now);
        let leads = matches!(now, Leadership::Leading { .. });
        let ended = tokio::select! {
            changed = metrics.changed() => changed.is_err(),
            changed = handing_over.changed() => changed.is_err(),
            changed = applied.changed(), if !leads => changed.is_err(),
        };
        if ended {
            return;
        }
    }
}

/// However its publisher ends, a group that is no more does not say that it leads.
struct Published(watch::Sender<Leadership>);

impl Drop for Published {
    fn drop(&mut self) {
        self.0.send_replace(Leadership::Unknown);
    }
}
