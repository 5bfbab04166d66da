//! What the reader counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a [`super::ColdReader`] did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColdStats {
    /// Frames that were found in memory.
    pub memory_hits: u64,
    /// Frames that were found on the local disk.
    pub disk_hits: u64,
    /// Frames that were fetched by somebody else at the moment.
    pub joined: u64,
    /// Frames that had to be fetched from the store for somebody who waited.
    pub misses: u64,
    /// Requests to the store for frames.
    pub fills: u64,
    /// Bytes that they fetched.
    pub fill_bytes: u64,
    /// Requests to the store for frames that nobody waited for yet; counted in `fills` too.
    pub readahead_fills: u64,
    /// Frames not read ahead because too many bytes were on their way.
    pub readahead_skipped: u64,
    /// Requests for frames and footers that failed.
    pub failures: u64,
    /// Frames and footers that were damaged, fetched a second time included.
    pub damaged: u64,
    /// Bytes on their way now, stored and unpacked ones.
    pub in_flight_bytes: u64,
    /// Frames on their way now.
    pub in_flight_frames: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) memory_hits: AtomicU64,
    pub(super) disk_hits: AtomicU64,
    pub(super) joined: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) fills: AtomicU64,
    pub(super) fill_bytes: AtomicU64,
    pub(super) readahead_fills: AtomicU64,
    pub(super) readahead_skipped: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) damaged: AtomicU64,
}

impl Counters {
    /// What was counted; the two numbers of now are the caller's.
    pub(super) fn stats(&self) -> ColdStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ColdStats {
            memory_hits: read(&self.memory_hits),
            disk_hits: read(&self.disk_hits),
            joined: read(&self.joined),
            misses: read(&self.misses),
            fills: read(&self.fills),
            fill_bytes: read(&self.fill_bytes),
            readahead_fills: read(&self.readahead_fills),
            readahead_skipped: read(&self.readahead_skipped),
            failures: read(&self.failures),
            damaged: read(&self.damaged),
            in_flight_bytes: 0,
            in_flight_frames: 0,
        }
    }
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// Adds `more`.
pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
