//! openraft's log storage over the node's journal.
//!
//! The journal keeps one FIFO per shard for entries, votes, truncations and purges, and calls back
//! after the fsync that covers them; that is exactly the order openraft asks for
//! (its `docs/protocol/io_ordering`).

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::time::Duration;

use meridian_journal::{self as journal, Done, Journal, JournalError, Payload, ReadError};
use meridian_types::{LogPosition, RaftIndex, ShardId};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::codec;
use crate::config::{Entry, EntryPayload, LogId, Proposal, Types, Vote, log_id, position};

/// Bytes of entries that one read hands to replication: one append.
const READ_BYTES_MAX: usize = 2 << 20;
/// How long an append waits for room in the journal before it fails, which ends the group on this node.
const ROOM_TIMEOUT: Duration = Duration::from_secs(10);
const ROOM_INTERVAL: Duration = Duration::from_millis(5);
/// Other groups of the node may append as much between the question for room and the answer's use.
const OTHERS: usize = 16;
const OTHERS_BYTES_MAX: usize = 16 << 20;

/// Whether the journal has room for such entries, and for about as many of other groups. Raft takes a refused append for
/// a broken disk and ends the group, so who makes it append asks before.
pub(crate) fn admit(journal: &Journal, payload_bytes: usize, entries: usize) -> Result<(), JournalError> {
    let others = payload_bytes.saturating_mul(OTHERS).min(OTHERS_BYTES_MAX);
    journal.admit(payload_bytes + others, entries.saturating_mul(OTHERS + 1))
}

/// Hands the commands that a group's log holds on this node to `each`, in their order: committed or not, nobody has
/// said yet. Blocks on the disk.
///
/// Errors: the log cannot be read on from some entry; the text says why.
pub fn logged_commands(
    journal: &Journal,
    shard: ShardId,
    mut each: impl FnMut(LogPosition, &Payload),
) -> Result<(), String> {
    let log = journal.log(shard);
    let (Some(first), Some(last)) = (log.first, log.last) else {
        return Ok(());
    };
    let (mut next, end) = (first.index, last.index.next());
    while next < end {
        let entries = journal
            .entries(shard, next..end, READ_BYTES_MAX)
            .map_err(|error| error.to_string())?;
        for entry in &entries {
            let decoded = codec::decode_entry(entry).map_err(|error| error.to_string())?;
            if let EntryPayload::Normal(Proposal(command)) = decoded.payload {
                each(entry.position, &command);
            }
            next = entry.position.index.next();
        }
    }
    Ok(())
}

/// An entry of a group's log, as [`read_log`] finds it.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Where it stands.
    pub at: LogPosition,
    /// Its command; `None` for Raft's own entries.
    pub command: Option<Payload>,
}

/// Why entries cannot be read.
#[derive(Clone, Debug, Error)]
pub enum ReadLogError {
    /// The log holds the first entry no more, or not yet.
    #[error(transparent)]
    Missing(ReadError),
    /// The disk fails, or holds something else than was written. Another replica may have it.
    #[error("the log cannot be read: {0}")]
    Unreadable(String),
}

/// Entries of `range` from a group's log on this node, in their order: from memory where the first is there, else on a
/// thread that may block. At most what `bytes_max` allows but at least one. Whoever reads beyond what is applied reads
/// what may yet be taken back.
pub async fn read_log(
    journal: &Journal,
    shard: ShardId,
    range: Range<RaftIndex>,
    bytes_max: usize,
) -> Result<Vec<Logged>, ReadLogError> {
    let store = LogStore::new(journal.clone(), shard);
    let read = store.read(range.start.0, range.end.0, bytes_max).await;
    let entries = read.map_err(|failure| match failure {
        ReadFailure::Missing(missing) => ReadLogError::Missing(missing),
        ReadFailure::Other(error) => ReadLogError::Unreadable(error.to_string()),
    })?;
    let logged = entries.into_iter().map(|entry| Logged {
        at: position(&entry.log_id),
        command: match entry.payload {
            EntryPayload::Normal(Proposal(command)) => Some(command),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        },
    });
    Ok(logged.collect())
}

#[derive(Clone)]
pub(crate) struct LogStore {
    journal: Journal,
    shard: ShardId,
}

impl LogStore {
    pub(crate) fn new(journal: Journal, shard: ShardId) -> Self {
        Self { journal, shard }
    }

