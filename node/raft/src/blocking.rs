//! Work that waits for a disk.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{self, JoinError};

/// `nice(1)` knows none below.
const LOWEST_PRIORITY: i32 = 19;

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

/// As [`blocking`], on a thread of the lowest priority: where all processors are busy, `work` takes next to nothing
/// from what clients wait for, and next to no step forward.
///
/// Errors: `work` panicked, or the runtime shuts down.
pub async fn blocking_aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    blocking(move || match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => work(),
        _ => at_lowest_priority(work),
    })
    .await
}

/// A thread that gave its priority away may not take it back, so this one ends with its work.
fn at_lowest_priority<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let aside = std::thread::Builder::new()
        .name("aside".to_owned())
        .spawn(move || {
            // Where that is not possible, it runs as everything else does.
            let _ = rustix::process::setpriority_process(None, LOWEST_PRIORITY);
            work()
        });
    match aside.map(std::thread::JoinHandle::join) {
        Ok(Ok(done)) => done,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(error) => panic!("no thread can be started: {error}"),
    }
}
