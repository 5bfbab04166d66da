//! The state machine of a shard, as Raft sees it.

use std::any::Any;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use meridian_journal::Payload;
use meridian_types::LogPosition;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::watch;

use crate::checkpoint::{Checkpoint, CheckpointStore};
use crate::codec;
use crate::config::{
    EntryPayload, LogId, Proposal, Snapshot, SnapshotMeta, StoredMembership, Types, log_id, position,
};

/// What a machine answers to the proposer of a command. Opaque here; the proposer knows its type.
pub struct Reply(Box<dyn Any + Send + Sync>);

impl Reply {
    /// Wraps an answer.
    pub fn new<T: Any + Send + Sync>(answer: T) -> Self {
        Self(Box::new(answer))
    }

    /// Unwraps it again. `None` when the answer is of another type, which is a defect of the caller.
    pub fn into<T: Any>(self) -> Option<T> {
        self.0.downcast().ok().map(|answer| *answer)
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reply")
    }
}

/// A committed command that this version cannot apply. The shard stops on this node: going on
/// would let replicas differ (invariant 4). Upgrade the node, then start it again.
#[derive(Debug, Error)]
#[error("cannot apply the command at {at}: {reason}")]
pub struct ApplyError {
    /// Where it stands in the log.
    pub at: LogPosition,
    /// What is wrong with it.
    pub reason: String,
}

/// The state machine of one shard. Calls come one at a time, in the log's order.
pub trait Machine: Send + Sync + 'static {
    /// Applies one committed command. Deterministic in (state, command): no clock, no randomness.
    fn apply(&self, at: LogPosition, command: &Payload) -> Result<Reply, ApplyError>;

    /// Called after a run of entries was applied, the last at `at`: wake who waits.
    fn applied(&self, at: LogPosition);

    /// The whole state after the last applied command, to be kept as a checkpoint.
    ///
    /// In pieces, so that a machine need not join what it holds apart.
    fn encode(&self) -> Vec<Bytes>;

    /// Replaces the state by a checkpoint's. The error says what is wrong with it.
    fn restore(&self, state: &[u8]) -> Result<(), String>;
}

/// Drives a [`Machine`] on openraft's behalf.
pub(crate) struct Applier {
    machine: Arc<dyn Machine>,
    store: Arc<CheckpointStore>,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    applied: watch::Sender<LogPosition>,
    current: Arc<Mutex<Option<Checkpoint>>>,
    built: Arc<watch::Sender<Built>>,
}

/// How the last attempt at a checkpoint ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Built {
    /// Attempts so far.
    pub(crate) attempts: u64,
    /// Why the last one failed, if it did.
    pub(crate) error: Option<String>,
}

impl Applier {
    /// Restores the machine from the newest checkpoint, if there is one.
    pub(crate) fn recover(
        machine: Arc<dyn Machine>,
        store: Arc<CheckpointStore>,
        applied: watch::Sender<LogPosition>,
    ) -> io::Result<Self> {
        let checkpoint = store.load().map_err(io::Error::other)?;
        let mut applier = Self {
            machine,
            store,
            last_applied: None,
            membership: StoredMembership::default(),
            applied,
            current: Arc::default(),
            built: Arc::new(watch::channel(Built::default()).0),
        };
        if let Some(checkpoint) = checkpoint {
            applier.adopt(&checkpoint)?;
            *applier.current.lock() = Some(checkpoint);
        }
        Ok(applier)
    }

    /// Tells of every attempt at a checkpoint.
    pub(crate) fn built(&self) -> watch::Receiver<Built> {
        self.built.subscribe()
    }

    fn adopt(&mut self, checkpoint: &Checkpoint) -> io::Result<()> {
        self.machine
            .restore(&checkpoint.state)
            .map_err(io::Error::other)?;
        self.last_applied = Some(log_id(checkpoint.position));
        let membership = codec::get_membership(&mut checkpoint.membership.clone())?;
        self.membership = StoredMembership::new(checkpoint.membership_position.map(log_id), membership);
        self.applied.send_replace(checkpoint.position);
        self.machine.applied(checkpoint.position);
        Ok(())
    }

