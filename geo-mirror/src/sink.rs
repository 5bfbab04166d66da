//! What the mirror writes to: a region that holds a copy.

use bytes::Bytes;
use futures::future::BoxFuture;
use meridian_types::{RegionNumber, ShardId};
use thiserror::Error;

use crate::hello::Hello;
use crate::refusal::Refusal;
use crate::source::{Cursor, Entries, Watermark};

/// The mirror's side. Apart from the futures, methods must not block.
pub trait Sink: Send + Sync + 'static {
    /// Where this region stands in a shard.
    fn cursor(&self, shard: ShardId) -> BoxFuture<'_, Result<Cursor, SinkError>>;

    /// Takes the next entries of a shard. Called in order, contiguous from the cursor, one call at a time per shard.
    ///
    /// Resolves when they are committed here on a quorum and applied, with the sequence then reached, which is what the
    /// owner is told. Dropping the future does not undo it.
    fn apply(&self, shard: ShardId, entries: Entries) -> BoxFuture<'_, Result<u64, SinkError>>;

    /// The owner's newest promise for a shard that is followed.
    fn watermark(&self, shard: ShardId, watermark: Watermark);

    /// What another region tells about itself; on every change and every second.
    fn card(&self, from: RegionNumber, card: Bytes);

    /// A shard cannot be followed where it was asked for. After a refusal that [`Refusal::is_final`] it is not asked for
    /// again before the next [`crate::Links::follow`].
    fn refused(&self, shard: ShardId, refusal: Refusal);

    /// A node of another region answered a link of ours.
    fn connected(&self, peer: &Hello) {
        let _ = peer;
    }
}

/// Why entries were not taken, or a shard's place is not known.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SinkError {
    /// This node does not lead the shard: it is asked again after a while, unless it is unfollowed before.
    #[error("this node does not lead the shard")]
    NotLeader,
    /// The shard stands elsewhere than the entries begin: the link follows again from the cursor.
    #[error("the shard stands at sequence {sequence}")]
    OutOfStep {
        /// Where it stands.
        sequence: u64,
    },
    /// The copy differs from the owner's; nothing more is taken before the next [`crate::Links::follow`].
    #[error("the copy differs from the owner's content at sequence {at}")]
    Diverged {
        /// Where that was seen.
        at: u64,
    },
    /// Tried again after a while from the cursor.
    #[error("{reason}")]
    Unavailable {
        /// For people.
        reason: String,
    },
}
