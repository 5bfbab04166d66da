//! Proposals, and what becomes of them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use meridian_journal::{JournalError, Payload};
use meridian_types::{LogPosition, NodeId, Term};
use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardReason, RaftError};
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::ENTRY_PREFIX_BYTES;
use crate::config::{LeaderId, Proposal, Types, node_id, position};
use crate::group::Group;
use crate::leadership::Leadership;
use crate::log_store::admit;
use crate::machine::Reply;

/// How long a proposal waits for a quorum when none was heard for the time of the lease.
const WAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// A group that wakes up beats this often until a quorum answers.
const WAKE_INTERVAL: Duration = Duration::from_millis(100);

/// What became of a proposal.
#[derive(Debug, Error)]
pub enum ProposeError {
    /// Certainly not in the log. Ask `leader`.
    #[error("this node does not lead the shard under the expected term")]
    NotLeader {
        /// The leader, where it is known.
        leader: Option<NodeId>,
    },
    /// Certainly not in the log: this node leads, but no quorum answered it for the time of the lease. Retriable; proposals
    /// queued behind this one may have been taken meanwhile.
    #[error("no quorum of the shard's replicas answers its leader")]
    LeaseExpired,
    /// Certainly not in the log, for the reason given: the change is not possible as things stand, or the journal
    /// takes no entries now.
    #[error("refused: {reason}")]
    Refused {
        /// What stands against it.
        reason: String,
    },
    /// It may or may not be committed: leadership was lost while it was in flight. Retry only what
    /// is safe to do twice.
    #[error("the outcome is unknown: {reason}")]
    Unknown {
        /// What happened.
        reason: String,
    },
    /// The group has stopped on this node, with the reason.
    #[error("the shard has stopped on this node: {reason}")]
    Stopped {
        /// What happened.
        reason: String,
    },
}

impl ProposeError {
    pub(crate) fn of(error: RaftError<Types, ClientWriteError<Types>>) -> Self {
        match error {
            RaftError::APIError(error) => Self::of_write(error),
            RaftError::Fatal(fatal) => Self::Stopped {
                reason: fatal.to_string(),
            },
        }
    }

    fn of_write(error: ClientWriteError<Types>) -> Self {
        match error {
            ClientWriteError::ForwardToLeader(forward) => match forward.reason {
                ForwardReason::LeaseExpired => Self::LeaseExpired,
                ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => Self::NotLeader {
                    leader: forward.leader_id.map(node_id),
                },
            },
            ClientWriteError::ChangeMembershipError(error) => Self::Refused {
                reason: error.to_string(),
            },
            other => Self::Unknown {
                reason: other.to_string(),
            },
        }
    }
}

impl Group {
    /// Whether the journal has room for commands of so many bytes. Ask before proposing: openraft takes a refused append
    /// for a broken disk, and the group ends. Some room is left for other groups that were told the same.
    ///
    /// Errors: `Busy` and `Full` (retriable), `Poisoned`, `Stopped`.
    pub fn admit(&self, command_bytes: usize, commands: usize) -> Result<(), JournalError> {
        admit(self.journal(), command_bytes, commands)
    }

    /// The longest command that this node's journal takes, in bytes.
    pub fn command_bytes_max(&self) -> usize {
        self.journal().payload_bytes_max() - ENTRY_PREFIX_BYTES as usize
    }

    /// Proposes `command` under `term`. Returns when it is queued, in call order; the answer comes
    /// through [`Pending`]. A leader of another term never takes it, so a command that was stamped
    /// under `term` cannot slip into a later one.
    ///
    /// In a group that was idle, a quorum must answer first: waits for it, up to two seconds. Errors: only
    /// `Stopped`; all others come through [`Pending`], in order. One longer than [`Self::command_bytes_max`] is `Refused`.
    pub async fn propose(&self, term: Term, command: Vec<Bytes>) -> Result<Pending, ProposeError> {
        let command = Payload::from(command);
        let (bytes, bytes_max) = (command.len(), self.command_bytes_max());
        if bytes > bytes_max {
            // Raft would take the journal's refusal for a broken disk, and the group would end.
            return Ok(Pending::refused(ProposeError::Refused {
                reason: format!(
                    "a command of {bytes} bytes does not fit this node's journal, which takes {bytes_max} at most: raise journal.file_bytes"
                ),
            }));
        }
        if let Err(error) = self.wake(term).await {
            return Ok(Pending::refused(error));
        }
        let (responder, answer) = ProgressResponder::complete_only();
        self.raft
            .write(Proposal(command))
            .with_leader(LeaderId::new(term.0))
            .responder(responder)
            .await
            .map_err(|fatal| ProposeError::Stopped {
                reason: fatal.to_string(),
            })?;
        Ok(Pending::new(answer))
    }

