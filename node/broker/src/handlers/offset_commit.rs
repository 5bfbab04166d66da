//! OffsetCommit: how far a group has read.

use meridian_state::CommittedOffset;
use meridian_types::{Offset, Partition};
use meridian_wire::offset_commit::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic, OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
};
use meridian_wire::{ErrorCode, OffsetCommitRequest, OffsetCommitResponse};

use crate::catalog;
use crate::context::Caller;
use crate::coordinator::{CommitKind, CommitRequest};
use crate::errors;
use crate::handlers::fetch::epoch;

/// First version that names topics by id.
const TOPIC_IDS_FROM: i16 = 10;

pub(crate) async fn handle(caller: &Caller, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let (group, topics) = (String::from(request.group_id), request.topics);
    let commit = CommitRequest {
        group_id: group.clone(),
        member_id: request.member_id.into(),
        instance_id: request.group_instance_id.map(String::from),
        generation: request.generation_id_or_member_epoch,
        kind: CommitKind::Plain,
    };
    let epoch = match caller.context.groups.coordinator().validate_commit(&commit) {
        Ok(epoch) => epoch,
        Err(error) => return respond(caller, topics, |_, _| errors::of_group(error)),
    };
    let now = caller.context.region.now();
    let mut offsets = Vec::new();
    let mut refused = Vec::new();
    {
        let bytes_max = caller.context.configs().offset_metadata_bytes_max;
        let controller = caller.context.region.controller();
        for topic in &topics {
            let by_id = caller.version >= TOPIC_IDS_FROM;
            for asked in &topic.partitions {
                let partition = match by_id {
                    true => catalog::partition_by_id(&controller, topic.topic_id, asked.partition_index),
                    false => catalog::partition_by_name(&controller, &topic.name, asked.partition_index),
                };
                match partition.and_then(|partition| committed(partition, asked, bytes_max, now)) {
                    Ok(offset) => {
                        offsets.push(offset);
                        refused.push(None);
                    }
                    Err(error) => refused.push(Some(error)),
                }
            }
        }
    }
    let written = match offsets.is_empty() {
        true => Ok(()),
        false => caller.context.groups.commit(group, epoch, offsets, now).await,
    };
    let outcome = written.err().unwrap_or(ErrorCode::None);
    let mut refused = refused.into_iter();
    respond(caller, topics, |_, _| refused.next().flatten().unwrap_or(outcome))
}

fn committed(
    partition: Partition,
    asked: &OffsetCommitRequestPartition,
    bytes_max: usize,
    now: meridian_types::TimestampMs,
) -> Result<(Partition, CommittedOffset), ErrorCode> {
    let metadata = asked
        .committed_metadata
        .as_ref()
        .map_or_else(String::new, |metadata| metadata.to_string());
    if metadata.len() > bytes_max {
        return Err(ErrorCode::OffsetMetadataTooLarge);
    }
    // No consumer has a position before the first record; stored, it could never be read from.
    let offset = u64::try_from(asked.committed_offset).map_err(|_| ErrorCode::InvalidRequest)?;
    let committed = CommittedOffset {
        offset: Offset(offset),
        leader_epoch: epoch(asked.committed_leader_epoch),
        metadata,
        committed_at: now,
    };
    Ok((partition, committed))
}

/// Answers every partition with what `error` says of it, asked in order.
fn respond(
    caller: &Caller,
    topics: Vec<OffsetCommitRequestTopic>,
    mut error: impl FnMut(&OffsetCommitRequestTopic, i32) -> ErrorCode,
) -> OffsetCommitResponse {
    let mut responses = Vec::with_capacity(topics.len());
    for topic in topics {
        let partitions = topic
            .partitions
            .iter()
            .map(|asked| OffsetCommitResponsePartition {
                partition_index: asked.partition_index,
                error_code: caller.code(error(&topic, asked.partition_index)),
            })
            .collect();
        responses.push(OffsetCommitResponseTopic {
            name: topic.name,
            topic_id: topic.topic_id,
            partitions,
        });
    }
    OffsetCommitResponse {
        topics: responses,
        ..Default::default()
    }
}
