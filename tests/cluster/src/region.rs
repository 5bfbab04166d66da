//! Where the shards of a region are, as `meridian cluster status` tells.

use std::thread::sleep;
use std::time::Duration;

use meridian_compat::process::wait_for;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::system::id;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(300);

/// The region as one node knows it.
#[derive(Clone, Debug, Default)]
pub struct RegionView {
    /// The feature level in force.
    pub feature_level: u64,
    /// The controller's group is one of them.
    pub shards: Vec<ShardView>,
}

/// One shard.
#[derive(Clone, Debug, Default)]
pub struct ShardView {
    /// Its number, or `"controller"`.
    pub shard: Value,
    /// Node id.
    pub leader: Option<u64>,
    /// Node ids, in order.
    pub voters: Vec<u64>,
    /// Whether everything is where it should be.
    pub is_settled: bool,
}

impl RegionView {
    /// Asks a node. Errors: it does not answer, or tells of no region.
    pub fn look(cluster: &Cluster, asked: usize) -> Result<Self, String> {
        let status = cluster.tool(asked, &["cluster", "status"])?;
        let region = &status["region"];
        let shards = region["shards"].as_array();
        let shards = shards.ok_or_else(|| format!("node {} tells of no region: {status}", id(asked)))?;
        Ok(Self {
            feature_level: region["feature_level"].as_u64().unwrap_or(0),
            shards: shards.iter().map(ShardView::of).collect(),
        })
    }

    /// How many shards a node leads, the controller's among them.
    pub fn led_by(&self, node: usize) -> usize {
        let leads = |shard: &&ShardView| shard.leader == Some(id(node) as u64);
        self.shards.iter().filter(leads).count()
    }

    /// Which shards are not where they should be, their leaders included, if there are any.
    pub fn unsettled(&self) -> Option<String> {
        let left: Vec<&ShardView> = self.shards.iter().filter(|shard| !shard.is_settled).collect();
        (!left.is_empty()).then(|| format!("{left:?}"))
    }

    /// Why not every shard has `copies` voters, all of them on `nodes`; `None` when it is so.
    pub fn lacks(&self, nodes: &[usize], copies: usize) -> Option<String> {
        let ids: Vec<u64> = nodes.iter().map(|node| id(*node) as u64).collect();
        let is_whole = |shard: &&ShardView| {
            shard.voters.len() == copies && shard.voters.iter().all(|node| ids.contains(node))
        };
        if self.shards.is_empty() {
            return Some("there are no shards".to_owned());
        }
        let others: Vec<&ShardView> = self.shards.iter().filter(|shard| !is_whole(shard)).collect();
        (!others.is_empty()).then(|| format!("{others:?}"))
    }
}

impl ShardView {
    fn of(shard: &Value) -> Self {
        let replicas = shard["replicas"].as_array().into_iter().flatten();
        let mut voters: Vec<u64> = replicas
            .filter(|replica| replica["is_voter"] == true)
            .filter_map(|replica| replica["node"].as_u64())
            .collect();
        voters.sort_unstable();
        Self {
            shard: shard["shard"].clone(),
            leader: shard["leader"].as_u64(),
            voters,
            is_settled: shard["is_settled"] == true,
        }
    }
}

/// Waits until `wanted` says nothing against the region as `asked` knows it. Errors: what it said last, after `timeout`.
pub fn wait_until(
    cluster: &Cluster,
    asked: usize,
    timeout: Duration,
    wanted: impl Fn(&RegionView) -> Option<String>,
) -> Result<RegionView, String> {
    let mut last = String::new();
    wait_for(timeout, || {
        let looked = RegionView::look(cluster, asked);
        let against = match &looked {
            Ok(region) => wanted(region),
            Err(e) => Some(e.clone()),
        };
        match against {
            None => looked.ok(),
            Some(reason) => {
                last = reason;
                sleep(LOOK);
                None
            }
        }
    })
    .ok_or_else(|| format!("after {timeout:?} still: {last}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_shard_with_a_voter_elsewhere_or_too_few_is_lacking() {
        let shard = |voters: &[u64]| {
            let replicas: Vec<Value> = voters
                .iter()
                .map(|node| json!({ "node": node, "is_voter": true }))
                .chain([json!({ "node": 9, "is_voter": false })])
                .collect();
            ShardView::of(&json!({ "shard": 0, "leader": 1, "replicas": replicas, "is_settled": false }))
        };
        let lacks = |shards: Vec<ShardView>| {
            let region = RegionView {
                feature_level: 2,
                shards,
            };
            region.lacks(&[0, 1, 2], 3).is_some()
        };
        assert!(!lacks(vec![shard(&[3, 1, 2])]));
        assert!(lacks(vec![shard(&[3, 1, 2]), shard(&[1, 2])]));
        assert!(lacks(vec![shard(&[1, 2, 4])]));
        assert!(lacks(Vec::new()));
    }
}
