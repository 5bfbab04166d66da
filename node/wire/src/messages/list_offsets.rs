//! ListOffsets (API key 2).

api! {
    /// Finds offsets by time, or the ends of a partition.
    ListOffsets: versions (1-11), flexible (6+);

    request ListOffsetsRequest {
        /// The broker ID of the requester, or -1 if this request is being made by a normal consumer.
        replica_id: int32 (0+);
        /// This setting controls the visibility of transactional records. Using READ_UNCOMMITTED
        /// (isolation_level = 0) makes all records visible. With READ_COMMITTED (isolation_level = 1), non-
        /// transactional and COMMITTED transactional records are visible. To be more concrete,
        /// READ_COMMITTED returns all data from offsets smaller than the current LSO (last stable offset),
        /// and enables the inclusion of the list of aborted transactions in the result, which allows
        /// consumers to discard ABORTED transactional records.
        isolation_level: int8 (2+);
        /// Each topic in the request.
        topics: [ListOffsetsTopic] (0+);
        /// The timeout to await a response in milliseconds for requests that require reading from remote
        /// storage for topics enabled with tiered storage.
        timeout_ms: int32 (10+), ignorable;
    }

    /// One of: each topic in the request.
    struct ListOffsetsTopic {
        /// The topic name.
        name: string (0+);
        /// Each partition in the request.
        partitions: [ListOffsetsPartition] (0+);
    }

    /// One of: each partition in the request.
    struct ListOffsetsPartition {
        /// The partition index.
        partition_index: int32 (0+);
        /// The current leader epoch.
        current_leader_epoch: int32 (4+), ignorable, default(-1);
        /// The current timestamp.
        timestamp: int64 (0+);
    }

    response ListOffsetsResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (2+), ignorable;
        /// Each topic in the response.
        topics: [ListOffsetsTopicResponse] (0+);
    }

    /// One of: each topic in the response.
    struct ListOffsetsTopicResponse {
        /// The topic name.
        name: string (0+);
        /// Each partition in the response.
        partitions: [ListOffsetsPartitionResponse] (0+);
    }

    /// One of: each partition in the response.
    struct ListOffsetsPartitionResponse {
        /// The partition index.
        partition_index: int32 (0+);
        /// The partition error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// The timestamp associated with the returned offset.
        timestamp: int64 (1+), default(-1);
        /// The returned offset.
        offset: int64 (1+), default(-1);
        /// The leader epoch associated with the returned offset.
        leader_epoch: int32 (4+), default(-1);
    }
}
