//! DeleteGroups (API key 42).

api! {
    /// Deletes empty consumer groups.
    DeleteGroups: versions (0-2), flexible (2+);

    request DeleteGroupsRequest {
        /// The group names to delete.
        groups_names: [string] (0+);
    }

    response DeleteGroupsResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (0+);
        /// The deletion results.
        results: [DeletableGroupResult] (0+);
    }

    /// One of: the deletion results.
    struct DeletableGroupResult {
        /// The group id.
        group_id: string (0+);
        /// The deletion error, or 0 if the deletion succeeded.
        error_code: int16 (0+);
    }
}