    /// Who made Raft append asked for room, but somebody else may have taken it: then a moment's rest is better than
    /// the end of the group.
    async fn wait_for_room(&self, entries: &[journal::Entry]) {
        let bytes = entries.iter().map(|entry| entry.payload.len()).sum();
        let mut deadline = None;
        while let Err(JournalError::Busy { .. } | JournalError::Full { .. }) =
            self.journal.admit_promised(bytes, entries.len())
        {
            let now = Instant::now();
            if now >= *deadline.get_or_insert(now + ROOM_TIMEOUT) {
                return;
            }
            tokio::time::sleep(ROOM_INTERVAL).await;
        }
    }

    /// Entries of `start..end`, at most what `bytes_max` allows but at least one. From the disk, on a thread that may
    /// block, unless the first is in memory: then the later ones are.
    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, ReadFailure> {
        let range = RaftIndex(start)..RaftIndex(end);
        let (journal, shard) = (self.journal.clone(), self.shard);
        let entries = if journal.read_cached(shard, range.start, 0, 1).is_some() {
            journal.entries(shard, range, bytes_max)?
        } else {
            crate::blocking::blocking(move || journal.entries(shard, range, bytes_max))
                .await
                .map_err(|error| ReadFailure::Other(io::Error::other(error)))??
        };
        entries
            .iter()
            .map(|entry| codec::decode_entry(entry).map_err(|error| ReadFailure::Other(error.into())))
            .collect()
    }
}

/// Why entries cannot be read.
enum ReadFailure {
    /// The log does not hold the first entry.
    Missing(ReadError),
    Other(io::Error),
}

impl From<ReadError> for ReadFailure {
    fn from(error: ReadError) -> Self {
        match error {
            missing @ ReadError::Missing { .. } => Self::Missing(missing),
            other => Self::Other(io::Error::other(other)),
        }
    }
}

impl From<ReadFailure> for io::Error {
    fn from(failure: ReadFailure) -> Self {
        match failure {
            ReadFailure::Missing(missing) => Self::other(missing),
            ReadFailure::Other(other) => other,
        }
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        // openraft asks for ranges that reach beyond the log, and wants what there is.
        let log = self.journal.log(self.shard);
        let start = start.max(log.first.map_or(0, |first| first.index.0));
        let end = end.min(log.last.map_or(0, |last| last.index.0 + 1));
        if start >= end {
            return Ok(Vec::new());
        }
        // A read ends before an entry that is damaged. openraft would take the shorter answer for all there is, and
        // go on behind the hole.
        let mut entries = Vec::new();
        let mut next = start;
        while next < end {
            let read = self.read(next, end, usize::MAX).await?;
            next += read.len() as u64;
            entries.extend(read);
        }
        Ok(entries)
    }

    /// For replication. Nothing when the first entry is gone: a leader that was deposed may still be reading when the next
    /// one's checkpoint replaces its log, and openraft would stop the group at an error.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        match self.read(start, end, READ_BYTES_MAX).await {
            Err(ReadFailure::Missing(_)) => Ok(Vec::new()),
            read => Ok(read?),
        }
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self
            .journal
            .log(self.shard)
            .vote
            .map(codec::decode_vote)
            .transpose()?)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let log = self.journal.log(self.shard);
        let purged = log.purged.map(log_id);
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: log.last.map(log_id).or(purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if mutant!(ForgetVote) {
            return Ok(());
        }
        let vote = codec::encode_vote(vote);
        durable(|done| self.journal.save_vote(self.shard, vote, done)).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<_> = entries.into_iter().map(codec::encode_entry).collect();
        self.wait_for_room(&entries).await;
        let done =
            Box::new(move |result: Result<(), _>| callback.io_completed(result.map_err(io::Error::other)));
        self.journal.append(self.shard, entries, done);
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let kept = last.map(|last| RaftIndex(last.index()));
        durable(|done| self.journal.truncate_after(self.shard, kept, done)).await
    }

    async fn purge(&mut self, through: LogId) -> Result<(), io::Error> {
        durable(|done| self.journal.purge(self.shard, position(&through), done)).await
    }
}

/// Waits until the journal is done with what `submit` gives it.
pub(crate) async fn durable(submit: impl FnOnce(Done)) -> io::Result<()> {
    let (sender, receiver) = oneshot::channel();
    submit(Box::new(move |result| {
        // The receiver is gone only when Raft was shut down meanwhile.
        let _ = sender.send(result);
    }));
    receiver
        .await
        .map_err(|_| io::Error::other("the journal stopped"))?
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
