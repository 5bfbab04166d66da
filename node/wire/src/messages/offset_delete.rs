//! OffsetDelete (API key 47).

api! {
    /// Deletes committed offsets of a consumer group.
    OffsetDelete: versions (0), flexible (none);

    request OffsetDeleteRequest {
        /// The unique group identifier.
        group_id: string (0+);
        /// The topics to delete offsets for.
        topics: [OffsetDeleteRequestTopic] (0+);
    }

    /// One of: the topics to delete offsets for.
    struct OffsetDeleteRequestTopic {
        /// The topic name.
        name: string (0+);
        /// Each partition to delete offsets for.
        partitions: [OffsetDeleteRequestPartition] (0+);
    }

    /// One of: each partition to delete offsets for.
    struct OffsetDeleteRequestPartition {
        /// The partition index.
        partition_index: int32 (0+);
    }

    response OffsetDeleteResponse {
        /// The top-level error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (0+), ignorable;
        /// The responses for each topic.
        topics: [OffsetDeleteResponseTopic] (0+);
    }

    /// One of: the responses for each topic.
    struct OffsetDeleteResponseTopic {
        /// The topic name.
        name: string (0+);
        /// The responses for each partition in the topic.
        partitions: [OffsetDeleteResponsePartition] (0+);
    }

    /// One of: the responses for each partition in the topic.
    struct OffsetDeleteResponsePartition {
        /// The partition index.
        partition_index: int32 (0+);
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
    }
}
