//! AlterRegion (API key 20006), Meridian's own.

api! {
    /// Asks a node of the owner to register another region of the cluster, or to forget one.
    AlterRegion: versions (0), flexible (0+);

    request AlterRegionRequest {
        /// Number of the region.
        number: int32 (0+);
        /// Its name; null forgets the region.
        name: string (0+), nullable(0+);
        /// Where its nodes are reached by other regions, as HOST:PORT.
        addresses: [string] (0+);
    }

    response AlterRegionResponse {
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// What went wrong, or null.
        error_message: string (0+), nullable(0+), default(None);
    }
}
