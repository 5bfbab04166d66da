//! One shard's Raft group on this node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use meridian_journal::Journal;
use meridian_peer::{Peers, Refusal};
use meridian_types::{LogPosition, NodeId, RaftIndex, ShardId, Term};
use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftDataMetrics;
use openraft::type_config::alias::WatchReceiverOf;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::checkpoint::CheckpointStore;
use crate::config::{LogId, Raft, Types, node_id, position};
use crate::contact::Contact;
use crate::inbound::Inbound;
use crate::leadership::{self, Leadership, Members, Nudge, Nudged, Progress};
use crate::log_store::LogStore;
use crate::machine::{Applier, Built, Checkpoints, Machine};
use crate::network::Network;
use crate::settings::GroupSettings;

/// Nudges that may wait. The pacemaker repeats itself, so one that finds no room is dropped.
const NUDGES_MAX: usize = 64;

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

/// A handle on one shard's Raft group. Clones share it.
///
/// openraft's own timers are off. Nothing beats and nobody calls an election unless told by
/// [`beat`](Self::beat) and [`elect`](Self::elect), so an idle group costs nothing.
#[derive(Clone)]
pub struct Group {
    pub(crate) raft: Raft,
    pub(crate) node: NodeId,
    pub(crate) lease: Duration,
    pub(crate) handing_over: Arc<watch::Sender<Option<Term>>>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    members: watch::Receiver<Members>,
    pub(crate) applied: watch::Receiver<LogPosition>,
    pub(crate) data: WatchReceiverOf<Types, RaftDataMetrics<Types>>,
    pub(crate) built: watch::Receiver<Built>,
    pub(crate) checkpoints: Arc<Checkpoints>,
    inbound: Arc<Inbound>,
    nudges: mpsc::Sender<Nudge>,
    tasks: Arc<Tasks>,
}

/// The group's own tasks, which end with the last handle.
struct Tasks(Mutex<Vec<JoinHandle<()>>>);

impl Tasks {
    fn abort(&self) -> Vec<JoinHandle<()>> {
        let tasks = std::mem::take(&mut *self.0.lock());
        tasks.iter().for_each(JoinHandle::abort);
        tasks
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.abort();
    }
}

