//! ListConfigResources (API key 74).

api! {
    /// Lists resources that have settings (KIP-1142).
    ListConfigResources: versions (0-1), flexible (0+);

    request ListConfigResourcesRequest {
        /// The list of resource type. If the list is empty, it uses default supported config resource types.
        resource_types: [int8] (1+);
    }

    response ListConfigResourcesResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (0+);
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// Each config resource in the response.
        config_resources: [ConfigResource] (0+);
    }

    /// One of: each config resource in the response.
    struct ConfigResource {
        /// The resource name.
        resource_name: string (0+);
        /// The resource type.
        resource_type: int8 (1+), ignorable, default(16);
    }
}
