//! Work beside the writer: has the next file ready before it is needed, and lets old files go.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::disk::{BLOCK_BYTES, DiskFile};
use crate::file::{SPARE_NAME, name_of};
use crate::journal::Shared;
use crate::settings::Durability;

/// A file made ahead, under the spare's name.
pub(crate) struct Prepared {
    pub(crate) disk_file: Arc<dyn DiskFile>,
    pub(crate) bytes: u64,
    /// Bytes from the beginning whose blocks were written once, so that writing them again changes no
    /// metadata of the file system.
    pub(crate) zeroed_to: u64,
}

/// The place where keeper and writer meet.
#[derive(Default)]
pub(crate) struct Next {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Wanted,
    /// Somebody works on it outside the lock.
    Busy,
    Ready(Prepared),
}

impl Next {
    pub(crate) fn bytes(&self) -> u64 {
        match &*self.state.lock() {
            State::Ready(prepared) => prepared.bytes,
            State::Wanted | State::Busy => 0,
        }
    }

    /// Whether a file is wanted, and if so, the caller's to bring.
    fn reserve(&self) -> bool {
        let mut state = self.state.lock();
        let wanted = matches!(*state, State::Wanted);
        if wanted {
            *state = State::Busy;
        }
        wanted
    }

    fn put(&self, state: State) {
        *self.state.lock() = state;
        self.changed.notify_all();
    }
}

impl Shared {
    /// The next file for the writer, however far it is prepared; makes one if there is none. The spare's name is
    /// the writer's until it calls [`next_taken`](Self::next_taken).
    ///
    /// Errors: what the disk says, `StorageFull` among it; then the journal counts as full.
    pub(crate) fn take_next(&self) -> io::Result<Prepared> {
        let mut state = self.next.state.lock();
        loop {
            match std::mem::replace(&mut *state, State::Busy) {
                State::Ready(prepared) => return Ok(prepared),
                State::Busy => self.next.changed.wait(&mut state),
                State::Wanted => break,
            }
        }
        drop(state);
        self.make().inspect_err(|_| self.next.put(State::Wanted))
    }

    /// The file taken has its own name now: the keeper may make another.
    pub(crate) fn next_taken(&self) {
        self.next.put(State::Wanted);
    }

    fn make(&self) -> io::Result<Prepared> {
        let bytes = self.settings.file_bytes;
        // A spare of an earlier run has its space; how much of it was written is not known.
        let made = match self.disk.open(SPARE_NAME) {
            Ok(spare) => Ok(spare),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self
                .leaves_enough(bytes)
                .and_then(|()| self.disk.create(SPARE_NAME, bytes)),
            Err(error) => Err(error),
        };
        self.queue
            .set_full(made.as_ref().err().map(|error| Arc::from(error.to_string())));
        Ok(Prepared {
            disk_file: made?,
            bytes,
            zeroed_to: 0,
        })
    }
}

impl Shared {
    /// Whether a new file of so many bytes leaves to others what they need. The first file is made in any case.
    fn leaves_enough(&self, bytes: u64) -> io::Result<()> {
        let left = self.settings.left_free_bytes;
        if left == 0 || self.files.len() == 0 {
            return Ok(());
        }
        let free = self.disk.free_bytes()?;
        if free >= bytes + left {
            return Ok(());
        }
        let reason =
            format!("{free} bytes are free, {left} of them for checkpoints, and a file takes {bytes}");
        Err(io::Error::new(io::ErrorKind::StorageFull, reason))
    }
}

/// Does the work, a step at a time. Driven by its own thread, or inline between rounds.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    zeros: Vec<u8>,
}

/// The keeper looks after this even if nobody calls it: space may have come back by itself.
const IDLE: Duration = Duration::from_millis(250);
/// With `Durability::Memory`: time between syncs.
const SYNC_BEHIND: Duration = Duration::from_millis(50);
const ZERO_STEP_BYTES: u64 = 2 << 20;

