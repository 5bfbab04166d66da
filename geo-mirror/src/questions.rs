//! Single questions about a shard, beside its content: parts of checkpoints, objects, batches. What is asked and answered
//! is opaque here.

use bytes::Bytes;
use meridian_types::ShardId;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::refusal::Refusal;

/// Largest question.
pub const QUESTION_BYTES_MAX: usize = 4 << 10;
/// Questions of one link that wait for their answers.
pub(crate) const QUESTIONS_MAX: usize = 16;
/// Questions that a source works on at once. An answer is there before the source has noted that it is sent, and the next
/// question comes in its place; whoever asks so many more has broken a rule.
pub(crate) const QUESTIONS_TAKEN_MAX: usize = 4 * QUESTIONS_MAX;

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AskError {
    /// There is no link, or it broke: ask again after a while.
    #[error("the other region is not linked to")]
    Unlinked,
    /// The other region does not answer it.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A question that waits for a link.
pub(crate) struct Question {
    pub(crate) shard: ShardId,
    pub(crate) body: Bytes,
    pub(crate) answer: oneshot::Sender<Result<Bytes, AskError>>,
}
