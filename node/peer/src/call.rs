//! One question and its answer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CallError {
    /// There is no connection to the node, and the last attempt to open one failed. The call was certainly
    /// not sent: try again after [`crate::Peers::links`] has changed.
    #[error("not connected to the node")]
    NotConnected,
    /// Too many bytes wait for the node already. The call was certainly not sent: slow down, try again later.
    #[error("too many bytes wait to be sent to the node")]
    QueueFull,
    /// No answer came in time. Whether the call was carried out is unknown.
    #[error("the node did not answer in time")]
    Timeout,
    /// The connection broke before the answer came. Whether the call was carried out is unknown.
    #[error("the connection to the node closed before it answered")]
    Closed,
    /// The node answered that it will not do this, and why.
    #[error("the node refused: {0}")]
    Refused(String),
    /// The body is larger than a frame may be. Final: send less.
    #[error("a body of {bytes} bytes is larger than a frame may be, {bytes_max} bytes")]
    TooLarge {
        /// Size of the body.
        bytes: usize,
        /// Limit of the lane.
        bytes_max: usize,
    },
    /// No address of the node was ever set, or it was taken away. Certainly not sent.
    #[error("the node has no known address")]
    UnknownNode,
}

impl CallError {
    /// Whether the call certainly did not reach the other node's service.
    pub fn is_unsent(&self) -> bool {
        matches!(
            self,
            Self::NotConnected | Self::QueueFull | Self::TooLarge { .. } | Self::UnknownNode
        )
    }
}

pub(crate) type Answer = Result<Bytes, CallError>;

/// A call under way; resolves with the answer, or at its deadline with [`CallError::Timeout`].
///
/// Dropping it, or letting it time out, before it was written to the connection takes it out of the queue.
#[must_use = "a call that is dropped may never be sent; use `notify` for messages without an answer"]
pub struct Call {
    answer: oneshot::Receiver<Answer>,
    deadline: Instant,
    /// Made when first polled, because that is sure to happen in a runtime.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Call {
    pub(crate) fn new(answer: oneshot::Receiver<Answer>, deadline: Instant) -> Self {
        Self {
            answer,
            deadline,
            sleep: None,
        }
    }

    /// A call that has failed already.
    pub(crate) fn failed(error: CallError) -> Self {
        let (sender, answer) = oneshot::channel();
        let _ = sender.send(Err(error));
        Self::new(answer, Instant::now())
    }

    /// The same call, which may take this long from now.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.deadline = Instant::now() + timeout;
        self.sleep = None;
        self
    }
}

impl Future for Call {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        if let Poll::Ready(answer) = Pin::new(&mut self.answer).poll(cx) {
            // A link that ends answers every call it holds; the sender is only lost with its runtime.
            return Poll::Ready(answer.unwrap_or(Err(CallError::Closed)));
        }
        let deadline = self.deadline;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.as_mut().poll(cx).is_ready() {
            self.answer.close();
            return Poll::Ready(Err(CallError::Timeout));
        }
        Poll::Pending
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
