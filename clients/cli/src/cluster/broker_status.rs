//! One line of `meridian cluster status`.

use std::time::Duration;

use meridian_client::admin::{LogDir, RegionDescription, RegionNode, RegionReplica};
use meridian_client::metadata::Broker;
use meridian_client::{Admin, AdminError};
use meridian_types::{NodeId, ShardId};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::is_unsupported;
use crate::output::count;

/// A broker that says nothing for so long is a line of the answer, not the end of it.
const BROKER_TIMEOUT: Duration = Duration::from_secs(2);

/// One node, asked and spoken of.
pub(super) struct BrokerStatus {
    pub(super) id: NodeId,
    /// Where it is reached; `None` for a node that takes no clients.
    pub(super) address: Option<String>,
    pub(super) rack: Option<String>,
    pub(super) is_up: bool,
    pub(super) state: String,
    /// Why its disk takes no more records.
    pub(super) disk_full: Option<String>,
    pub(super) partitions: Option<usize>,
    pub(super) size_bytes: Option<u64>,
    pub(super) leads: Option<usize>,
    pub(super) holds: Option<usize>,
    pub(super) lag_entries: Option<u64>,
}

impl BrokerStatus {
    pub(super) fn of_node(node: &RegionNode) -> Self {
        Self {
            id: node.id,
            address: node.endpoint.as_ref().map(ToString::to_string),
            rack: node.rack.clone(),
            is_up: false,
            state: if node.is_alive { "starting" } else { "away" }.to_owned(),
            disk_full: None,
            partitions: None,
            size_bytes: None,
            leads: None,
            holds: None,
            lag_entries: None,
        }
    }

    /// Adds what the region says of the node.
    pub(super) fn add(&mut self, region: &RegionDescription) {
        let held = || {
            let replicas = region.shards.iter().flat_map(|shard| {
                let counts = move |it: &&RegionReplica| it.is_voter || shard.shard != ShardId::CONTROLLER;
                shard.replicas.iter().filter(counts)
            });
            replicas.filter(|it| it.node == self.id)
        };
        self.holds = Some(held().count());
        self.lag_entries = held().map(|it| it.lag_entries).sum();
        let led = region.shards.iter().filter(|shard| shard.leader == Some(self.id));
        self.leads = Some(led.count());
        self.disk_full = region.full_disks.get(&self.id).cloned();
        if self.disk_full.is_some() {
            self.state += ", disk full";
        }
        let Some(node) = region.node(self.id) else { return };
        if node.is_draining {
            self.state += match held().count() {
                0 => ", drained",
                _ => ", draining",
            };
        }
        for (number, what) in [
            (node.arriving, "to come"),
            (node.leaving, "to go"),
            (node.stuck, "stuck"),
        ] {
            if number > 0 {
                self.state += &format!(", {number} {what}");
            }
        }
        let stopped = region
            .shards
            .iter()
            .filter(|shard| shard.stopped.contains_key(&self.id));
        match stopped.count() {
            0 => {}
            stopped => self.state += &format!(", {} stopped", count(stopped, "shard")),
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "id": self.id.0,
            "address": self.address,
            "rack": self.rack,
            "partitions": self.partitions,
            "size_bytes": self.size_bytes,
            "is_up": self.is_up,
            "state": self.state,
            "disk_full": self.disk_full,
            "shards_led": self.leads,
            "shards_held": self.holds,
            "lag_entries": self.lag_entries,
        })
    }
}

/// Asks a broker what it holds.
pub(super) async fn look_at(admin: &Admin, broker: &Broker) -> BrokerStatus {
    let dirs = timeout(BROKER_TIMEOUT, admin.describe_log_dirs(broker.id)).await;
    let held = |dirs: &[LogDir]| {
        let held = || dirs.iter().flat_map(|dir| &dir.partitions);
        (held().count(), held().map(|it| it.size_bytes).sum::<u64>())
    };
    let (is_up, state, held) = match dirs {
        Ok(Ok(dirs)) => (true, "up".to_owned(), Some(held(&dirs))),
        Ok(Err(error @ AdminError::Request(_))) if !is_unsupported(&error) => {
            (false, format!("away: {error}"), None)
        }
        Ok(Err(_)) => (true, "up".to_owned(), None),
        Err(_) => (false, format!("no answer within {BROKER_TIMEOUT:?}"), None),
    };
    BrokerStatus {
        id: broker.id,
        address: Some(broker.endpoint.to_string()),
        rack: broker.rack.clone(),
        is_up,
        state,
        disk_full: None,
        partitions: held.map(|(partitions, _)| partitions),
        size_bytes: held.map(|(_, bytes)| bytes),
        leads: None,
        holds: None,
        lag_entries: None,
    }
}
