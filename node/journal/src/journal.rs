//! The handle that every user of the journal holds.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use meridian_types::{LogPosition, RaftIndex, ShardId, Term};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::checkpoint::VOTE_BYTES_MAX;
use crate::disk::Disk;
use crate::error::{Damage, DamageReason, JournalError, OpenError, ReadError};
use crate::file::{FileTable, JournalFile};
use crate::frame::{POSITION_MAX, crc32c_parts, frame_bytes};
use crate::keeper::Next;
use crate::payload::{Entry, Payload};
use crate::queue::{Action, Operation, Queue, Refused};
use crate::read::Wanted;
use crate::recovery::recover;
use crate::settings::JournalSettings;
use crate::shard_log::{ShardLog, ShardState, UNWRITTEN};
use crate::usage::{Counters, Usage};
use crate::writer::Writer;

/// Called once with the outcome of an operation: by the writer's thread after the sync that covers it, for
/// each shard in the order of acceptance (while the disk is full, a purge may overtake); or, when the operation is
/// refused at once, by the calling thread before the call returns. Must not block.
pub type Done = Box<dyn FnOnce(Result<(), JournalError>) + Send>;

/// The journal of a node; cheap to clone.
///
/// Operations of one shard reach the disk in the order of the calls. What an accepted operation changes is
/// seen by [`log`](Self::log), [`entries`](Self::entries) and the rest at once, before it is durable. A
/// refused operation changes nothing.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

/// Room that a journal keeps for entries which are about to be appended; see [`Journal::reserve`].
pub struct Reservation {
    shared: Arc<Shared>,
    disk_bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.queue.release(self.disk_bytes);
    }
}

pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) settings: JournalSettings,
    pub(crate) journal_id: u64,
    pub(crate) files: FileTable,
    shards: RwLock<BTreeMap<ShardId, Arc<Mutex<ShardState>>>>,
    /// Damage that concerns shards which nothing is known of.
    damaged: Option<Damage>,
    pub(crate) queue: Queue,
    pub(crate) next: Next,
    /// Every entry in files before this one is known to its shard; in later ones the round under way may have
    /// laid some that are not.
    pub(crate) told_before: AtomicU64,
    pub(crate) behind: Mutex<Behind>,
    pub(crate) keeper_poked: (Mutex<bool>, Condvar),
    pub(crate) counters: Counters,
}

/// How far the disk is behind the page cache.
#[derive(Default)]
pub(crate) struct Behind {
    /// The file being written and the end of what is written.
    pub(crate) written: Option<(Arc<JournalFile>, u64)>,
    /// Number of a file, and the place in it up to where all is synced.
    pub(crate) synced: (u64, u64),
}

impl Journal {
    /// Opens the journal in a directory and recovers what is there; an empty directory becomes a new
    /// journal. Give the [`Writer`] a thread of its own, or run its rounds inline.
    pub fn open(disk: Arc<dyn Disk>, settings: JournalSettings) -> Result<(Self, Writer), OpenError> {
        settings.check()?;
        let recovered = recover(&*disk, &settings)?;
        let shards = recovered
            .logs
            .into_iter()
            .map(|(shard, log)| (shard, Arc::new(Mutex::new(log))))
            .collect();
        let shared = Arc::new(Shared {
            disk,
            journal_id: recovered.journal_id,
            files: recovered.files,
            shards: RwLock::new(shards),
            damaged: recovered.damaged,
            queue: Queue::new(settings.queue_bytes_max),
            settings,
            next: Next::default(),
            told_before: AtomicU64::new(0),
            behind: Mutex::default(),
            keeper_poked: (Mutex::new(false), Condvar::new()),
            counters: Counters::default(),
        });
        let writer = Writer::start(
            shared.clone(),
            recovered.marks,
            recovered.active,
            recovered.newest,
            recovered.generation,
        )?;
        Ok((Self { shared }, writer))
    }

