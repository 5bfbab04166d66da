//! Nodes and shards of a Meridian region: what only its own APIs tell and do.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use meridian_types::{LeaderEpoch, NodeId, RegionNumber, ShardId, TimestampMs};
use meridian_wire::messages::describe_region as wire;
use meridian_wire::{
    ApiKey, BalanceRegionRequest, DescribeRegionRequest, DescribeRegionResponse, DrainNodeRequest, ErrorCode,
    Request, UnregisterBrokerRequest,
};
use tokio::time::Instant;

use super::{Admin, AdminError, refused};
use crate::cluster::Lane;
use crate::endpoint::Endpoint;
use crate::error::Refusal;
use crate::metadata::node;

/// A region, put together from what each of its nodes says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionDescription {
    /// Id of the cluster.
    pub cluster_id: String,
    /// Name of the region.
    pub region: String,
    /// How many copies a shard wants.
    pub copies: u32,
    /// The version of commands that every node understands.
    pub feature_level: u32,
    /// Every registered node, by id.
    pub nodes: Vec<RegionNode>,
    /// The controller's shard, then every data shard, by number.
    pub shards: Vec<RegionShard>,
    /// How each node that has answered gets on with the region's bucket. A node that was told of none is not here.
    pub buckets: BTreeMap<NodeId, NodeBucket>,
    /// The nodes whose disks take no more records, with what each says of it.
    pub full_disks: BTreeMap<NodeId, String>,
}

/// How the region stands to its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketStanding {
    /// The bucket has not said whose it is. Nothing is written to it.
    Unknown,
    /// It is the region's.
    Ours,
    /// It is another region's. Nothing is written to it.
    Refused,
    /// A region that was restored from it has taken it over. Nothing is written to it any more.
    Lost,
}

/// How a node gets on with the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeBucket {
    /// How the region stands to it, as this node knows.
    pub standing: BucketStanding,
    /// What went wrong last, and when by the node's clock.
    pub last_failure: Option<(String, TimestampMs)>,
}

/// What of a shard waits for the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierLag {
    /// Bytes, about.
    pub bytes: u64,
    /// How long the oldest of them have waited.
    pub age: Duration,
}

/// A registered node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionNode {
    /// Its id.
    pub id: NodeId,
    /// Where clients reach it; `None` while it takes none.
    pub endpoint: Option<Endpoint>,
    /// Where other nodes reach it.
    pub peer: Option<Endpoint>,
    /// Its rack.
    pub rack: Option<String>,
    /// The newest version of commands that it understands.
    pub version_max: u32,
    /// Whether the others hear it.
    pub is_alive: bool,
    /// Whether it has answered this question itself.
    pub has_answered: bool,
    /// Whether its shards are being moved away.
    pub is_draining: bool,
    /// Replicas that are to come to it.
    pub arriving: u32,
    /// Replicas that are to go from it.
    pub leaving: u32,
    /// Replicas that should go from it and have nowhere to go: another node is missing, or more copies are wanted than
    /// the other nodes can hold.
    pub stuck: u32,
}

/// One shard and its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionShard {
    /// Its number; [`ShardId::CONTROLLER`] for the controller's.
    pub shard: ShardId,
    /// Its leader; `None` while there is none.
    pub leader: Option<NodeId>,
    /// The leader's epoch, where it is known.
    pub leader_epoch: Option<LeaderEpoch>,
    /// The nodes that should hold it, the preferred leader first.
    pub placement: Vec<NodeId>,
    /// Partitions with records.
    pub partitions: u32,
    /// Its replicas as the group counts them now, by node. Empty if no node that answered holds it.
    pub replicas: Vec<RegionReplica>,
    /// Nodes on which it does not run though it should, and why.
    pub stopped: BTreeMap<NodeId, String>,
    /// What of it waits for the bucket; `None` where its leader has not told or has no bucket.
    pub tier_lag: Option<TierLag>,
}

/// One replica of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionReplica {
    /// The node.
    pub node: NodeId,
    /// Whether it votes; a learner only copies.
    pub is_voter: bool,
    /// Entries that are committed and that it is not known to have; `None` where no leader told.
    pub lag_entries: Option<u64>,
}

