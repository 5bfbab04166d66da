//! DescribeProducers: the idempotent producers that partitions remember.

use std::collections::HashSet;

use meridian_state::Producer;
use meridian_wire::describe_producers::{PartitionResponse, ProducerState, TopicRequest, TopicResponse};
use meridian_wire::{DescribeProducersRequest, DescribeProducersResponse, ErrorCode};

use crate::catalog;
use crate::context::Caller;
use crate::errors;

pub(crate) fn handle(caller: &Caller, request: DescribeProducersRequest) -> DescribeProducersResponse {
    // A partition that is named more than once is told once: repetition must not multiply the answer.
    let mut seen = HashSet::new();
    let topic = |topic: TopicRequest| {
        let mut indexes = topic.partition_indexes;
        indexes.retain(|index| seen.insert((topic.name.clone(), *index)));
        TopicResponse {
            partitions: indexes
                .iter()
                .map(|index| answer(caller, &topic.name, *index))
                .collect(),
            name: topic.name,
        }
    };
    DescribeProducersResponse {
        topics: request.topics.into_iter().map(topic).collect(),
        ..Default::default()
    }
}

fn answer(caller: &Caller, topic: &str, partition_index: i32) -> PartitionResponse {
    match producers(caller, topic, partition_index) {
        Ok(producers) => PartitionResponse {
            partition_index,
            active_producers: producers.iter().map(described).collect(),
            ..Default::default()
        },
        Err((error, message)) => PartitionResponse {
            partition_index,
            error_code: caller.code(error),
            error_message: Some(message.into()),
            ..Default::default()
        },
    }
}

fn producers(caller: &Caller, topic: &str, index: i32) -> Result<Vec<Producer>, (ErrorCode, String)> {
    let region = &caller.context.region;
    let partition = catalog::partition_by_name(&region.controller(), topic, index)
        .map_err(|error| (error, format!("there is no partition {index} of a topic {topic}")))?;
    region
        .producers(partition)
        .map_err(|error| (errors::of_read(&error), error.to_string()))
}

fn described(producer: &Producer) -> ProducerState {
    let last = producer.batches().last();
    ProducerState {
        producer_id: producer.id.0.cast_signed(),
        producer_epoch: producer.epoch.into(),
        last_sequence: last.map_or(-1, |batch| batch.last_sequence),
        last_timestamp: producer.last_append_at.0,
        // Nothing here is transactional: no coordinator, no open transaction.
        coordinator_epoch: -1,
        current_txn_start_offset: -1,
    }
}
