//! Heartbeat (API key 12).

api! {
    /// Keeps a member of a classic consumer group alive.
    Heartbeat: versions (0-4), flexible (4+);

    request HeartbeatRequest {
        /// The group id.
        group_id: string (0+);
        /// The generation of the group.
        generation_id: int32 (0+);
        /// The member ID.
        member_id: string (0+);
        /// The unique identifier of the consumer instance provided by end user.
        group_instance_id: string (3+), nullable(3+), default(None);
    }

    response HeartbeatResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (1+), ignorable;
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
    }
}
