//! JoinGroup (API key 11).

api! {
    /// Enters a classic consumer group, or its next generation.
    JoinGroup: versions (0-9), flexible (6+);

    request JoinGroupRequest {
        /// The group identifier.
        group_id: string (0+);
        /// The coordinator considers the consumer dead if it receives no heartbeat after this timeout in
        /// milliseconds.
        session_timeout_ms: int32 (0+);
        /// The maximum time in milliseconds that the coordinator will wait for each member to rejoin when
        /// rebalancing the group.
        rebalance_timeout_ms: int32 (1+), ignorable, default(-1);
        /// The member id assigned by the group coordinator.
        member_id: string (0+);
        /// The unique identifier of the consumer instance provided by end user.
        group_instance_id: string (5+), nullable(5+), default(None);
        /// The unique name the for class of protocols implemented by the group we want to join.
        protocol_type: string (0+);
        /// The list of protocols that the member supports.
        protocols: [JoinGroupRequestProtocol] (0+);
        /// The reason why the member (re-)joins the group.
        reason: string (8+), nullable(8+), ignorable, default(None);
    }

    /// One of: the list of protocols that the member supports.
    struct JoinGroupRequestProtocol {
        /// The protocol name.
        name: string (0+);
        /// The protocol metadata.
        metadata: bytes (0+);
    }

    response JoinGroupResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (2+), ignorable;
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// The generation ID of the group.
        generation_id: int32 (0+), default(-1);
        /// The group protocol name.
        protocol_type: string (7+), nullable(7+), ignorable, default(None);
        /// The group protocol selected by the coordinator.
        protocol_name: string (0+), nullable(7+);
        /// The leader of the group.
        leader: string (0+);
        /// True if the leader must skip running the assignment.
        skip_assignment: bool (9+);
        /// The member ID assigned by the group coordinator.
        member_id: string (0+);
        /// The group members.
        members: [JoinGroupResponseMember] (0+);
    }

    /// One of: the group members.
    struct JoinGroupResponseMember {
        /// The group member ID.
        member_id: string (0+);
        /// The unique identifier of the consumer instance provided by end user.
        group_instance_id: string (5+), nullable(5+), ignorable, default(None);
        /// The group member metadata.
        metadata: bytes (0+);
    }
}
