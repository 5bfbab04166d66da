//! Changes of a group's members and of its leader, by the leader.

use std::collections::BTreeSet;
use std::time::Duration;

use meridian_types::{NodeId, RaftIndex, Term};
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use thiserror::Error;

use crate::config::{Types, node_id};
use crate::group::Group;
use crate::propose::ProposeError;

/// How long a change of members may take. A quorum that is gone may leave it pending for ever.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the next leader may take to be elected.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3);
/// Entries that the next leader may lack when leadership is handed over: it gets them before it is elected, and
/// until then nobody can write.
const TRANSFER_LAG_MAX: u64 = 10_000;

/// Why leadership was not handed over.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TransferError {
    /// This node does not lead; nothing to hand over.
    #[error("this node does not lead the shard")]
    NotLeader,
    /// That node cannot lead now, for the reason given; this node still leads. Try later.
    #[error("node {to} cannot take over: {reason}")]
    NotReady {
        /// The node.
        to: NodeId,
        /// What it lacks.
        reason: String,
    },
    /// The other node was asked and was not elected in time. This node takes no proposals in this term any more and no longer
    /// says that it leads: any other replica may be elected.
    #[error("node {to} was not elected in {TRANSFER_TIMEOUT:?}")]
    TimedOut {
        /// The node.
        to: NodeId,
    },
}

impl Group {
    /// Adds a replica that follows the log without a vote. Returns when the membership is committed, long before the replica
    /// has the log: see [`progress`](Self::progress). Harmless when it is a member already.
    ///
    /// Errors: those of [`barrier`](Self::barrier), and `Refused` while another change is under way.
    pub async fn add_learner(&self, node: NodeId) -> Result<(), ProposeError> {
        if self.members().borrow().all().any(|member| member == node) {
            return Ok(());
        }
        let id = u64::from(node.0);
        self.change(self.raft.add_learner(id, (), false)).await
    }

    /// Makes exactly these replicas the voters. All must be members; voters that are not among them leave the group.
    /// Returns when the change is committed: first a joint membership, then the new one (Raft §6). When it was interrupted
    /// between the two, calling it again completes it.
    ///
    /// Errors: as for [`add_learner`](Self::add_learner); `Unknown` when it is not committed after 30 s.
    pub async fn change_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), ProposeError> {
        let unchanged = {
            let members = self.members();
            let members = members.borrow();
            members.joint.is_none() && members.voters == voters
        };
        if unchanged {
            return Ok(());
        }
        let voters: BTreeSet<u64> = voters.iter().map(|node| node.0.into()).collect();
        let change = ChangeMembers::ReplaceAllVoters(voters);
        self.change(self.raft.change_membership(change, false)).await
    }

    /// Removes a replica that does not vote. Harmless when it is no member.
    ///
    /// Errors: as for [`add_learner`](Self::add_learner).
    pub async fn remove_learner(&self, node: NodeId) -> Result<(), ProposeError> {
        if !self.members().borrow().all().any(|member| member == node) {
            return Ok(());
        }
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([u64::from(node.0)]));
        self.change(self.raft.change_membership(change, false)).await
    }

    async fn change(
        &self,
        change: impl Future<
            Output = Result<ClientWriteResponse<Types>, RaftError<Types, ClientWriteError<Types>>>,
        >,
    ) -> Result<(), ProposeError> {
        let term = self.led_term()?;
        self.admit_own()?;
        self.wake(term).await?;
        match tokio::time::timeout(CHANGE_TIMEOUT, change).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(ProposeError::of(error)),
            Err(_) => Err(ProposeError::Unknown {
                reason: format!("the change of members is not committed after {CHANGE_TIMEOUT:?}"),
            }),
        }
    }

    /// Hands leadership to `to`, which gets the log's end first and is elected without waiting for any lease. Returns
    /// when it leads. Proposals in flight are answered as usual; no new ones are taken from now on. Where nobody was elected
    /// it may be called again, also for another voter.
    pub async fn transfer(&self, to: NodeId) -> Result<(), TransferError> {
        if to == self.node {
            return Ok(());
        }
        let begun = *self.handing_over.borrow();
        let begun = begun.filter(|term| self.progress().is_some_and(|progress| progress.term == *term));
        let term = match begun {
            Some(term) => term,
            None => self.prepare_transfer(to).await?,
        };
        self.handing_over.send_replace(Some(term));
        self.raft
            .trigger()
            .transfer_leader(to.0.into())
            .await
            .map_err(|_| TransferError::NotLeader)?;
        let mut metrics = self.raft.server_metrics();
        let elected = async {
            loop {
                {
                    let metrics = metrics.borrow_watched();
                    let leader = metrics.current_leader.map(node_id);
                    if metrics.vote.committed && leader.is_some_and(|leader| leader != self.node) {
                        return leader == Some(to);
                    }
                }
                if metrics.changed().await.is_err() {
                    return false;
                }
            }
        };
        match tokio::time::timeout(TRANSFER_TIMEOUT, elected).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(TransferError::NotLeader),
            Err(_) => Err(TransferError::TimedOut { to }),
        }
    }

    /// Whether `to` could lead now. Returns the term that this node leads.
    async fn prepare_transfer(&self, to: NodeId) -> Result<Term, TransferError> {
        let not_ready = |reason: String| TransferError::NotReady { to, reason };
        let term = self.led_term().map_err(|_| TransferError::NotLeader)?;
        if !self.members().borrow().voters.contains(&to) {
            return Err(not_ready("it has no vote".to_owned()));
        }
        let progress = self.progress().ok_or(TransferError::NotLeader)?;
        let last = progress.last.unwrap_or_default();
        let matched = progress.matched.get(&to).copied().flatten();
        let lag = last.0.saturating_sub(matched.unwrap_or(RaftIndex(0)).0);
        if matched.is_none() || lag > TRANSFER_LAG_MAX {
            return Err(not_ready(format!("it lacks {lag} entries")));
        }
        self.wake(term)
            .await
            .map_err(|error| not_ready(error.to_string()))?;
        Ok(term)
    }
}
