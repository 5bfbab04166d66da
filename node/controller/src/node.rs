//! The region's nodes.

use std::fmt;

use meridian_types::{NodeId, RegionNumber, ShardId, TimestampMs, Uuid};
use thiserror::Error;

/// The newest feature level that this version of Meridian understands: what a node puts into
/// [`NodeRegistration::version_max`].
///
/// 1 is a region of one node; 2 is a region of several: placements, drains, command and snapshot format 2; 3 is a
/// region with a bucket: the shards' commands of the tier, and what they leave in the shards' snapshots; 4 is one of several
/// regions: runs, region epochs and ownership, and where logs stand among the regions in snapshots; 5 has shards for topics
/// that stay in one region, in a region that is founded at it.
pub const FEATURE_LEVEL_MAX: u16 = 5;

/// The feature level of regions that are one of several.
pub const GEO_LEVEL: u16 = 4;

/// The feature level from which on a region that is one of several is founded with shards for topics that stay in it.
pub const HOME_LEVEL: u16 = 5;

/// A TCP address as others are told it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// Name or IP address; an IPv6 address without brackets.
    pub host: String,
    /// Port, never 0.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// What a node says of itself when it joins and whenever it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRegistration {
    /// The node: the broker id that clients see.
    pub node: NodeId,
    /// Random id made together with its data directory. It tells a restart from an impostor: a wiped
    /// node has another one and must come back under a new node id.
    pub incarnation: Uuid,
    /// Where clients reach it; `None` while it takes none, as between its start and its first listener.
    pub kafka: Option<HostPort>,
    /// Where the other nodes reach it. Only a node that is alone in its region may have none.
    pub peer: Option<HostPort>,
    /// The newest feature level that it understands ([`FEATURE_LEVEL_MAX`] of its version).
    pub version_max: u16,
    /// Its rack or zone.
    pub rack: Option<String>,
}

/// A registered node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it said of itself last.
    pub registration: NodeRegistration,
    /// Rises with every registration: the Raft index of the command (Kafka's broker epoch).
    pub epoch: u64,
    /// When it registered last, by the proposer's clock.
    pub registered_at: TimestampMs,
    /// Whether its replicas are to move to other nodes.
    pub draining: bool,
}

/// Why a node was not registered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RegisterNodeError {
    /// Another data directory holds this id. Give the node an id that none had before.
    #[error(
        "node id {node} belongs to another data directory ({present}); use an id that no node had before"
    )]
    IdTaken {
        /// The node.
        node: NodeId,
        /// The incarnation that holds the id.
        present: Uuid,
    },
    /// A node of this id was removed, and entries of the log still name it. Give the node an id that none had before.
    #[error("node id {node} was that of a node which has been removed; use an id that no node had before")]
    Retired {
        /// The node.
        node: NodeId,
    },
    /// The address cannot be reached by anyone.
    #[error("node {node} gives {host:?} port {port} as its address; both must be set")]
    Address {
        /// The node.
        node: NodeId,
        /// The host it gave.
        host: String,
        /// The port it gave.
        port: u16,
    },
    /// The other nodes could not reach it. Start it with a peer address.
    #[error("node {node} gives no peer address, and the region has other nodes; start it with one")]
    NoPeerAddress {
        /// The node.
        node: NodeId,
    },
    /// It would stop at the first command it does not know. Run a newer version of Meridian on it.
    #[error(
        "node {node} understands feature level {version_max}, but the region is at {feature_level}; run a newer version of Meridian on it"
    )]
    Version {
        /// The node.
        node: NodeId,
        /// The newest level it understands.
        version_max: u16,
        /// The level in force.
        feature_level: u16,
    },
    /// Regions share no node ids. Give the node an id in the range of its region.
    #[error("node id {node} is not one of region {region}, whose ids are {} to {}", region.node_ids().start, region.node_ids().end - 1)]
    Region {
        /// The node.
        node: NodeId,
        /// The region.
        region: RegionNumber,
    },
    /// Kafka's broker ids are signed 32 bits.
    #[error("node id {node} is beyond 2147483647")]
    IdRange {
        /// The node.
        node: NodeId,
    },
}

/// There is no such node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("node {node} is not registered")]
pub struct NodeNotFound {
    /// The node.
    pub node: NodeId,
}

/// Why a node was not removed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RemoveNodeError {
    /// There is nothing to remove.
    #[error(transparent)]
    NotFound(#[from] NodeNotFound),
    /// Drain it first. Of a node that is lost for good: remove it by force.
    #[error(
        "node {node} still holds replicas of {replicas} shards; drain it first, or remove it by force if it is lost for good"
    )]
    HoldsReplicas {
        /// The node.
        node: NodeId,
        /// Shards placed on it, or that it still votes for; the controller counts as one.
        replicas: usize,
    },
    /// Not even by force: its data would be lost. Bring the node back.
    #[error("node {node} holds the only replica of {}; bring it back", shard_name(*shard))]
    LastReplica {
        /// The node.
        node: NodeId,
        /// The first such shard.
        shard: ShardId,
    },
    /// Force is for nodes that are lost. Drain it.
    #[error("node {node} is alive; drain it instead of removing it by force")]
    Alive {
        /// The node.
        node: NodeId,
    },
}

/// A shard as a person calls it.
pub(crate) fn shard_name(shard: ShardId) -> String {
    match shard {
        ShardId::CONTROLLER => "the controller".to_owned(),
        shard => format!("shard {shard}"),
    }
}

impl NodeRegistration {
    /// Everything that needs no other node.
    pub(crate) fn check(&self) -> Result<(), RegisterNodeError> {
        let node = self.node;
        if i32::try_from(node.0).is_err() {
            return Err(RegisterNodeError::IdRange { node });
        }
        for address in self.kafka.iter().chain(&self.peer) {
            if address.host.is_empty() || address.port == 0 {
                let HostPort { host, port } = address.clone();
                return Err(RegisterNodeError::Address { node, host, port });
            }
        }
        Ok(())
    }
}
