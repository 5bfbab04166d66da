//! Plain numbers for metrics and for the operator.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use meridian_types::ShardId;

/// What the journal uses and does, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all files, with the one prepared ahead.
    pub disk_bytes: u64,
    /// Bytes that the file system has left for new files; `None` when it does not say.
    pub free_bytes: Option<u64>,
    /// Files that hold frames.
    pub files: usize,
    /// Number of the oldest file.
    pub oldest_file: u64,
    /// Number of the file being written.
    pub active_file: u64,
    /// Shards that keep the oldest file from being deleted; empty when nothing pins it.
    pub oldest_file_pinned_by: Vec<ShardId>,
    /// For each shard with entries that must stay: the oldest file it needs.
    pub oldest_file_by_shard: Vec<(ShardId, u64)>,
    /// Why there is no room for another file, while that is so.
    pub full: Option<String>,
    /// Why the journal stopped, if it did.
    pub poisoned: Option<String>,
    /// Memory held by the tail cache.
    pub cache_bytes: usize,
    /// Bytes that wait for the writer.
    pub queued_bytes: usize,
    /// Rounds that wrote something.
    pub rounds: u64,
    /// Operations made durable (or, with `Durability::Memory`, written).
    pub operations: u64,
    /// Calls of `fdatasync`.
    pub syncs: u64,
    /// Bytes of frames written, headers and padding included.
    pub written_bytes: u64,
    /// Time of all rounds together, in microseconds. 0 when rounds are run inline.
    pub round_us: u64,
    /// Longest round, in microseconds.
    pub round_us_max: u64,
    /// Rounds by duration: element `n` counts those of `2^n..2^(n+1)` microseconds (the first from 0,
    /// the last without end).
    pub rounds_by_us_log2: Vec<u64>,
    /// Reads that had to go to a file.
    pub disk_reads: u64,
    /// Files deleted or used again.
    pub files_retired: u64,
}

pub(crate) const ROUND_BUCKETS: usize = 24;

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) cache_bytes: AtomicU64,
    pub(crate) rounds: AtomicU64,
    pub(crate) operations: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
    pub(crate) round_us: AtomicU64,
    pub(crate) round_us_max: AtomicU64,
    pub(crate) rounds_by_us_log2: [AtomicU64; ROUND_BUCKETS],
    pub(crate) disk_reads: AtomicU64,
    pub(crate) files_retired: AtomicU64,
}

impl Counters {
    pub(crate) fn round_took(&self, us: u64) {
        self.round_us.fetch_add(us, Relaxed);
        self.round_us_max.fetch_max(us, Relaxed);
        let bucket = (us.max(1).ilog2() as usize).min(ROUND_BUCKETS - 1);
        self.rounds_by_us_log2[bucket].fetch_add(1, Relaxed);
    }
}