/// A shard that is placed anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMove {
    /// The shard.
    pub shard: ShardId,
    /// The nodes that should have held it until now, the preferred leader first.
    pub before: Vec<NodeId>,
    /// The nodes that should hold it from now on, the preferred leader first.
    pub after: Vec<NodeId>,
    /// Why that was not decided; `None`: it was.
    pub refusal: Option<String>,
}

impl RegionShard {
    /// Whether it is where it should be: led by the preferred leader, with the voters that are wished for and nobody
    /// who comes or goes. Every node learns the controller's facts.
    pub fn is_settled(&self) -> bool {
        let voters = self.replicas.iter().filter(|it| it.is_voter).count();
        let may_hold = |it: &RegionReplica| {
            self.placement.contains(&it.node) || (!it.is_voter && self.shard == ShardId::CONTROLLER)
        };
        self.leader.is_some()
            && self.leader == self.placement.first().copied()
            && voters == self.placement.len()
            && self.replicas.iter().all(may_hold)
    }

    /// Whether it counts on a node: as a voter, or as a learner that is to become one or was one. Every node learns
    /// the controller's facts, which holds nobody.
    pub fn is_held_by(&self, node: NodeId) -> bool {
        let replica = self.replicas.iter().find(|it| it.node == node);
        let is_replica = replica.is_some_and(|it| it.is_voter || self.shard != ShardId::CONTROLLER);
        is_replica || self.placement.contains(&node)
    }
}

