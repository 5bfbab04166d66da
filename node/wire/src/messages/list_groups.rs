//! ListGroups (API key 16).

api! {
    /// Lists the groups a broker coordinates.
    ListGroups: versions (0-5), flexible (3+);

    request ListGroupsRequest {
        /// The states of the groups we want to list. If empty, all groups are returned with their state.
        states_filter: [string] (4+);
        /// The types of the groups we want to list. If empty, all groups are returned with their type.
        types_filter: [string] (5+);
    }

    response ListGroupsResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (1+), ignorable;
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// Each group in the response.
        groups: [ListedGroup] (0+);
    }

    /// One of: each group in the response.
    struct ListedGroup {
        /// The group ID.
        group_id: string (0+);
        /// The group protocol type.
        protocol_type: string (0+);
        /// The group state name.
        group_state: string (4+), ignorable;
        /// The group type name.
        group_type: string (5+), ignorable;
    }
}
