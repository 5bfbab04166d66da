//! Which nodes hold which shard.

use meridian_types::{NodeId, ShardId};
use thiserror::Error;

use crate::node::{NodeNotFound, shard_name};

/// Where the replicas of one shard belong.
///
/// This is the wish. The shard's leader carries it out: it adds learners, waits until they caught up, changes
/// the voters, and hands leadership to the first of `replicas` when that one is alive and caught up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The voters that the shard's group is first made with, by id: each of them, and nobody else, may
    /// initialize the group, and only with all of them. Empty once one of them was removed from the region:
    /// its id may belong to an empty data directory by then, and the group has long been made.
    pub founders: Vec<NodeId>,
    /// The nodes that should vote, none twice, the preferred leader first. Never empty.
    pub replicas: Vec<NodeId>,
    /// Rises with every change of `replicas`: the Raft index of the command.
    pub epoch: u64,
}

/// Why a shard's replicas were not placed anew.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SetPlacementError {
    /// The region has no such shard, or no node yet.
    #[error("{} has no placement", shard_name(*shard))]
    ShardNotFound {
        /// The shard.
        shard: ShardId,
    },
    /// Somebody else placed it since. Plan again.
    #[error("{} was placed anew since (epoch {present}, expected was {expected})", shard_name(*shard))]
    Changed {
        /// The shard.
        shard: ShardId,
        /// Epoch in force.
        present: u64,
        /// Epoch that the proposer knew.
        expected: u64,
    },
    /// A shard without replicas is lost, and one node cannot hold two of them.
    #[error("{} needs one replica or more, each on another node; asked for was {replicas:?}", shard_name(*shard))]
    Replicas {
        /// The shard.
        shard: ShardId,
        /// What was asked for.
        replicas: Vec<NodeId>,
    },
    /// Only registered nodes hold replicas.
    #[error(transparent)]
    NodeNotFound(#[from] NodeNotFound),
}

impl Placement {
    /// The placement of a shard whose group is made by all of `replicas`.
    pub(crate) fn founded(replicas: Vec<NodeId>, epoch: u64) -> Self {
        let mut founders = replicas.clone();
        founders.sort_unstable();
        Self {
            founders,
            replicas,
            epoch,
        }
    }

    /// The node that should lead.
    pub fn preferred_leader(&self) -> NodeId {
        self.replicas[0]
    }

    /// Whether `node` should hold the shard.
    pub fn contains(&self, node: NodeId) -> bool {
        self.replicas.contains(&node)
    }
}

/// Whether every node stands only once. The lists are a handful of nodes long.
pub(crate) fn are_distinct(nodes: &[NodeId]) -> bool {
    nodes
        .iter()
        .enumerate()
        .all(|(n, node)| !nodes[..n].contains(node))
}
