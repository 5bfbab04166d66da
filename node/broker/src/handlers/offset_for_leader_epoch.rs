//! OffsetForLeaderEpoch: where an epoch ends, so that consumers notice truncation (KIP-320).

use meridian_shard::ReadFrom;
use meridian_types::{LeaderEpoch, Offset};
use meridian_wire::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderPartition, OffsetForLeaderTopic, OffsetForLeaderTopicResult,
};
use meridian_wire::{ErrorCode, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use crate::catalog;
use crate::context::Caller;
use crate::errors;
use crate::handlers::fetch::epoch;

pub(crate) fn handle(caller: &Caller, request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
    let topic = |topic: OffsetForLeaderTopic| OffsetForLeaderTopicResult {
        partitions: topic
            .partitions
            .iter()
            .map(|asked| answer(caller, &topic.topic, asked))
            .collect(),
        topic: topic.topic,
    };
    let topics = request.topics.into_iter().map(topic).collect();
    OffsetForLeaderEpochResponse {
        topics,
        ..Default::default()
    }
}

fn answer(caller: &Caller, topic: &str, asked: &OffsetForLeaderPartition) -> EpochEndOffset {
    let partition = asked.partition;
    match end(caller, topic, asked) {
        Ok(Some((epoch, end_offset))) => EpochEndOffset {
            partition,
            leader_epoch: epoch.0.cast_signed(),
            end_offset: end_offset.0.cast_signed(),
            ..Default::default()
        },
        Ok(None) => EpochEndOffset {
            partition,
            ..Default::default()
        },
        Err(error) => EpochEndOffset {
            partition,
            error_code: caller.code(error),
            ..Default::default()
        },
    }
}

fn end(
    caller: &Caller,
    topic: &str,
    asked: &OffsetForLeaderPartition,
) -> Result<Option<(LeaderEpoch, Offset)>, ErrorCode> {
    let region = &caller.context.region;
    let partition = catalog::partition_by_name(&region.controller(), topic, asked.partition)?;
    let current = region
        .positions(partition, ReadFrom::Leader)
        .map_err(|error| errors::of_read(&error))?
        .leader_epoch;
    if let Some(error) = catalog::check_epoch(epoch(asked.current_leader_epoch), current) {
        return Err(error);
    }
    let Some(wanted) = epoch(asked.leader_epoch) else {
        return Ok(None);
    };
    region
        .end_offset_for_epoch(partition, wanted, ReadFrom::Leader)
        .map_err(|error| errors::of_read(&error))
}
