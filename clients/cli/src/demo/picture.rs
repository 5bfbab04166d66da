//! Everything that a demo shows, as plain data: for the screen and as JSON.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::action::{LinkName, NodeName};
use super::node::NodeState;

/// What a demo shows at a moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Picture {
    pub(super) running_for: Duration,
    /// From the start of the program to the first record that a consumer got.
    pub(super) first_record: Option<Duration>,
    pub(super) control: Option<SocketAddr>,
    pub(super) directory: PathBuf,
    pub(super) regions: Vec<RegionPicture>,
    pub(super) links: Vec<LinkPicture>,
    /// What happened, the newest last.
    pub(super) news: Vec<String>,
}

/// A region.
#[derive(Clone, Debug, Default)]
pub(super) struct RegionPicture {
    pub(super) name: String,
    /// Whether writes go there; `None` while nobody says.
    pub(super) is_owner: Option<bool>,
    pub(super) nodes: Vec<NodePicture>,
    pub(super) load: LoadPicture,
    pub(super) tier: TierPicture,
    pub(super) bucket: PathBuf,
}

/// A node.
#[derive(Clone, Debug)]
pub(super) struct NodePicture {
    pub(super) name: NodeName,
    pub(super) broker: u32,
    pub(super) kafka: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) data: PathBuf,
    pub(super) state: NodeState,
    /// Shards that it leads.
    pub(super) leads: Option<u64>,
}

/// What the producer and the consumer of a region do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct LoadPicture {
    pub(super) produced: u64,
    pub(super) failed: u64,
    pub(super) consumed: u64,
    pub(super) produced_per_second: f64,
    pub(super) consumed_per_second: f64,
    /// From producer to consumer, on average since the last look.
    pub(super) delay_ms: Option<f64>,
}

/// What lies in a region's bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct TierPicture {
    pub(super) objects: u64,
    pub(super) object_bytes: u64,
    pub(super) record_bytes: u64,
    pub(super) waiting_bytes: u64,
}

/// The link between two regions.
#[derive(Clone, Debug)]
pub(super) struct LinkPicture {
    pub(super) name: LinkName,
    pub(super) round_trip: Duration,
    /// As a datagram really takes over the relay.
    pub(super) measured: Option<Duration>,
    pub(super) is_cut: bool,
    pub(super) bytes: u64,
    pub(super) bytes_per_second: f64,
    /// How far the mirror is behind, as it says itself.
    pub(super) staleness: Option<Duration>,
}

impl Picture {
    /// The region that owns.
    pub(super) fn owner(&self) -> Option<&RegionPicture> {
        self.regions.iter().find(|region| region.is_owner == Some(true))
    }

    /// All of it.
    pub(super) fn json(&self) -> Value {
        json!({
            "running_ms": millis(self.running_for),
            "first_record_ms": self.first_record.map(millis),
            "control": self.control.map(|at| at.to_string()),
            "data": self.directory,
            "owner": self.owner().map(|region| &region.name),
            "regions": self.regions.iter().map(RegionPicture::json).collect::<Vec<_>>(),
            "links": self.links.iter().map(LinkPicture::json).collect::<Vec<_>>(),
            "news": self.news,
        })
    }
}

impl RegionPicture {
    fn json(&self) -> Value {
        let (load, tier) = (&self.load, &self.tier);
        json!({
            "name": self.name,
            "owner": self.is_owner,
            "bucket": self.bucket,
            "nodes": self.nodes.iter().map(NodePicture::json).collect::<Vec<_>>(),
            "load": {
                "produced": load.produced,
                "failed": load.failed,
                "consumed": load.consumed,
                "produced_per_second": load.produced_per_second,
                "consumed_per_second": load.consumed_per_second,
                "delay_ms": load.delay_ms,
            },
            "tier": {
                "objects": tier.objects,
                "object_bytes": tier.object_bytes,
                "record_bytes": tier.record_bytes,
                "waiting_bytes": tier.waiting_bytes,
            },
        })
    }
}

impl NodePicture {
    fn json(&self) -> Value {
        json!({
            "node": self.name.to_string(),
            "broker": self.broker,
            "kafka": self.kafka.to_string(),
            "admin": self.admin.to_string(),
            "pid": self.state.pid(),
            "data": self.data,
            "state": self.state_text(),
            "reason": match &self.state {
                NodeState::Down { reason, .. } => Some(reason),
                _ => None,
            },
            "shards_led": self.leads,
        })
    }

    /// The state in one word.
    pub(super) fn state_text(&self) -> &'static str {
        match self.state {
            NodeState::New | NodeState::Starting { .. } => "starting",
            NodeState::Ready { .. } => "up",
            NodeState::Down { .. } => "down",
        }
    }
}

impl LinkPicture {
    fn json(&self) -> Value {
        json!({
            "link": self.name.to_string(),
            "round_trip_ms": millis(self.round_trip),
            "measured_ms": self.measured.map(millis),
            "is_cut": self.is_cut,
            "bytes": self.bytes,
            "bytes_per_second": self.bytes_per_second,
            "staleness_ms": self.staleness.map(millis),
        })
    }
}

/// Milliseconds, with the digits that matter.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}
