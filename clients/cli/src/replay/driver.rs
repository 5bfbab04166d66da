//! The clock of a replay.

use tokio::time::Instant;

/// Now.
pub(super) fn now() -> Instant {
    Instant::now()
}