    /// Appends entries to a shard's log: consecutive indexes, continuing the log (or what was purged; an empty
    /// log begins anywhere). An empty list is done when all before it is.
    ///
    /// Errors (through `done`): `OutOfOrder`, `TooHigh`, `TooLarge`, `Busy`, `Full` with nothing changed; `Poisoned`,
    /// `Stopped` possibly after it was accepted.
    pub fn append(&self, shard: ShardId, entries: Vec<Entry>, done: Done) {
        let bytes_max = self.payload_bytes_max();
        if let Some(large) = entries.iter().find(|entry| entry.payload.len() > bytes_max) {
            return done(Err(JournalError::TooLarge {
                bytes: large.payload.len(),
                bytes_max,
            }));
        }
        let entries: Vec<(Entry, u32)> = entries
            .into_iter()
            .map(|entry| {
                let crc = crc32c_parts(entry.payload.parts().iter().map(|part| &part[..]));
                (entry, crc)
            })
            .collect();
        let state = self.shared.shard(shard);
        let mut state = state.lock();
        let mut expected = state.expected();
        for (entry, _) in &entries {
            let given = entry.position.index;
            if let Err(error) = check_position(entry.position) {
                drop(state);
                return done(Err(error));
            }
            if let Some(expected) = expected.filter(|expected| *expected != given) {
                drop(state);
                return done(Err(JournalError::OutOfOrder { expected, given }));
            }
            expected = Some(given.next());
        }
        let ticket = state.next_ticket();
        let slots: Vec<Entry> = entries.iter().map(|(entry, _)| entry.clone()).collect();
        let refused = self.push(shard, ticket, Action::Append(entries), done, || {
            let cost: usize = slots.iter().map(|entry| entry.payload.cost()).sum();
            self.shared.counters.cache_bytes.fetch_add(cost as u64, Relaxed);
            slots
                .into_iter()
                .for_each(|entry| state.push_unwritten(entry, ticket));
        });
        drop(state);
        refuse(refused);
    }

    /// Whether entries of these sizes in bytes would be accepted now. Ask before proposing: Raft takes a refused
    /// append for a broken disk.
    ///
    /// Errors: `Busy` and `Full` (retriable), `Poisoned`, `Stopped`.
    pub fn admit(&self, payload_bytes: usize, entries: usize) -> Result<(), JournalError> {
        let disk_bytes = disk_bytes(payload_bytes, entries);
        self.shared.queue.admit(payload_bytes, disk_bytes)
    }

    /// As [`Self::admit`], for entries that are about to be appended and were promised room: reservations, of which one
    /// may be their own, are not counted against them.
    ///
    /// Errors: `Busy` and `Full` (retriable), `Poisoned`, `Stopped`.
    pub fn admit_promised(&self, payload_bytes: usize, entries: usize) -> Result<(), JournalError> {
        let disk_bytes = disk_bytes(payload_bytes, entries);
        self.shared.queue.admit_promised(payload_bytes, disk_bytes)
    }

    /// As [`Self::admit`], and while the disk is full nobody else is promised the room that these entries will take, until
    /// the reservation is dropped. Hold it until they are appended.
    ///
    /// Errors: `Busy` and `Full` (retriable), `Poisoned`, `Stopped`.
    pub fn reserve(&self, payload_bytes: usize, entries: usize) -> Result<Reservation, JournalError> {
        let disk_bytes = disk_bytes(payload_bytes, entries);
        self.shared.queue.reserve(payload_bytes, disk_bytes)?;
        Ok(Reservation {
            shared: Arc::clone(&self.shared),
            disk_bytes,
        })
    }

    /// As [`Self::admit`], for what takes room and makes none, such as records of producers: while there is no room for
    /// another file, the last quarter of the one being written is left for entries that make some.
    pub fn admit_records(&self, payload_bytes: usize, entries: usize) -> Result<(), JournalError> {
        let left = self.shared.settings.file_bytes / 4;
        let disk_bytes = disk_bytes(payload_bytes, entries) + left;
        self.shared.queue.admit(payload_bytes, disk_bytes)
    }

    /// The longest payload that can be journalled, in bytes: it must fit one file.
    pub fn payload_bytes_max(&self) -> usize {
        // A quarter of a file is far more than checkpoint, footer and reserve take.
        usize::try_from(self.shared.settings.file_bytes / 4 * 3).expect("files are at most 2 GiB")
    }

    /// Saves a shard's vote (opaque, at most 4096 bytes). Accepted even when there is no room for entries.
    pub fn save_vote(&self, shard: ShardId, vote: Bytes, done: Done) {
        if vote.len() > VOTE_BYTES_MAX {
            return done(Err(JournalError::TooLarge {
                bytes: vote.len(),
                bytes_max: VOTE_BYTES_MAX,
            }));
        }
        let state = self.shared.shard(shard);
        let mut state = state.lock();
        let ticket = state.next_ticket();
        let refused = self.push(shard, ticket, Action::Vote(vote.clone()), done, || {
            state.vote = Some(vote);
        });
        drop(state);
        refuse(refused);
    }

