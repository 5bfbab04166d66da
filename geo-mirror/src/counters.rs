//! What links have done since the start, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the start; read at any time.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }
    };
}

counters! {
    /// Frames of entries sent.
    frames_sent,
    /// Those of them that were sent twice.
    frames_repeated,
    /// Bytes of their commands.
    raw_bytes_sent,
    /// Bytes of the frames.
    wire_bytes_sent,
    /// Processor time of compressing, in nanoseconds.
    compression_nanos,
    /// Frames of entries that came.
    frames_received,
    /// Bytes of those frames.
    wire_bytes_received,
    /// Bytes of their commands.
    raw_bytes_received,
    /// Commands applied.
    commands_applied,
    /// Frames dropped because their commands were there, or nobody waited for them.
    frames_dropped,
    /// Frames that did not fit to what came before, or whose body was wrong.
    frames_refused,
    /// Links opened to other regions.
    connects,
    /// Attempts at it that failed.
    connects_failed,
    /// Links opened over TCP because QUIC did not come up.
    fallbacks,
    /// Connections of others that were not let in.
    rejected,
    /// Links that ended.
    disconnects,
    /// Shards refused to others.
    refusals_sent,
    /// Shards refused by others.
    refusals_received,
    /// Files of TLS taken anew.
    tls_reloads,
    /// Files of TLS that could not be taken.
    tls_reloads_failed,
}

pub(crate) fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}
