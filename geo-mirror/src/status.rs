//! What links say about themselves to people.

use std::net::SocketAddr;
use std::time::Duration;

use meridian_types::{NodeId, RegionEpoch, RegionNumber, ShardId, TimestampMs};
use tokio::time::Instant;

/// What a link runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// QUIC over UDP.
    Quic,
    /// TLS over TCP.
    Tcp,
}

/// The network's part of a link.
#[derive(Clone, Debug, PartialEq)]
pub struct TransportStatus {
    /// What it runs over.
    pub transport: Transport,
    /// Whether both sides know by certificate who the other is.
    pub is_authenticated: bool,
    /// The other side's address.
    pub peer: SocketAddr,
    /// Connections.
    pub connections: usize,
    /// Time there and back, smoothed.
    pub rtt: Option<Duration>,
    /// Bytes sent: of packets with QUIC, of frames with TCP.
    pub bytes_sent: u64,
    /// Bytes that came.
    pub bytes_received: u64,
    /// Packets sent. 0 with TCP, where the system knows them.
    pub packets_sent: u64,
    /// Packets lost, whose content was sent again. 0 with TCP.
    pub packets_lost: u64,
    /// Since when.
    pub connected_for: Duration,
}

/// Where a followed shard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowState {
    /// There is no connection.
    Disconnected,
    /// It is being asked for.
    Asking,
    /// Content flows.
    Following,
    /// It was refused for good; somebody must act.
    Parked,
}

/// A shard that this node follows.
#[derive(Clone, Debug, PartialEq)]
pub struct FollowStatus {
    /// Which.
    pub shard: ShardId,
    /// Where it stands.
    pub state: FollowState,
    /// Everything below is applied here.
    pub applied_sequence: u64,
    /// Commands that the owner has and this region has not. `None`: not known.
    pub lag_sequences: Option<u64>,
    /// About how many bytes these have. `None`: not known.
    pub lag_bytes: Option<u64>,
    /// How old the copy is. `None`: not known. Never 0.
    pub lag: Option<Duration>,
    /// Everything from before this moment of the owner's clock is here.
    pub complete_until: Option<TimestampMs>,
    /// What is wrong.
    pub trouble: Option<String>,
}

/// A link that this node opened.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkStatus {
    /// The region it leads to.
    pub region: RegionNumber,
    /// Its name, when the other side has said it.
    pub name: Option<String>,
    /// The node that answered.
    pub node: Option<NodeId>,
    /// The epoch that the other side said it believes in.
    pub region_epoch: Option<RegionEpoch>,
    /// Where it was dialled.
    pub address: String,
    /// The connection, while there is one.
    pub transport: Option<TransportStatus>,
    /// Why there is none, or was none last.
    pub trouble: Option<String>,
    /// The shards followed over it.
    pub shards: Vec<FollowStatus>,
    /// The limit that this side asked the other to keep.
    pub limit_bytes_per_second: Option<u64>,
}

/// A shard that another region's node follows here.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedStatus {
    /// Which.
    pub shard: ShardId,
    /// Everything below was sent.
    pub sent_sequence: u64,
    /// Everything below is applied there.
    pub applied_sequence: u64,
    /// Commands that this side has and the other has not applied. `None`: not known.
    pub lag_sequences: Option<u64>,
    /// Bytes of frames that are sent and not applied.
    pub in_flight_bytes: u64,
}

/// A link that another region's node opened to this one.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionStatus {
    /// Its region.
    pub region: RegionNumber,
    /// Its region's name.
    pub name: String,
    /// The node.
    pub node: NodeId,
    /// The connection.
    pub transport: TransportStatus,
    /// When something last came from there; while the link is up that is at least once per card interval.
    pub heard_at: Instant,
    /// Bytes of commands sent.
    pub raw_bytes_sent: u64,
    /// Bytes of the frames that carried them; the ratio of the two is what compression gave.
    pub wire_bytes_sent: u64,
    /// Processor time of compressing.
    pub compression_time: Duration,
    /// The limit that the other side asked for.
    pub limit_bytes_per_second: Option<u64>,
    /// The shards followed over it.
    pub shards: Vec<FeedStatus>,
}
