//! UnregisterBroker (API key 64).

api! {
    /// Takes a broker out of the cluster for good.
    UnregisterBroker: versions (0), flexible (0+);

    request UnregisterBrokerRequest {
        /// The broker ID to unregister.
        broker_id: int32 (0+);
    }

    response UnregisterBrokerResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (0+);
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// The top-level error message, or `null` if there was no top-level error.
        error_message: string (0+), nullable(0+);
    }
}
