//! ListOffsets: the ends of partitions, and offsets by time.

use meridian_shard::{FoundOffset, OffsetSpec, ReadFrom};
use meridian_types::TimestampMs;
use meridian_wire::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsTopic, ListOffsetsTopicResponse,
};
use meridian_wire::{ErrorCode, ListOffsetsRequest, ListOffsetsResponse};

use crate::catalog;
use crate::context::Caller;
use crate::errors;
use crate::handlers::fetch::epoch;

/// What the negative timestamps mean.
mod special {
    pub(super) const LATEST: i64 = -1;
    pub(super) const EARLIEST: i64 = -2;
    /// KIP-734.
    pub(super) const MAX_TIMESTAMP: i64 = -3;
    /// KIP-405.
    pub(super) const EARLIEST_LOCAL: i64 = -4;
    /// KIP-1005.
    pub(super) const LATEST_TIERED: i64 = -5;
    /// KIP-1023.
    pub(super) const EARLIEST_PENDING_UPLOAD: i64 = -6;
}

pub(crate) async fn handle(caller: &Caller, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let is_read_committed = request.isolation_level == 1;
    let mut topics = Vec::with_capacity(request.topics.len());
    for ListOffsetsTopic {
        name,
        partitions: asked,
    } in request.topics
    {
        let mut partitions = Vec::with_capacity(asked.len());
        for partition in asked {
            partitions.push(find(caller, &name, &partition, is_read_committed).await);
        }
        topics.push(ListOffsetsTopicResponse { name, partitions });
    }
    ListOffsetsResponse {
        topics,
        ..Default::default()
    }
}

async fn find(
    caller: &Caller,
    topic: &str,
    asked: &ListOffsetsPartition,
    is_read_committed: bool,
) -> ListOffsetsPartitionResponse {
    let partition_index = asked.partition_index;
    match found(caller, topic, asked, is_read_committed).await {
        Ok(Some(found)) => ListOffsetsPartitionResponse {
            partition_index,
            offset: found.offset.0.cast_signed(),
            timestamp: found.timestamp.map_or(-1, |timestamp| timestamp.0),
            // Versions before KIP-320 have no field for it.
            leader_epoch: if caller.version >= 4 {
                found.leader_epoch.0.cast_signed()
            } else {
                -1
            },
            ..Default::default()
        },
        // No record fits: offset and timestamp -1, and no error.
        Ok(None) => ListOffsetsPartitionResponse {
            partition_index,
            ..Default::default()
        },
        Err(error) => ListOffsetsPartitionResponse {
            partition_index,
            error_code: caller.code(error),
            ..Default::default()
        },
    }
}

async fn found(
    caller: &Caller,
    topic: &str,
    asked: &ListOffsetsPartition,
    is_read_committed: bool,
) -> Result<Option<FoundOffset>, ErrorCode> {
    let region = &caller.context.region;
    let partition = catalog::partition_by_name(&region.controller(), topic, asked.partition_index)?;
    let spec = match asked.timestamp {
        special::LATEST if is_read_committed => OffsetSpec::LatestStable,
        special::LATEST => OffsetSpec::Latest,
        special::EARLIEST => OffsetSpec::Earliest,
        special::MAX_TIMESTAMP if caller.version >= 7 => OffsetSpec::MaxTimestamp,
        special::EARLIEST_LOCAL if caller.version >= 8 => OffsetSpec::EarliestLocal,
        special::LATEST_TIERED if caller.version >= 9 => OffsetSpec::LatestTiered,
        special::EARLIEST_PENDING_UPLOAD if caller.version >= 11 => OffsetSpec::EarliestPendingUpload,
        // As Kafka, for specials that the request's version does not have.
        timestamp if timestamp < 0 => return Err(ErrorCode::UnsupportedVersion),
        timestamp => OffsetSpec::AtOrAfter(TimestampMs(timestamp)),
    };
    let current = region
        .positions(partition, ReadFrom::Leader)
        .map_err(|error| errors::of_read(&error))?
        .leader_epoch;
    if let Some(error) = catalog::check_epoch(epoch(asked.current_leader_epoch), current) {
        return Err(error);
    }
    let found = region
        .offset_for(partition, spec)
        .await
        .map_err(|error| errors::of_read(&error))?;
    // Consumers of committed records must not be sent beyond what they may read.
    let last_stable_offset = region
        .positions(partition, ReadFrom::Leader)
        .map_err(|error| errors::of_read(&error))?
        .last_stable_offset;
    Ok(found
        .filter(|found| !is_read_committed || found.timestamp.is_none() || found.offset < last_stable_offset))
}
