//! Operations that wait for the writer, bounded by bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_types::{LogPosition, ShardId};
use parking_lot::{Condvar, Mutex};

use crate::directory::LISTED_BYTES_MAX;
use crate::error::JournalError;
use crate::frame::frame_bytes;
use crate::journal::Done;
use crate::payload::Entry;

/// One operation on its way to disk.
pub(crate) struct Operation {
    pub(crate) shard: ShardId,
    /// Tells this operation's entries from others at the same index.
    pub(crate) ticket: u64,
    pub(crate) action: Action,
    /// Parts of it that have their place in a file already.
    pub(crate) placed: usize,
    pub(crate) done: Option<Done>,
}

pub(crate) enum Action {
    /// Entries with the checksums of their payloads.
    Append(Vec<(Entry, u32)>),
    Vote(Bytes),
    /// The last entry that is left above the purged ones.
    Truncate(Option<LogPosition>),
    Purge(LogPosition),
    Reset,
}

impl Operation {
    /// Memory it holds, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let payload = match &self.action {
            Action::Append(entries) => entries.iter().map(|(entry, _)| entry.payload.cost()).sum(),
            Action::Vote(vote) => vote.len(),
            Action::Truncate(_) | Action::Purge(_) | Action::Reset => 0,
        };
        payload + size_of::<Self>()
    }

    /// Bytes it takes from a file at most.
    pub(crate) fn disk_bytes(&self) -> u64 {
        match &self.action {
            Action::Append(entries) => entries
                .iter()
                .map(|(entry, _)| frame_bytes(entry.payload.len() as u64) + LISTED_BYTES_MAX)
                .sum(),
            Action::Vote(vote) => frame_bytes(vote.len() as u64) + LISTED_BYTES_MAX,
            Action::Truncate(_) | Action::Purge(_) | Action::Reset => frame_bytes(0) + LISTED_BYTES_MAX,
        }
    }
}

/// What is refused comes back with the reason.
pub(crate) type Refused = (JournalError, Option<Done>);

/// The operations, in the order they were accepted.
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    bytes_max: usize,
}

