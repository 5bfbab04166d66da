//! The one who writes: rounds of one gathered write and one sync for everything that waits.

mod roll;
mod space;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};

use bytes::Bytes;
use meridian_types::{LogPosition, RaftIndex, ShardId};

use self::roll::RollError;
use self::space::until_space;
use crate::active::{ActiveFile, Stamp};
use crate::checkpoint::{Checkpoint, ShardMark};
use crate::directory::LISTED_BYTES_MAX;
use crate::error::{JournalError, OpenError};
use crate::frame::{FLAG_EMPTY, FrameKind, Header, crc32c, frame_bytes};
use crate::journal::Shared;
use crate::keeper::Keeper;
use crate::payload::Payload;
use crate::queue::{Action, Operation};
use crate::recovery::{Resumed, failed};
use crate::settings::Durability;

/// What one round did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundOutcome {
    /// Operations were made durable (with `Durability::Memory`: written) and their `Done` called.
    Wrote {
        /// Operations done.
        operations: usize,
    },
    /// Nothing waited, and nothing was left to prove.
    Idle,
    /// Nothing waited; a marker was written that proves the last round.
    Marked,
    /// Operations wait for space.
    Stalled,
    /// The journal is poisoned; whatever waited was told.
    Poisoned,
    /// Shut down: everything is written, nothing more will be.
    Stopped,
}

/// Writes the journal. Exactly one exists per [`Journal`](crate::Journal).
pub struct Writer {
    shared: Arc<Shared>,
    keeper: Option<Keeper>,
    generation: u32,
    active: Option<ActiveFile>,
    /// Number of the newest file.
    newest: u64,
    /// Every shard as the frames written so far leave it.
    marks: BTreeMap<ShardId, ShardMark>,
    /// Bytes that a checkpoint of `marks` takes at most.
    checkpoint_bytes_max: u64,
    /// Operations taken from the queue that found no room.
    stalled: Vec<Operation>,
    /// Entries in the cache that are written, oldest first.
    evictable: VecDeque<(ShardId, u64, u64)>,
    stopped: bool,
}

/// An entry's place, to be told to its shard when it is there.
struct Placed {
    shard: ShardId,
    index: u64,
    ticket: u64,
    file: u32,
    at: u32,
}

/// Why a frame was not laid out.
enum LayError {
    NoRoom,
    Io(io::Error),
}

impl Writer {
    pub(crate) fn start(
        shared: Arc<Shared>,
        marks: BTreeMap<ShardId, ShardMark>,
        resumed: Option<Resumed>,
        newest: u64,
        generation: u32,
    ) -> Result<Self, OpenError> {
        let mut writer = Self {
            keeper: Some(Keeper::new(shared.clone())),
            shared,
            generation,
            active: resumed.map(ActiveFile::resumed),
            newest,
            checkpoint_bytes_max: Checkpoint::bytes_max(&marks),
            marks,
            stalled: Vec::new(),
            evictable: VecDeque::new(),
            stopped: false,
        };
        writer
            .open_checkpoint()
            .map_err(failed("cannot write the first checkpoint"))?;
        writer.shared.told_before.store(writer.newest, Release);
        writer.publish_room(0, 0);
        Ok(writer)
    }