    /// Appends an entry that changes nothing, and waits until it is applied.
    pub async fn barrier(&self) -> Result<LogPosition, ProposeError> {
        let term = self.led_term()?;
        self.admit_own()?;
        self.wake(term).await?;
        match self.raft.write_blank().await {
            Ok(response) => Ok(position(&response.log_id)),
            Err(error) => Err(ProposeError::of(error)),
        }
    }

    /// The term that this node leads.
    pub(crate) fn led_term(&self) -> Result<Term, ProposeError> {
        match *self.leadership.borrow() {
            Leadership::Leading { term } => Ok(term),
            Leadership::Following { leader, .. } => Err(ProposeError::NotLeader { leader: Some(leader) }),
            Leadership::Unknown => Err(ProposeError::NotLeader { leader: None }),
        }
    }

    /// For Raft's own entries.
    pub(crate) fn admit_own(&self) -> Result<(), ProposeError> {
        self.admit(0, 1).map_err(|refusal| ProposeError::Refused {
            reason: refusal.to_string(),
        })
    }

    /// Waits until a quorum has answered within the lease, beating meanwhile: an idle group is quiet, and openraft
    /// refuses proposals once the lease is over. They must not overtake one another, so the waiting is done before
    /// the first is queued.
    pub(crate) async fn wake(&self, term: Term) -> Result<(), ProposeError> {
        if self.is_alone() || self.quorum_answered() {
            return Ok(());
        }
        let deadline = Instant::now() + WAKE_TIMEOUT;
        let mut data = self.data.clone();
        let mut beat_at = Instant::now();
        loop {
            if self.led_term()? != term {
                return Err(ProposeError::NotLeader { leader: None });
            }
            if Instant::now() >= beat_at {
                self.raft
                    .trigger()
                    .heartbeat()
                    .await
                    .map_err(|fatal| ProposeError::Stopped {
                        reason: fatal.to_string(),
                    })?;
                beat_at = Instant::now() + WAKE_INTERVAL;
            }
            // The sender is gone only with the group, and then the next heartbeat fails.
            let _ = tokio::time::timeout_at(beat_at.min(deadline), data.changed()).await;
            if self.is_alone() || self.quorum_answered() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(ProposeError::LeaseExpired);
            }
        }
    }

    /// With some time left, so that the proposal is there before the lease is over.
    fn quorum_answered(&self) -> bool {
        let data = self.data.borrow_watched();
        data.last_quorum_acked
            .is_some_and(|acked| acked.into_inner().elapsed() < self.lease * 3 / 4)
    }
}

/// The answer to a proposal, once it is applied here.
///
/// It may never come: what is in the log of a leader that lost its quorum stays pending until a quorum is back. Whoever
/// waits sets his own deadline, after which the outcome is unknown; dropping this withdraws nothing.
pub struct Pending(Inner);

enum Inner {
    Queued(oneshot::Receiver<ClientWriteResult<Types>>),
    /// `None` once it was told.
    Refused(Option<ProposeError>),
}

impl Pending {
    pub(crate) fn new(answer: oneshot::Receiver<ClientWriteResult<Types>>) -> Self {
        Self(Inner::Queued(answer))
    }

    pub(crate) fn refused(error: ProposeError) -> Self {
        Self(Inner::Refused(Some(error)))
    }
}

impl Future for Pending {
    type Output = Result<(LogPosition, Reply), ProposeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Inner::Refused(error) => {
                Poll::Ready(Err(error.take().expect("a future is not polled after its end")))
            }
            Inner::Queued(answer) => Pin::new(answer).poll(context).map(|answer| match answer {
                Ok(Ok(response)) => Ok((position(&response.log_id), response.data)),
                Ok(Err(error)) => Err(ProposeError::of_write(error)),
                Err(_) => Err(ProposeError::Stopped {
                    reason: "the Raft task ended".to_owned(),
                }),
            }),
        }
    }
}
