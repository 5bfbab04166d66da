//! DeleteRecords: moves log start offsets forward.

use std::time::Duration;

use meridian_types::Offset;
use meridian_wire::delete_records::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsTopic, DeleteRecordsTopicResult,
};
use meridian_wire::{DeleteRecordsRequest, DeleteRecordsResponse, ErrorCode};
use tokio::time::{Instant, timeout_at};

use crate::catalog;
use crate::context::Caller;
use crate::errors;

/// In place of an offset: all there is.
const HIGH_WATERMARK: i64 = -1;

pub(crate) async fn handle(caller: &Caller, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let timeout = Duration::from_millis(request.timeout_ms.max(0).unsigned_abs().into());
    let deadline = Instant::now() + timeout;
    let mut topics = Vec::with_capacity(request.topics.len());
    for DeleteRecordsTopic {
        name,
        partitions: asked,
    } in request.topics
    {
        let mut partitions = Vec::with_capacity(asked.len());
        for partition in asked {
            let deleted = timeout_at(deadline, delete(caller, &name, &partition)).await;
            let result = deleted.unwrap_or(Err(ErrorCode::RequestTimedOut));
            partitions.push(DeleteRecordsPartitionResult {
                partition_index: partition.partition_index,
                low_watermark: result.map_or(-1, |start| start.0.cast_signed()),
                error_code: caller.code(result.err().unwrap_or(ErrorCode::None)),
            });
        }
        topics.push(DeleteRecordsTopicResult { name, partitions });
    }
    DeleteRecordsResponse {
        topics,
        ..Default::default()
    }
}

async fn delete(caller: &Caller, topic: &str, asked: &DeleteRecordsPartition) -> Result<Offset, ErrorCode> {
    let region = &caller.context.region;
    let partition = {
        let controller = region.controller();
        let partition = catalog::partition_by_name(&controller, topic, asked.partition_index)?;
        if !catalog::deletes(&controller, partition.topic) {
            return Err(ErrorCode::PolicyViolation);
        }
        partition
    };
    let before = match (asked.offset, u64::try_from(asked.offset)) {
        (HIGH_WATERMARK, _) => None,
        (_, Ok(offset)) => Some(Offset(offset)),
        (_, Err(_)) => return Err(ErrorCode::OffsetOutOfRange),
    };
    region
        .delete_records(partition, before)
        .await
        .map_err(|error| errors::of_delete_records(&error))
}
