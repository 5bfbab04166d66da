//! FindCoordinator (API key 10).

api! {
    /// Finds the broker that coordinates a group or a transactional id.
    FindCoordinator: versions (0-6), flexible (3+);

    request FindCoordinatorRequest {
        /// The coordinator key.
        key: string (0-3);
        /// The coordinator key type. (group, transaction, share).
        key_type: int8 (1+);
        /// The coordinator keys.
        coordinator_keys: [string] (4+);
    }

    response FindCoordinatorResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (1+), ignorable;
        /// The error code, or 0 if there was no error.
        error_code: int16 (0-3);
        /// The error message, or null if there was no error.
        error_message: string (1-3), nullable(1-3), ignorable;
        /// The node id.
        node_id: int32 (0-3);
        /// The host name.
        host: string (0-3);
        /// The port.
        port: int32 (0-3);
        /// Each coordinator result in the response.
        coordinators: [Coordinator] (4+);
    }

    /// One of: each coordinator result in the response.
    struct Coordinator {
        /// The coordinator key.
        key: string (4+);
        /// The node id.
        node_id: int32 (4+);
        /// The host name.
        host: string (4+);
        /// The port.
        port: int32 (4+);
        /// The error code, or 0 if there was no error.
        error_code: int16 (4+);
        /// The error message, or null if there was no error.
        error_message: string (4+), nullable(4+), ignorable;
    }
}
