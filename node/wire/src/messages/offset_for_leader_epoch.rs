//! OffsetForLeaderEpoch (API key 23).

api! {
    /// Finds where a leader epoch ends (KIP-320).
    OffsetForLeaderEpoch: versions (2-4), flexible (4+);

    request OffsetForLeaderEpochRequest {
        /// The broker ID of the follower, of -1 if this request is from a consumer.
        replica_id: int32 (3+), ignorable, default(-2);
        /// Each topic to get offsets for.
        topics: [OffsetForLeaderTopic] (0+);
    }

    /// One of: each topic to get offsets for.
    struct OffsetForLeaderTopic {
        /// The topic name.
        topic: string (0+);
        /// Each partition to get offsets for.
        partitions: [OffsetForLeaderPartition] (0+);
    }

    /// One of: each partition to get offsets for.
    struct OffsetForLeaderPartition {
        /// The partition index.
        partition: int32 (0+);
        /// An epoch used to fence consumers/replicas with old metadata. If the epoch provided by the client
        /// is larger than the current epoch known to the broker, then the UNKNOWN_LEADER_EPOCH error code
        /// will be returned. If the provided epoch is smaller, then the FENCED_LEADER_EPOCH error code will
        /// be returned.
        current_leader_epoch: int32 (2+), ignorable, default(-1);
        /// The epoch to look up an offset for.
        leader_epoch: int32 (0+);
    }

    response OffsetForLeaderEpochResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (2+), ignorable;
        /// Each topic we fetched offsets for.
        topics: [OffsetForLeaderTopicResult] (0+);
    }

    /// One of: each topic we fetched offsets for.
    struct OffsetForLeaderTopicResult {
        /// The topic name.
        topic: string (0+);
        /// Each partition in the topic we fetched offsets for.
        partitions: [EpochEndOffset] (0+);
    }

    /// One of: each partition in the topic we fetched offsets for.
    struct EpochEndOffset {
        /// The error code 0, or if there was no error.
        error_code: int16 (0+);
        /// The partition index.
        partition: int32 (0+);
        /// The leader epoch of the partition.
        leader_epoch: int32 (1+), ignorable, default(-1);
        /// The end offset of the epoch.
        end_offset: int64 (0+), default(-1);
    }
}
