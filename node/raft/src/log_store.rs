//! openraft's log storage over the node's journal.
//!
//! The journal keeps one FIFO per shard for entries, votes, truncations and purges, and calls back
//! after the fsync that covers them; that is exactly the order openraft asks for
//! (its `docs/protocol/io_ordering`).

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use meridian_journal::{Done, Journal};
use meridian_types::{RaftIndex, ShardId};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use crate::codec;
use crate::config::{Entry, LogId, Types, Vote, log_id, position};

/// Bytes of entries that one read hands to replication.
const READ_BYTES_MAX: usize = 4 << 20;

#[derive(Clone)]
pub(crate) struct LogStore {
    journal: Journal,
    shard: ShardId,
}

impl LogStore {
    pub(crate) fn new(journal: Journal, shard: ShardId) -> Self {
        Self { journal, shard }
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let log = self.journal.log(self.shard);
        // openraft asks for ranges that reach beyond the log, and wants what there is.
        let start = start.max(log.first.map_or(0, |first| first.index.0));
        let end = end.min(log.last.map_or(0, |last| last.index.0 + 1));
        if start >= end {
            return Ok(Vec::new());
        }
        let entries = self
            .journal
            .entries(self.shard, RaftIndex(start)..RaftIndex(end), bytes_max)
            .map_err(io::Error::other)?;
        entries
            .iter()
            .map(|entry| Ok(codec::decode_entry(entry)?))
            .collect()
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
        self.read(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, READ_BYTES_MAX)
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
        let vote = codec::encode_vote(vote);
        durable(|done| self.journal.save_vote(self.shard, vote, done)).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries = entries.into_iter().map(codec::encode_entry).collect();
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

async fn durable(submit: impl FnOnce(Done)) -> io::Result<()> {
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
