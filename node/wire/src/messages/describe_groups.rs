//! DescribeGroups (API key 15).

api! {
    /// Describes classic consumer groups and their members.
    DescribeGroups: versions (0-6), flexible (5+);

    request DescribeGroupsRequest {
        /// The names of the groups to describe.
        groups: [string] (0+);
        /// Whether to include authorized operations.
        include_authorized_operations: bool (3+);
    }

    response DescribeGroupsResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (1+), ignorable;
        /// Each described group.
        groups: [DescribedGroup] (0+);
    }

    /// One of: each described group.
    struct DescribedGroup {
        /// The describe error, or 0 if there was no error.
        error_code: int16 (0+);
        /// The describe error message, or null if there was no error.
        error_message: string (6+), nullable(6+), default(None);
        /// The group ID string.
        group_id: string (0+);
        /// The group state string, or the empty string.
        group_state: string (0+);
        /// The group protocol type, or the empty string.
        protocol_type: string (0+);
        /// The group protocol data, or the empty string.
        protocol_data: string (0+);
        /// The group members.
        members: [DescribedGroupMember] (0+);
        /// 32-bit bitfield to represent authorized operations for this group.
        authorized_operations: int32 (3+), default(i32::MIN);
    }

    /// One of: the group members.
    struct DescribedGroupMember {
        /// The member id.
        member_id: string (0+);
        /// The unique identifier of the consumer instance provided by end user.
        group_instance_id: string (4+), nullable(4+), ignorable, default(None);
        /// The client ID used in the member's latest join group request.
        client_id: string (0+);
        /// The client host.
        client_host: string (0+);
        /// The metadata corresponding to the current group protocol in use.
        member_metadata: bytes (0+);
        /// The current assignment provided by the group leader.
        member_assignment: bytes (0+);
    }
}
