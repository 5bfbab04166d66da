//! DeleteRecords (API key 21).

api! {
    /// Moves the log start of partitions forward.
    DeleteRecords: versions (0-2), flexible (2+);

    request DeleteRecordsRequest {
        /// Each topic that we want to delete records from.
        topics: [DeleteRecordsTopic] (0+);
        /// How long to wait for the deletion to complete, in milliseconds.
        timeout_ms: int32 (0+);
    }

    /// One of: each topic that we want to delete records from.
    struct DeleteRecordsTopic {
        /// The topic name.
        name: string (0+);
        /// Each partition that we want to delete records from.
        partitions: [DeleteRecordsPartition] (0+);
    }

    /// One of: each partition that we want to delete records from.
    struct DeleteRecordsPartition {
        /// The partition index.
        partition_index: int32 (0+);
        /// The deletion offset. -1 means that records should be truncated to the high watermark.
        offset: int64 (0+);
    }

    response DeleteRecordsResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (0+);
        /// Each topic that we wanted to delete records from.
        topics: [DeleteRecordsTopicResult] (0+);
    }

    /// One of: each topic that we wanted to delete records from.
    struct DeleteRecordsTopicResult {
        /// The topic name.
        name: string (0+);
        /// Each partition that we wanted to delete records from.
        partitions: [DeleteRecordsPartitionResult] (0+);
    }

    /// One of: each partition that we wanted to delete records from.
    struct DeleteRecordsPartitionResult {
        /// The partition index.
        partition_index: int32 (0+);
        /// The partition low water mark.
        low_watermark: int64 (0+);
        /// The deletion error code, or 0 if the deletion succeeded.
        error_code: int16 (0+);
    }
}
