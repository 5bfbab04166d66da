//! What can be set on a broker, with the defaults of the design.

use std::net::SocketAddr;
use std::time::Duration;

use crate::coordinator::GroupSettings;

/// Everything a broker is told when it starts.
#[derive(Clone, Debug, Default)]
pub struct BrokerSettings {
    /// Limits that keep one client from harming the others.
    pub limits: Limits,
    /// Kafka's broker configs, as the node was started with them.
    pub kafka: KafkaSettings,
    /// Limits of memory of consumer groups; their delays and timeouts are among the broker configs.
    pub groups: GroupSettings,
}

/// Where to listen, and what to tell clients about it.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Name in logs and metrics.
    pub name: String,
    /// Address to bind; port 0 takes a free one.
    pub bind: SocketAddr,
    /// Host and port that Metadata names for this node. `None`: what the controller says, and where that has
    /// no address either, the bound address.
    pub advertised: Option<HostPort>,
}

/// A host name or address with a port, as clients are told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Name or literal address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Kafka's broker configs, as far as a node may be started with other values than Kafka's. What has been altered
/// through the protocol goes before them.
#[derive(Clone, Debug)]
pub struct KafkaSettings {
    /// `auto.create.topics.enable`
    pub auto_create_topics: bool,
    /// `num.partitions`: of topics created without a count.
    pub partitions_default: u32,
    /// `group.initial.rebalance.delay.ms`
    pub group_initial_rebalance_delay: Duration,
    /// `offsets.retention.minutes`, as a duration: a group's offsets go so long after it became empty.
    pub offsets_retention: Duration,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            auto_create_topics: true,
            partitions_default: 1,
            group_initial_rebalance_delay: Duration::from_secs(3),
            offsets_retention: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// Limits in bytes, counts and time. Every one says what happens when it is reached.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections of the whole node; one more is closed at once. `max.connections` may lower it.
    pub connections_max: usize,
    /// Connections from one IP address; one more is closed at once. `max.connections.per.ip` may lower it.
    pub connections_per_ip_max: usize,
    /// A connection without a request for so long is closed. `connections.max.idle.ms` may lower it.
    pub idle_timeout: Duration,
    /// Largest request frame; a larger one closes its connection.
    pub frame_bytes_max: usize,
    /// Largest request that carries no records; a larger one closes its connection.
    pub request_bytes_max: usize,
    /// Request bytes of one connection that have no response yet; above it the connection is not read.
    pub connection_bytes_in_flight_max: usize,
    /// Request bytes of the node that have no response yet; above it no connection is read.
    pub node_bytes_in_flight_max: usize,
    /// Response bytes of the node that are read from the log and not yet written to sockets; above it
    /// fetches wait, or return less.
    pub response_bytes_in_flight_max: usize,
    /// Requests of one connection that are read ahead of their responses; above it the connection is
    /// not read.
    pub connection_requests_in_flight_max: usize,
    /// Partitions in all fetch sessions together; a session that would exceed them is not made.
    pub fetch_session_partitions_max: usize,
    /// A frame that has begun must be whole within this time, or its connection is closed.
    pub frame_timeout: Duration,
    /// While memory for requests is short (half is taken, or someone waits), a frame that makes no progress for so long gives its
    /// memory back: its connection is closed.
    pub frame_stall_timeout: Duration,
    /// A peer that takes no byte of a response for so long is cut off.
    pub write_timeout: Duration,
    /// The same while memory for responses is short (half is taken, or someone waits).
    pub write_stall_timeout: Duration,
    /// A peer that takes a response slower than this, on the whole, is cut off.
    pub write_bytes_per_second_min: usize,
    /// What is in flight when the broker shuts down may still take so long.
    pub shutdown_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            connections_per_ip_max: 20_000,
            idle_timeout: Duration::from_secs(600),
            frame_bytes_max: 100 << 20,
            request_bytes_max: 16 << 20,
            connection_bytes_in_flight_max: 32 << 20,
            node_bytes_in_flight_max: 512 << 20,
            response_bytes_in_flight_max: 256 << 20,
            connection_requests_in_flight_max: 128,
            fetch_session_partitions_max: 1_000_000,
            frame_timeout: Duration::from_secs(30),
            frame_stall_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(30),
            write_stall_timeout: Duration::from_secs(1),
            write_bytes_per_second_min: 32 << 10,
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}
