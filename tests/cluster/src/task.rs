//! Something beside the rest, until it is told to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// A thread that runs until it is told to end.
pub struct Task<T> {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<T, String>>>,
}

impl<T: Send + 'static> Task<T> {
    /// Starts it. `run` looks now and then whether it is to end.
    pub fn start(name: &str, run: impl FnOnce(&AtomicBool) -> Result<T, String> + Send + 'static) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stopping);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&told));
        Self {
            stopping,
            thread: Some(thread.expect("a thread")),
        }
    }

    /// Tells it to end, and gives what it has found. Errors: its own, or it panicked.
    pub fn end(mut self) -> Result<T, String> {
        self.stopping.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or("it has ended")?;
        thread.join().map_err(|_| "a thread panicked")?
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}
