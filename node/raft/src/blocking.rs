//! Work that waits for a disk.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{self, JoinError};

/// Runs `work` on a thread of its own, so that the runtime's other tasks go on.
///
/// In a runtime of one thread it runs at once: a simulation is one, its disks take no time, and threads would
/// make two runs of a seed differ.
/// Errors: `work` panicked, or the runtime shuts down.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => Ok(work()),
        _ => task::spawn_blocking(work).await,
    }
}
