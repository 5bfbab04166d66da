//! Figures of this node for metrics, and what it knows of its region for the operator.

use std::sync::Arc;

use meridian_controller::{HostPort, Node};
use meridian_raft::Leadership;
use meridian_types::{LeaderEpoch, NodeId, RaftIndex, ShardId};

use crate::region::Region;
use crate::tier::TierUsage;

/// A replica that lacks no more entries than this is in step: those are on their way to it.
const IN_STEP_ENTRIES: u64 = 16;

/// Figures of this node.
#[derive(Clone, Debug)]
pub struct Usage {
    /// The journal's.
    pub journal: meridian_journal::Usage,
    /// Each shard's that has a replica here, or should have.
    pub shards: Vec<ShardUsage>,
}

/// Figures of one shard's replica on this node.
#[derive(Clone, Debug)]
pub struct ShardUsage {
    /// The shard.
    pub shard: ShardId,
    /// Whether this node leads it.
    pub led_here: bool,
    /// Why it does not run here, if it does not.
    pub stopped: Option<Arc<str>>,
    /// It is known to have lost something. Where other replicas are whole, it is made anew from them.
    pub damaged: bool,
    /// Partitions with records.
    pub partitions: usize,
    /// Bytes of batches that wait for the sequencer.
    pub queued_bytes: usize,
    /// Index of the last applied entry.
    pub applied_index: u64,
}

/// What this node knows of its region.
#[derive(Clone, Debug)]
pub struct RegionStatus {
    /// The node that tells.
    pub node: NodeId,
    /// Every registered node.
    pub nodes: Vec<NodeStatus>,
    /// The controller's shard, then every data shard.
    pub shards: Vec<ShardStatus>,
}

/// A node of the region.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// What the controller knows of it.
    pub node: Node,
    /// Whether this node hears it.
    pub is_alive: bool,
    /// Where it says that it is reached now.
    pub address: Option<HostPort>,
}

/// A shard of the region.
#[derive(Clone, Debug)]
pub struct ShardStatus {
    /// The shard.
    pub shard: ShardId,
    /// Its leader, if one is known and alive.
    pub leader: Option<NodeId>,
    /// The leader's epoch.
    pub leader_epoch: Option<LeaderEpoch>,
    /// The nodes that should vote, the preferred leader first.
    pub placement: Vec<NodeId>,
    /// Why it does not run on this node, though it should.
    pub stopped: Option<Arc<str>>,
    /// The replica on this node.
    pub replica: Option<ReplicaStatus>,
}

/// A replica on this node, and what it knows of the others.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// Who leads, as its group knows.
    pub leadership: Leadership,
    /// Index of the last entry that is known to be committed.
    pub committed: RaftIndex,
    /// Partitions with records.
    pub partitions: usize,
    /// The members, by the newest membership in its log.
    pub members: Vec<MemberStatus>,
    /// A change of members is under way, or is wished.
    pub is_moving: bool,
}

/// A member of a shard's group.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// The node.
    pub node: NodeId,
    /// Whether it votes; a learner only copies.
    pub is_voter: bool,
    /// The last entry that it is known to have; only the leader knows.
    pub matched: Option<RaftIndex>,
    /// The last entry that it said to have applied; `None` while it is not heard.
    pub applied: Option<RaftIndex>,
}

impl MemberStatus {
    /// Entries committed that it has not applied; `None` while it is not heard.
    pub fn lag(&self, committed: RaftIndex) -> Option<u64> {
        self.applied.map(|applied| committed.0.saturating_sub(applied.0))
    }
}

impl Region {
    /// Figures for metrics.
    pub fn usage(&self) -> Usage {
        let held = self
            .inner
            .shards()
            .iter()
            .filter(|shard| shard.group().is_some() || shard.stopped().is_some());
        let shards = held.map(|shard| ShardUsage {
            shard: shard.id(),
            led_here: shard.led().is_some(),
            stopped: shard.stopped(),
            damaged: self.inner.journal.log(shard.id()).damaged.is_some(),
            partitions: shard.applied_state().partitions().count(),
            queued_bytes: shard.queued_bytes(),
            applied_index: shard.group().map_or(0, |group| group.applied().borrow().index.0),
        });
        Usage {
            journal: self.inner.journal.usage(),
            shards: shards.collect(),
        }
    }