impl RegionDescription {
    /// Whether a shard could be where it should be: every node of its placement is heard.
    pub fn can_settle(&self, shard: &RegionShard) -> bool {
        let is_alive = |id: &NodeId| self.node(*id).is_some_and(|node| node.is_alive);
        shard.placement.iter().all(is_alive)
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> Option<&RegionNode> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// Reads the answers of several nodes. `None` if there are none.
    ///
    /// Facts come from the first answer; the row of a shard comes from whoever knows most: its leader under the
    /// greatest epoch, else a node that holds a replica.
    fn merge(answers: &[DescribeRegionResponse]) -> Option<Self> {
        let first = answers.first()?;
        let mut nodes: Vec<RegionNode> = first.nodes.iter().filter_map(read_node).collect();
        nodes.sort_by_key(|node| node.id);
        for known in &mut nodes {
            known.has_answered = answers.iter().any(|it| node(it.node_id) == Some(known.id));
        }
        let mut shards: BTreeMap<ShardId, Vec<(i32, &wire::RegionShard)>> = BTreeMap::new();
        for answer in answers {
            for row in &answer.shards {
                let shard = ShardId(row.shard.cast_unsigned());
                shards.entry(shard).or_default().push((answer.node_id, row));
            }
        }
        let mut shards: Vec<RegionShard> = shards
            .into_iter()
            .map(|(shard, rows)| read_shard(shard, &rows))
            .collect();
        // The controller's number is the greatest; people want it first.
        shards.sort_by_key(|it| (it.shard != ShardId::CONTROLLER, it.shard));
        Some(Self {
            cluster_id: first.cluster_id.as_str().to_owned(),
            region: first.region.as_str().to_owned(),
            copies: u32::try_from(first.copies).unwrap_or(0),
            feature_level: u32::try_from(first.feature_level).unwrap_or(0),
            nodes,
            shards,
            buckets: answers.iter().filter_map(read_bucket).collect(),
            full_disks: answers.iter().filter_map(read_full_disk).collect(),
        })
    }

    /// What waits for the bucket in all shards: the bytes together, and the longest wait. `None` where no leader has
    /// told.
    pub fn tier_lag(&self) -> Option<TierLag> {
        let lags = self.shards.iter().filter_map(|shard| shard.tier_lag);
        lags.reduce(|all, lag| TierLag {
            bytes: all.bytes.saturating_add(lag.bytes),
            age: all.age.max(lag.age),
        })
    }
}

fn read_bucket(answer: &DescribeRegionResponse) -> Option<(NodeId, NodeBucket)> {
    let standing = match answer.bucket_standing {
        0 => BucketStanding::Unknown,
        1 => BucketStanding::Ours,
        2 => BucketStanding::Refused,
        3 => BucketStanding::Lost,
        _ => return None,
    };
    let error = answer.bucket_error.as_ref();
    let failure = error.map(|error| (error.as_str().to_owned(), TimestampMs(answer.bucket_error_at_ms)));
    let bucket = NodeBucket {
        standing,
        last_failure: failure,
    };
    Some((node(answer.node_id)?, bucket))
}

fn read_full_disk(answer: &DescribeRegionResponse) -> Option<(NodeId, String)> {
    let reason = answer.disk_full.as_ref()?;
    Some((node(answer.node_id)?, reason.as_str().to_owned()))
}

fn read_node(it: &wire::RegionNode) -> Option<RegionNode> {
    let endpoint = |host: &str, port: i32| {
        let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
        (!host.is_empty()).then(|| Endpoint::new(host, port))
    };
    Some(RegionNode {
        id: node(it.node_id)?,
        endpoint: endpoint(&it.host, it.port),
        peer: endpoint(&it.peer_host, it.peer_port),
        rack: it.rack.as_ref().map(|rack| rack.as_str().to_owned()),
        version_max: u32::try_from(it.version_max).unwrap_or(0),
        is_alive: it.is_alive,
        has_answered: false,
        is_draining: it.is_draining,
        arriving: it.arriving.max(0).cast_unsigned(),
        leaving: it.leaving.max(0).cast_unsigned(),
        stuck: it.stuck.max(0).cast_unsigned(),
    })
}

fn read_shard(shard: ShardId, rows: &[(i32, &wire::RegionShard)]) -> RegionShard {
    let weight = |(asked, row): &(i32, &wire::RegionShard)| {
        (
            row.leader_epoch,
            row.leader_id == *asked,
            row.is_held,
            row.committed_index,
        )
    };
    let best = rows.iter().max_by_key(|row| weight(row)).map(|(_, row)| *row);
    let default = wire::RegionShard::default();
    let row = best.unwrap_or(&default);
    let lag = |matched: i64| (matched >= 0).then(|| (row.committed_index - matched).max(0).cast_unsigned());
    let mut replicas: Vec<RegionReplica> = row
        .replicas
        .iter()
        .filter_map(|it| {
            Some(RegionReplica {
                node: node(it.node_id)?,
                is_voter: it.is_voter,
                lag_entries: lag(it.matched_index),
            })
        })
        .collect();
    replicas.sort_by_key(|it| it.node);
    let stopped = rows
        .iter()
        .filter_map(|(asked, row)| Some((node(*asked)?, row.stopped.as_ref()?.as_str().to_owned())));
    RegionShard {
        shard,
        leader: node(row.leader_id),
        leader_epoch: u32::try_from(row.leader_epoch).ok().map(LeaderEpoch),
        placement: row.placement.iter().filter_map(|id| node(*id)).collect(),
        partitions: u32::try_from(row.partitions).unwrap_or(0),
        replicas,
        stopped: stopped.collect(),
        tier_lag: read_lag(row),
    }
}

fn read_lag(row: &wire::RegionShard) -> Option<TierLag> {
    Some(TierLag {
        bytes: u64::try_from(row.waiting_bytes).ok()?,
        age: Duration::from_millis(u64::try_from(row.waiting_ms).ok()?),
    })
}

impl Admin {
    /// The region's nodes, and where every shard lives: asks every node, and needs the answer of one. Of several regions it
    /// is the one whose servers the settings name.
    ///
    /// Errors: `Unsupported` of a server that is not a Meridian.
    pub async fn describe_region(&self) -> Result<RegionDescription, AdminError> {
        let home = self.home_region().await;
        let answers = self.ask_nodes(&DescribeRegionRequest {}).await?;
        let mut answers: Vec<_> = answers.into_iter().map(|(_, answer)| answer).collect();
        if let Some(home) = home {
            answers.retain(|answer| answer.error_code != 0 || answer.region.as_str() == home);
        }
        let unanswered = || AdminError::Unanswered {
            api: ApiKey::DescribeRegion,
            what: "the region".to_owned(),
        };
        for answer in &answers {
            let refusal = Refusal::check(answer.error_code, answer.error_message.as_deref());
            refused(format!("node {}", answer.node_id), refusal)?;
        }
        RegionDescription::merge(&answers).ok_or_else(unanswered)
    }

