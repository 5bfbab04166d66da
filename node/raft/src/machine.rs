//! The state machine of a shard, as Raft sees it.

use std::any::Any;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use meridian_journal::{Journal, Payload};
use meridian_types::{LogPosition, RaftIndex, ShardId};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use thiserror::Error;
use tokio::sync::watch;

use crate::checkpoint::{CheckpointStore, Head, Stored, save};
use crate::codec;
use crate::config::{
    EntryPayload, LogId, Proposal, Snapshot, SnapshotMeta, StoredMembership, Types, log_id, position,
};
use crate::log_store::durable;

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
    checkpoints: Arc<Checkpoints>,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    applied: watch::Sender<LogPosition>,
}

/// The group's checkpoints, and where its log begins.
pub(crate) struct Checkpoints {
    pub(crate) store: Arc<CheckpointStore>,
    pub(crate) journal: Journal,
    pub(crate) shard: ShardId,
    /// The group runs: from now on the current snapshot is what other replicas are given.
    serving: AtomicBool,
    built: watch::Sender<Built>,
}

/// How the last attempt at a checkpoint ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Built {
    /// Attempts so far.
    pub(crate) attempts: u64,
    /// Why the last one failed, if it did.
    pub(crate) error: Option<String>,
}

impl Checkpoints {
    pub(crate) fn new(store: CheckpointStore, journal: Journal, shard: ShardId) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::new(store),
            journal,
            shard,
            serving: AtomicBool::new(false),
            built: watch::channel(Built::default()).0,
        })
    }

    /// The last entry that Raft forgot.
    pub(crate) fn purged(&self) -> Option<RaftIndex> {
        self.journal.log(self.shard).purged.map(|purged| purged.index)
    }

    /// Hands out the base from now on, no longer the newest.
    pub(crate) fn serve(&self) {
        self.serving.store(true, Ordering::Relaxed);
    }

    /// Tells of every attempt at a checkpoint.
    pub(crate) fn built(&self) -> watch::Receiver<Built> {
        self.built.subscribe()
    }

    /// The log begins after `through`, and holds nothing below that may not be part of it.
    pub(crate) async fn purge(&self, through: LogPosition) -> io::Result<()> {
        durable(|done| self.journal.purge(self.shard, through, done)).await
    }

    async fn save(&self, head: Head, state: Vec<Bytes>) -> io::Result<()> {
        save(Arc::clone(&self.store), head, state, self.purged()).await
    }
}

impl Applier {
    /// Restores the machine from the newest checkpoint, if there is one.
    pub(crate) fn recover(
        machine: Arc<dyn Machine>,
        checkpoints: Arc<Checkpoints>,
        applied: watch::Sender<LogPosition>,
    ) -> io::Result<Self> {
        let newest = checkpoints
            .store
            .load(checkpoints.purged())
            .map_err(io::Error::other)?;
        let mut applier = Self {
            machine,
            checkpoints,
            last_applied: None,
            membership: StoredMembership::default(),
            applied,
        };
        if let Some((stored, state)) = newest {
            applier.machine.restore(&state).map_err(io::Error::other)?;
            applier.restored(&stored.head)?;
        }
        Ok(applier)
    }

    /// The machine holds the state of this checkpoint now.
    fn restored(&mut self, head: &Head) -> io::Result<()> {
        self.last_applied = Some(log_id(head.position));
        self.membership = membership(head)?;
        self.machine.applied(head.position);
        self.applied.send_replace(head.position);
        Ok(())
    }

    fn head(&self) -> Option<Head> {
        let mut membership = bytes::BytesMut::new();
        codec::put_membership(&mut membership, self.membership.membership());
        Some(Head {
            position: position(self.last_applied.as_ref()?),
            membership_position: self.membership.log_id().as_ref().map(position),
            membership: membership.freeze(),
        })
    }
}

impl RaftStateMachine<Types> for Applier {
    /// `None`: the state before the first command.
    type SnapshotData = Option<Stored>;
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
            captured: self.head().map(|head| (head, self.machine.encode())),
            checkpoints: Arc::clone(&self.checkpoints),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        stored: Option<Stored>,
    ) -> Result<(), io::Error> {
        let stored = stored
            .filter(|stored| meta.last_log_id == Some(log_id(stored.head.position)))
            .ok_or_else(|| invalid("a snapshot without its checkpoint".to_owned()))?;
        let head = stored.head.clone();
        let checkpoints = Arc::clone(&self.checkpoints);
        let keep = move || {
            let state = stored.state()?.map_err(invalid)?;
            let adopted = checkpoints.store.adopt(&stored, &state, checkpoints.purged());
            adopted.map(|()| state).map_err(io::Error::other)
        };
        let state = crate::blocking::blocking(keep)
            .await
            .map_err(io::Error::other)??;
        // The state names entries that this log may have others in place of, never committed. They must be gone
        // before anybody sees the state; openraft purges only behind.
        self.checkpoints.purge(head.position).await?;
        if !mutant!(KeepStateAtInstall) {
            let machine = Arc::clone(&self.machine);
            crate::blocking::blocking(move || machine.restore(&state))
                .await
                .map_err(io::Error::other)?
                .map_err(invalid)?;
        }
        self.restored(&head)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let checkpoints = Arc::clone(&self.checkpoints);
        crate::blocking::blocking(move || {
            // openraft learns at the start how far the log may be purged: as far as the newest. What it asks for
            // later is for other replicas.
            let stored = if checkpoints.serving.load(Ordering::Relaxed) {
                checkpoints.store.base(checkpoints.purged())
            } else {
                checkpoints.store.newest()
            };
            stored.map_err(io::Error::other)?.map(snapshot).transpose()
        })
        .await
        .map_err(io::Error::other)?
    }
}

/// Makes the state captured at its creation durable.
pub(crate) struct Builder {
    captured: Option<(Head, Vec<Bytes>)>,
    checkpoints: Arc<Checkpoints>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Option<Stored>;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        if let Some((head, state)) = self.captured.take() {
            let saved = self.checkpoints.save(head, state).await;
            self.checkpoints.built.send_modify(|built| {
                *built = Built {
                    attempts: built.attempts + 1,
                    error: saved.err().map(|error| error.to_string()),
                }
            });
        }
        // openraft takes an error for a broken store and stops the group for good, but a checkpoint that could
        // not be written, on a full disk say, only makes the next start longer: the one before still stands.
        match self.checkpoints.store.newest() {
            Ok(Some(newest)) => snapshot(newest),
            Ok(None) | Err(_) => Ok(Snapshot {
                meta: SnapshotMeta {
                    last_log_id: None,
                    last_membership: StoredMembership::default(),
                },
                snapshot: None,
            }),
        }
    }
}

fn membership(head: &Head) -> io::Result<StoredMembership> {
    let membership = codec::get_membership(&mut head.membership.clone())?;
    Ok(StoredMembership::new(
        head.membership_position.map(log_id),
        membership,
    ))
}

/// The snapshot that a checkpoint is to openraft.
pub(crate) fn snapshot(stored: Stored) -> io::Result<Snapshot> {
    Ok(Snapshot {
        meta: SnapshotMeta {
            last_log_id: Some(log_id(stored.head.position)),
            last_membership: membership(&stored.head)?,
        },
        snapshot: Some(stored),
    })
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
