//! The state machine of a data shard: `meridian_state::State` behind a lock, with its waiters.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use meridian_journal::Payload;
use meridian_raft::{ApplyError, Machine, Reply};
use meridian_state::{Command, Outcome, State};
use meridian_types::{LogPosition, Partition, ShardId};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::wait::Waiters;
use crate::writing::Writing;

/// The defect of skipping an entry now and then, on one replica and not on the others.
fn skips() -> bool {
    static APPLIED: AtomicU64 = AtomicU64::new(0);
    APPLIED.fetch_add(1, Ordering::Relaxed) % 997 == 996
}

/// Read access to a shard's applied state. Hold it briefly, never across an await: `apply` waits.
pub struct StateGuard<'a>(RwLockReadGuard<'a, State>);

impl Deref for StateGuard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

pub(crate) struct ShardMachine {
    shard: ShardId,
    state: RwLock<State>,
    pub(crate) waiters: Waiters,
    moved: Mutex<Vec<Partition>>,
    applied_bytes: AtomicU64,
    /// Whether the shard takes writes here.
    pub(crate) writing: Writing,
}

impl ShardMachine {
    pub(crate) fn new(shard: ShardId, writing: Writing) -> Self {
        Self {
            shard,
            state: RwLock::new(State::new(shard)),
            waiters: Waiters::default(),
            moved: Mutex::default(),
            applied_bytes: AtomicU64::new(0),
            writing,
        }
    }

    /// Bytes of commands applied since the start of the process.
    pub(crate) fn applied_bytes(&self) -> u64 {
        self.applied_bytes.load(Ordering::Relaxed)
    }

    /// Forgets everything: the replica is gone from this node.
    pub(crate) fn clear(&self) {
        *self.state.write() = State::new(self.shard);
        self.note_standing();
        self.waiters.wake_all();
    }

    fn note_standing(&self) {
        self.writing.set_standing(self.state.read().standing());
    }

    pub(crate) fn state(&self) -> StateGuard<'_> {
        StateGuard(self.state.read())
    }
}

impl Machine for ShardMachine {
    fn apply(&self, at: LogPosition, payload: &Payload) -> Result<Reply, ApplyError> {
        let command = Command::decode(payload.parts()).map_err(|error| ApplyError {
            at,
            reason: error.to_string(),
        })?;
        let outcome = if mutant!(SkipEntry) && skips() {
            Outcome::Done
        } else {
            self.state.write().apply(at, &command)
        };
        self.applied_bytes
            .fetch_add(payload.len() as u64, Ordering::Relaxed);
        let mut moved = self.moved.lock();
        match &command {
            Command::Append { groups, .. } => moved.extend(groups.iter().map(|group| group.partition)),
            Command::SetLogStart { starts } => moved.extend(starts.iter().map(|(partition, _)| *partition)),
            Command::BeginEpoch(_) | Command::Fence { .. } | Command::Install(_) => self.note_standing(),
            _ => {}
        }
        if let Outcome::Mirrored(Ok(mirrored)) | Outcome::Installed(Ok(mirrored)) = &outcome {
            moved.extend(&mirrored.moved);
        }
        Ok(Reply::new(outcome))
    }

    fn applied(&self, _: LogPosition) {
        let moved = std::mem::take(&mut *self.moved.lock());
        self.waiters.wake(&moved);
    }

    fn encode(&self) -> Vec<Bytes> {
        self.state.read().encode_snapshot()
    }

    fn restore(&self, state: &[u8]) -> Result<(), String> {
        let restored = State::decode_snapshot(state).map_err(|error| error.to_string())?;
        if restored.shard() != self.shard {
            return Err(format!(
                "the checkpoint is of shard {}, not of {}",
                restored.shard(),
                self.shard
            ));
        }
        *self.state.write() = restored;
        self.note_standing();
        self.waiters.wake_all();
        Ok(())
    }
}