    pub(crate) fn take_keeper(&mut self) -> Option<Keeper> {
        self.keeper.take()
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Writes everything that waits (up to `round_bytes_max`), makes it durable with one sync, and calls the
    /// `Done`s. Blocks on the disk, never on anything else. A simulation calls this itself and gets the
    /// keeper's work done on the way.
    pub fn run_round(&mut self) -> RoundOutcome {
        if self.stopped {
            return RoundOutcome::Stopped;
        }
        let mut operations = mem::take(&mut self.stalled);
        if self.shared.queue.poisoned().is_some() {
            return self.fail_all(operations);
        }
        self.shared
            .queue
            .take(self.shared.settings.round_bytes_max, &mut operations);
        let outcome = if operations.is_empty() {
            self.idle()
        } else {
            match self.round(operations) {
                Ok(0) if self.shared.queue.is_stopping() && self.shared.queue.is_empty() => {
                    let stalled = mem::take(&mut self.stalled);
                    fail(&self.shared, stalled, &JournalError::Stopped);
                    self.idle()
                }
                Ok(0) => RoundOutcome::Stalled,
                Ok(operations) => RoundOutcome::Wrote { operations },
                Err(failed) => {
                    let (error, operations) = *failed;
                    tracing::error!(%error, "journal: a write failed, the journal stops");
                    self.shared.queue.poison(&error.to_string());
                    return self.fail_all(operations);
                }
            }
        };
        if let Some(keeper) = &mut self.keeper
            && let Err(reason) = keeper.step()
        {
            tracing::debug!(reason, "journal: its files cannot be looked after");
        }
        outcome
    }

    fn idle(&mut self) -> RoundOutcome {
        let stopping = self.shared.queue.is_stopping() && self.shared.queue.is_empty();
        let marked = self.marker();
        let ended = marked.and_then(|marked| {
            if stopping {
                self.sync().map(|()| marked)
            } else {
                Ok(marked)
            }
        });
        match ended {
            Err(error) => {
                self.shared.queue.poison(&error.to_string());
                RoundOutcome::Poisoned
            }
            Ok(_) if stopping => {
                self.stopped = true;
                RoundOutcome::Stopped
            }
            Ok(true) => RoundOutcome::Marked,
            Ok(false) => RoundOutcome::Idle,
        }
    }

    /// Writes a frame whose only use is to prove the last round synced. It is not synced itself: if it is lost,
    /// the last round is unproven as before.
    fn marker(&mut self) -> io::Result<bool> {
        let unproven = self.active.as_ref().is_some_and(ActiveFile::is_unproven);
        if !unproven || !self.fits(0, false) {
            return Ok(false);
        }
        self.lay_node(FrameKind::Marker, Bytes::new(), 0);
        self.write()?;
        Ok(true)
    }

    /// One round. Gives back how many operations are done, or all that are not with the failure.
    fn round(&mut self, operations: Vec<Operation>) -> Result<usize, Box<(io::Error, Vec<Operation>)>> {
        let mut placed = Vec::new();
        let mut done = Vec::with_capacity(operations.len());
        let mut stalled = Vec::new();
        let mut blocked: BTreeSet<ShardId> = BTreeSet::new();
        let mut operations = operations.into_iter();
        let mut failure = None;
        for mut operation in operations.by_ref() {
            // A purge may overtake entries that wait for space: it is what makes space.
            if blocked.contains(&operation.shard) && !matches!(operation.action, Action::Purge(_)) {
                stalled.push(operation);
                continue;
            }
            match self.lay(&mut operation, &mut placed) {
                Ok(()) => done.push(operation),
                Err(LayError::NoRoom) => {
                    blocked.insert(operation.shard);
                    stalled.push(operation);
                }
                Err(LayError::Io(error)) => {
                    stalled.push(operation);
                    failure = Some(error);
                    break;
                }
            }
        }
        let fsync = self.shared.settings.durability == Durability::Fsync && !mutant!(AcknowledgeBeforeSync);
        let written = match failure {
            Some(error) => Err(error),
            None => self
                .write()
                .and_then(|()| if fsync { self.sync() } else { Ok(()) }),
        };
        if let Err(error) = written {
            done.extend(stalled);
            done.extend(operations);
            return Err(Box::new((error, done)));
        }
        self.shared.counters.rounds.fetch_add(1, Relaxed);
        self.shared
            .counters
            .operations
            .fetch_add(done.len() as u64, Relaxed);
        self.tell_shards(&placed, &done, fsync);
        self.evict();
        self.stalled = stalled;
        let (mut memory_bytes, mut disk_bytes) = (0, 0);
        for operation in &done {
            memory_bytes += operation.memory_bytes();
            disk_bytes += operation.disk_bytes();
        }
        let count = done.len();
        let callbacks: Vec<_> = done.into_iter().filter_map(|operation| operation.done).collect();
        self.publish_room(memory_bytes, disk_bytes);
        callbacks.into_iter().for_each(|done| done(Ok(())));
        Ok(count)
    }

    /// Gives every frame of an operation its place, rolling to the next file when need be.
    fn lay(&mut self, operation: &mut Operation, placed: &mut Vec<Placed>) -> Result<(), LayError> {
        let shard = operation.shard;
        let none = LogPosition::default();
        match &operation.action {
            Action::Append(entries) => {
                for (entry, crc) in &entries[operation.placed..] {
                    let at =
                        self.lay_shard(shard, FrameKind::Entry, 0, entry.position, &entry.payload, *crc)?;
                    operation.placed += 1;
                    let file = u32::try_from(self.newest).expect("checked when the file was made");
                    placed.push(Placed {
                        shard,
                        index: entry.position.index.0,
                        ticket: operation.ticket,
                        file,
                        at,
                    });
                    self.mark(shard).appended(entry.position);
                }
            }
            Action::Vote(vote) => {
                let payload = Payload::from(vote.clone());
                self.lay_shard(shard, FrameKind::Vote, 0, none, &payload, crc32c(vote))?;
                self.mark(shard).vote = Some(vote.clone());
                self.checkpoint_bytes_max = Checkpoint::bytes_max(&self.marks);
            }
            Action::Truncate(last) => {
                let flags = if last.is_none() { FLAG_EMPTY } else { 0 };
                self.lay_shard(
                    shard,
                    FrameKind::Truncate,
                    flags,
                    last.unwrap_or(none),
                    &Payload::default(),
                    crc32c(&[]),
                )?;
                self.mark(shard).last = *last;
            }
            Action::Purge(through) => {
                self.lay_shard(
                    shard,
                    FrameKind::Purge,
                    0,
                    *through,
                    &Payload::default(),
                    crc32c(&[]),
                )?;
                self.mark(shard).set_purged(*through);
            }
            Action::Reset => {
                self.lay_shard(shard, FrameKind::Reset, 0, none, &Payload::default(), crc32c(&[]))?;
                let mark = self.mark(shard);
                *mark = ShardMark {
                    sequence: mark.sequence,
                    ..ShardMark::default()
                };
            }
        }
        Ok(())
    }

    fn mark(&mut self, shard: ShardId) -> &mut ShardMark {
        if !self.marks.contains_key(&shard) {
            self.checkpoint_bytes_max += Checkpoint::SHARD_BYTES_MAX;
        }
        self.marks.entry(shard).or_default()
    }

    /// Lays out a frame of a shard; gives its position in the file.
    fn lay_shard(
        &mut self,
        shard: ShardId,
        kind: FrameKind,
        flags: u8,
        position: LogPosition,
        payload: &Payload,
        payload_crc: u32,
    ) -> Result<u32, LayError> {
        let payload_len = payload.len() as u64;
        // The checkpoint grows by this shard or vote: count it before the frame is there.
        self.mark(shard);
        let grown = if kind == FrameKind::Vote { payload_len } else { 0 };
        if !self.fits(payload_len + grown, kind == FrameKind::Entry) {
            match self.roll() {
                Ok(()) if self.fits(payload_len + grown, kind == FrameKind::Entry) => {}
                Ok(()) => {
                    let shards = self.marks.len();
                    let message = format!(
                        "the checkpoint of {shards} shards leaves no room in a file: raise journal.file_bytes"
                    );
                    return Err(LayError::Io(io::Error::other(message)));
                }
                // The reserve is for what must go on without space.
                Err(RollError::Full) if kind != FrameKind::Entry && self.fits(payload_len + grown, false) => {
                }
                Err(RollError::Full) => return Err(LayError::NoRoom),
                Err(RollError::Io(error)) => return Err(LayError::Io(error)),
            }
        }
        let mark = self.mark(shard);
        mark.sequence += 1;
        let sequence = mark.sequence;
        let at = self.lay_frame(payload, |stamp, generation| Header {
            salt: stamp.salt,
            generation,
            kind,
            flags,
            shard,
            payload_len: u32::try_from(payload_len).expect("bounded by the file"),
            payload_crc,
            synced_to: stamp.synced_to,
            sequence,
            position,
        });
        Ok(u32::try_from(at).expect("files are at most 2 GiB"))
    }

    fn lay_frame(&mut self, payload: &Payload, header: impl FnOnce(Stamp, u32) -> Header) -> u64 {
        let behind = self.shared.behind.lock().synced;
        let generation = self.generation;
        let active = self.active.as_mut().expect("a frame fits only into a file");
        if behind.0 == active.file.number {
            active.synced_behind(behind.1);
        }
        active.lay(payload, |stamp| header(stamp, generation))
    }

    /// Whether a frame leaves room for what the file must end with; entries leave the reserve too.
    fn fits(&self, payload_len: u64, entry: bool) -> bool {
        let reserve = if entry { self.reserve_bytes() } else { 0 };
        self.room()
            .is_some_and(|room| room >= frame_bytes(payload_len) + LISTED_BYTES_MAX + reserve)
    }

    fn room(&self) -> Option<u64> {
        self.active.as_ref()?.room(self.checkpoint_bytes_max)
    }

    /// Kept for votes, truncations, purges and checkpoints while there is no next file.
    fn reserve_bytes(&self) -> u64 {
        let checkpoint = frame_bytes(self.checkpoint_bytes_max);
        (self.shared.settings.file_bytes / 16).min(64 << 10) + checkpoint
    }

    fn publish_room(&self, memory_bytes: usize, disk_bytes: u64) {
        let room = self.room().unwrap_or(0).saturating_sub(self.reserve_bytes());
        self.shared.queue.finish(memory_bytes, disk_bytes, room);
    }

    fn write(&mut self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        until_space(&shared.queue, || self.write_once())
    }

    fn write_once(&mut self) -> io::Result<()> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let bytes = active.write()?;
        self.shared.counters.written_bytes.fetch_add(bytes, Relaxed);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        active.sync()?;
        self.shared.counters.syncs.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Tells every shard where its entries lie and what is durable.
    fn tell_shards(&mut self, placed: &[Placed], done: &[Operation], synced: bool) {
        for group in placed.chunk_by(|one, next| one.shard == next.shard) {
            let state = self.shared.shard(group[0].shard);
            let mut state = state.lock();
            for one in group {
                if state.place(one.index, one.ticket, one.file, one.at) && synced {
                    state.durable = state.durable.max(Some(RaftIndex(one.index)));
                }
                self.evictable.push_back((one.shard, one.index, one.ticket));
            }
        }
        for operation in done {
            let state = || self.shared.shard(operation.shard);
            match operation.action {
                Action::Purge(through) => {
                    let state = state();
                    let mut state = state.lock();
                    state.purged_written = state.purged_written.max(Some(through.index));
                    if synced {
                        state.purged_durable = state.purged_durable.max(Some(through.index));
                    }
                }
                Action::Truncate(_) | Action::Reset => {
                    state().lock().removal_written(operation.ticket, synced);
                }
                Action::Append(_) | Action::Vote(_) => {}
            }
        }
        // From here on the shards themselves say which files they need.
        self.shared.told_before.store(self.newest, Release);
        if done
            .iter()
            .any(|operation| matches!(operation.action, Action::Purge(_)))
        {
            self.shared.poke_keeper();
        }
        if let Some(active) = &self.active {
            self.shared.behind.lock().written = Some((active.file.clone(), active.written()));
        }
    }

    /// Brings the cache back under its budget, oldest entries first.
    fn evict(&mut self) {
        let cache_bytes = &self.shared.counters.cache_bytes;
        while cache_bytes.load(Relaxed) > self.shared.settings.cache_bytes as u64 {
            let Some((shard, index, ticket)) = self.evictable.pop_front() else {
                break;
            };
            let freed = self.shared.shard(shard).lock().evict(index, ticket);
            cache_bytes.fetch_sub(freed as u64, Relaxed);
        }
    }

    /// Tells everything that waits that the journal is poisoned.
    fn fail_all(&mut self, mut operations: Vec<Operation>) -> RoundOutcome {
        let reason = self
            .shared
            .queue
            .poisoned()
            .unwrap_or_else(|| "a write failed".into());
        self.shared.queue.take(usize::MAX, &mut operations);
        fail(&self.shared, operations, &JournalError::Poisoned { reason });
        RoundOutcome::Poisoned
    }
}

/// Tells operations in order that they failed.
fn fail(shared: &Shared, operations: Vec<Operation>, error: &JournalError) {
    for operation in operations {
        shared
            .queue
            .finish(operation.memory_bytes(), operation.disk_bytes(), 0);
        if let Some(done) = operation.done {
            done(Err(error.clone()));
        }
    }
}

/// A writer that goes away leaves nobody waiting.
impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.queue.stop();
        let mut operations = mem::take(&mut self.stalled);
        self.shared.queue.take(usize::MAX, &mut operations);
        fail(&self.shared, operations, &JournalError::Stopped);
    }
}