    /// The name of the region whose servers the settings name: brokers of all regions are in the metadata of any. `None`
    /// where none of these servers has ever told.
    async fn home_region(&self) -> Option<&str> {
        if let Ok(answer) = self.cluster.send_given(&DescribeRegionRequest {}).await
            && answer.error_code == 0
        {
            return Some(self.home.get_or_init(|| answer.region.as_str().to_owned()));
        }
        self.home.get().map(String::as_str)
    }

    /// Begins to move a node's shards to others, or with `undo` gives it shards again. Returns when that is decided,
    /// not when it is done: [`Self::describe_region`] shows how far it is.
    pub async fn drain_node(&self, node: NodeId, undo: bool) -> Result<(), AdminError> {
        let request = DrainNodeRequest {
            node_id: node.0.cast_signed(),
            undo,
        };
        let answer = |response: &meridian_wire::DrainNodeResponse| {
            Refusal::check(response.error_code, response.error_message.as_deref())
        };
        refused(
            format!("node {node}"),
            self.decide(&request, Some(node), answer).await?.result,
        )
    }

    /// Takes a node out of the cluster for good. One that is alive must have been drained; one that is lost goes as it
    /// is, unless it holds the only replica of something.
    pub async fn remove_node(&self, node: NodeId) -> Result<(), AdminError> {
        let request = UnregisterBrokerRequest {
            broker_id: node.0.cast_signed(),
        };
        let answer = |response: &meridian_wire::UnregisterBrokerResponse| {
            Refusal::check(response.error_code, response.error_message.as_deref())
        };
        let decided = self.decide(&request, Some(node), answer).await?;
        match decided.result {
            // The try before has removed it, though nobody told us.
            Err(refusal) if decided.is_again && refusal.code == ErrorCode::BrokerIdNotRegistered => Ok(()),
            result => refused(format!("node {node}"), result),
        }
    }

    /// Evens out replicas and leaders among the nodes that are alive; with `dry_run` only says how. Returns when that
    /// is decided, not when it is done.
    pub async fn balance_region(&self, dry_run: bool) -> Result<Vec<ShardMove>, AdminError> {
        let request = BalanceRegionRequest { dry_run };
        let answer = |response: &meridian_wire::BalanceRegionResponse| {
            Refusal::check(response.error_code, response.error_message.as_deref())
        };
        let decided = self.decide(&request, None, answer).await?;
        refused("the region".to_owned(), decided.result)?;
        let nodes = |ids: &[i32]| ids.iter().filter_map(|id| node(*id)).collect();
        let moves = decided.response.moves.iter().map(|it| ShardMove {
            shard: ShardId(it.shard.cast_unsigned()),
            before: nodes(&it.before),
            after: nodes(&it.after),
            refusal: it.refusal.as_ref().map(|refusal| refusal.as_str().to_owned()),
        });
        Ok(moves.collect())
    }

    /// Asks every broker at once. Errors: that of one, when none answers.
    pub(super) async fn ask_nodes<R: Request>(
        &self,
        request: &R,
    ) -> Result<Vec<(NodeId, R::Response)>, AdminError> {
        self.cluster.refresh(Some(&[])).await?;
        let brokers: Vec<NodeId> = self.cluster.metadata().brokers.keys().copied().collect();
        let asked = brokers.iter().map(|broker| async {
            let answer = self.cluster.send_to(Lane::SHARED, *broker, request).await;
            (*broker, answer)
        });
        let mut answers = Vec::with_capacity(brokers.len());
        let mut failure = None;
        for (broker, answer) in join_all(asked).await {
            match answer {
                Ok(answer) => answers.push((broker, answer)),
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) if answers.is_empty() => Err(error.into()),
            _ => Ok(answers),
        }
    }

