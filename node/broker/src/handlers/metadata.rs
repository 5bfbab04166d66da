//! Metadata: brokers, topics and who leads each partition. Creates topics that are asked for, where that is wanted.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use meridian_controller::{Controller, Topic};
use meridian_types::{Partition, TopicId, Uuid};
use meridian_wire::metadata::{
    MetadataRequestTopic, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use meridian_wire::{ErrorCode, MetadataRequest, MetadataResponse, Str};

use crate::budget::ByteLease;
use crate::catalog;
use crate::cluster_view::{self, ClusterView};
use crate::context::Caller;
use crate::topic_creation;

/// Memory of one partition in an answer.
const PARTITION_BYTES: usize = 200;
/// First version that may name topics by id; 10 and 11 have the field and may not use it.
const TOPIC_IDS_FROM: i16 = 12;

pub(crate) async fn handle(
    caller: &Caller,
    request: MetadataRequest,
    lease: &mut Option<ByteLease>,
) -> MetadataResponse {
    // Version 0 asks for all topics by naming none.
    let asked = request
        .topics
        .filter(|topics| caller.version > 0 || !topics.is_empty())
        .map(without_repetition);
    // Versions before 4 cannot say no.
    if let Some(topics) = &asked
        && (caller.version < 4 || request.allow_auto_topic_creation)
    {
        create_missing(caller, topics).await;
    }
    let partitions = count_partitions(&caller.context.region.controller(), asked.as_deref());
    *lease = caller.reserve(partitions * PARTITION_BYTES).await;
    let view = ClusterView::new(caller);
    let topics = {
        let controller = caller.context.region.controller();
        match asked {
            None => controller.topics().map(|topic| described(&view, topic)).collect(),
            Some(topics) => topics
                .into_iter()
                .map(|topic| answer(caller, &controller, &view, topic))
                .collect(),
        }
    };
    let brokers = view.nodes.iter().map(|node| MetadataResponseBroker {
        node_id: node.id.0.cast_signed(),
        host: node.endpoint.host.clone().into(),
        port: node.endpoint.port.into(),
        rack: node.rack.clone().map(Str::from),
    });
    MetadataResponse {
        brokers: brokers.collect(),
        cluster_id: Some(cluster_view::cluster_id(caller)),
        controller_id: cluster_view::controller_id(caller),
        topics,
        ..Default::default()
    }
}

/// As in Kafka, a topic that is named more than once is told once: repetition must not multiply the answer.
fn without_repetition(topics: Vec<MetadataRequestTopic>) -> Vec<MetadataRequestTopic> {
    let mut seen = HashSet::new();
    topics
        .into_iter()
        .filter(|topic| seen.insert((topic.name.clone(), topic.topic_id)))
        .collect()
}

fn count_partitions(controller: &Controller, asked: Option<&[MetadataRequestTopic]>) -> usize {
    let count = match asked {
        None => controller.partition_count(),
        Some(topics) => topics
            .iter()
            .filter_map(|topic| match &topic.name {
                Some(name) if !name.is_empty() => controller.topic(name),
                _ => controller.topic_by_id(TopicId(topic.topic_id)),
            })
            .map(|topic| u64::from(topic.partitions))
            .sum(),
    };
    usize::try_from(count).unwrap_or(usize::MAX / PARTITION_BYTES)
}

async fn create_missing(caller: &Caller, topics: &[MetadataRequestTopic]) {
    let missing: BTreeSet<String> = {
        if !caller.context.configs().auto_create_topics {
            return;
        }
        let controller = caller.context.region.controller();
        // While ownership is being moved nobody makes topics: the client asks again.
        if !controller.is_owner() && !controller.is_owned_elsewhere() {
            return;
        }
        let names = topics.iter().filter_map(|topic| topic.name.as_deref());
        names
            .filter(|name| controller.topic(name).is_none())
            .map(str::to_owned)
            .collect()
    };
    if !missing.is_empty() {
        topic_creation::create_on_demand(caller, missing).await;
    }
}

fn answer(
    caller: &Caller,
    controller: &Controller,
    view: &ClusterView,
    asked: MetadataRequestTopic,
) -> MetadataResponseTopic {
    let by_id = asked.topic_id != Uuid::nil();
    let refused = |error: ErrorCode, name: Option<Str>| MetadataResponseTopic {
        error_code: caller.code(error),
        name: name.or((caller.version < TOPIC_IDS_FROM).then_some(Str::EMPTY)),
        topic_id: asked.topic_id,
        ..Default::default()
    };
    if caller.version < TOPIC_IDS_FROM && (by_id || asked.name.is_none()) {
        return refused(ErrorCode::InvalidRequest, asked.name);
    }
    // The Java client leaves the name empty, not null, when it asks by id.
    let name = asked.name.filter(|name| !(by_id && name.is_empty()));
    match (name, by_id) {
        (Some(name), _) => match controller.topic(&name) {
            Some(topic) => described(view, topic),
            None if catalog::is_valid_name(&name) => refused(ErrorCode::UnknownTopicOrPartition, Some(name)),
            None => refused(ErrorCode::InvalidTopicException, Some(name)),
        },
        (None, true) => match controller.topic_by_id(TopicId(asked.topic_id)) {
            Some(topic) => described(view, topic),
            None => refused(ErrorCode::UnknownTopicId, None),
        },
        (None, false) => refused(ErrorCode::InvalidRequest, None),
    }
}

fn described(view: &ClusterView, topic: &Arc<Topic>) -> MetadataResponseTopic {
    let partition = |index: u32| {
        let shard = view.of(Partition {
            topic: topic.id,
            index,
        });
        MetadataResponsePartition {
            error_code: shard.error().code(),
            partition_index: index.cast_signed(),
            leader_id: shard.leader_id(),
            leader_epoch: shard.leader_epoch(),
            replica_nodes: shard.replicas.clone(),
            isr_nodes: shard.in_sync.clone(),
            offline_replicas: shard.offline.clone(),
        }
    };
    MetadataResponseTopic {
        name: Some(Str::from(topic.name.to_string())),
        topic_id: topic.id.0,
        partitions: (0..topic.partitions).map(partition).collect(),
        ..Default::default()
    }
}