    /// Removes the entries above `last_kept`, all with `None`; never those that were purged.
    pub fn truncate_after(&self, shard: ShardId, last_kept: Option<RaftIndex>, done: Done) {
        let state = self.shared.shard(shard);
        let mut state = state.lock();
        let kept = last_kept.filter(|kept| state.purged.is_none_or(|purged| purged.index < *kept));
        let last = match (kept, state.last()) {
            (Some(kept), Some(last)) if kept >= last.index => Some(last),
            (Some(kept), Some(_)) => state.term_of(kept).map(|term| LogPosition { term, index: kept }),
            _ => None,
        };
        let ticket = state.next_ticket();
        let refused = self.push(shard, ticket, Action::Truncate(last), done, || {
            state.hold_files(ticket);
            let freed = state.truncate_after(last.map(|last| last.index));
            self.shared.counters.cache_bytes.fetch_sub(freed as u64, Relaxed);
        });
        drop(state);
        refuse(refused);
    }

    /// Raft needs nothing up to `through` any more: the log begins after it, and if it ended before, continues
    /// after it. The bytes stay readable until they are released and their file goes; but where the log does not hold
    /// `through` itself, because a checkpoint took its place, nothing that it holds up to there is known to have been
    /// committed, and all of it is forgotten.
    pub fn purge(&self, shard: ShardId, through: LogPosition, done: Done) {
        if let Err(error) = check_position(through) {
            return done(Err(error));
        }
        let state = self.shared.shard(shard);
        let mut state = state.lock();
        let ticket = state.next_ticket();
        let refused = self.push(shard, ticket, Action::Purge(through), done, || {
            let freed = state.purge(through);
            self.shared.counters.cache_bytes.fetch_sub(freed as u64, Relaxed);
        });
        drop(state);
        refuse(refused);
    }

    /// Forgets a shard's entries, vote and damage, to begin again with what peers send.
    ///
    /// For a damaged shard only after this node gave up its vote: it must not vote as who it was.
    pub fn reset(&self, shard: ShardId, done: Done) {
        let state = self.shared.shard(shard);
        let mut state = state.lock();
        let ticket = state.next_ticket();
        let refused = self.push(shard, ticket, Action::Reset, done, || {
            state.hold_files(ticket);
            let freed = state.reset();
            self.shared.counters.cache_bytes.fetch_sub(freed as u64, Relaxed);
        });
        drop(state);
        refuse(refused);
    }

    /// Record data of a shard up to `through` may be deleted with its file, once it is purged too. Not durable
    /// by itself: say it again after a restart.
    pub fn release(&self, shard: ShardId, through: RaftIndex) {
        let state = self.shared.shard(shard);
        let mut state = state.lock();
        state.released = state.released.max(Some(RaftIndex(through.0.min(POSITION_MAX))));
        drop(state);
        self.shared.poke_keeper();
    }

    /// What is known about a shard; a shard never heard of has an empty log.
    pub fn log(&self, shard: ShardId) -> ShardLog {
        match self.shared.known_shard(shard) {
            Some(state) => state.lock().log(),
            None => ShardLog {
                damaged: self.shared.damaged,
                ..ShardLog::default()
            },
        }
    }

    /// Term of an entry, or of the last one purged.
    pub fn term_of(&self, shard: ShardId, index: RaftIndex) -> Option<Term> {
        self.shared.known_shard(shard)?.lock().term_of(index)
    }