    /// Asks for something that means the same when it is asked twice, until it is decided: in the region of the node that
    /// it is about, or in the one whose servers the settings name.
    async fn decide<R: Request + Clone>(
        &self,
        request: &R,
        about: Option<NodeId>,
        read: impl Fn(&R::Response) -> Result<(), Refusal>,
    ) -> Result<Decided<R::Response>, AdminError> {
        let mut backoff = self.cluster.backoff();
        let deadline = Instant::now() + self.cluster.settings().operation_timeout;
        let mut is_again = false;
        loop {
            let response = match about {
                Some(node) => {
                    let region = RegionNumber::of(node);
                    let is_there = |broker| RegionNumber::of(broker) == region;
                    self.cluster.send_any_of(is_there, request).await?
                }
                None => self.cluster.send_given(request).await?,
            };
            let result = read(&response);
            let wait = backoff.next_wait();
            let is_passing = result.as_ref().is_err_and(|refusal| refusal.code.is_retriable());
            if !is_passing || Instant::now() + wait >= deadline {
                return Ok(Decided {
                    response,
                    result,
                    is_again,
                });
            }
            is_again = true;
            tokio::time::sleep(wait).await;
        }
    }
}

/// What came of a request that means the same when it is asked twice.
struct Decided<T> {
    response: T,
    result: Result<(), Refusal>,
    /// Whether an earlier try may have done it already.
    is_again: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(shard: i32, leader: i32, epoch: i32, matched: &[(i32, i64)]) -> wire::RegionShard {
        wire::RegionShard {
            shard,
            leader_id: leader,
            leader_epoch: epoch,
            placement: vec![1, 2],
            is_held: true,
            committed_index: 100,
            replicas: matched
                .iter()
                .map(|&(node_id, matched_index)| wire::RegionReplica {
                    node_id,
                    is_voter: true,
                    matched_index,
                })
                .collect(),
            ..Default::default()
        }
    }

    fn answer(node_id: i32, shards: Vec<wire::RegionShard>) -> DescribeRegionResponse {
        let node = |node_id| wire::RegionNode {
            node_id,
            is_alive: true,
            ..Default::default()
        };
        DescribeRegionResponse {
            node_id,
            nodes: vec![node(2), node(1), node(3)],
            shards,
            ..Default::default()
        }
    }

    #[test]
    fn a_shard_is_told_by_its_leader_of_the_greatest_epoch() {
        let answers = [
            // Led shard 0 once, and does not know yet that it no longer does.
            answer(1, vec![row(0, 1, 4, &[(1, 50), (2, 10)]), row(-1, 2, 1, &[])]),
            answer(2, vec![row(0, 2, 5, &[(1, 90), (2, 100)])]),
            answer(3, vec![row(0, 2, 5, &[(1, -1), (2, -1)])]),
        ];
        let region = RegionDescription::merge(&answers).expect("there are answers");
        let ids: Vec<u32> = region.nodes.iter().map(|node| node.id.0).collect();
        assert_eq!(ids, [1, 2, 3]);
        assert!(region.nodes.iter().all(|node| node.has_answered));
        assert_eq!(region.shards[0].shard, ShardId::CONTROLLER);
        let shard = &region.shards[1];
        assert_eq!((shard.shard, shard.leader), (ShardId(0), Some(NodeId(2))));
        let lags: Vec<_> = shard.replicas.iter().map(|it| it.lag_entries).collect();
        assert_eq!(lags, [Some(10), Some(0)]);
        assert!(!shard.is_settled(), "node 1 is preferred");
    }

    #[test]
    fn a_shard_is_settled_on_its_placement_under_its_preferred_leader() {
        let shard = |leader, replicas: &[(i32, i64)]| {
            let answers = [answer(leader, vec![row(0, leader, 1, replicas)])];
            RegionDescription::merge(&answers)
                .expect("an answer")
                .shards
                .remove(0)
        };
        assert!(shard(1, &[(1, 1), (2, 1)]).is_settled());
        assert!(!shard(2, &[(1, 1), (2, 1)]).is_settled());
        assert!(!shard(1, &[(1, 1)]).is_settled(), "one is missing");
        let leaving = shard(1, &[(1, 1), (2, 1), (3, 1)]);
        assert!(!leaving.is_settled(), "one is too many");
        assert!(leaving.is_held_by(NodeId(3)) && !leaving.is_held_by(NodeId(4)));
    }

    #[test]
    fn each_node_tells_of_its_own_disk() {
        let mut answers = [answer(1, Vec::new()), answer(3, Vec::new())];
        answers[1].disk_full = Some("no space left".into());
        let region = RegionDescription::merge(&answers).expect("there are answers");
        let full = BTreeMap::from([(NodeId(3), "no space left".to_owned())]);
        assert_eq!(region.full_disks, full);
    }

    #[test]
    fn answers_are_needed() {
        assert_eq!(RegionDescription::merge(&[]), None);
    }
}
