//! ThrottleLink (API key 20007), Meridian's own.

api! {
    /// Bounds what the node that is asked sends to another region, or what it lets come from there, until it is started again.
    ThrottleLink: versions (0-1), flexible (0+);

    request ThrottleLinkRequest {
        /// Name or number of the other region.
        region: string (0+);
        /// Bytes per second; 0 for no limit.
        bytes_per_second_max: int64 (0+);
        /// Whether what comes is bounded, of each link; else what is sent, of all links together.
        is_received: bool (1+);
    }

    response ThrottleLinkResponse {
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// What went wrong, or null.
        error_message: string (0+), nullable(0+), default(None);
    }
}
