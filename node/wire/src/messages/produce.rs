//! Produce (API key 0).

api! {
    /// Appends record batches to partitions.
    Produce: versions (3-13), flexible (9+);

    request ProduceRequest {
        /// The transactional ID, or null if the producer is not transactional.
        transactional_id: string (3+), nullable(3+), default(None);
        /// The number of acknowledgments the producer requires the leader to have received before
        /// considering a request complete. Allowed values: 0 for no acknowledgments, 1 for only the leader
        /// and -1 for the full ISR.
        acks: int16 (0+);
        /// The timeout to await a response in milliseconds.
        timeout_ms: int32 (0+);
        /// Each topic to produce to.
        topic_data: [TopicProduceData] (0+);
    }

    /// One of: each topic to produce to.
    struct TopicProduceData {
        /// The topic name.
        name: string (0-12), ignorable;
        /// The unique topic ID.
        topic_id: uuid (13+), ignorable;
        /// Each partition to produce to.
        partition_data: [PartitionProduceData] (0+);
    }

    /// One of: each partition to produce to.
    struct PartitionProduceData {
        /// The partition index.
        index: int32 (0+);
        /// The record data to be produced.
        records: records_mut (0+), nullable(0+);
    }

    response ProduceResponse {
        /// Each produce response.
        responses: [TopicProduceResponse] (0+);
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (1+), ignorable;
        /// Endpoints for all current-leaders enumerated in PartitionProduceResponses, with errors
        /// NOT_LEADER_OR_FOLLOWER.
        node_endpoints: [NodeEndpoint] (10+), tag(0);
    }

    /// One of: each produce response.
    struct TopicProduceResponse {
        /// The topic name.
        name: string (0-12), ignorable;
        /// The unique topic ID.
        topic_id: uuid (13+), ignorable;
        /// Each partition that we produced to within the topic.
        partition_responses: [PartitionProduceResponse] (0+);
    }

    /// One of: each partition that we produced to within the topic.
    struct PartitionProduceResponse {
        /// The partition index.
        index: int32 (0+);
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// The base offset.
        base_offset: int64 (0+);
        /// The timestamp returned by broker after appending the messages. If CreateTime is used for the
        /// topic, the timestamp will be -1. If LogAppendTime is used for the topic, the timestamp will be
        /// the broker local time when the messages are appended.
        log_append_time_ms: int64 (2+), ignorable, default(-1);
        /// The log start offset.
        log_start_offset: int64 (5+), ignorable, default(-1);
        /// The batch indices of records that caused the batch to be dropped.
        record_errors: [BatchIndexAndErrorMessage] (8+), ignorable;
        /// The global error message summarizing the common root cause of the records that caused the batch
        /// to be dropped.
        error_message: string (8+), nullable(8+), ignorable, default(None);
        /// The leader broker that the producer should use for future requests.
        current_leader: LeaderIdAndEpoch (10+), tag(0);
    }

    /// One of: the batch indices of records that caused the batch to be dropped.
    struct BatchIndexAndErrorMessage {
        /// The batch index of the record that caused the batch to be dropped.
        batch_index: int32 (8+);
        /// The error message of the record that caused the batch to be dropped.
        batch_index_error_message: string (8+), nullable(8+), default(None);
    }

    /// The leader broker that the producer should use for future requests.
    struct LeaderIdAndEpoch {
        /// The ID of the current leader or -1 if the leader is unknown.
        leader_id: int32 (10+), default(-1);
        /// The latest known leader epoch.
        leader_epoch: int32 (10+), default(-1);
    }

    /// One of: endpoints for all current-leaders enumerated in PartitionProduceResponses, with errors
    /// NOT_LEADER_OR_FOLLOWER.
    struct NodeEndpoint {
        /// The ID of the associated node.
        node_id: int32 (10+);
        /// The node's hostname.
        host: string (10+);
        /// The node's port.
        port: int32 (10+);
        /// The rack of the node, or null if it has not been assigned to a rack.
        rack: string (10+), nullable(10+), default(None);
    }
}
