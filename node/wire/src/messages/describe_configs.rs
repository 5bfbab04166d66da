//! DescribeConfigs (API key 32).

api! {
    /// Reads the settings of topics and brokers.
    DescribeConfigs: versions (1-4), flexible (4+);

    request DescribeConfigsRequest {
        /// The resources whose configurations we want to describe.
        resources: [DescribeConfigsResource] (0+);
        /// True if we should include all synonyms.
        include_synonyms: bool (1+);
        /// True if we should include configuration documentation.
        include_documentation: bool (3+);
    }

    /// One of: the resources whose configurations we want to describe.
    struct DescribeConfigsResource {
        /// The resource type.
        resource_type: int8 (0+);
        /// The resource name.
        resource_name: string (0+);
        /// The configuration keys to list, or null to list all configuration keys.
        configuration_keys: [string] (0+), nullable(0+);
    }

    response DescribeConfigsResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (0+);
        /// The results for each resource.
        results: [DescribeConfigsResult] (0+);
    }

    /// One of: the results for each resource.
    struct DescribeConfigsResult {
        /// The error code, or 0 if we were able to successfully describe the configurations.
        error_code: int16 (0+);
        /// The error message, or null if we were able to successfully describe the configurations.
        error_message: string (0+), nullable(0+);
        /// The resource type.
        resource_type: int8 (0+);
        /// The resource name.
        resource_name: string (0+);
        /// Each listed configuration.
        configs: [DescribeConfigsResourceResult] (0+);
    }

    /// One of: each listed configuration.
    struct DescribeConfigsResourceResult {
        /// The configuration name.
        name: string (0+);
        /// The configuration value.
        value: string (0+), nullable(0+);
        /// True if the configuration is read-only.
        read_only: bool (0+);
        /// The configuration source.
        config_source: int8 (1+), ignorable, default(-1);
        /// True if this configuration is sensitive.
        is_sensitive: bool (0+);
        /// The synonyms for this configuration key.
        synonyms: [DescribeConfigsSynonym] (1+), ignorable;
        /// The configuration data type. Type can be one of the following values - BOOLEAN, STRING, INT,
        /// SHORT, LONG, DOUBLE, LIST, CLASS, PASSWORD.
        config_type: int8 (3+), ignorable;
        /// The configuration documentation.
        documentation: string (3+), nullable(0+), ignorable;
    }

    /// One of: the synonyms for this configuration key.
    struct DescribeConfigsSynonym {
        /// The synonym name.
        name: string (1+);
        /// The synonym value.
        value: string (1+), nullable(0+);
        /// The synonym source.
        source: int8 (1+);
    }
}
