//! What a node answers to others.

use bytes::Bytes;
use futures::future::BoxFuture;
use meridian_types::ShardId;
use thiserror::Error;

use crate::identity::PeerIdentity;

/// Takes the calls and notices of other nodes.
///
/// Messages of one lane arrive in the order in which they were sent, on the runtime of that lane: an urgent
/// one is never behind bulk ones. Bodies are slices of the frame as read, which they keep in memory.
pub trait Service: Send + Sync + 'static {
    /// A message that wants an answer. Must not block: what takes time belongs into the returned future, which
    /// runs concurrently with others and may end in any order. It runs to its end even when the connection
    /// has closed meanwhile; the answer is dropped then.
    fn call(
        &self,
        from: &PeerIdentity,
        kind: u16,
        shard: ShardId,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Vec<Bytes>, Refusal>>;

    /// A message without an answer. Must not block.
    fn notice(&self, from: &PeerIdentity, kind: u16, shard: ShardId, body: Bytes);
}

/// A call was understood, or not, and will not be served. For people: what a program should act upon belongs
/// into an answer. At most [`Refusal::BYTES_MAX`] bytes travel; the rest is cut off.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What was wrong, what was expected, what to do.
    pub reason: String,
}

impl Refusal {
    /// Bytes of a reason that travel.
    pub const BYTES_MAX: usize = 4 << 10;

    /// A refusal with this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}
