//! Watches standard input.

use std::io;

use tokio::sync::oneshot;

/// Resolves when standard input ends: with the process that holds its other end, in whatever way that ends. On a
/// thread of its own, because such a read cannot be given up.
pub(super) fn end_of_stdin() -> io::Result<oneshot::Receiver<()>> {
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            // An error is an end too.
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            // Nobody waits for it once the node stops.
            let _ = ended.send(());
        })?;
    Ok(end)
}
