//! Looking things up in the region's facts, with the answers in Kafka's terms.

use std::sync::Arc;

use meridian_controller::{Controller, Topic};
use meridian_shard::Region;
use meridian_types::{LeaderEpoch, NodeId, Partition, ShardId, TopicId, Uuid};
use meridian_wire::{ErrorCode, Str};

use crate::context::Caller;
use crate::fetch_session::{SessionPartition, TopicKey};
use crate::settings::HostPort;

/// A node as clients are told of it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) endpoint: HostPort,
    pub(crate) rack: Option<String>,
}

/// The topic of a produce request.
pub(crate) fn produce_topic(
    region: &Region,
    by_id: bool,
    name: &str,
    id: Uuid,
) -> Result<Arc<Topic>, (ErrorCode, String)> {
    let controller = region.controller();
    if by_id {
        let unknown = || {
            (
                ErrorCode::UnknownTopicId,
                format!("there is no topic with id {id}"),
            )
        };
        return controller.topic_by_id(TopicId(id)).cloned().ok_or_else(unknown);
    }
    let unknown = || {
        (
            ErrorCode::UnknownTopicOrPartition,
            format!("there is no topic {name}"),
        )
    };
    controller.topic(name).cloned().ok_or_else(unknown)
}

/// Whether Kafka's rules allow this name.
pub(crate) fn is_valid_name(name: &str) -> bool {
    meridian_controller::topic::check_topic_name(name).is_ok()
}

/// The id of a topic.
pub(crate) fn topic_id_by_name(controller: &Controller, name: &str) -> Option<TopicId> {
    controller.topic(name).map(|topic| topic.id)
}

/// The same id, if it is a topic's.
pub(crate) fn topic_id_by_id(controller: &Controller, id: Uuid) -> Option<TopicId> {
    controller.topic_by_id(TopicId(id)).map(|topic| topic.id)
}

/// The name of a topic.
pub(crate) fn topic_name(controller: &Controller, id: TopicId) -> Option<&str> {
    controller.topic_by_id(id).map(|topic| &*topic.name)
}

/// Whether records of a topic may be deleted, by retention or by request.
pub(crate) fn deletes(controller: &Controller, id: TopicId) -> bool {
    controller
        .topic_by_id(id)
        .is_some_and(|topic| topic.settings.deletes)
}

/// Where the partitions of a fetch are, or why not, in their order.
pub(crate) fn resolve(region: &Region, partitions: &[SessionPartition]) -> Vec<Result<Partition, ErrorCode>> {
    let controller = region.controller();
    // Partitions of one topic follow one another, mostly.
    let mut last: Option<(&TopicKey, Option<&Arc<Topic>>)> = None;
    let mut resolved = Vec::with_capacity(partitions.len());
    for asked in partitions {
        let topic = match last {
            Some((key, topic)) if *key == asked.topic => topic,
            _ => match &asked.topic {
                TopicKey::Name(name) => controller.topic(name),
                TopicKey::Id(id) => controller.topic_by_id(*id),
            },
        };
        last = Some((&asked.topic, topic));
        resolved.push(match (topic, &asked.topic) {
            (Some(topic), _) => in_topic(topic, asked.index),
            (None, TopicKey::Name(_)) => Err(ErrorCode::UnknownTopicOrPartition),
            (None, TopicKey::Id(_)) => Err(ErrorCode::UnknownTopicId),
        });
    }
    resolved
}

/// A partition of a topic named by name.
pub(crate) fn partition_by_name(
    controller: &Controller,
    topic: &str,
    index: i32,
) -> Result<Partition, ErrorCode> {
    let topic = controller
        .topic(topic)
        .ok_or(ErrorCode::UnknownTopicOrPartition)?;
    in_topic(topic, index)
}

/// A partition of a topic named by id.
pub(crate) fn partition_by_id(
    controller: &Controller,
    topic: Uuid,
    index: i32,
) -> Result<Partition, ErrorCode> {
    let topic = controller
        .topic_by_id(TopicId(topic))
        .ok_or(ErrorCode::UnknownTopicId)?;
    in_topic(topic, index)
}

