//! Settings of the journal, with their bounds.

use crate::error::OpenError;

/// When an operation counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After the `fdatasync` that covers it.
    #[default]
    Fsync,
    /// After the write; `fdatasync` follows behind. A power cut loses what was
    /// acknowledged since: for like-for-like comparison with systems that do not sync.
    Memory,
}

/// How a journal is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalSettings {
    /// Bytes of each new file: 64 KiB to 2 GiB, a multiple of 4096. Existing files keep theirs.
    pub file_bytes: u64,
    /// Files are deleted, oldest first, while all files together hold more than this and every shard
    /// has purged and released what the oldest holds.
    pub bytes_max: u64,
    /// Of the disk so many bytes are left for others, such as checkpoints: without them nothing in a file may ever be
    /// released. A file that would take them is not made, and the journal counts as full.
    pub left_free_bytes: u64,
    /// Memory for recent entries, all shards together.
    pub cache_bytes: usize,
    /// A round of the writer gathers at most about this many bytes.
    pub round_bytes_max: usize,
    /// Bytes that may wait for the writer; beyond it operations fail with
    /// [`JournalError::Busy`](crate::JournalError::Busy).
    pub queue_bytes_max: usize,
    /// When an operation counts as done.
    pub durability: Durability,
    /// Makes the id of a new journal; take it from the node's source of randomness.
    pub seed: u64,
}

impl JournalSettings {
    /// The defaults of a server.
    pub fn new(seed: u64) -> Self {
        Self {
            file_bytes: 256 << 20,
            bytes_max: 16 << 30,
            left_free_bytes: 0,
            cache_bytes: 256 << 20,
            round_bytes_max: 8 << 20,
            queue_bytes_max: 256 << 20,
            durability: Durability::Fsync,
            seed,
        }
    }

    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let refuse = |what: &str| Err(OpenError::Settings(what.to_string()));
        if !(64 << 10..=2 << 30).contains(&self.file_bytes) || !self.file_bytes.is_multiple_of(4096) {
            return refuse("file_bytes must be a multiple of 4096 between 65536 and 2147483648");
        }
        if self.round_bytes_max == 0 || self.queue_bytes_max == 0 {
            return refuse("round_bytes_max and queue_bytes_max must not be 0");
        }
        Ok(())
    }
}
