//! Unpacking frames, beside those who must not wait for it.

use std::sync::{Arc, mpsc};
use std::thread;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

use crate::bundle::{Frame, unframe};

/// `nice` of the threads: where all processors are busy, they get a tenth of what a thread does that answers clients.
const NICE: i32 = 10;

/// Checksums and decompression take a millisecond of a processor for a MiB or two. On the threads of the runtime that is a
/// millisecond for which producers and readers at the tail wait, and a few who catch up keep all of them busy; so it is done by
/// threads of their own, which stand behind those.
///
/// In a runtime of one thread it is done at once: a simulation is one, and threads would make two runs of a seed differ.
pub(super) struct Unpacker {
    jobs: Option<mpsc::Sender<Job>>,
}

struct Job {
    frame: Frame,
    stored: Bytes,
    done: oneshot::Sender<Result<Bytes, String>>,
}

impl Unpacker {
    /// Starts the threads; they end with the value.
    pub(super) fn start() -> Self {
        if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
            return Self { jobs: None };
        }
        let (jobs, waiting) = mpsc::channel();
        let waiting = Arc::new(Mutex::new(waiting));
        let count = thread::available_parallelism().map_or(1, usize::from);
        let started = (0..count).filter(|_| {
            let waiting = Arc::clone(&waiting);
            let thread = thread::Builder::new().name("unpack".to_owned());
            thread.spawn(move || run(&waiting)).is_ok()
        });
        // Without a single thread it is done where it is asked for.
        Self {
            jobs: (started.count() > 0).then_some(jobs),
        }
    }

    /// The batches of a frame. Errors: what is wrong with it.
    pub(super) async fn unpack(&self, frame: Frame, stored: Bytes) -> Result<Bytes, String> {
        let Some(jobs) = &self.jobs else {
            return open(&frame, &stored);
        };
        let (done, outcome) = oneshot::channel();
        let ended = |_| "the threads that unpack frames have ended".to_owned();
        let job = Job { frame, stored, done };
        jobs.send(job).map_err(|_| ended(()))?;
        outcome.await.map_err(|_| ended(()))?
    }
}

fn run(waiting: &Mutex<mpsc::Receiver<Job>>) {
    // Where that is not possible, they run as everything else does.
    let _ = rustix::process::setpriority_process(None, NICE);
    loop {
        let next = waiting.lock().recv();
        let Ok(Job { frame, stored, done }) = next else {
            return;
        };
        // Nobody may want it any more.
        let _ = done.send(open(&frame, &stored));
    }
}

fn open(frame: &Frame, stored: &Bytes) -> Result<Bytes, String> {
    unframe(frame, stored).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_taken_where_there_are_some_and_end_with_the_value() {
        for (mut runtime, has_threads) in [
            (tokio::runtime::Builder::new_current_thread(), false),
            (tokio::runtime::Builder::new_multi_thread(), true),
        ] {
            let runtime = runtime.build().unwrap();
            let unpacker = runtime.block_on(async { Unpacker::start() });
            assert_eq!(unpacker.jobs.is_some(), has_threads);
        }
    }
}
