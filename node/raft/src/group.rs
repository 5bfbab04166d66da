//! One shard's Raft group on this node.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use meridian_journal::{Journal, Payload};
use meridian_types::{LogPosition, NodeId, RaftIndex, ShardId, Term};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use openraft::{Config, ServerState, SnapshotPolicy};
use thiserror::Error;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::checkpoint::CheckpointStore;
use crate::config::{LeaderId, Proposal, Raft, Types, log_id, node_id, position};
use crate::log_store::LogStore;
use crate::machine::{Applier, Built, Machine, Reply};
use crate::network::NoPeers;

/// How long a checkpoint may take before the attempt counts as failed.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(120);

/// What a group needs to know at its start.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// The shard that this group replicates.
    pub shard: ShardId,
    /// This node.
    pub node: NodeId,
    /// The voters of a group that was never started before; ignored once it has a log.
    pub founders: BTreeSet<NodeId>,
    /// Leaders beat this often.
    pub heartbeat_interval: Duration,
    /// Followers wait at least this long without a beat before they call an election; at most twice
    /// as long.
    pub election_timeout: Duration,
}

/// Who leads the group, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// No leader is known.
    Unknown,
    /// Another node leads.
    Following {
        /// That node.
        leader: NodeId,
    },
    /// This node leads, and its state machine holds every entry of earlier terms: commands may be
    /// sequenced under `term`.
    Leading {
        /// The term of this leadership.
        term: Term,
    },
}

/// Why a group could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A checkpoint, a vote or the log cannot be read. The text says which; restore this node from
    /// its peers or from the bucket.
    #[error("shard {shard} cannot recover: {reason}")]
    Recovery {
        /// The shard.
        shard: ShardId,
        /// What was found.
        reason: String,
    },
    /// openraft refused its configuration: a defect.
    #[error("Raft configuration: {0}")]
    Config(String),
}

/// What became of a proposal.
#[derive(Debug, Error)]
pub enum ProposeError {
    /// Certainly not in the log. Ask `leader`.
    #[error("this node does not lead the shard under the expected term")]
    NotLeader {
        /// The leader, where it is known.
        leader: Option<NodeId>,
    },
    /// It may or may not be committed: leadership was lost while it was in flight. Retry only what
    /// is safe to do twice.
    #[error("the outcome is unknown: {reason}")]
    Unknown {
        /// What happened.
        reason: String,
    },
    /// The group has stopped on this node, with the reason.
    #[error("the shard has stopped on this node: {reason}")]
    Stopped {
        /// What happened.
        reason: String,
    },
}

/// A handle on one shard's Raft group. Clones share it.
#[derive(Clone)]
pub struct Group {
    raft: Raft,
    leadership: watch::Receiver<Leadership>,
    applied: watch::Receiver<LogPosition>,
    built: watch::Receiver<Built>,
    journal: Journal,
    shard: ShardId,
    _watcher: Arc<Watcher>,
}

