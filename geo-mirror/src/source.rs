//! What the mirror reads from: the region that owns the content.

use bytes::Bytes;
use futures::future::BoxFuture;
use meridian_types::{RegionEpoch, RegionNumber, ShardId, TimestampMs};
use tokio::sync::watch;

use crate::hello::Hello;
use crate::refusal::Refusal;

/// Where a mirror stands in a shard's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// How many content commands it has applied: it wants the one with this number, counted from 0.
    pub sequence: u64,
    /// Its digest over all of them.
    pub digest: u64,
    /// Under which region epochs it applied them: each with the sequence at which it began. Rising in both.
    pub lineage: Vec<(RegionEpoch, u64)>,
}

/// Content commands that follow one another, of one region epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries {
    /// The epoch under which the owner took them.
    pub region_epoch: RegionEpoch,
    /// Place of the first.
    pub first_sequence: u64,
    /// The encoded commands, the owner's bytes. None at all: only says that what follows is of `region_epoch`.
    pub commands: Vec<Bytes>,
    /// The owner's digest after the last.
    pub digest: u64,
}

impl Entries {
    /// The sequence after the last command.
    pub fn end_sequence(&self) -> u64 {
        self.first_sequence + self.commands.len() as u64
    }

    /// Bytes of the commands.
    pub fn bytes(&self) -> usize {
        self.commands.iter().map(Bytes::len).sum()
    }
}

/// A promise of the owner: at `closed_at` the shard had `sequence` content commands, and later ones are newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// Content commands committed when it was given.
    pub sequence: u64,
    /// The owner's clock then.
    pub closed_at: TimestampMs,
}

/// The owner's side. All methods are called often and must not block.
pub trait Source: Send + Sync + 'static {
    /// Who this node is.
    fn hello(&self) -> Hello;

    /// Whether a node of another region may come in, after cluster, region, shards and certificate have been found to
    /// fit. Errors: why not, and what to do; it is told to the other side.
    fn admit(&self, peer: &Hello) -> Result<(), String> {
        let _ = peer;
        Ok(())
    }

    /// What this region tells all others about itself. Opaque here; at most 1 MiB.
    fn card(&self) -> watch::Receiver<Bytes>;

    /// Positions a reader behind `cursor`.
    fn open(&self, shard: ShardId, cursor: Cursor) -> BoxFuture<'_, Result<Box<dyn Reader>, Refusal>>;

    /// The newest promise for a shard. `None` while this node cannot give one, because it does not lead the shard or
    /// cannot be sure that it does.
    fn watermark(&self, shard: ShardId) -> Option<Watermark>;

    /// Answers a question about a shard: what is asked and answered is the matter of both sides' callers. At most
    /// [`crate::ENTRIES_BYTES_MAX`] bytes travel; about 1 MiB is what a link shares out well.
    fn answer(&self, shard: ShardId, question: Bytes) -> BoxFuture<'_, Result<Bytes, Refusal>> {
        let _ = (shard, question);
        let reason = "this node answers no questions".to_owned();
        Box::pin(std::future::ready(Err(Refusal::Unknown { reason })))
    }

    /// The region `from` has applied everything below `sequence` on a quorum.
    fn acknowledged(&self, from: RegionNumber, shard: ShardId, sequence: u64);
}

/// Reads one shard's content forward.
pub trait Reader: Send {
    /// Waits until there is something, and returns it: at most `bytes_max` bytes, but at least one command.
    ///
    /// Is dropped when nobody follows any more; it then ends quietly.
    /// Errors: the shard can no longer be read from here. The reader is not used again.
    fn next(&mut self, bytes_max: usize) -> BoxFuture<'_, Result<Entries, Refusal>>;
}
