//! What can go wrong, one enum per operation.

use std::io;
use std::sync::Arc;

use meridian_types::{LogPosition, RaftIndex, ShardId};
use thiserror::Error;

/// Why an append, vote, truncation or purge was not made durable.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum JournalError {
    /// A write or sync failed earlier. Nothing is written any more; stop using this journal for
    /// writing and let another replica take over. Never retry: the kernel may have dropped the data.
    #[error("the journal stopped after a failed write: {reason}")]
    Poisoned {
        /// The first failure, as the system named it.
        reason: Arc<str>,
    },
    /// No space for the next file. Retriable: heals when space comes back or old files may go.
    #[error("no space for the next journal file: {reason}")]
    Full {
        /// What the system said when the next file was to be made.
        reason: Arc<str>,
    },
    /// More bytes wait for the writer than allowed. Retry when earlier operations are done.
    #[error("{queued_bytes} bytes wait for the journal, the limit is {queue_bytes_max}")]
    Busy {
        /// Bytes that wait.
        queued_bytes: usize,
        /// `JournalSettings::queue_bytes_max`.
        queue_bytes_max: usize,
    },
    /// The payload can never fit: send it in smaller entries.
    #[error("a payload of {bytes} bytes cannot be journalled, the limit is {bytes_max}")]
    TooLarge {
        /// Bytes of the payload.
        bytes: usize,
        /// The most that fits, see `Journal::payload_bytes_max`.
        bytes_max: usize,
    },
    /// The entries do not continue the shard's log; a mistake of the caller.
    #[error("an entry with index {given} cannot follow: expected {expected}")]
    OutOfOrder {
        /// The index that had to come.
        expected: RaftIndex,
        /// The index that came.
        given: RaftIndex,
    },
    /// A term or index above 2^63 - 1; a mistake of the caller, or of a peer it believed.
    #[error("the position {given} is beyond any log")]
    TooHigh {
        /// The position that came.
        given: LogPosition,
    },
    /// The journal was shut down before the operation was durable. It may or may not be there after a restart.
    #[error("the journal is shut down")]
    Stopped,
}

/// Why a journal could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A setting is out of bounds: correct it.
    #[error("journal settings: {0}")]
    Settings(String),
    /// The disk failed; the message names the file. Repair the disk and start again.
    #[error("journal {what}: {source}")]
    Io {
        /// What was attempted, on which file.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The directory holds files of another journal or of a newer version; use the right directory
    /// or program. Nothing was changed.
    #[error("journal: {0}")]
    Foreign(String),
}

/// Why an entry could not be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReadError {
    /// The journal does not hold this entry: it was never there, was truncated, or its file is gone.
    #[error("shard {shard} has no entry {index} in the journal")]
    Missing {
        /// The shard.
        shard: ShardId,
        /// The entry asked for.
        index: RaftIndex,
    },
    /// The bytes on disk are not those that were written. Fetch the entry from a peer and repair.
    #[error("entry {index} of shard {shard} is damaged in file {file:016x} at {position}: {reason}")]
    Corrupt {
        /// The shard.
        shard: ShardId,
        /// The entry asked for.
        index: RaftIndex,
        /// Number of the file.
        file: u64,
        /// Position of its frame in the file.
        position: u64,
        /// What does not fit.
        reason: &'static str,
    },
    /// `at..at + len` reaches beyond the payload; a mistake of the caller.
    #[error("bytes {at}..{end} asked of entry {index} of shard {shard}, which has {len}")]
    OutOfBounds {
        /// The shard.
        shard: ShardId,
        /// The entry asked for.
        index: RaftIndex,
        /// First byte asked for.
        at: u64,
        /// First byte not asked for.
        end: u64,
        /// Bytes of the payload.
        len: u64,
    },
    /// The disk failed. Trying again may help; after several times treat the replica as damaged.
    #[error("reading the journal: {0}")]
    Io(Arc<str>),
}

/// Known loss on this node: the shard must not vote or lead until it was repaired from peers and
/// [`Journal::reset`](crate::Journal::reset) or a new log replaced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Number of the file.
    pub file: u64,
    /// Position in the file, in bytes.
    pub position: u64,
    /// What was found.
    pub reason: DamageReason,
}

/// What recovery found to be lost.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[repr(u8)]
pub enum DamageReason {
    /// The frame's header is whole, its payload is not; only this entry is lost.
    #[error("payload does not match its checksum")]
    Payload = 1,
    /// Frames of the shard are missing here; entries or a vote may be among them.
    #[error("frames of the shard are missing")]
    LostFrames = 2,
    /// Entries that the log must hold are in no file.
    #[error("entries of the log are in no file")]
    LostEntries = 3,
    /// No checkpoint could be read, so votes may be lost.
    #[error("no readable checkpoint, votes may be lost")]
    LostState = 4,
}

impl DamageReason {
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [
            Self::Payload,
            Self::LostFrames,
            Self::LostEntries,
            Self::LostState,
        ]
        .into_iter()
        .find(|reason| *reason as u8 == code)
    }
}
