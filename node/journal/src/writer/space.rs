//! Writes that find no space although it was reserved.

use std::io;
use std::time::Duration;

use crate::queue::Queue;

/// Pause before such a write is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// A call on a file whose space is reserved, until it finds the space.
///
/// File systems note which of the reserved blocks were written, in lists that grow: on a disk that others have filled, ext4
/// has no block for a longer list of extents, and the write fails. Nothing of it was acknowledged, and writing the same to the same place
/// once more does no harm, unlike a failed sync; so it is tried until it goes. Meanwhile the journal counts as full, and the node
/// gives away what it leads.
///
/// Errors: any other error of the call; no space, once the journal is stopped.
pub(super) fn until_space<T>(queue: &Queue, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut is_waiting = false;
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && !queue.is_stopping() => {
                if !std::mem::replace(&mut is_waiting, true) {
                    tracing::error!(%error, "journal: a write waits for space; the disk is full");
                    queue.set_stuck(Some(format!("a write finds no space: {error}").into()));
                }
                std::thread::park_timeout(PAUSE);
            }
            done => {
                if is_waiting {
                    tracing::info!("journal: the write that waited for space goes on");
                    queue.set_stuck(None);
                }
                return done;
            }
        }
    }
}
