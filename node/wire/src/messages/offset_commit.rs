//! OffsetCommit (API key 8).

api! {
    /// Stores the offsets a consumer group has reached.
    OffsetCommit: versions (2-10), flexible (8+);

    request OffsetCommitRequest {
        /// The unique group identifier.
        group_id: string (0+);
        /// The generation of the group if using the classic group protocol or the member epoch if using the
        /// consumer protocol.
        generation_id_or_member_epoch: int32 (1+), ignorable, default(-1);
        /// The member ID assigned by the group coordinator.
        member_id: string (1+), ignorable;
        /// The unique identifier of the consumer instance provided by end user.
        group_instance_id: string (7+), nullable(7+), default(None);
        /// The time period in ms to retain the offset.
        retention_time_ms: int64 (2-4), ignorable, default(-1);
        /// The topics to commit offsets for.
        topics: [OffsetCommitRequestTopic] (0+);
    }

    /// One of: the topics to commit offsets for.
    struct OffsetCommitRequestTopic {
        /// The topic name.
        name: string (0-9), ignorable;
        /// The topic ID.
        topic_id: uuid (10+), ignorable;
        /// Each partition to commit offsets for.
        partitions: [OffsetCommitRequestPartition] (0+);
    }

    /// One of: each partition to commit offsets for.
    struct OffsetCommitRequestPartition {
        /// The partition index.
        partition_index: int32 (0+);
        /// The message offset to be committed.
        committed_offset: int64 (0+);
        /// The leader epoch of this partition.
        committed_leader_epoch: int32 (6+), ignorable, default(-1);
        /// Any associated metadata the client wants to keep.
        committed_metadata: string (0+), nullable(0+);
    }

    response OffsetCommitResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (3+), ignorable;
        /// The responses for each topic.
        topics: [OffsetCommitResponseTopic] (0+);
    }

    /// One of: the responses for each topic.
    struct OffsetCommitResponseTopic {
        /// The topic name.
        name: string (0-9), ignorable;
        /// The topic ID.
        topic_id: uuid (10+), ignorable;
        /// The responses for each partition in the topic.
        partitions: [OffsetCommitResponsePartition] (0+);
    }

    /// One of: the responses for each partition in the topic.
    struct OffsetCommitResponsePartition {
        /// The partition index.
        partition_index: int32 (0+);
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
    }
}
