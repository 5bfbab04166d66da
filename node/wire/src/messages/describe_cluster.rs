//! DescribeCluster (API key 60).

api! {
    /// Names the brokers and the controller of the cluster.
    DescribeCluster: versions (0-2), flexible (0+);

    request DescribeClusterRequest {
        /// Whether to include cluster authorized operations.
        include_cluster_authorized_operations: bool (0+);
        /// The endpoint type to describe. 1=brokers, 2=controllers.
        endpoint_type: int8 (1+), default(1);
        /// Whether to include fenced brokers when listing brokers.
        include_fenced_brokers: bool (2+);
    }

    response DescribeClusterResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (0+);
        /// The top-level error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// The top-level error message, or null if there was no error.
        error_message: string (0+), nullable(0+), default(None);
        /// The endpoint type that was described. 1=brokers, 2=controllers.
        endpoint_type: int8 (1+), default(1);
        /// The cluster ID that responding broker belongs to.
        cluster_id: string (0+);
        /// The ID of the controller. When handled by a controller, returns the current voter leader ID. When
        /// handled by a broker, returns a random alive broker ID as a fallback.
        controller_id: int32 (0+), default(-1);
        /// Each broker in the response.
        brokers: [DescribeClusterBroker] (0+);
        /// 32-bit bitfield to represent authorized operations for this cluster.
        cluster_authorized_operations: int32 (0+), default(i32::MIN);
    }

    /// One of: each broker in the response.
    struct DescribeClusterBroker {
        /// The broker ID.
        broker_id: int32 (0+);
        /// The broker hostname.
        host: string (0+);
        /// The broker port.
        port: int32 (0+);
        /// The rack of the broker, or null if it has not been assigned to a rack.
        rack: string (0+), nullable(0+), default(None);
        /// Whether the broker is fenced.
        is_fenced: bool (2+);
    }
}