    /// Why this node's disk takes no more records, if it is full.
    pub fn disk_full(&self) -> Option<String> {
        self.inner.journal.usage().full
    }

    /// Figures of this node's use of the bucket; `None` where it was told of none.
    pub fn tier_usage(&self) -> Option<TierUsage> {
        let tier = self.inner.tier()?;
        Some(tier.usage(|shard| {
            let shard = self.inner.shard(shard);
            (shard.applied_bytes(), shard.applied_state().manifest().totals())
        }))
    }

    /// Topics that ask for compaction, where the region has no bucket and so compacts nothing.
    pub fn uncompacted_topics(&self) -> usize {
        if self.has_bucket() {
            return 0;
        }
        let controller = self.controller();
        let asking = controller.topics().filter(|topic| topic.settings.compacts);
        asking.count()
    }

    /// What this node knows of its region, for the operator.
    pub fn status(&self) -> RegionStatus {
        let view = self.inner.pacing.view();
        let nodes = {
            let controller = self.controller();
            let node = |node: &Node| NodeStatus {
                is_alive: view.alive.contains(&node.registration.node),
                address: node.registration.peer.clone(),
                node: node.clone(),
            };
            controller.nodes().map(node).collect()
        };
        let shards = std::iter::once(ShardId::CONTROLLER).chain(self.shard_map().all());
        RegionStatus {
            node: self.node_id(),
            nodes,
            shards: shards.map(|shard| self.shard_status(shard)).collect(),
        }
    }

    /// The other nodes that are heard and whose replica of a shard has all that is committed, but for the last few
    /// entries: a consumer may read from them (KIP-392). Empty where another node leads.
    pub fn replicas_in_step(&self, shard: ShardId) -> Vec<NodeId> {
        let Some(progress) = self.inner.led_group(shard).and_then(|group| group.progress()) else {
            return Vec::new();
        };
        let committed = progress.committed.unwrap_or_default().0;
        let view = self.inner.pacing.view();
        let is_in_step = |node: &NodeId, matched: &Option<RaftIndex>| {
            let has_all = matched.is_some_and(|matched| matched.0 + IN_STEP_ENTRIES >= committed);
            has_all && *node != self.node_id() && view.alive.contains(node)
        };
        let members = progress.matched.iter();
        members
            .filter(|(node, matched)| is_in_step(node, matched))
            .map(|(node, _)| *node)
            .collect()
    }

    fn shard_status(&self, shard: ShardId) -> ShardStatus {
        let placement = self.controller().replicas_of(shard).to_vec();
        let held = (shard != ShardId::CONTROLLER).then(|| self.inner.shard(shard));
        let replica = self.inner.pacing.group(shard).map(|group| {
            let members = group.members().borrow().clone();
            let progress = group.progress();
            let matched = |node: NodeId| *progress.as_ref()?.matched.get(&node)?;
            let voters: Vec<_> = members.voters.iter().copied().collect();
            let learners = members.learners.iter().copied();
            let wished: std::collections::BTreeSet<_> = placement.iter().copied().collect();
            let is_moving = members.joint.is_some() || (!wished.is_empty() && wished != members.voters);
            let member = |node, is_voter| MemberStatus {
                node,
                is_voter,
                matched: matched(node),
                applied: match node == self.node_id() {
                    true => Some(group.applied().borrow().index),
                    false => self.inner.pacing.applied(node, shard),
                },
            };
            ReplicaStatus {
                leadership: *group.leadership().borrow(),
                committed: progress
                    .as_ref()
                    .and_then(|progress| progress.committed)
                    .unwrap_or_else(|| group.applied().borrow().index),
                partitions: held.map_or(0, |held| held.applied_state().partitions().count()),
                members: voters
                    .into_iter()
                    .map(|node| member(node, true))
                    .chain(learners.map(|node| member(node, false)))
                    .collect(),
                is_moving,
            }
        });
        ShardStatus {
            shard,
            leader: self.leader_of(shard),
            leader_epoch: self.leader_epoch_of(shard),
            placement,
            stopped: held.and_then(|held| held.stopped()),
            replica,
        }
    }
}
