//! DescribeProducers (API key 61).

api! {
    /// Lists the active idempotent producers of partitions (KIP-664).
    DescribeProducers: versions (0), flexible (0+);

    request DescribeProducersRequest {
        /// The topics to list producers for.
        topics: [TopicRequest] (0+);
    }

    /// One of: the topics to list producers for.
    struct TopicRequest {
        /// The topic name.
        name: string (0+);
        /// The indexes of the partitions to list producers for.
        partition_indexes: [int32] (0+);
    }

    response DescribeProducersResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (0+);
        /// Each topic in the response.
        topics: [TopicResponse] (0+);
    }

    /// One of: each topic in the response.
    struct TopicResponse {
        /// The topic name.
        name: string (0+);
        /// Each partition in the response.
        partitions: [PartitionResponse] (0+);
    }

    /// One of: each partition in the response.
    struct PartitionResponse {
        /// The partition index.
        partition_index: int32 (0+);
        /// The partition error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// The partition error message, which may be null if no additional details are available.
        error_message: string (0+), nullable(0+), default(None);
        /// The active producers for the partition.
        active_producers: [ProducerState] (0+);
    }

    /// One of: the active producers for the partition.
    struct ProducerState {
        /// The producer id.
        producer_id: int64 (0+);
        /// The producer epoch.
        producer_epoch: int32 (0+);
        /// The last sequence number sent by the producer.
        last_sequence: int32 (0+), default(-1);
        /// The last timestamp sent by the producer.
        last_timestamp: int64 (0+), default(-1);
        /// The current epoch of the producer group.
        coordinator_epoch: int32 (0+);
        /// The current transaction start offset of the producer.
        current_txn_start_offset: int64 (0+), default(-1);
    }
}
