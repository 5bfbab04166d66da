//! Counters of what is asked of a store.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Write an object.
    Put,
    /// Write an object unless there is one.
    Create,
    /// Read an object, or a range of it.
    Get,
    /// Ask for an object's length.
    Head,
    /// Delete an object.
    Delete,
    /// List keys.
    List,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Put,
        Self::Create,
        Self::Get,
        Self::Head,
        Self::Delete,
        Self::List,
    ];

    /// Its name, as in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Create => "create",
            Self::Get => "get",
            Self::Head => "head",
            Self::Delete => "delete",
            Self::List => "list",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Counts of one kind of request, attempts that failed included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationStats {
    /// Attempts that were answered well.
    pub done: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Bytes of objects moved by those that were answered well.
    pub bytes: u64,
    /// Time that all attempts took together.
    pub time: Duration,
}

/// What was asked of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    counts: [OperationStats; Operation::ALL.len()],
}

impl StoreStats {
    /// Counts of one kind of request.
    pub fn of(&self, operation: Operation) -> OperationStats {
        self.counts[operation as usize]
    }
}

#[derive(Default)]
pub(super) struct Counters {
    counts: [Counter; Operation::ALL.len()],
}

#[derive(Default)]
struct Counter {
    done: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    nanos: AtomicU64,
}

impl Counters {
    /// An attempt begins.
    pub(super) fn begin(&self) -> Instant {
        Instant::now()
    }

    /// An attempt ended well, having moved so many bytes, or badly.
    pub(super) fn end(&self, operation: Operation, began: Instant, outcome: Result<u64, ()>) {
        let counter = &self.counts[operation as usize];
        match outcome {
            Ok(bytes) => {
                counter.done.fetch_add(1, Ordering::Relaxed);
                counter.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            Err(()) => {
                counter.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        counter.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> StoreStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            counts: std::array::from_fn(|at| {
                let counter = &self.counts[at];
                OperationStats {
                    done: read(&counter.done),
                    failed: read(&counter.failed),
                    bytes: read(&counter.bytes),
                    time: Duration::from_nanos(read(&counter.nanos)),
                }
            }),
        }
    }
}
