//! CreateTopics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meridian_controller::{Controller, NewTopic, Topic};
use meridian_types::{Partition, ShardId};
use meridian_wire::create_topics::{CreatableTopic, CreatableTopicConfigs, CreatableTopicResult};
use meridian_wire::{CreateTopicsRequest, CreateTopicsResponse, ErrorCode, Str};
use tokio::time::timeout;

use crate::context::Caller;
use crate::topic_creation::{self, Refusal};

/// First version that answers with the topic's configs.
const CONFIGS_FROM: i16 = 5;

pub(crate) async fn handle(caller: &Caller, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let mut times_named: BTreeMap<String, usize> = BTreeMap::new();
    for topic in &request.topics {
        *times_named.entry(topic.name.to_string()).or_default() += 1;
    }
    let mut checked: Vec<(Str, Result<NewTopic, Refusal>)> = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let new = match times_named.get(&*topic.name) {
            Some(1) => new_topic(caller, &topic),
            _ => Err((
                ErrorCode::InvalidRequest,
                "the request names this topic more than once".to_owned(),
            )),
        };
        checked.push((topic.name, new));
    }
    let wanted: Vec<NewTopic> = checked.iter().filter_map(|(_, new)| new.clone().ok()).collect();
    let outcomes = if request.validate_only {
        validate(caller, wanted)
    } else {
        let wait = Duration::from_millis(request.timeout_ms.max(0).unsigned_abs().into());
        let count = wanted.len();
        timeout(wait, topic_creation::create(caller, wanted))
            .await
            .unwrap_or_else(|_| {
                let message = "the topics may be created later: the controller did not answer in time";
                vec![Err((ErrorCode::RequestTimedOut, message.to_owned())); count]
            })
    };
    let mut outcomes = outcomes.into_iter();
    let topics = checked.into_iter().map(|(name, new)| {
        let outcome = new.and_then(|_| {
            let missing = || {
                Err((
                    ErrorCode::UnknownServerError,
                    "the controller left this topic out".to_owned(),
                ))
            };
            outcomes.next().unwrap_or_else(missing)
        });
        respond(caller, name, outcome)
    });
    CreateTopicsResponse {
        topics: topics.collect(),
        ..Default::default()
    }
}

/// What creating would give, without doing it.
fn validate(caller: &Caller, wanted: Vec<NewTopic>) -> Vec<Result<Arc<Topic>, Refusal>> {
    let controller = caller.context.region.controller();
    let checks = controller.check_create_topics(&wanted);
    let would_be = |new: NewTopic| {
        Arc::new(Topic {
            name: new.name.into(),
            id: meridian_types::TopicId::NIL,
            partitions: new.partitions,
            configs: new.configs,
            created_at: caller.context.region.now(),
            settings: controller.topic_defaults().clone(),
        })
    };
    wanted
        .into_iter()
        .zip(checks)
        .map(|(new, check)| {
            check
                .map(|()| would_be(new))
                .map_err(|error| topic_creation::refusal(&error))
        })
        .collect()
}

/// Fills in the defaults, and holds the request against what this region can do.
fn new_topic(caller: &Caller, asked: &CreatableTopic) -> Result<NewTopic, Refusal> {
    let region = &caller.context.region;
    let partitions_default = caller.context.configs().num_partitions;
    let controller = region.controller();
    topic_creation::check_owner(&controller)?;
    let partitions = if asked.assignments.is_empty() {
        check_replication_factor(&controller, asked.replication_factor)?;
        match asked.num_partitions {
            -1 => partitions_default,
            count => u32::try_from(count)
                .ok()
                .filter(|count| *count > 0)
                .ok_or_else(|| {
                    let message = format!(
                        "number of partitions is {count}; it must be 1 or more, or -1 for the default"
                    );
                    (ErrorCode::InvalidPartitions, message)
                })?,
        }
    } else {
        check_assignments(&controller, asked)?
    };
    let mut configs = BTreeMap::new();
    for config in &asked.configs {
        let Some(value) = &config.value else {
            return Err((
                ErrorCode::InvalidConfig,
                format!("config '{}' has no value", config.name),
            ));
        };
        if configs
            .insert(config.name.to_string(), value.to_string())
            .is_some()
        {
            return Err((
                ErrorCode::InvalidConfig,
                format!("config '{}' is given more than once", config.name),
            ));
        }
    }
    let name = asked.name.to_string();
    topic_creation::new_topic(region, &controller, name, partitions, configs)
}

