//! DeleteTopics (API key 20).

api! {
    /// Deletes topics.
    DeleteTopics: versions (1-6), flexible (4+);

    request DeleteTopicsRequest {
        /// The name or topic ID of the topic.
        topics: [DeleteTopicState] (6+);
        /// The names of the topics to delete.
        topic_names: [string] (0-5), ignorable;
        /// The length of time in milliseconds to wait for the deletions to complete.
        timeout_ms: int32 (0+);
    }

    /// One of: the name or topic ID of the topic.
    struct DeleteTopicState {
        /// The topic name.
        name: string (6+), nullable(6+), default(None);
        /// The unique topic ID.
        topic_id: uuid (6+);
    }

    response DeleteTopicsResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (1+), ignorable;
        /// The results for each topic we tried to delete.
        responses: [DeletableTopicResult] (0+);
    }

    /// One of: the results for each topic we tried to delete.
    struct DeletableTopicResult {
        /// The topic name.
        name: string (0+), nullable(6+);
        /// The unique topic ID.
        topic_id: uuid (6+), ignorable;
        /// The deletion error, or 0 if the deletion succeeded.
        error_code: int16 (0+);
        /// The error message, or null if there was no error.
        error_message: string (5+), nullable(5+), ignorable, default(None);
    }
}
