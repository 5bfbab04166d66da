//! LeaveGroup (API key 13).

api! {
    /// Takes members out of a classic consumer group.
    LeaveGroup: versions (0-5), flexible (4+);

    request LeaveGroupRequest {
        /// The ID of the group to leave.
        group_id: string (0+);
        /// The member ID to remove from the group.
        member_id: string (0-2);
        /// List of leaving member identities.
        members: [MemberIdentity] (3+);
    }

    /// One of: list of leaving member identities.
    struct MemberIdentity {
        /// The member ID to remove from the group.
        member_id: string (3+);
        /// The group instance ID to remove from the group.
        group_instance_id: string (3+), nullable(3+), default(None);
        /// The reason why the member left the group.
        reason: string (5+), nullable(5+), ignorable, default(None);
    }

    response LeaveGroupResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (1+), ignorable;
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// List of leaving member responses.
        members: [MemberResponse] (3+);
    }

    /// One of: list of leaving member responses.
    struct MemberResponse {
        /// The member ID to remove from the group.
        member_id: string (3+);
        /// The group instance ID to remove from the group.
        group_instance_id: string (3+), nullable(3+);
        /// The error code, or 0 if there was no error.
        error_code: int16 (3+);
    }
}