/// Ends the leadership task with the last handle.
struct Watcher(JoinHandle<()>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Group {
    /// Recovers the group from the journal and its newest checkpoint, and starts it. A group that
    /// has no log yet is founded with `settings.founders`.
    pub async fn start(
        settings: GroupSettings,
        journal: Journal,
        checkpoints: CheckpointStore,
        machine: Arc<dyn Machine>,
    ) -> Result<Self, StartError> {
        let shard = settings.shard;
        let recovery = |reason: String| StartError::Recovery { shard, reason };
        let (applied_sender, applied) = watch::channel(LogPosition::default());
        let applier = Applier::recover(machine, Arc::new(checkpoints), applied_sender)
            .map_err(|error| recovery(error.to_string()))?;
        let built = applier.built();
        let config = Arc::new(
            config(&settings)
                .validate()
                .map_err(|e| StartError::Config(e.to_string()))?,
        );
        let store = LogStore::new(journal.clone(), shard);
        let raft = Raft::new(settings.node.0.into(), config, NoPeers, store, applier)
            .await
            .map_err(|error| recovery(error.to_string()))?;

        if !raft
            .is_initialized()
            .await
            .map_err(|error| recovery(error.to_string()))?
        {
            let founders: BTreeSet<u64> = settings.founders.iter().map(|node| node.0.into()).collect();
            raft.initialize(founders)
                .await
                .map_err(|error| recovery(error.to_string()))?;
        } else if raft.voter_ids().eq([u64::from(settings.node.0)]) {
            // Nobody else can be leading: do not sit out the election timeout.
            raft.trigger()
                .elect(false)
                .await
                .map_err(|error| recovery(error.to_string()))?;
        }

        let (sender, leadership) = watch::channel(Leadership::Unknown);
        let watcher = tokio::spawn(watch_leadership(
            raft.clone(),
            settings.node,
            applied.clone(),
            sender,
        ));
        Ok(Self {
            raft,
            leadership,
            applied,
            built,
            journal,
            shard,
            _watcher: Arc::new(Watcher(watcher)),
        })
    }

    /// The shard of this group.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Who leads; changes wake the receiver.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// The last applied entry; changes wake the receiver.
    pub fn applied(&self) -> watch::Receiver<LogPosition> {
        self.applied.clone()
    }

    /// Proposes `command` under `term`. Returns when it is queued, in call order; the answer comes
    /// through [`Pending`]. A leader of another term never takes it, so a command that was stamped
    /// under `term` cannot slip into a later one.
    pub async fn propose(&self, term: Term, command: Vec<Bytes>) -> Result<Pending, ProposeError> {
        let (responder, answer) = ProgressResponder::complete_only();
        self.raft
            .write(Proposal(Payload::from(command)))
            .with_leader(LeaderId::new(term.0))
            .responder(responder)
            .await
            .map_err(|fatal| ProposeError::Stopped {
                reason: fatal.to_string(),
            })?;
        Ok(Pending(answer))
    }

    /// Makes the present state durable as a checkpoint. Returns its position.
    pub async fn checkpoint(&self) -> Result<LogPosition, ProposeError> {
        let stopped = |reason: String| ProposeError::Stopped { reason };
        let wanted = *self.applied.borrow();
        if wanted.index == RaftIndex(0) {
            return Ok(wanted);
        }
        let mut progress = self.raft.watch_snapshot_progress();
        let mut built = self.built.clone();
        let before = built.borrow_and_update().attempts;
        self.raft
            .trigger()
            .snapshot()
            .await
            .map_err(|fatal| stopped(fatal.to_string()))?;
        let attempt = tokio::time::timeout(
            CHECKPOINT_TIMEOUT,
            built.wait_for(|built| built.attempts > before),
        )
        .await
        .map_err(|_| ProposeError::Unknown {
            reason: format!("no checkpoint after {CHECKPOINT_TIMEOUT:?}"),
        })?
        .map_err(|error| stopped(error.to_string()))?
        .clone();
        if let Some(reason) = attempt.error {
            return Err(ProposeError::Unknown { reason });
        }
        let reached = tokio::time::timeout(CHECKPOINT_TIMEOUT, progress.wait_until_ge(&Some(log_id(wanted))))
            .await
            .map_err(|_| ProposeError::Unknown {
                reason: format!("no checkpoint after {CHECKPOINT_TIMEOUT:?}"),
            })?
            .map_err(|error| stopped(error.to_string()))?;
        Ok(reached.as_ref().map(position).unwrap_or_default())
    }

    /// Appends an entry that changes nothing, and waits until it is applied.
    pub async fn barrier(&self) -> Result<LogPosition, ProposeError> {
        match self.raft.write_blank().await {
            Ok(response) => Ok(position(&response.log_id)),
            Err(error) => Err(ProposeError::Unknown {
                reason: error.to_string(),
            }),
        }
    }

    /// Lets Raft forget entries up to `through`, which a checkpoint must cover. Their bytes stay
    /// readable until they are released.
    pub async fn purge(&self, through: RaftIndex) -> Result<(), ProposeError> {
        self.raft
            .trigger()
            .purge_log(through.0)
            .await
            .map_err(|fatal| ProposeError::Stopped {
                reason: fatal.to_string(),
            })
    }

    /// The journal that holds the group's log.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Stops the group on this node. Waits until its tasks have ended.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(shard = %self.shard, %error, "the Raft task ended badly");
        }
    }
}

/// The answer to a proposal, once it is applied here.
pub struct Pending(oneshot::Receiver<ClientWriteResult<Types>>);

impl Future for Pending {
    type Output = Result<(LogPosition, Reply), ProposeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| match answer {
            Ok(Ok(response)) => Ok((position(&response.log_id), response.data)),
            Ok(Err(ClientWriteError::ForwardToLeader(forward))) => Err(ProposeError::NotLeader {
                leader: forward.leader_id.map(node_id),
            }),
            Ok(Err(error)) => Err(ProposeError::Unknown {
                reason: error.to_string(),
            }),
            Err(_) => Err(ProposeError::Stopped {
                reason: "the Raft task ended".to_owned(),
            }),
        })
    }
}

fn config(settings: &GroupSettings) -> Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let election_min = millis(settings.election_timeout);
    Config {
        cluster_name: format!("shard-{}", settings.shard),
        heartbeat_interval: millis(settings.heartbeat_interval),
        election_timeout_min: election_min,
        election_timeout_max: election_min * 2,
        // The shard bounds bytes in flight; these only bound queues by count.
        max_payload_entries: 300,
        api_channel_size: Some(1024),
        notification_channel_size: Some(1024),
        state_machine_channel_size: Some(1024),
        // Checkpoints and purges are the shard's decision.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        // A restarted leader must win a new term: an epoch is never used by two lives of a node.
        enable_leader_restore: Some(false),
        // A leader without a quorum must not keep followers' leases alive (openraft #2080).
        quorum_loss_probe_interval: Some(election_min * 4),
        ..Config::default()
    }
}

/// Publishes who leads. "Leading" waits until an entry of the own term is applied: only then does
/// the state hold everything that earlier leaders committed.
async fn watch_leadership(
    raft: Raft,
    node: NodeId,
    mut applied: watch::Receiver<LogPosition>,
    sender: watch::Sender<Leadership>,
) {
    let mut metrics = raft.server_metrics();
    loop {
        let now = {
            let metrics = metrics.borrow_watched();
            let term = Term(metrics.vote.leader_id.term);
            let leads = metrics.state == ServerState::Leader && metrics.vote.committed;
            match metrics.current_leader.map(node_id) {
                Some(leader) if leader != node => Leadership::Following { leader },
                Some(_) if leads && applied.borrow_and_update().term == term => Leadership::Leading { term },
                _ => Leadership::Unknown,
            }
        };
        sender.send_if_modified(|before| std::mem::replace(before, now) != now);
        let ended = if matches!(now, Leadership::Leading { .. }) {
            metrics.changed().await.is_err()
        } else {
            tokio::select! {
                changed = metrics.changed() => changed.is_err(),
                changed = applied.changed() => changed.is_err(),
            }
        };
        if ended {
            sender.send_replace(Leadership::Unknown);
            return;
        }
    }
}

#[cfg(test)]
mod tests;
