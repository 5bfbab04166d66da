//! DescribeTopicPartitions (API key 75).

api! {
    /// Describes topics page by page (KIP-966).
    DescribeTopicPartitions: versions (0), flexible (0+);

    request DescribeTopicPartitionsRequest {
        /// The topics to fetch details for.
        topics: [TopicRequest] (0+);
        /// The maximum number of partitions included in the response.
        response_partition_limit: int32 (0+), default(2000);
        /// The first topic and partition index to fetch details for.
        cursor: Cursor (0+), nullable(0+), default(None);
    }

    /// One of: the topics to fetch details for.
    struct TopicRequest {
        /// The topic name.
        name: string (0+);
    }

    /// The first topic and partition index to fetch details for.
    struct Cursor {
        /// The name for the first topic to process.
        topic_name: string (0+);
        /// The partition index to start with.
        partition_index: int32 (0+);
    }

    response DescribeTopicPartitionsResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (0+), ignorable;
        /// Each topic in the response.
        topics: [DescribeTopicPartitionsResponseTopic] (0+);
        /// The next topic and partition index to fetch details for.
        next_cursor: Cursor (0+), nullable(0+), default(None);
    }

    /// One of: each topic in the response.
    struct DescribeTopicPartitionsResponseTopic {
        /// The topic error, or 0 if there was no error.
        error_code: int16 (0+);
        /// The topic name.
        name: string (0+), nullable(0+);
        /// The topic id.
        topic_id: uuid (0+), ignorable;
        /// True if the topic is internal.
        is_internal: bool (0+), ignorable;
        /// Each partition in the topic.
        partitions: [DescribeTopicPartitionsResponsePartition] (0+);
        /// 32-bit bitfield to represent authorized operations for this topic.
        topic_authorized_operations: int32 (0+), default(i32::MIN);
    }

    /// One of: each partition in the topic.
    struct DescribeTopicPartitionsResponsePartition {
        /// The partition error, or 0 if there was no error.
        error_code: int16 (0+);
        /// The partition index.
        partition_index: int32 (0+);
        /// The ID of the leader broker.
        leader_id: int32 (0+);
        /// The leader epoch of this partition.
        leader_epoch: int32 (0+), ignorable, default(-1);
        /// The set of all nodes that host this partition.
        replica_nodes: [int32] (0+);
        /// The set of nodes that are in sync with the leader for this partition.
        isr_nodes: [int32] (0+);
        /// The new eligible leader replicas otherwise.
        eligible_leader_replicas: [int32] (0+), nullable(0+), default(None);
        /// The last known ELR.
        last_known_elr: [int32] (0+), nullable(0+), default(None);
        /// The set of offline replicas of this partition.
        offline_replicas: [int32] (0+), ignorable;
    }
}
