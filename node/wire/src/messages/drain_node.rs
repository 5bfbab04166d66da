//! DrainNode (API key 20002), Meridian's own.

api! {
    /// Asks that the shards of a node be moved to others, or that this be taken back.
    DrainNode: versions (0), flexible (0+);

    request DrainNodeRequest {
        /// The node.
        node_id: int32 (0+);
        /// True takes the draining back: the node gets shards again.
        undo: bool (0+);
    }

    response DrainNodeResponse {
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// What went wrong, or null.
        error_message: string (0+), nullable(0+), default(None);
    }
}
