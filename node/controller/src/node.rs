//! The region's nodes.

use meridian_types::{NodeId, TimestampMs, Uuid};
use thiserror::Error;

/// What a node says of itself when it joins and whenever it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRegistration {
    /// The node: the broker id that clients see.
    pub node: NodeId,
    /// Random id made together with its data directory. It tells a restart from an impostor: a wiped
    /// node has another one and must come back under a new node id.
    pub incarnation: Uuid,
    /// Where clients reach it.
    pub host: String,
    /// Where clients reach it.
    pub port: u16,
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
}

/// Why a node was not registered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RegisterNodeError {
    /// Another data directory holds this id. Give the node a new id, or remove the old one first.
    #[error(
        "node id {node} belongs to another data directory ({present}); use a new id, or remove node {node} first"
    )]
    IdTaken {
        /// The node.
        node: NodeId,
        /// The incarnation that holds the id.
        present: Uuid,
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

impl NodeRegistration {
    /// Everything that needs no other node.
    pub(crate) fn check(&self) -> Result<(), RegisterNodeError> {
        if i32::try_from(self.node.0).is_err() {
            return Err(RegisterNodeError::IdRange { node: self.node });
        }
        if self.host.is_empty() || self.port == 0 {
            let host = self.host.clone();
            return Err(RegisterNodeError::Address {
                node: self.node,
                host,
                port: self.port,
            });
        }
        Ok(())
    }
}
