//! BalanceRegion (API key 20003), Meridian's own.

api! {
    /// Asks that replicas and leaders be evened out among the nodes that are alive, at once. Without it this happens
    /// by and by, and rests while a node is silent.
    BalanceRegion: versions (0), flexible (0+);

    request BalanceRegionRequest {
        /// Only says what would be moved.
        dry_run: bool (0+);
    }

    response BalanceRegionResponse {
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// What went wrong, or null.
        error_message: string (0+), nullable(0+), default(None);
        /// One for each shard that is placed anew.
        moves: [ShardMove] (0+);
    }

    /// One of: one for each shard that is placed anew.
    struct ShardMove {
        /// The shard, -1 for the controller's.
        shard: int32 (0+);
        /// The nodes that should have held it until now, the preferred leader first.
        before: [int32] (0+);
        /// The nodes that should hold it from now on, the preferred leader first.
        after: [int32] (0+);
        /// Why that was not decided, or null: it was. Ask again.
        refusal: string (0+), nullable(0+), default(None);
    }
}
