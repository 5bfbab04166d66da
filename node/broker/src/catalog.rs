//! Looking topics and partitions up in the region's facts, with the answers in Kafka's terms.

use std::sync::Arc;
use std::time::Duration;

use meridian_controller::{Controller, Topic};
use meridian_shard::Region;
use meridian_types::{LeaderEpoch, Partition, TopicId, Uuid};
use meridian_wire::ErrorCode;

use crate::fetch_session::{SessionPartition, TopicKey};

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

/// A partition that is fetched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetchable {
    pub(crate) partition: Partition,
    /// How old a mirror's copy may be that is read, where the topic bounds it.
    pub(crate) staleness_max: Option<Duration>,
}

/// Where the partitions of a fetch are, or why not, in their order.
pub(crate) fn resolve(region: &Region, partitions: &[SessionPartition]) -> Vec<Result<Fetchable, ErrorCode>> {
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
            (Some(topic), _) => in_topic(topic, asked.index).map(|partition| Fetchable {
                partition,
                staleness_max: topic.settings.geo_staleness_max_ms.map(Duration::from_millis),
            }),
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
