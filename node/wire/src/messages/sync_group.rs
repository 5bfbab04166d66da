//! SyncGroup (API key 14).

api! {
    /// Hands out the assignment of a classic consumer group.
    SyncGroup: versions (0-5), flexible (4+);

    request SyncGroupRequest {
        /// The unique group identifier.
        group_id: string (0+);
        /// The generation of the group.
        generation_id: int32 (0+);
        /// The member ID assigned by the group.
        member_id: string (0+);
        /// The unique identifier of the consumer instance provided by end user.
        group_instance_id: string (3+), nullable(3+), default(None);
        /// The group protocol type.
        protocol_type: string (5+), nullable(5+), ignorable, default(None);
        /// The group protocol name.
        protocol_name: string (5+), nullable(5+), ignorable, default(None);
        /// Each assignment.
        assignments: [SyncGroupRequestAssignment] (0+);
    }

    /// One of: each assignment.
    struct SyncGroupRequestAssignment {
        /// The ID of the member to assign.
        member_id: string (0+);
        /// The member assignment.
        assignment: bytes (0+);
    }

    response SyncGroupResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (1+), ignorable;
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// The group protocol type.
        protocol_type: string (5+), nullable(5+), ignorable, default(None);
        /// The group protocol name.
        protocol_name: string (5+), nullable(5+), ignorable, default(None);
        /// The member assignment.
        assignment: bytes (0+);
    }
}
