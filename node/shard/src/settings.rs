//! What a node of a region is told at its start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meridian_peer::{HostPort, PeerSettings};
use meridian_types::TimestampMs;
use tokio::sync::watch;

use crate::mirror::GeoSettings;
use crate::tier::Bucket;

/// The node's wall clock. Only stamps and ages use it; nothing is ordered by it.
pub type Clock = Arc<dyn Fn() -> TimestampMs + Send + Sync>;

/// The node's source of randomness for ids: 128 fresh bits a call.
pub type Random = Arc<dyn Fn() -> u128 + Send + Sync>;

/// Settings of one node of a region.
#[derive(Clone, Debug)]
pub struct RegionSettings {
    /// This node and the region's name, and how it talks to the others. Both are fixed for good.
    pub peer: PeerSettings,
    /// Where this node listens for the others; port 0 takes a free one.
    pub peer_listen: SocketAddr,
    /// Where the others are told to reach it; the listening address unless it is given.
    pub peer_advertise: Option<HostPort>,
    /// Nodes of the region, this one among them or not. The first nodes of a region all need the same. Without
    /// any, an empty node founds a region of its own.
    pub seeds: Vec<HostPort>,
    /// This node's rack or zone.
    pub rack: Option<String>,
    /// The newest feature level that this node says it understands: that of its version, or an older one, which keeps
    /// the region at that level.
    pub feature_level_max: u16,
    /// Copies of each shard that are wanted, fixed at the founding (afterwards a config of the cluster).
    pub replicas: usize,
    /// Data shards of the region, a power of two, fixed at its founding.
    pub shards: u32,
    /// Kafka's cluster id, fixed at the founding; made up when absent.
    pub cluster_id: Option<String>,
    /// Leaders of active groups beat this often.
    pub heartbeat_interval: Duration,
    /// A leader's lease: followers refuse other candidates for so long after its last sign of life, unless they
    /// know that its node is gone.
    pub election_timeout: Duration,
    /// A node that was not heard of for so long is given up: its replicas are made anew elsewhere.
    pub dead_after: Duration,
    /// Pause between rounds of retention, checkpoints and releases.
    pub maintenance_interval: Duration,
    /// Bytes of journal files to aim at: over it, shards that keep old files make checkpoints early.
    pub journal_bytes_max: u64,
    /// How long the start tries again what is hopeless as it looks, such as seeds of another region. Nodes that
    /// are merely not up yet are waited for without end.
    pub start_timeout: Duration,
    /// The region's bucket, the same for all nodes; without one nothing is tiered.
    pub bucket: Option<Bucket>,
    /// This node's part in the mirror between regions; without one the region is alone.
    pub geo: Option<GeoSettings>,
    /// Where the start tells what it waits for, for the operator.
    pub progress: Option<watch::Sender<String>>,
    /// Settings of each shard.
    pub shard: ShardSettings,
}

impl RegionSettings {
    /// The defaults, for a node that founds a region of its own and can be reached from this machine.
    pub fn new(peer: PeerSettings) -> Self {
        Self {
            peer,
            peer_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            peer_advertise: None,
            seeds: Vec::new(),
            rack: None,
            feature_level_max: meridian_controller::FEATURE_LEVEL_MAX,
            replicas: 3,
            shards: 16,
            cluster_id: None,
            heartbeat_interval: Duration::from_millis(1000),
            election_timeout: Duration::from_millis(3000),
            dead_after: Duration::from_secs(600),
            maintenance_interval: Duration::from_secs(5),
            journal_bytes_max: 64 << 30,
            start_timeout: Duration::from_secs(60),
            progress: None,
            bucket: None,
            geo: None,
            shard: ShardSettings::default(),
        }
    }
}

impl RegionSettings {
    pub(crate) fn tell(&self, waiting_for: impl Into<String>) {
        if let Some(progress) = &self.progress {
            progress.send_replace(waiting_for.into());
        }
    }
}

/// Limits of one shard on this node.
#[derive(Clone, Debug)]
pub struct ShardSettings {
    /// Bytes of batches that may wait for the sequencer; beyond it an append is refused as busy.
    pub queue_bytes_max: usize,
    /// Bytes of batches in one command (soft: a larger batch goes alone).
    pub command_bytes_max: usize,
    /// Proposals in flight.
    pub proposals_in_flight_max: usize,
    /// Bytes of proposals in flight (soft by one command).
    pub bytes_in_flight_max: usize,
    /// Entries applied since the last checkpoint that call for the next.
    pub checkpoint_entries: u64,
    /// Bytes of entries applied since the last checkpoint that call for the next: a restart reads them again.
    pub checkpoint_bytes: u64,
}

impl Default for ShardSettings {
    fn default() -> Self {
        Self {
            queue_bytes_max: 64 << 20,
            command_bytes_max: 4 << 20,
            proposals_in_flight_max: 4,
            bytes_in_flight_max: 16 << 20,
            checkpoint_entries: 20_000,
            checkpoint_bytes: 64 << 20,
        }
    }
}