#[derive(Default)]
struct State {
    operations: VecDeque<Operation>,
    /// Of all operations that are not done, taken by the writer or not.
    memory_bytes: usize,
    disk_bytes: u64,
    /// Bytes that entries may still take from the file being written.
    room: u64,
    /// Bytes of it that are promised to entries which come later.
    reserved_bytes: u64,
    full: Option<Arc<str>>,
    /// A write waits for space that was reserved: then there is none for anybody.
    stuck: Option<Arc<str>>,
    poisoned: Option<Arc<str>>,
    stopping: bool,
    /// Somebody asked for a round though nothing waits.
    nudged: bool,
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            bytes_max,
        }
    }

    /// Whether entries of so many bytes of memory and of file would be accepted now.
    pub(crate) fn admit(&self, memory_bytes: usize, disk_bytes: u64) -> Result<(), JournalError> {
        let state = self.state.lock();
        let disk_bytes = disk_bytes + state.reserved_bytes;
        self.check(&state, memory_bytes, disk_bytes, true)
    }

    /// As [`Self::admit`], for entries that have had their promise: what is promised is not counted against them.
    pub(crate) fn admit_promised(&self, memory_bytes: usize, disk_bytes: u64) -> Result<(), JournalError> {
        self.check(&self.state.lock(), memory_bytes, disk_bytes, true)
    }

    /// As [`Self::admit`], and keeps room for them until [`Self::release`].
    pub(crate) fn reserve(&self, memory_bytes: usize, disk_bytes: u64) -> Result<(), JournalError> {
        let mut state = self.state.lock();
        let wanted_bytes = disk_bytes + state.reserved_bytes;
        self.check(&state, memory_bytes, wanted_bytes, true)?;
        state.reserved_bytes = wanted_bytes;
        Ok(())
    }

    pub(crate) fn release(&self, disk_bytes: u64) {
        self.state.lock().reserved_bytes -= disk_bytes;
    }

    fn check(
        &self,
        state: &State,
        memory_bytes: usize,
        disk_bytes: u64,
        entries: bool,
    ) -> Result<(), JournalError> {
        if let Some(reason) = &state.poisoned {
            return Err(JournalError::Poisoned {
                reason: reason.clone(),
            });
        }
        if state.stopping {
            return Err(JournalError::Stopped);
        }
        // One operation passes whatever its size, so that none waits for ever.
        if state.memory_bytes > 0 && state.memory_bytes + memory_bytes > self.bytes_max && entries {
            return Err(JournalError::Busy {
                queued_bytes: state.memory_bytes,
                queue_bytes_max: self.bytes_max,
            });
        }
        if let Some(reason) = state.stuck.as_ref().filter(|_| entries) {
            return Err(JournalError::Full {
                reason: reason.clone(),
            });
        }
        match &state.full {
            Some(reason) if entries && state.disk_bytes + disk_bytes > state.room => {
                Err(JournalError::Full {
                    reason: reason.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Accepts an operation, or gives its `Done` back with the reason why not.
    pub(crate) fn push(&self, mut operation: Operation) -> Result<(), Refused> {
        let (memory_bytes, disk_bytes) = (operation.memory_bytes(), operation.disk_bytes());
        let entries = matches!(operation.action, Action::Append(_));
        let mut state = self.state.lock();
        if let Err(error) = self.check(&state, memory_bytes, disk_bytes, entries) {
            return Err((error, operation.done.take()));
        }
        state.memory_bytes += memory_bytes;
        state.disk_bytes += disk_bytes;
        state.operations.push_back(operation);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Takes operations from the front, at least one if there is one, up to about `bytes_max`.
    pub(crate) fn take(&self, bytes_max: usize, into: &mut Vec<Operation>) {
        let mut state = self.state.lock();
        state.nudged = false;
        let mut bytes = 0;
        while bytes < bytes_max {
            let Some(operation) = state.operations.pop_front() else {
                break;
            };
            bytes += operation.memory_bytes();
            into.push(operation);
        }
    }

    /// Counts operations as done, given their bytes, and notes what room is left.
    pub(crate) fn finish(&self, memory_bytes: usize, disk_bytes: u64, room: u64) {
        let mut state = self.state.lock();
        state.memory_bytes -= memory_bytes;
        state.disk_bytes -= disk_bytes;
        state.room = room;
    }

    /// Waits until there is something to do, at most `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) {
        let mut state = self.state.lock();
        if state.operations.is_empty() && !state.stopping && !state.nudged {
            self.changed.wait_for(&mut state, timeout);
        }
    }

    /// Wakes the writer though nothing waits.
    pub(crate) fn nudge(&self) {
        self.state.lock().nudged = true;
        self.changed.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.state.lock().stopping = true;
        self.changed.notify_one();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.state.lock().stopping
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().operations.is_empty()
    }

    pub(crate) fn poison(&self, reason: &str) {
        self.state.lock().poisoned.get_or_insert_with(|| reason.into());
        self.nudge();
    }

    pub(crate) fn poisoned(&self) -> Option<Arc<str>> {
        self.state.lock().poisoned.clone()
    }

    pub(crate) fn set_full(&self, full: Option<Arc<str>>) {
        let healed = full.is_none();
        self.state.lock().full = full;
        if healed {
            self.nudge();
        }
    }

    pub(crate) fn set_stuck(&self, stuck: Option<Arc<str>>) {
        self.state.lock().stuck = stuck;
    }

    pub(crate) fn full(&self) -> Option<Arc<str>> {
        let state = self.state.lock();
        state.full.as_ref().or(state.stuck.as_ref()).cloned()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.state.lock().memory_bytes
    }
}
