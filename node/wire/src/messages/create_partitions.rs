//! CreatePartitions (API key 37).

api! {
    /// Adds partitions to topics.
    CreatePartitions: versions (0-3), flexible (2+);

    request CreatePartitionsRequest {
        /// Each topic that we want to create new partitions inside.
        topics: [CreatePartitionsTopic] (0+);
        /// The time in ms to wait for the partitions to be created.
        timeout_ms: int32 (0+);
        /// If true, then validate the request, but don't actually increase the number of partitions.
        validate_only: bool (0+);
    }

    /// One of: each topic that we want to create new partitions inside.
    struct CreatePartitionsTopic {
        /// The topic name.
        name: string (0+);
        /// The new partition count.
        count: int32 (0+);
        /// The new partition assignments.
        assignments: [CreatePartitionsAssignment] (0+), nullable(0+);
    }

    /// One of: the new partition assignments.
    struct CreatePartitionsAssignment {
        /// The assigned broker IDs.
        broker_ids: [int32] (0+);
    }

    response CreatePartitionsResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (0+);
        /// The partition creation results for each topic.
        results: [CreatePartitionsTopicResult] (0+);
    }

    /// One of: the partition creation results for each topic.
    struct CreatePartitionsTopicResult {
        /// The topic name.
        name: string (0+);
        /// The result error, or zero if there was no error.
        error_code: int16 (0+);
        /// The result message, or null if there was no error.
        error_message: string (0+), nullable(0+), default(None);
    }
}
