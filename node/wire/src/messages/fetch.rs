//! Fetch (API key 1).

api! {
    /// Reads record batches from partitions.
    Fetch: versions (4-18), flexible (12+);

    request FetchRequest {
        /// The clusterId if known. This is used to validate metadata fetches prior to broker registration.
        cluster_id: string (12+), nullable(12+), tag(0), ignorable, default(None);
        /// The broker ID of the follower, of -1 if this request is from a consumer.
        replica_id: int32 (0-14), default(-1);
        /// The state of the replica in the follower.
        replica_state: ReplicaState (15+), tag(1);
        /// The maximum time in milliseconds to wait for the response.
        max_wait_ms: int32 (0+);
        /// The minimum bytes to accumulate in the response.
        min_bytes: int32 (0+);
        /// The maximum bytes to fetch. See KIP-74 for cases where this limit may not be honored.
        max_bytes: int32 (3+), ignorable, default(i32::MAX);
        /// This setting controls the visibility of transactional records. Using READ_UNCOMMITTED
        /// (isolation_level = 0) makes all records visible. With READ_COMMITTED (isolation_level = 1), non-
        /// transactional and COMMITTED transactional records are visible. To be more concrete,
        /// READ_COMMITTED returns all data from offsets smaller than the current LSO (last stable offset),
        /// and enables the inclusion of the list of aborted transactions in the result, which allows
        /// consumers to discard ABORTED transactional records.
        isolation_level: int8 (4+), ignorable;
        /// The fetch session ID.
        session_id: int32 (7+), ignorable;
        /// The fetch session epoch, which is used for ordering requests in a session.
        session_epoch: int32 (7+), ignorable, default(-1);
        /// The topics to fetch.
        topics: [FetchTopic] (0+);
        /// In an incremental fetch request, the partitions to remove.
        forgotten_topics_data: [ForgottenTopic] (7+);
        /// Rack ID of the consumer making this request.
        rack_id: string (11+), ignorable;
    }

    /// The state of the replica in the follower.
    struct ReplicaState {
        /// The replica ID of the follower, or -1 if this request is from a consumer.
        replica_id: int32 (15+), default(-1);
        /// The epoch of this follower, or -1 if not available.
        replica_epoch: int64 (15+), default(-1);
    }

    /// One of: the topics to fetch.
    struct FetchTopic {
        /// The name of the topic to fetch.
        topic: string (0-12), ignorable;
        /// The unique topic ID.
        topic_id: uuid (13+), ignorable;
        /// The partitions to fetch.
        partitions: [FetchPartition] (0+);
    }

    /// One of: the partitions to fetch.
    struct FetchPartition {
        /// The partition index.
        partition: int32 (0+);
        /// The current leader epoch of the partition.
        current_leader_epoch: int32 (9+), ignorable, default(-1);
        /// The message offset.
        fetch_offset: int64 (0+);
        /// The epoch of the last fetched record or -1 if there is none.
        last_fetched_epoch: int32 (12+), default(-1);
        /// The earliest available offset of the follower replica. The field is only used when the request is
        /// sent by the follower.
        log_start_offset: int64 (5+), ignorable, default(-1);
        /// The maximum bytes to fetch from this partition. See KIP-74 for cases where this limit may not be
        /// honored.
        partition_max_bytes: int32 (0+);
        /// The directory id of the follower fetching.
        replica_directory_id: uuid (17+), tag(0), ignorable;
        /// The high-watermark known by the replica. -1 if the high-watermark is not known and
        /// 9223372036854775807 if the feature is not supported.
        high_watermark: int64 (18+), tag(1), ignorable, default(i64::MAX);
    }

    /// One of: in an incremental fetch request, the partitions to remove.
    struct ForgottenTopic {
        /// The topic name.
        topic: string (7-12), ignorable;
        /// The unique topic ID.
        topic_id: uuid (13+), ignorable;
        /// The partitions indexes to forget.
        partitions: [int32] (7+);
    }

    response FetchResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (1+), ignorable;
        /// The top level response error code.
        error_code: int16 (7+), ignorable;
        /// The fetch session ID, or 0 if this is not part of a fetch session.
        session_id: int32 (7+);
        /// The response topics.
        responses: [FetchableTopicResponse] (0+);
        /// Endpoints for all current-leaders enumerated in PartitionData, with errors NOT_LEADER_OR_FOLLOWER
        /// & FENCED_LEADER_EPOCH.
        node_endpoints: [NodeEndpoint] (16+), tag(0);
    }

    /// One of: the response topics.
    struct FetchableTopicResponse {
        /// The topic name.
        topic: string (0-12), ignorable;
        /// The unique topic ID.
        topic_id: uuid (13+), ignorable;
        /// The topic partitions.
        partitions: [PartitionData] (0+);
    }

    /// One of: the topic partitions.
    struct PartitionData {
        /// The partition index.
        partition_index: int32 (0+);
        /// The error code, or 0 if there was no fetch error.
        error_code: int16 (0+);
        /// The current high water mark.
        high_watermark: int64 (0+);
        /// The last stable offset (or LSO) of the partition. This is the last offset such that the state of
        /// all transactional records prior to this offset have been decided (ABORTED or COMMITTED).
        last_stable_offset: int64 (4+), ignorable, default(-1);
        /// The current log start offset.
        log_start_offset: int64 (5+), ignorable, default(-1);
        /// In case divergence is detected based on the `LastFetchedEpoch` and `FetchOffset` in the request,
        /// this field indicates the largest epoch and its end offset such that subsequent records are known
        /// to diverge.
        diverging_epoch: EpochEndOffset (12+), tag(0);
        /// The current leader of the partition.
        current_leader: LeaderIdAndEpoch (12+), tag(1);
        /// In the case of fetching an offset less than the LogStartOffset, this is the end offset and epoch
        /// that should be used in the FetchSnapshot request.
        snapshot_id: SnapshotId (12+), tag(2);
        /// The aborted transactions.
        aborted_transactions: [AbortedTransaction] (4+), nullable(4+), ignorable;
        /// The preferred read replica for the consumer to use on its next fetch request.
        preferred_read_replica: int32 (11+), default(-1);
        /// The record data.
        records: records (0+), nullable(0+);
    }

    /// In case divergence is detected based on the `LastFetchedEpoch` and `FetchOffset` in the request, this
    /// field indicates the largest epoch and its end offset such that subsequent records are known to
    /// diverge.
    struct EpochEndOffset {
        /// The largest epoch.
        epoch: int32 (12+), default(-1);
        /// The end offset of the epoch.
        end_offset: int64 (12+), default(-1);
    }

    /// The current leader of the partition.
    struct LeaderIdAndEpoch {
        /// The ID of the current leader or -1 if the leader is unknown.
        leader_id: int32 (12+), default(-1);
        /// The latest known leader epoch.
        leader_epoch: int32 (12+), default(-1);
    }

    /// In the case of fetching an offset less than the LogStartOffset, this is the end offset and epoch that
    /// should be used in the FetchSnapshot request.
    struct SnapshotId {
        /// The end offset of the epoch.
        end_offset: int64 (0+), default(-1);
        /// The largest epoch.
        epoch: int32 (0+), default(-1);
    }

    /// One of: the aborted transactions.
    struct AbortedTransaction {
        /// The producer id associated with the aborted transaction.
        producer_id: int64 (4+);
        /// The first offset in the aborted transaction.
        first_offset: int64 (4+);
    }

    /// One of: endpoints for all current-leaders enumerated in PartitionData, with errors
    /// NOT_LEADER_OR_FOLLOWER & FENCED_LEADER_EPOCH.
    struct NodeEndpoint {
        /// The ID of the associated node.
        node_id: int32 (16+);
        /// The node's hostname.
        host: string (16+);
        /// The node's port.
        port: int32 (16+);
        /// The rack of the node, or null if it has not been assigned to a rack.
        rack: string (16+), nullable(16+), default(None);
    }
}