/// Copies are a property of the region's shards: a topic can ask for no more of them than there are nodes, and
/// gets as many as its shards have.
fn check_replication_factor(controller: &Controller, asked: i16) -> Result<(), Refusal> {
    let nodes = controller.nodes().len();
    match usize::try_from(asked) {
        _ if asked == -1 => Ok(()),
        Ok(asked) if (1..=nodes).contains(&asked) => Ok(()),
        Ok(asked) if asked > 0 => {
            let message = format!("replication factor is {asked}, but only {nodes} brokers are registered");
            Err((ErrorCode::InvalidReplicationFactor, message))
        }
        _ => {
            let message =
                format!("replication factor is {asked}; it must be 1 or more, or -1 for the default");
            Err((ErrorCode::InvalidReplicationFactor, message))
        }
    }
}

/// An assignment is held against Kafka's rules and tells the number of partitions; where they lie is decided by
/// their shards.
fn check_assignments(controller: &Controller, asked: &CreatableTopic) -> Result<u32, Refusal> {
    let invalid = |message: String| Err((ErrorCode::InvalidReplicaAssignment, message));
    if asked.num_partitions != -1 || asked.replication_factor != -1 {
        let message = "with an assignment, number of partitions and replication factor must be -1";
        return Err((ErrorCode::InvalidRequest, message.to_owned()));
    }
    let mut indexes = BTreeSet::new();
    for assignment in &asked.assignments {
        let index = assignment.partition_index;
        if !indexes.insert(index) {
            return invalid(format!("partition {index} is assigned more than once"));
        }
        let brokers: BTreeSet<i32> = assignment.broker_ids.iter().copied().collect();
        if brokers.is_empty() || brokers.len() != assignment.broker_ids.len() {
            return invalid(format!(
                "partition {index} is assigned to no broker, or to one of them twice"
            ));
        }
        if assignment.broker_ids.len() != asked.assignments[0].broker_ids.len() {
            return invalid("all partitions must be assigned to equally many brokers".to_owned());
        }
        let is_known = |id: &i32| {
            u32::try_from(*id).is_ok_and(|id| controller.node(meridian_types::NodeId(id)).is_some())
        };
        if let Some(unknown) = brokers.iter().find(|id| !is_known(id)) {
            return invalid(format!(
                "partition {index} is assigned to broker {unknown}, which is not registered"
            ));
        }
    }
    let count = i32::try_from(indexes.len()).unwrap_or(i32::MAX);
    if !indexes.into_iter().eq(0..count) {
        return invalid("the partitions of an assignment must be numbered from 0 without gaps".to_owned());
    }
    Ok(count.unsigned_abs())
}

fn respond(caller: &Caller, name: Str, outcome: Result<Arc<Topic>, Refusal>) -> CreatableTopicResult {
    let topic = match outcome {
        Ok(topic) => topic,
        Err((error, message)) => {
            return CreatableTopicResult {
                name,
                error_code: caller.code(error),
                error_message: Some(message.into()),
                ..Default::default()
            };
        }
    };
    let region = &caller.context.region;
    let controller = region.controller();
    let first = Partition {
        topic: topic.id,
        index: 0,
    };
    let replicas = match region.shard_of(first) {
        ShardId::ELSEWHERE => region
            .remote()
            .staying(first, region.shards())
            .map_or(0, |(_, replicas)| replicas.len()),
        shard => controller.replicas_of(shard).len(),
    };
    let configs = if caller.version < CONFIGS_FROM {
        Vec::new()
    } else {
        controller.describe_topic(&topic)
    };
    let config = |config: meridian_controller::DescribedConfig| CreatableTopicConfigs {
        name: config.name.into(),
        value: config.value.map(Str::from),
        read_only: config.is_read_only,
        config_source: config.source.number(),
        is_sensitive: config.is_sensitive,
    };
    CreatableTopicResult {
        name,
        topic_id: topic.id.0,
        error_message: None,
        num_partitions: i32::try_from(topic.partitions).unwrap_or(i32::MAX),
        replication_factor: i16::try_from(replicas).unwrap_or(i16::MAX),
        configs: Some(configs.into_iter().map(config).collect()),
        ..Default::default()
    }
}