    /// Entries of `range`, from memory where they are there, else from disk (then this blocks). Ends early
    /// after about `bytes_max` bytes of payload or at a later entry that cannot be read, but returns at least
    /// one entry; an empty range gives none.
    ///
    /// Errors: those of the first entry.
    pub fn entries(
        &self,
        shard: ShardId,
        range: Range<RaftIndex>,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, ReadError> {
        let missing = |index| ReadError::Missing {
            shard,
            index: RaftIndex(index),
        };
        if range.start >= range.end {
            return Ok(Vec::new());
        }
        let state = self.shared.known_shard(shard).ok_or(missing(range.start.0))?;
        let mut found: Vec<(LogPosition, Option<Payload>)> = Vec::new();
        let mut wanted: Vec<Wanted> = Vec::new();
        {
            let state = state.lock();
            let mut bytes = 0;
            for index in range.start.0..range.end.0 {
                let Some(slot) = state.slot(index).copied() else {
                    break;
                };
                if bytes > 0 && bytes + slot.payload_len as usize > bytes_max {
                    break;
                }
                bytes += (slot.payload_len as usize).max(1);
                let cached = state.cached(index).cloned();
                if cached.is_none() {
                    wanted.push(Wanted { index, slot });
                }
                found.push((
                    LogPosition {
                        term: slot.term,
                        index: RaftIndex(index),
                    },
                    cached,
                ));
            }
        }
        if found.is_empty() {
            return Err(missing(range.start.0));
        }
        let (payloads, error) = self.shared.read_wanted(shard, &wanted);
        let mut payloads = payloads.into_iter();
        let mut entries = Vec::with_capacity(found.len());
        for (position, cached) in found {
            let Some(payload) = cached.or_else(|| payloads.next().map(Payload::from)) else {
                break;
            };
            entries.push(Entry { position, payload });
        }
        match error {
            Some(error) if entries.is_empty() => Err(error),
            _ => Ok(entries),
        }
    }

    /// Bytes `at..at + len` of an entry's payload if they are in memory; never touches the disk.
    /// Clipped at the payload's end.
    pub fn read_cached(&self, shard: ShardId, index: RaftIndex, at: u32, len: u32) -> Option<Vec<Bytes>> {
        let state = self.shared.known_shard(shard)?;
        let state = state.lock();
        state.cached(index.0).map(|payload| payload.slice(at, len))
    }

    /// Bytes `at..at + len` of an entry's payload. May block on the disk.
    ///
    /// From disk, the frame's header is always checked (it is this entry, this term). A whole payload, and
    /// any part of a payload up to 64 KiB, is checked against its CRC32C. A part of a longer payload is not:
    /// callers have the record batches' own CRCs.
    pub fn read(&self, shard: ShardId, index: RaftIndex, at: u32, len: u32) -> Result<Vec<Bytes>, ReadError> {
        let missing = ReadError::Missing { shard, index };
        let state = self.shared.known_shard(shard).ok_or(missing.clone())?;
        let slot = {
            let state = state.lock();
            if let Some(payload) = state.cached(index.0) {
                let end = u64::from(at) + u64::from(len);
                if end > payload.len() as u64 {
                    let (at, len) = (u64::from(at), payload.len() as u64);
                    return Err(ReadError::OutOfBounds {
                        shard,
                        index,
                        at,
                        end,
                        len,
                    });
                }
                return Ok(payload.slice(at, len));
            }
            state
                .slot(index.0)
                .copied()
                .filter(|slot| slot.file != UNWRITTEN)
                .ok_or(missing)?
        };
        let part = self
            .shared
            .read_part(shard, Wanted { index: index.0, slot }, at, len)?;
        Ok(if part.is_empty() { Vec::new() } else { vec![part] })
    }

    /// The oldest entry of a shard that can still be read: files with older ones are gone. `None` when there is none.
    pub fn first_held(&self, shard: ShardId) -> Option<RaftIndex> {
        self.shared.known_shard(shard)?.lock().first_held()
    }

    /// Last entry of a shard that is synced.
    pub fn durable(&self, shard: ShardId) -> Option<RaftIndex> {
        self.shared.known_shard(shard)?.lock().durable
    }

    /// All shards the journal knows of, in order.
    pub fn shards(&self) -> Vec<ShardId> {
        self.shared.shards.read().keys().copied().collect()
    }

    /// What the journal uses and does.
    pub fn usage(&self) -> Usage {
        self.shared.usage()
    }

    /// Refuses new operations; the writer makes durable what waits and ends.
    pub fn shutdown(&self) {
        self.shared.queue.stop();
    }

    /// Queues an operation and runs `accepted`, or gives `done` back. The caller holds the shard's lock, so the
    /// writer cannot finish the operation before.
    fn push(
        &self,
        shard: ShardId,
        ticket: u64,
        action: Action,
        done: Done,
        accepted: impl FnOnce(),
    ) -> Result<(), Refused> {
        self.shared.queue.push(Operation {
            shard,
            ticket,
            action,
            placed: 0,
            done: Some(done),
        })?;
        accepted();
        Ok(())
    }
}

/// What entries of so many bytes of payload take in a file.
fn disk_bytes(payload_bytes: usize, entries: usize) -> u64 {
    payload_bytes as u64 + entries as u64 * (frame_bytes(8) + crate::directory::LISTED_BYTES_MAX)
}

fn check_position(given: LogPosition) -> Result<(), JournalError> {
    let sound = given.term.0 <= POSITION_MAX && given.index.0 <= POSITION_MAX;
    if sound {
        Ok(())
    } else {
        Err(JournalError::TooHigh { given })
    }
}

/// Tells the caller, when the shard's lock is free again: `done` may look at the journal.
fn refuse(refused: Result<(), Refused>) {
    if let Err((error, Some(done))) = refused {
        done(Err(error));
    }
}

impl Shared {
    pub(crate) fn known_shard(&self, shard: ShardId) -> Option<Arc<Mutex<ShardState>>> {
        self.shards.read().get(&shard).cloned()
    }

