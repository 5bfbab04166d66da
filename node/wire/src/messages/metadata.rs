//! Metadata (API key 3).

api! {
    /// Names brokers, topics, partitions and their leaders.
    Metadata: versions (0-13), flexible (9+);

    request MetadataRequest {
        /// The topics to fetch metadata for.
        topics: [MetadataRequestTopic] (0+), nullable(1+);
        /// If this is true, the broker may auto-create topics that we requested which do not already exist,
        /// if it is configured to do so.
        allow_auto_topic_creation: bool (4+), default(true);
        /// Whether to include cluster authorized operations.
        include_cluster_authorized_operations: bool (8-10);
        /// Whether to include topic authorized operations.
        include_topic_authorized_operations: bool (8+);
    }

    /// One of: the topics to fetch metadata for.
    struct MetadataRequestTopic {
        /// The topic id.
        topic_id: uuid (10+), ignorable;
        /// The topic name.
        name: string (0+), nullable(10+);
    }

    response MetadataResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (3+), ignorable;
        /// A list of brokers present in the cluster.
        brokers: [MetadataResponseBroker] (0+);
        /// The cluster ID that responding broker belongs to.
        cluster_id: string (2+), nullable(2+), ignorable, default(None);
        /// The ID of the controller broker.
        controller_id: int32 (1+), ignorable, default(-1);
        /// Each topic in the response.
        topics: [MetadataResponseTopic] (0+);
        /// 32-bit bitfield to represent authorized operations for this cluster.
        cluster_authorized_operations: int32 (8-10), default(i32::MIN);
        /// The top-level error code, or 0 if there was no error.
        error_code: int16 (13+), ignorable;
    }

    /// One of: a list of brokers present in the cluster.
    struct MetadataResponseBroker {
        /// The broker ID.
        node_id: int32 (0+);
        /// The broker hostname.
        host: string (0+);
        /// The broker port.
        port: int32 (0+);
        /// The rack of the broker, or null if it has not been assigned to a rack.
        rack: string (1+), nullable(1+), ignorable, default(None);
    }

    /// One of: each topic in the response.
    struct MetadataResponseTopic {
        /// The topic error, or 0 if there was no error.
        error_code: int16 (0+);
        /// The topic name. Null for non-existing topics queried by ID. This is never null when ErrorCode is
        /// zero. One of Name and TopicId is always populated.
        name: string (0+), nullable(12+);
        /// The topic id. Zero for non-existing topics queried by name. This is never zero when ErrorCode is
        /// zero. One of Name and TopicId is always populated.
        topic_id: uuid (10+), ignorable;
        /// True if the topic is internal.
        is_internal: bool (1+), ignorable;
        /// Each partition in the topic.
        partitions: [MetadataResponsePartition] (0+);
        /// 32-bit bitfield to represent authorized operations for this topic.
        topic_authorized_operations: int32 (8+), default(i32::MIN);
    }

    /// One of: each partition in the topic.
    struct MetadataResponsePartition {
        /// The partition error, or 0 if there was no error.
        error_code: int16 (0+);
        /// The partition index.
        partition_index: int32 (0+);
        /// The ID of the leader broker.
        leader_id: int32 (0+);
        /// The leader epoch of this partition.
        leader_epoch: int32 (7+), ignorable, default(-1);
        /// The set of all nodes that host this partition.
        replica_nodes: [int32] (0+);
        /// The set of nodes that are in sync with the leader for this partition.
        isr_nodes: [int32] (0+);
        /// The set of offline replicas of this partition.
        offline_replicas: [int32] (5+), ignorable;
    }
}