fn in_topic(topic: &Topic, index: i32) -> Result<Partition, ErrorCode> {
    match u32::try_from(index) {
        Ok(index) if index < topic.partitions => Ok(Partition {
            topic: topic.id,
            index,
        }),
        _ => Err(ErrorCode::UnknownTopicOrPartition),
    }
}

/// Holds the epoch that a client believes in against the true one (KIP-320).
pub(crate) fn check_epoch(asked: Option<LeaderEpoch>, current: LeaderEpoch) -> Option<ErrorCode> {
    match asked? {
        asked if asked < current => Some(ErrorCode::FencedLeaderEpoch),
        asked if asked > current => Some(ErrorCode::UnknownLeaderEpoch),
        _ => None,
    }
}

/// The epoch of a partition's leader, where this node knows it.
pub(crate) fn leader_epoch(region: &Region, partition: Partition) -> Option<LeaderEpoch> {
    region.leader_epoch(region.shard_of(partition))
}

/// The cluster's id, as founded.
pub(crate) fn cluster_id(caller: &Caller) -> Str {
    let controller = caller.context.region.controller();
    controller
        .founding()
        .map_or(Str::EMPTY, |founding| Str::from(&founding.cluster_id))
}

/// The node that clients take for the controller, -1 if there is none at present.
pub(crate) fn controller_id(caller: &Caller) -> i32 {
    caller
        .context
        .region
        .controller_node()
        .map_or(-1, |node| node.0.cast_signed())
}

/// A node that is registered.
pub(crate) fn node(caller: &Caller, id: NodeId) -> Option<Node> {
    let controller = caller.context.region.controller();
    controller.node(id).map(|node| told(caller, node))
}

/// Every registered node.
pub(crate) fn nodes(caller: &Caller) -> Vec<Node> {
    let controller = caller.context.region.controller();
    controller.nodes().map(|node| told(caller, node)).collect()
}

fn told(caller: &Caller, node: &meridian_controller::Node) -> Node {
    let registration = &node.registration;
    let registered = HostPort {
        host: registration.host.clone(),
        port: registration.port,
    };
    Node {
        id: registration.node,
        endpoint: caller.endpoint(registration.node, registered),
        rack: registration.rack.clone(),
    }
}

/// Leaders and replicas of all shards, taken once for a whole answer.
pub(crate) struct ShardView {
    pub(crate) nodes: Vec<Node>,
    shards: Vec<ShardReplicas>,
}

/// Who holds the partitions of one shard.
pub(crate) struct ShardReplicas {
    leader: Option<NodeId>,
    epoch: Option<LeaderEpoch>,
    /// Node ids, the preferred leader first.
    pub(crate) replicas: Vec<i32>,
}

impl ShardView {
    pub(crate) fn new(caller: &Caller) -> Self {
        let region = &caller.context.region;
        let nodes = nodes(caller);
        let is_known = |id: &NodeId| nodes.iter().any(|node| node.id == *id);
        let shard = |shard: ShardId| {
            let replicas = region.controller().replicas_of(shard);
            ShardReplicas {
                // A leader that is not among the brokers would send clients in circles.
                leader: region.leader_of(shard).filter(is_known),
                epoch: region.leader_epoch(shard),
                replicas: replicas.into_iter().map(|node| node.0.cast_signed()).collect(),
            }
        };
        let shards = (0..region.shards()).map(ShardId).map(shard).collect();
        Self { nodes, shards }
    }

    /// The shard of a partition.
    pub(crate) fn of(&self, partition: Partition) -> &ShardReplicas {
        let count = u32::try_from(self.shards.len()).expect("a region has few shards");
        &self.shards[meridian_types::shard_of(partition, count).0 as usize]
    }
}

impl ShardReplicas {
    /// -1 while there is none.
    pub(crate) fn leader_id(&self) -> i32 {
        self.leader.map_or(-1, |node| node.0.cast_signed())
    }

    /// -1 where it is not known.
    pub(crate) fn leader_epoch(&self) -> i32 {
        self.leader
            .and(self.epoch)
            .map_or(-1, |epoch| epoch.0.cast_signed())
    }

    /// What clients are told of the partition.
    pub(crate) fn error(&self) -> ErrorCode {
        if self.leader.is_some() {
            ErrorCode::None
        } else {
            ErrorCode::LeaderNotAvailable
        }
    }
}
