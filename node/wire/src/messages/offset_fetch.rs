//! OffsetFetch (API key 9).

api! {
    /// Reads the offsets a consumer group has stored.
    OffsetFetch: versions (1-10), flexible (6+);

    request OffsetFetchRequest {
        /// The group to fetch offsets for.
        group_id: string (0-7);
        /// Each topic we would like to fetch offsets for, or null to fetch offsets for all topics.
        topics: [OffsetFetchRequestTopic] (0-7), nullable(2-7);
        /// Each group we would like to fetch offsets for.
        groups: [OffsetFetchRequestGroup] (8+);
        /// Whether broker should hold on returning unstable offsets but set a retriable error code for the
        /// partitions.
        require_stable: bool (7+);
    }

    /// One of: each topic we would like to fetch offsets for, or null to fetch offsets for all topics.
    struct OffsetFetchRequestTopic {
        /// The topic name.
        name: string (0-7);
        /// The partition indexes we would like to fetch offsets for.
        partition_indexes: [int32] (0-7);
    }

    /// One of: each group we would like to fetch offsets for.
    struct OffsetFetchRequestGroup {
        /// The group ID.
        group_id: string (8+);
        /// The member id.
        member_id: string (9+), nullable(9+), ignorable, default(None);
        /// The member epoch if using the new consumer protocol (KIP-848).
        member_epoch: int32 (9+), ignorable, default(-1);
        /// Each topic we would like to fetch offsets for, or null to fetch offsets for all topics.
        topics: [OffsetFetchRequestTopics] (8+), nullable(8+);
    }

    /// One of: each topic we would like to fetch offsets for, or null to fetch offsets for all topics.
    struct OffsetFetchRequestTopics {
        /// The topic name.
        name: string (8-9), ignorable;
        /// The topic ID.
        topic_id: uuid (10+), ignorable;
        /// The partition indexes we would like to fetch offsets for.
        partition_indexes: [int32] (8+);
    }

    response OffsetFetchResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (3+), ignorable;
        /// The responses per topic.
        topics: [OffsetFetchResponseTopic] (0-7);
        /// The top-level error code, or 0 if there was no error.
        error_code: int16 (2-7), ignorable;
        /// The responses per group id.
        groups: [OffsetFetchResponseGroup] (8+);
    }

    /// One of: the responses per topic.
    struct OffsetFetchResponseTopic {
        /// The topic name.
        name: string (0-7);
        /// The responses per partition.
        partitions: [OffsetFetchResponsePartition] (0-7);
    }

    /// One of: the responses per partition.
    struct OffsetFetchResponsePartition {
        /// The partition index.
        partition_index: int32 (0-7);
        /// The committed message offset.
        committed_offset: int64 (0-7);
        /// The leader epoch.
        committed_leader_epoch: int32 (5-7), ignorable, default(-1);
        /// The partition metadata.
        metadata: string (0-7), nullable(0-7);
        /// The error code, or 0 if there was no error.
        error_code: int16 (0-7);
    }

    /// One of: the responses per group id.
    struct OffsetFetchResponseGroup {
        /// The group ID.
        group_id: string (8+);
        /// The responses per topic.
        topics: [OffsetFetchResponseTopics] (8+);
        /// The group-level error code, or 0 if there was no error.
        error_code: int16 (8+);
    }

    /// One of: the responses per topic.
    struct OffsetFetchResponseTopics {
        /// The topic name.
        name: string (8-9), ignorable;
        /// The topic ID.
        topic_id: uuid (10+), ignorable;
        /// The responses per partition.
        partitions: [OffsetFetchResponsePartitions] (8+);
    }

    /// One of: the responses per partition.
    struct OffsetFetchResponsePartitions {
        /// The partition index.
        partition_index: int32 (8+);
        /// The committed message offset.
        committed_offset: int64 (8+);
        /// The leader epoch.
        committed_leader_epoch: int32 (8+), ignorable, default(-1);
        /// The partition metadata.
        metadata: string (8+), nullable(8+);
        /// The partition-level error code, or 0 if there was no error.
        error_code: int16 (8+);
    }
}
