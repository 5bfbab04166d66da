//! Directories of nodes that are stopped and started again.

use std::path::Path;
use std::time::Duration;

use meridian_journal::RealDisk;
use tokio::time::Instant;

/// How long a stopped node may hold its directory.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that a node may still hold which was stopped a moment ago.
pub(crate) async fn open_disk(directory: &Path) -> RealDisk {
    let started = Instant::now();
    loop {
        match RealDisk::open(directory) {
            Ok(disk) => return disk,
            Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
