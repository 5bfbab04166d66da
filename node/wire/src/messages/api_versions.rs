//! ApiVersions (API key 18).

api! {
    /// Asks which APIs and versions a broker serves.
    ApiVersions: versions (0-4), flexible (3+);

    request ApiVersionsRequest {
        /// The name of the client.
        client_software_name: string (3+), ignorable;
        /// The version of the client.
        client_software_version: string (3+), ignorable;
    }

    response ApiVersionsResponse {
        /// The top-level error code.
        error_code: int16 (0+);
        /// The APIs supported by the broker.
        api_keys: [ApiVersion] (0+);
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (1+), ignorable;
        /// Features supported by the broker. Note: in v0-v3, features with MinSupportedVersion = 0 are
        /// omitted.
        supported_features: [SupportedFeatureKey] (3+), tag(0), ignorable;
        /// The monotonically increasing epoch for the finalized features information. Valid values are >= 0.
        /// A value of -1 is special and represents unknown epoch.
        finalized_features_epoch: int64 (3+), tag(1), ignorable, default(-1);
        /// List of cluster-wide finalized features. The information is valid only if FinalizedFeaturesEpoch
        /// >= 0.
        finalized_features: [FinalizedFeatureKey] (3+), tag(2), ignorable;
        /// Set by a KRaft controller if the required configurations for ZK migration are present.
        zk_migration_ready: bool (3+), tag(3), ignorable;
    }

    /// One of: the APIs supported by the broker.
    struct ApiVersion {
        /// The API index.
        api_key: int16 (0+);
        /// The minimum supported version, inclusive.
        min_version: int16 (0+);
        /// The maximum supported version, inclusive.
        max_version: int16 (0+);
    }

    /// One of: features supported by the broker. Note: in v0-v3, features with MinSupportedVersion = 0 are
    /// omitted.
    struct SupportedFeatureKey {
        /// The name of the feature.
        name: string (3+);
        /// The minimum supported version for the feature.
        min_version: int16 (3+);
        /// The maximum supported version for the feature.
        max_version: int16 (3+);
    }

    /// One of: list of cluster-wide finalized features. The information is valid only if
    /// FinalizedFeaturesEpoch >= 0.
    struct FinalizedFeatureKey {
        /// The name of the feature.
        name: string (3+);
        /// The cluster-wide finalized max version level for the feature.
        max_version_level: int16 (3+);
        /// The cluster-wide finalized min version level for the feature.
        min_version_level: int16 (3+);
    }
}
