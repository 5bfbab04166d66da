//! CreateTopics (API key 19).

api! {
    /// Creates topics.
    CreateTopics: versions (2-7), flexible (5+);

    request CreateTopicsRequest {
        /// The topics to create.
        topics: [CreatableTopic] (0+);
        /// How long to wait in milliseconds before timing out the request.
        timeout_ms: int32 (0+), default(60000);
        /// If true, check that the topics can be created as specified, but don't create anything.
        validate_only: bool (1+);
    }

    /// One of: the topics to create.
    struct CreatableTopic {
        /// The topic name.
        name: string (0+);
        /// The number of partitions to create in the topic, or -1 if we are either specifying a manual
        /// partition assignment or using the default partitions.
        num_partitions: int32 (0+);
        /// The number of replicas to create for each partition in the topic, or -1 if we are either
        /// specifying a manual partition assignment or using the default replication factor.
        replication_factor: int16 (0+);
        /// The manual partition assignment, or the empty array if we are using automatic assignment.
        assignments: [CreatableReplicaAssignment] (0+);
        /// The custom topic configurations to set.
        configs: [CreatableTopicConfig] (0+);
    }

    /// One of: the manual partition assignment, or the empty array if we are using automatic assignment.
    struct CreatableReplicaAssignment {
        /// The partition index.
        partition_index: int32 (0+);
        /// The brokers to place the partition on.
        broker_ids: [int32] (0+);
    }

    /// One of: the custom topic configurations to set.
    struct CreatableTopicConfig {
        /// The configuration name.
        name: string (0+);
        /// The configuration value.
        value: string (0+), nullable(0+);
    }

    response CreateTopicsResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (2+), ignorable;
        /// Results for each topic we tried to create.
        topics: [CreatableTopicResult] (0+);
    }

    /// One of: results for each topic we tried to create.
    struct CreatableTopicResult {
        /// The topic name.
        name: string (0+);
        /// The unique topic ID.
        topic_id: uuid (7+), ignorable;
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// The error message, or null if there was no error.
        error_message: string (1+), nullable(0+), ignorable;
        /// Optional topic config error returned if configs are not returned in the response.
        topic_config_error_code: int16 (5+), tag(0), ignorable;
        /// Number of partitions of the topic.
        num_partitions: int32 (5+), ignorable, default(-1);
        /// Replication factor of the topic.
        replication_factor: int16 (5+), ignorable, default(-1);
        /// Configuration of the topic.
        configs: [CreatableTopicConfigs] (5+), nullable(5+), ignorable;
    }

    /// One of: configuration of the topic.
    struct CreatableTopicConfigs {
        /// The configuration name.
        name: string (5+);
        /// The configuration value.
        value: string (5+), nullable(5+);
        /// True if the configuration is read-only.
        read_only: bool (5+);
        /// The configuration source.
        config_source: int8 (5+), ignorable, default(-1);
        /// True if this configuration is sensitive.
        is_sensitive: bool (5+);
    }
}
