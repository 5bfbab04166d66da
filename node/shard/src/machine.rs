//! The state machine of a data shard: `meridian_state::State` behind a lock, with its waiters.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use meridian_journal::Payload;
use meridian_raft::{ApplyError, Machine, Reply};
use meridian_state::{Command, State};
use meridian_types::{LogPosition, Partition, ShardId};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::wait::Waiters;

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
}

impl ShardMachine {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self {
            shard,
            state: RwLock::new(State::new(shard)),
            waiters: Waiters::default(),
            moved: Mutex::default(),
            applied_bytes: AtomicU64::new(0),
        }
    }

    /// Bytes of commands applied since the start of the process.
    pub(crate) fn applied_bytes(&self) -> u64 {
        self.applied_bytes.load(Ordering::Relaxed)
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
        let outcome = self.state.write().apply(at, &command);
        self.applied_bytes
            .fetch_add(payload.len() as u64, Ordering::Relaxed);
        let mut moved = self.moved.lock();
        match &command {
            Command::Append { groups, .. } => moved.extend(groups.iter().map(|group| group.partition)),
            Command::SetLogStart { starts } => moved.extend(starts.iter().map(|(partition, _)| *partition)),
            _ => {}
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
        self.waiters.wake_all();
        Ok(())
    }
}
