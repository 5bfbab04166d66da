//! Metrics of the region as this node sees it: nodes, leaders, replicas, and calls between nodes.

use meridian_peer::{Lane, PeerStats};
use meridian_shard::{Leadership, RegionStatus, ShardStatus};
use meridian_types::ShardId;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{advance, registered, signed};

pub(super) struct RegionMetrics {
    nodes: IntGauge,
    nodes_alive: IntGauge,
    without_leader: IntGauge,
    moving: IntGauge,
    leader: IntGaugeVec,
    term: IntGaugeVec,
    replica_lag: IntGaugeVec,
    sent_bytes: IntCounterVec,
    sent_frames: IntCounterVec,
    received_bytes: IntCounterVec,
    received_frames: IntCounterVec,
    connects: IntCounterVec,
    failed_dials: IntCounterVec,
    dropped_notices: IntCounterVec,
    queue_bytes: IntGaugeVec,
}

impl RegionMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| registered(registry, IntGauge::with_opts(Opts::new(name, help)));
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            registered(registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let by_peer = ["node", "lane"];
        let counters = |name: &str, help: &str| {
            registered(registry, IntCounterVec::new(Opts::new(name, help), &by_peer))
        };
        Ok(Self {
            nodes: gauge("meridian_nodes", "Nodes registered in the region.")?,
            nodes_alive: gauge(
                "meridian_nodes_alive",
                "Nodes that this node hears, itself among them.",
            )?,
            without_leader: gauge(
                "meridian_shards_without_leader",
                "Shards of the region whose leader this node does not know, the controller's among them.",
            )?,
            moving: gauge(
                "meridian_shards_moving",
                "Shards with a replica here whose voters are not yet the nodes they should be.",
            )?,
            leader: gauges(
                "meridian_shard_leader",
                "The node that leads a shard, as this node knows; 0 for none.",
                &["shard"],
            )?,
            term: gauges(
                "meridian_shard_term",
                "Raft term of a shard's replica here; every election raises it.",
                &["shard"],
            )?,
            replica_lag: gauges(
                "meridian_shard_replica_lag_entries",
                "Committed entries that a replica of a shard led here has not applied.",
                &["shard", "node"],
            )?,
            sent_bytes: counters("meridian_peer_sent_bytes_total", "Bytes sent to another node.")?,
            sent_frames: counters("meridian_peer_sent_frames_total", "Frames sent to another node.")?,
            received_bytes: counters("meridian_peer_received_bytes_total", "Bytes from another node.")?,
            received_frames: counters("meridian_peer_received_frames_total", "Frames from another node.")?,
            connects: counters(
                "meridian_peer_connects_total",
                "Connections opened to another node.",
            )?,
            failed_dials: counters(
                "meridian_peer_failed_dials_total",
                "Attempts to connect to another node that failed.",
            )?,
            dropped_notices: counters(
                "meridian_peer_dropped_notices_total",
                "One-way messages that were dropped for want of a connection or of room.",
            )?,
            queue_bytes: gauges(
                "meridian_peer_queue_bytes",
                "Bytes that wait to be sent to another node.",
                &by_peer,
            )?,
        })
    }

    pub(super) fn fill(&self, status: &RegionStatus, peers: &[PeerStats]) {
        let alive = status.nodes.iter().filter(|node| node.is_alive).count();
        self.nodes.set(signed(status.nodes.len() as u64));
        self.nodes_alive.set(signed(alive as u64));
        let without_leader = status.shards.iter().filter(|shard| shard.leader.is_none());
        self.without_leader.set(signed(without_leader.count() as u64));
        let replicas = status.shards.iter().filter_map(|shard| shard.replica.as_ref());
        let moving = replicas.filter(|replica| replica.is_moving).count();
        self.moving.set(signed(moving as u64));
        // A replica that is led elsewhere now has no lag known here.
        self.replica_lag.reset();
        for shard in &status.shards {
            self.fill_shard(shard);
        }
        for stats in peers {
            self.fill_peer(stats);
        }
    }

    fn fill_shard(&self, shard: &ShardStatus) {
        let name = match shard.shard {
            ShardId::CONTROLLER => "controller".to_owned(),
            shard => shard.to_string(),
        };
        let leader = shard.leader.map_or(0, |leader| i64::from(leader.0));
        self.leader.with_label_values(&[&name]).set(leader);
        let Some(replica) = &shard.replica else { return };
        let (term, leads) = match replica.leadership {
            Leadership::Unknown => return,
            Leadership::Following { term, .. } => (term, false),
            Leadership::Leading { term } => (term, true),
        };
        self.term.with_label_values(&[&name]).set(signed(term.0));
        let members = replica.members.iter().filter(|_| leads);
        for member in members {
            if let Some(lag) = member.lag(replica.committed) {
                let node = member.node.to_string();
                self.replica_lag
                    .with_label_values(&[&name, &node])
                    .set(signed(lag));
            }
        }
    }

    fn fill_peer(&self, stats: &PeerStats) {
        let lane = match stats.lane {
            Lane::Bulk => "bulk",
            Lane::Urgent => "urgent",
        };
        let node = stats.node.to_string();
        let labels = [node.as_str(), lane];
        for (counters, total) in [
            (&self.sent_bytes, stats.sent_bytes),
            (&self.sent_frames, stats.sent_frames),
            (&self.received_bytes, stats.received_bytes),
            (&self.received_frames, stats.received_frames),
            (&self.connects, stats.connects),
            (&self.failed_dials, stats.failed_dials),
            (&self.dropped_notices, stats.dropped_notices),
        ] {
            advance(&counters.with_label_values(&labels), total);
        }
        self.queue_bytes
            .with_label_values(&labels)
            .set(signed(stats.queue_bytes as u64));
    }
}
