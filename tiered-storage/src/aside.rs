//! Threads for work that must not hold up those who answer clients.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;

use parking_lot::Mutex;
use thiserror::Error;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

/// `nice(1)` of threads of low priority.
const LOW_NICE: i32 = 10;

/// How far such threads stand back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Where all processors are busy, a tenth of what a thread gets that answers clients: somebody waits for the work.
    Low,
    /// Next to nothing there: the work can wait.
    Lowest,
}

impl Priority {
    /// Takes the priority for this thread. Where that is not possible, it runs as everything else does.
    fn take(self) {
        match self {
            Self::Low => {
                let _ = rustix::process::setpriority_process(None, LOW_NICE);
            }
            // `nice` 19 is not enough: the scheduler lets such a thread end its slice, some milliseconds.
            Self::Lowest => {
                let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
                let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy);
            }
        }
    }
}

/// Work that did not come to its end: it panicked, or there is no thread any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the work was given up: it panicked, or this process ends")]
pub struct GivenUp;

/// Threads of one priority, which take work in the order it comes. They end with the value.
///
/// They stay: a thread that ends gives its memory back in the kernel, where nobody else gets the processor meanwhile. And they
/// take no lock that others wait for, or these would wait for the priority too.
///
/// In a runtime of one thread the work is done at once: a simulation is one, and threads would make two runs of a seed differ.
pub struct Aside {
    jobs: Option<mpsc::Sender<Job>>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Aside {
    /// Starts up to `count` threads, at least one. Runs inside a tokio runtime.
    pub fn start(name: &str, count: usize, priority: Priority) -> Self {
        if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
            return Self { jobs: None };
        }
        let (jobs, waiting) = mpsc::channel();
        let waiting = Arc::new(Mutex::new(waiting));
        let started = (0..count.max(1)).filter(|_| {
            let waiting = Arc::clone(&waiting);
            let thread = thread::Builder::new().name(name.to_owned());
            thread.spawn(move || run(&waiting, priority)).is_ok()
        });
        // Without a single thread the work is done where it is asked for.
        Self {
            jobs: (started.count() > 0).then_some(jobs),
        }
    }

    /// Does `work` on one of the threads.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, GivenUp> {
        let Some(jobs) = &self.jobs else {
            return Ok(work());
        };
        let (done, outcome) = oneshot::channel();
        // Nobody may want it any more.
        let job = move || drop(done.send(work()));
        jobs.send(Box::new(job)).map_err(|_| GivenUp)?;
        outcome.await.map_err(|_| GivenUp)
    }
}

fn run(waiting: &Mutex<mpsc::Receiver<Job>>, priority: Priority) {
    priority.take();
    loop {
        let next = waiting.lock().recv();
        let Ok(job) = next else { return };
        // It was told by the hook; who waits hears that it was given up.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_taken_where_there_are_some_and_outlive_a_panic() {
        for (mut runtime, has_threads) in [
            (tokio::runtime::Builder::new_current_thread(), false),
            (tokio::runtime::Builder::new_multi_thread(), true),
        ] {
            runtime.build().unwrap().block_on(async {
                let aside = Aside::start("aside", 1, Priority::Lowest);
                let place = || {
                    let policy = thread_priority::thread_schedule_policy().unwrap();
                    (thread::current().name() == Some("aside"), policy)
                };
                let (is_aside, policy) = aside.run(place).await.unwrap();
                assert_eq!(is_aside, has_threads);
                let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
                assert_eq!(policy == idle, has_threads);
                if has_threads {
                    assert_eq!(aside.run(|| panic!("asked for")).await, Err::<(), _>(GivenUp));
                    assert_eq!(aside.run(|| 7).await, Ok(7));
                }
            });
        }
    }
}
