//! AlterConfigs (API key 33).

api! {
    /// Replaces the settings of topics and brokers.
    AlterConfigs: versions (0-2), flexible (2+);

    request AlterConfigsRequest {
        /// The updates for each resource.
        resources: [AlterConfigsResource] (0+);
        /// True if we should validate the request, but not change the configurations.
        validate_only: bool (0+);
    }

    /// One of: the updates for each resource.
    struct AlterConfigsResource {
        /// The resource type.
        resource_type: int8 (0+);
        /// The resource name.
        resource_name: string (0+);
        /// The configurations.
        configs: [AlterableConfig] (0+);
    }

    /// One of: the configurations.
    struct AlterableConfig {
        /// The configuration key name.
        name: string (0+);
        /// The value to set for the configuration key.
        value: string (0+), nullable(0+);
    }

    response AlterConfigsResponse {
        /// Duration in milliseconds for which the request was throttled due to a quota violation, or zero if
        /// the request did not violate any quota.
        throttle_time_ms: int32 (0+);
        /// The responses for each resource.
        responses: [AlterConfigsResourceResponse] (0+);
    }

    /// One of: the responses for each resource.
    struct AlterConfigsResourceResponse {
        /// The resource error code.
        error_code: int16 (0+);
        /// The resource error message, or null if there was no error.
        error_message: string (0+), nullable(0+);
        /// The resource type.
        resource_type: int8 (0+);
        /// The resource name.
        resource_name: string (0+);
    }
}