    pub(crate) fn shard(&self, shard: ShardId) -> Arc<Mutex<ShardState>> {
        if let Some(state) = self.known_shard(shard) {
            return state;
        }
        let mut shards = self.shards.write();
        let new = || Arc::new(Mutex::new(ShardState::new(self.damaged)));
        shards.entry(shard).or_insert_with(new).clone()
    }

    pub(crate) fn all_shards(&self) -> Vec<(ShardId, Arc<Mutex<ShardState>>)> {
        self.shards
            .read()
            .iter()
            .map(|(shard, state)| (*shard, state.clone()))
            .collect()
    }

    /// Shards that need something of this file or an older one.
    pub(crate) fn pinning(&self, file: u64) -> Vec<ShardId> {
        let needs = |state: &Mutex<ShardState>| {
            state
                .lock()
                .oldest_needed_file()
                .is_some_and(|needed| needed <= file)
        };
        self.all_shards()
            .into_iter()
            .filter(|(_, state)| needs(state))
            .map(|(shard, _)| shard)
            .collect()
    }

    pub(crate) fn note_damage(&self, shard: ShardId, file: u64, position: u64) {
        let damage = Damage {
            file,
            position,
            reason: DamageReason::Payload,
        };
        self.shard(shard).lock().damaged.get_or_insert(damage);
    }

    pub(crate) fn poke_keeper(&self) {
        *self.keeper_poked.0.lock() = true;
        self.keeper_poked.1.notify_one();
    }

    /// Before a sync behind the writer: what it will cover.
    pub(crate) fn begin_sync(&self) {
        for (_, state) in self.all_shards() {
            state.lock().begin_sync();
        }
    }

    /// After it.
    pub(crate) fn end_sync(&self) {
        for (_, state) in self.all_shards() {
            state.lock().end_sync();
        }
    }

    fn usage(&self) -> Usage {
        let counters = &self.counters;
        let oldest_file = self.files.oldest().unwrap_or(0);
        let needed = |(shard, state): (ShardId, Arc<Mutex<ShardState>>)| {
            Some((shard, state.lock().oldest_needed_file()?))
        };
        let oldest_file_by_shard: Vec<_> = self.all_shards().into_iter().filter_map(needed).collect();
        Usage {
            disk_bytes: self.files.disk_bytes() + self.next.bytes(),
            free_bytes: self.disk.free_bytes().ok(),
            files: self.files.len(),
            oldest_file,
            active_file: self.files.newest().unwrap_or(0),
            oldest_file_pinned_by: oldest_file_by_shard
                .iter()
                .filter(|(_, needed)| *needed <= oldest_file)
                .map(|(shard, _)| *shard)
                .collect(),
            oldest_file_by_shard,
            full: self.queue.full().map(|reason| reason.to_string()),
            poisoned: self.queue.poisoned().map(|reason| reason.to_string()),
            cache_bytes: usize::try_from(counters.cache_bytes.load(Relaxed)).unwrap_or(usize::MAX),
            queued_bytes: self.queue.memory_bytes(),
            rounds: counters.rounds.load(Relaxed),
            operations: counters.operations.load(Relaxed),
            syncs: counters.syncs.load(Relaxed),
            written_bytes: counters.written_bytes.load(Relaxed),
            round_us: counters.round_us.load(Relaxed),
            round_us_max: counters.round_us_max.load(Relaxed),
            rounds_by_us_log2: counters
                .rounds_by_us_log2
                .iter()
                .map(|count| count.load(Relaxed))
                .collect(),
            disk_reads: counters.disk_reads.load(Relaxed),
            files_retired: counters.files_retired.load(Relaxed),
        }
    }
}