impl Keeper {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            zeros: Vec::new(),
        }
    }

    /// Does one piece of work; false when there is none. Errors: it failed and has to wait; the text says why.
    pub(crate) fn step(&mut self) -> Result<bool, String> {
        if self.shared.queue.poisoned().is_some() {
            return Ok(false);
        }
        self.sync_behind();
        let retired = match self.retire() {
            Ok(true) => return Ok(true),
            retired => retired.map_err(|error| format!("cannot remove an old file: {error}")),
        };
        let prepared = self.prepare();
        let prepared = prepared.map_err(|error| format!("cannot prepare the next file: {error}"));
        retired.and(prepared)
    }

    /// Whether there was no room for the next file when that was tried last.
    pub(crate) fn is_full(&self) -> bool {
        self.shared.queue.full().is_some()
    }

    /// Waits until there may be something to do.
    pub(crate) fn wait(&self) {
        self.pause(match self.shared.settings.durability {
            Durability::Fsync => IDLE,
            Durability::Memory => SYNC_BEHIND,
        });
    }

    /// Waits so long, or until somebody wants something.
    pub(crate) fn pause(&self, time: Duration) {
        let mut poked = self.shared.keeper_poked.0.lock();
        if !*poked {
            self.shared.keeper_poked.1.wait_for(&mut poked, time);
        }
        *poked = false;
    }

    fn prepare(&mut self) -> io::Result<bool> {
        let next = &self.shared.next;
        let mut state = next.state.lock();
        match &mut *state {
            State::Busy => Ok(false),
            State::Wanted => {
                *state = State::Busy;
                drop(state);
                let made = self.shared.make();
                next.put(made.as_ref().map_or(State::Wanted, |made| {
                    State::Ready(Prepared {
                        disk_file: made.disk_file.clone(),
                        ..*made
                    })
                }));
                made.map(|_| true)
            }
            State::Ready(prepared) if prepared.zeroed_to < prepared.bytes => {
                let State::Ready(mut prepared) = std::mem::replace(&mut *state, State::Busy) else {
                    unreachable!("matched above");
                };
                drop(state);
                match zero(&mut self.zeros, &prepared) {
                    Ok(zeroed_to) => {
                        prepared.zeroed_to = zeroed_to;
                        next.put(State::Ready(prepared));
                        Ok(true)
                    }
                    Err(error) => {
                        // Nothing of the log is in it: make another. Its failed sync is nobody's loss.
                        let removed = self.shared.disk.remove(SPARE_NAME);
                        self.shared.queue.set_full(Some(error.to_string().into()));
                        next.put(State::Wanted);
                        removed.and(Err(error))
                    }
                }
            }
            State::Ready(_) => Ok(false),
        }
    }

    /// Lets the oldest file go if the budget wants it and no shard needs it.
    fn retire(&self) -> io::Result<bool> {
        let shared = &self.shared;
        let told_before = shared.told_before.load(Acquire);
        let Some(oldest) = shared.files.oldest().filter(|oldest| *oldest < told_before) else {
            return Ok(false);
        };
        // The file ahead counts whether it is there yet or not, so that an old one can become it.
        let over_budget = shared.files.disk_bytes() + shared.settings.file_bytes > shared.settings.bytes_max;
        let wanted = over_budget || shared.queue.full().is_some();
        if !wanted || !shared.pinning(oldest).is_empty() {
            return Ok(false);
        }
        let Some(file) = shared.files.remove(oldest) else {
            return Ok(false);
        };
        for (_, state) in shared.all_shards() {
            state
                .lock()
                .drop_file(u32::try_from(oldest).expect("checked when opened or made"));
        }
        // A reader that still holds the file must not see it change under its hands.
        let reusable = Arc::strong_count(&file) == 1
            && file.bytes == shared.settings.file_bytes
            && shared.next.reserve();
        let name = name_of(oldest);
        let changed = if reusable {
            shared.disk.rename(&name, SPARE_NAME)
        } else {
            shared.disk.remove(&name)
        };
        let synced = changed.as_ref().map(|()| shared.disk.sync_dir());
        if let Ok(Err(error)) = &synced {
            // Younger files must not go before this name is known to be gone.
            shared
                .queue
                .poison(&format!("syncing the journal's directory: {error}"));
        }
        let done = matches!(synced, Ok(Ok(())));
        if reusable {
            let prepared = Prepared {
                disk_file: file.disk_file.clone(),
                bytes: file.bytes,
                zeroed_to: file.bytes,
            };
            shared.next.put(if done {
                State::Ready(prepared)
            } else {
                State::Wanted
            });
        }
        if done {
            shared.counters.files_retired.fetch_add(1, Relaxed);
            if reusable {
                shared.queue.set_full(None);
            }
        } else {
            // Still the oldest: tried again.
            shared.files.insert(file);
        }
        changed.map(|()| true)
    }

    /// With `Durability::Memory`: makes durable what was written since the last time.
    fn sync_behind(&self) {
        let shared = &self.shared;
        if shared.settings.durability != Durability::Memory {
            return;
        }
        // First what is written, then which file it is in: a file left in between was synced on leaving.
        shared.begin_sync();
        let Some((file, written_to)) = shared.behind.lock().written.clone() else {
            return;
        };
        if shared.behind.lock().synced >= (file.number, written_to) {
            return;
        }
        match file.disk_file.sync_data() {
            Ok(()) => {
                shared.counters.syncs.fetch_add(1, Relaxed);
                let mut behind = shared.behind.lock();
                behind.synced = behind.synced.max((file.number, written_to));
                drop(behind);
                shared.end_sync();
            }
            Err(error) => shared
                .queue
                .poison(&format!("fdatasync of file {:016x}: {error}", file.number)),
        }
    }
}

/// Writes the next zeros and syncs them, so that no large amount of dirty memory gathers.
fn zero(zeros: &mut Vec<u8>, prepared: &Prepared) -> io::Result<u64> {
    // Aligned, so that they go to the disk without a copy.
    let step = usize::try_from(ZERO_STEP_BYTES).expect("small");
    zeros.resize(step + BLOCK_BYTES, 0);
    let aligned = zeros.as_ptr().align_offset(BLOCK_BYTES);
    let end = (prepared.zeroed_to + ZERO_STEP_BYTES).min(prepared.bytes);
    let len = usize::try_from(end - prepared.zeroed_to).expect("one step");
    let zeros = IoSlice::new(&zeros[aligned..aligned + len]);
    prepared.disk_file.write_at(prepared.zeroed_to, &mut [zeros])?;
    prepared.disk_file.sync_data()?;
    Ok(end)
}