    fn checkpoint(&self, state: Bytes) -> Option<Checkpoint> {
        let mut membership = bytes::BytesMut::new();
        codec::put_membership(&mut membership, self.membership.membership());
        Some(Checkpoint {
            position: position(self.last_applied.as_ref()?),
            membership_position: self.membership.log_id().as_ref().map(position),
            membership: membership.freeze(),
            state,
        })
    }
}

impl RaftStateMachine<Types> for Applier {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let at = position(&entry.log_id);
            let reply = match entry.payload {
                EntryPayload::Normal(Proposal(command)) => {
                    self.machine.apply(at, &command).map_err(io::Error::other)?
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Reply::new(())
                }
                EntryPayload::Blank => Reply::new(()),
            };
            self.last_applied = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        if let Some(last) = &self.last_applied {
            self.machine.applied(position(last));
            self.applied.send_replace(position(last));
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            checkpoint: self.checkpoint(self.machine.encode().concat().into()),
            store: Arc::clone(&self.store),
            current: Arc::clone(&self.current),
            built: Arc::clone(&self.built),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, state: Bytes) -> Result<(), io::Error> {
        let Some(last) = meta.last_log_id else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a snapshot without a position",
            ));
        };
        self.machine.restore(&state).map_err(io::Error::other)?;
        self.last_applied = Some(last);
        self.membership = meta.last_membership.clone();
        let checkpoint = self.checkpoint(state).expect("last_applied was just set");
        save(Arc::clone(&self.store), checkpoint.clone()).await?;
        *self.current.lock() = Some(checkpoint);
        self.machine.applied(position(&last));
        self.applied.send_replace(position(&last));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        self.current.lock().as_ref().map(snapshot).transpose()
    }
}

/// Makes the state captured at its creation durable.
pub(crate) struct Builder {
    checkpoint: Option<Checkpoint>,
    store: Arc<CheckpointStore>,
    current: Arc<Mutex<Option<Checkpoint>>>,
    built: Arc<watch::Sender<Built>>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let Some(checkpoint) = self.checkpoint.take() else {
            // Nothing was applied yet: the state before the first command needs no file.
            let meta = SnapshotMeta {
                last_log_id: None,
                last_membership: StoredMembership::default(),
            };
            return Ok(Snapshot {
                meta,
                snapshot: Bytes::new(),
            });
        };
        let saved = save(Arc::clone(&self.store), checkpoint.clone()).await;
        let error = saved.as_ref().err().map(ToString::to_string);
        if saved.is_ok() {
            *self.current.lock() = Some(checkpoint);
        }
        self.built.send_modify(|built| {
            *built = Built {
                attempts: built.attempts + 1,
                error,
            }
        });
        // openraft takes an error for a broken store and stops the group for good, but a checkpoint that could
        // not be written, on a full disk say, only makes the next start longer: the one before still stands.
        match &*self.current.lock() {
            Some(current) => snapshot(current),
            None => {
                let meta = SnapshotMeta {
                    last_log_id: None,
                    last_membership: StoredMembership::default(),
                };
                Ok(Snapshot {
                    meta,
                    snapshot: Bytes::new(),
                })
            }
        }
    }
}

async fn save(store: Arc<CheckpointStore>, checkpoint: Checkpoint) -> io::Result<()> {
    tokio::task::spawn_blocking(move || store.save(&checkpoint))
        .await
        .map_err(io::Error::other)?
        .map_err(io::Error::other)
}

fn snapshot(checkpoint: &Checkpoint) -> io::Result<Snapshot> {
    let membership = codec::get_membership(&mut checkpoint.membership.clone())?;
    let last_membership = StoredMembership::new(checkpoint.membership_position.map(log_id), membership);
    Ok(Snapshot {
        meta: SnapshotMeta {
            last_log_id: Some(log_id(checkpoint.position)),
            last_membership,
        },
        snapshot: checkpoint.state.clone(),
    })
}
