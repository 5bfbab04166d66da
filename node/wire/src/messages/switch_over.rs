//! SwitchOver (API key 20005), Meridian's own.

api! {
    /// Asks a node of the owner that ownership be moved to another region, without loss. The answer comes when the
    /// draining is decided: whether it was done shows in DescribeMirror.
    SwitchOver: versions (0), flexible (0+);

    request SwitchOverRequest {
        /// Name or number of the region that is to own.
        to: string (0+);
        /// How long writes may stop for it; then it is taken back.
        timeout_ms: int32 (0+);
    }

    response SwitchOverResponse {
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// What went wrong, or null.
        error_message: string (0+), nullable(0+), default(None);
        /// The region epoch that it ends.
        region_epoch: int32 (0+), default(-1);
    }
}