impl Group {
    /// Recovers the group from the journal and its newest checkpoint, and starts it. A group that never existed is
    /// founded by `settings.founders`. Without `peers` the region has one node.
    pub fn start(
        settings: GroupSettings,
        journal: Journal,
        checkpoints: CheckpointStore,
        machine: Arc<dyn Machine>,
        peers: Option<Peers>,
    ) -> BoxFuture<'static, Result<Self, StartError>> {
        // Boxed, so that this crate compiles what it awaits, and not each that awaits it (docs/HACKING.md, "Compile time").
        Box::pin(async move {
            let (shard, node) = (settings.shard, settings.node);
            let recovery = |reason: String| StartError::Recovery { shard, reason };
            let (applied_sender, applied) = watch::channel(LogPosition::default());
            let checkpoints = Checkpoints::new(checkpoints, journal.clone(), shard);
            let applier = {
                let checkpoints = Arc::clone(&checkpoints);
                crate::blocking::blocking(move || Applier::recover(machine, checkpoints, applied_sender))
                    .await
                    .map_err(|error| recovery(error.to_string()))?
                    .map_err(|error| recovery(error.to_string()))?
            };
            let config = Arc::new(
                settings
                    .config()
                    .validate()
                    .map_err(|e| StartError::Config(e.to_string()))?,
            );
            let lease = Duration::from_millis(config.election_timeout_max);
            let network = Network::new(peers, shard, settings.network.clone(), Arc::clone(&checkpoints));
            let store = LogStore::new(journal.clone(), shard);
            let raft = Raft::new(node.0.into(), config, network, store, applier)
                .await
                .map_err(|error| recovery(error.to_string()))?;
            checkpoints.serve();

            let founded = raft
                .is_initialized()
                .await
                .map_err(|error| recovery(error.to_string()))?;
            let alone = BTreeSet::from([node]);
            if !founded && settings.founders == alone {
                leadership::initialize(&raft, node, &alone).await;
            } else if founded && raft.voter_ids().eq([u64::from(node.0)]) {
                // Nobody else can be leading.
                raft.trigger()
                    .elect(false)
                    .await
                    .map_err(|error| recovery(error.to_string()))?;
            }

            let contact = Arc::new(Mutex::new(Contact::default()));
            let (leadership_sender, leadership) = watch::channel(Leadership::Unknown);
            let members_now = Members::of(&raft.server_metrics().borrow_watched().membership_config);
            let (members_sender, members) = watch::channel(members_now);
            let (handing_over, handing_over_receiver) = watch::channel(None);
            let publisher = tokio::spawn(leadership::publish(
                raft.clone(),
                node,
                applied.clone(),
                handing_over_receiver,
                leadership_sender,
                members_sender,
            ));
            let (nudges, nudges_receiver) = mpsc::channel(NUDGES_MAX);
            let nudged = Nudged {
                raft: raft.clone(),
                shard,
                node,
                founders: settings.founders,
                journal,
                contact: Arc::clone(&contact),
                lease,
            };
            let nudged = tokio::spawn(nudged.run(nudges_receiver));
            Ok(Self {
                inbound: Inbound::new(raft.clone(), Arc::clone(&checkpoints), contact, lease),
                data: raft.data_metrics(),
                built: checkpoints.built(),
                raft,
                node,
                lease,
                handing_over: Arc::new(handing_over),
                leadership,
                members,
                applied,
                checkpoints,
                nudges,
                tasks: Arc::new(Tasks(Mutex::new(vec![publisher, nudged]))),
            })
        })
    }

    /// The shard of this group.
    pub fn shard(&self) -> ShardId {
        self.checkpoints.shard
    }

    /// Who leads; changes wake the receiver.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Who is part of the group; changes wake the receiver.
    pub fn members(&self) -> watch::Receiver<Members> {
        self.members.clone()
    }

    /// The last applied entry; changes wake the receiver.
    pub fn applied(&self) -> watch::Receiver<LogPosition> {
        self.applied.clone()
    }

    /// Whether the group has members: it was founded here, or a leader contacted this replica.
    pub fn is_initialized(&self) -> bool {
        self.members.borrow().position.is_some()
    }

    /// Why the group has stopped on this node for good, if it has: its disk failed, a command cannot be applied,
    /// or it was shut down. The other replicas go on; only a new start helps here.
    pub fn stopped(&self) -> Option<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.running_state.as_ref().err().map(ToString::to_string)
    }

    /// How far the members are; `None` unless this node leads and is not handing leadership over.
    pub fn progress(&self) -> Option<Progress> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        if *self.handing_over.borrow() == Some(Term(metrics.current_term)) {
            return None;
        }
        let index = |id: &LogId| position(id).index;
        let matched = replication
            .iter()
            .map(|(node, matched)| (node_id(*node), matched.as_ref().map(index)))
            .collect();
        Some(Progress {
            term: Term(metrics.current_term),
            last: metrics.last_log_index.map(RaftIndex),
            committed: metrics.cluster_committed.as_ref().map(index),
            matched,
            quorum_silent: if self.is_alone() {
                Some(Duration::ZERO)
            } else {
                metrics
                    .last_quorum_acked
                    .map(|acked| acked.into_inner().elapsed())
            },
        })
    }

    /// Serves a call from another replica. Appends are carried out in the order in which they come here, so it must be
    /// called in the order of their arrival; the futures may be driven in any order.
    pub fn call(&self, kind: u16, body: Bytes) -> BoxFuture<'static, Result<Vec<Bytes>, Refusal>> {
        self.inbound.call(kind, body)
    }

    /// This node no longer stands by `leader` of `term`: the failure detector says that it is gone. It may then
    /// vote for another, and [`elect`](Self::elect) works. Changes nothing when another leads, or another term; hearing
    /// that leader again renews the lease, so say it again before each election: a last message of its may have been under way.
    pub fn end_lease(&self, leader: NodeId, term: Term) {
        self.nudge(Nudge::EndLease { leader, term });
    }

    /// Calls an election, with a round of pre-votes first. Does nothing where this node leads, does not vote, still
    /// stands by a leader, or its journal takes no entries. Nudges are carried out in the order of the calls.
    pub fn elect(&self) {
        self.nudge(Nudge::Elect);
    }

    /// Sends a heartbeat to all members, where this node leads.
    pub fn beat(&self) {
        self.nudge(Nudge::Beat);
    }

    /// `node` can be reached again: what waited to be tried again is tried now, and it gets a heartbeat.
    pub fn reconnected(&self, node: NodeId) {
        self.nudge(Nudge::Reconnected { node });
    }

    fn nudge(&self, nudge: Nudge) {
        if self.nudges.try_send(nudge).is_err() {
            tracing::debug!(shard = %self.shard(), ?nudge, "dropped");
        }
    }

    /// Founds the group with these voters, of which this node must be one, and calls an election. Every founder may,
    /// with the same voters; harmless when the group has a log already.
    pub async fn initialize(&self, voters: BTreeSet<NodeId>) {
        leadership::initialize(&self.raft, self.node, &voters).await;
    }

    /// The journal that holds the group's log.
    pub fn journal(&self) -> &Journal {
        &self.checkpoints.journal
    }

    /// Stops the group on this node. Waits until its tasks have ended.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(shard = %self.shard(), %error, "the Raft task ended badly");
        }
        self.inbound.end();
        for task in self.tasks.abort() {
            // Aborted: it has no other way to end.
            let _ = task.await;
        }
    }

    pub(crate) fn is_alone(&self) -> bool {
        let members = self.members.borrow();
        members.voters.len() == 1 && members.voters.contains(&self.node)
    }
}

#[cfg(test)]
mod tests;
