//! Who is on the other side.

use meridian_net::HostPort;
use meridian_types::{NodeId, Uuid};

/// A node, as it named itself in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its id.
    pub node: NodeId,
    /// Id of its data directory's life: a node that lost its data comes back with another one.
    pub incarnation: Uuid,
    /// The frame version that both sides speak.
    pub version: u16,
}

/// Where a node is reached, and which life of it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Where it listens for other nodes.
    pub at: HostPort,
    /// Its incarnation, when known: any other is refused in both directions, because a node without its
    /// data must not take part under its old id.
    pub incarnation: Option<Uuid>,
}
