//! DescribeLogDirs (API key 35).

api! {
    /// Describes the disks of a broker and the partitions on them.
    DescribeLogDirs: versions (1-5), flexible (2+);

    request DescribeLogDirsRequest {
        /// Each topic that we want to describe log directories for, or null for all topics.
        topics: [DescribableLogDirTopic] (0+), nullable(0+);
    }

    /// One of: each topic that we want to describe log directories for, or null for all topics.
    struct DescribableLogDirTopic {
        /// The topic name.
        topic: string (0+);
        /// The partition indexes.
        partitions: [int32] (0+);
    }

    response DescribeLogDirsResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (0+);
        /// The error code, or 0 if there was no error.
        error_code: int16 (3+), ignorable;
        /// The log directories.
        results: [DescribeLogDirsResult] (0+);
    }

    /// One of: the log directories.
    struct DescribeLogDirsResult {
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// The absolute log directory path.
        log_dir: string (0+);
        /// The topics.
        topics: [DescribeLogDirsTopic] (0+);
        /// The total size in bytes of the volume the log directory is in. This value does not include the
        /// size of data stored in remote storage.
        total_bytes: int64 (4+), ignorable, default(-1);
        /// The usable size in bytes of the volume the log directory is in. This value does not include the
        /// size of data stored in remote storage.
        usable_bytes: int64 (4+), ignorable, default(-1);
        /// True if this log directory is cordoned.
        is_cordoned: bool (5+), ignorable;
    }

    /// One of: the topics.
    struct DescribeLogDirsTopic {
        /// The topic name.
        name: string (0+);
        /// The partitions.
        partitions: [DescribeLogDirsPartition] (0+);
    }

    /// One of: the partitions.
    struct DescribeLogDirsPartition {
        /// The partition index.
        partition_index: int32 (0+);
        /// The size of the log segments in this partition in bytes.
        partition_size: int64 (0+);
        /// The lag of the log's LEO w.r.t. partition's HW (if it is the current log for the partition) or
        /// current replica's LEO (if it is the future log for the partition).
        offset_lag: int64 (0+);
        /// True if this log is created by AlterReplicaLogDirsRequest and will replace the current log of the
        /// replica in the future.
        is_future_key: bool (0+);
    }
}
