//! One shard's log in memory: where its entries lie, and the recent ones themselves.

use std::collections::VecDeque;

use bytes::Bytes;
use meridian_types::{LogPosition, RaftIndex, Term};

use crate::checkpoint::ShardMark;
use crate::error::Damage;
use crate::payload::{Entry, Payload};

/// What the journal knows about one shard, with everything accepted so far, durable or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardLog {
    /// First entry above `purged`.
    pub first: Option<LogPosition>,
    /// Last entry above `purged`; `None` when the log holds none (then `purged` is where it stands).
    pub last: Option<LogPosition>,
    /// Raft no longer needs entries up to here.
    pub purged: Option<LogPosition>,
    /// The vote saved last.
    pub vote: Option<Bytes>,
    /// Last entry that is synced. May point at or below `purged`.
    pub durable: Option<RaftIndex>,
    /// Set when this node is known to have lost something of this shard.
    pub damaged: Option<Damage>,
}

/// Where an entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) term: Term,
    /// Low 32 bits are enough: files are numbered from 1.
    pub(crate) file: u32,
    /// Position of its frame in the file.
    pub(crate) at: u32,
    pub(crate) payload_len: u32,
}

/// File number of an entry that is not written yet.
pub(crate) const UNWRITTEN: u32 = 0;

struct Run {
    first: u64,
    slots: VecDeque<Slot>,
}

impl Run {
    fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }
}

struct Cached {
    index: u64,
    ticket: u64,
    payload: Payload,
}

/// The mutable part behind a [`ShardLog`].
#[derive(Default)]
pub(crate) struct ShardState {
    /// Runs of consecutive entries, in order; there is more than one only where a snapshot was installed or
    /// entries were lost.
    runs: VecDeque<Run>,
    /// Recent entries, by index; those not written yet are always here.
    cached: VecDeque<Cached>,
    pub(crate) purged: Option<LogPosition>,
    pub(crate) purged_durable: Option<RaftIndex>,
    pub(crate) released: Option<RaftIndex>,
    pub(crate) vote: Option<Bytes>,
    pub(crate) durable: Option<RaftIndex>,
    /// Last entry that is written, synced or not; lowered by truncations, as `durable` is.
    pub(crate) written: Option<RaftIndex>,
    pub(crate) purged_written: Option<RaftIndex>,
    /// What the sync now under way will make durable.
    syncing: Option<RaftIndex>,
    purged_syncing: Option<RaftIndex>,
    removed: Option<Removed>,
    /// The last purge that found another log here than its own.
    skipped: Option<Skipped>,
    /// The last truncation or reset that is written, and the last that the sync now under way will make durable.
    removal_written: u64,
    removal_syncing: u64,
    pub(crate) damaged: Option<Damage>,
    tickets: u64,
}

/// Entries that are gone here, but come back with a power cut until their truncation or reset is durable.
struct Removed {
    oldest_file: u64,
    /// Of the last truncation or reset.
    ticket: u64,
}

/// Entries that a purge forgot, and that come back with a power cut until it is durable.
struct Skipped {
    through: RaftIndex,
    oldest_file: u64,
}

impl ShardState {
    /// An empty log.
    pub(crate) fn new(damaged: Option<Damage>) -> Self {
        Self {
            damaged,
            ..Self::default()
        }
    }

    pub(crate) fn log(&self) -> ShardLog {
        ShardLog {
            first: self.first(),
            last: self.last(),
            purged: self.purged,
            vote: self.vote.clone(),
            durable: self.durable,
            damaged: self.damaged,
        }
    }

    /// First entry that Raft still sees.
    fn first(&self) -> Option<LogPosition> {
        let from = self.purged.map_or(0, |purged| purged.index.0 + 1);
        let run = self.runs.iter().find(|run| run.end() > from)?;
        self.position(run.first.max(from))
    }

    /// The oldest entry that can be read, whether Raft still sees it or not.
    pub(crate) fn first_held(&self) -> Option<RaftIndex> {
        self.runs.front().map(|run| RaftIndex(run.first))
    }

    pub(crate) fn last(&self) -> Option<LogPosition> {
        let last = self.runs.back()?.end() - 1;
        if self.purged.is_some_and(|purged| purged.index.0 >= last) {
            None
        } else {
            self.position(last)
        }
    }

    fn position(&self, index: u64) -> Option<LogPosition> {
        Some(LogPosition {
            term: self.slot(index)?.term,
            index: RaftIndex(index),
        })
    }

    pub(crate) fn slot(&self, index: u64) -> Option<&Slot> {
        let run = self.runs.get(self.run_of(index)?)?;
        run.slots.get(usize::try_from(index - run.first).ok()?)
    }

    /// The run that holds `index`.
    fn run_of(&self, index: u64) -> Option<usize> {
        let after = self.runs.partition_point(|run| run.first <= index);
        (after > 0 && self.runs[after - 1].end() > index).then(|| after - 1)
    }

    pub(crate) fn term_of(&self, index: RaftIndex) -> Option<Term> {
        match self.purged {
            Some(purged) if purged.index == index => Some(purged.term),
            _ => self.slot(index.0).map(|slot| slot.term),
        }
    }

    /// The index the next entry must have; `None` when any will do.
    pub(crate) fn expected(&self) -> Option<RaftIndex> {
        self.last().or(self.purged).map(|position| position.index.next())
    }

    /// Number of the next operation; later ones are higher.
    pub(crate) fn next_ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// Adds an entry after the last.
    pub(crate) fn push_slot(&mut self, index: u64, slot: Slot) {
        match self.runs.back_mut() {
            Some(run) if run.end() == index => run.slots.push_back(slot),
            _ => self.runs.push_back(Run {
                first: index,
                slots: VecDeque::from([slot]),
            }),
        }
    }

    /// Adds an entry that is not written yet.
    pub(crate) fn push_unwritten(&mut self, entry: Entry, ticket: u64) {
        let index = entry.position.index.0;
        let payload_len = u32::try_from(entry.payload.len()).expect("payloads are bounded by the file");
        self.push_slot(
            index,
            Slot {
                term: entry.position.term,
                file: UNWRITTEN,
                at: 0,
                payload_len,
            },
        );
        self.cached.push_back(Cached {
            index,
            ticket,
            payload: entry.payload,
        });
    }

    /// Removes entries above `kept`, but none at or below `purged`. Returns the cache bytes freed.
    pub(crate) fn truncate_after(&mut self, kept: Option<RaftIndex>) -> usize {
        let end = kept
            .into_iter()
            .chain(self.purged.map(|purged| purged.index))
            .max()
            .map_or(0, |kept| kept.0 + 1);
        while let Some(run) = self.runs.back_mut() {
            if run.end() <= end {
                break;
            }
            run.slots
                .truncate(usize::try_from(end.saturating_sub(run.first)).unwrap_or(usize::MAX));
            if run.slots.is_empty() {
                self.runs.pop_back();
            }
        }
        let lower = |index: Option<RaftIndex>| {
            if end == 0 {
                None
            } else {
                index.map(|index| RaftIndex(index.0.min(end - 1)))
            }
        };
        self.durable = lower(self.durable);
        self.written = lower(self.written);
        self.syncing = lower(self.syncing);
        let keep = self.cached.partition_point(|cached| cached.index < end);
        self.cached
            .drain(keep..)
            .map(|cached| cached.payload.cost())
            .sum()
    }

    /// The log begins after `through`. What it holds up to there stays readable, unless it does not hold `through`
    /// itself: it may have left the log that `through` is of anywhere, so that any entry may be one that was never
    /// committed. Then they are forgotten. Returns the cache bytes freed.
    pub(crate) fn purge(&mut self, through: LogPosition) -> usize {
        if self.purged.is_some_and(|purged| purged.index >= through.index) {
            return 0;
        }
        let holds_it = match self.slot(through.index.0) {
            Some(slot) => slot.term == through.term,
            // At a start: its file went after a purge that is still to be replayed.
            None => self.last().is_some_and(|last| last.index > through.index),
        };
        self.purged = Some(through);
        if holds_it {
            return 0;
        }
        if let Some(oldest_file) = self.oldest_needed_file() {
            let through = through.index;
            self.skipped = Some(Skipped { through, oldest_file });
        }
        self.forget_through(through.index.0)
    }

    /// Forgets the entries up to `last`. Returns the cache bytes freed.
    fn forget_through(&mut self, last: u64) -> usize {
        while let Some(run) = self.runs.front_mut() {
            let gone = (last + 1).saturating_sub(run.first).min(run.slots.len() as u64);
            run.first += gone;
            run.slots.drain(..usize::try_from(gone).unwrap_or(usize::MAX));
            if !run.slots.is_empty() {
                break;
            }
            self.runs.pop_front();
        }
        let gone = self.cached.partition_point(|cached| cached.index <= last);
        self.cached
            .drain(..gone)
            .map(|cached| cached.payload.cost())
            .sum()
    }

    /// Forgets everything but the numbering of operations. Returns the cache bytes freed.
    pub(crate) fn reset(&mut self) -> usize {
        let freed = self.cached.iter().map(|cached| cached.payload.cost()).sum();
        *self = Self {
            tickets: self.tickets,
            removed: self.removed.take(),
            removal_written: self.removal_written,
            removal_syncing: self.removal_syncing,
            ..Self::default()
        };
        freed
    }

    /// Before entries are removed: their files stay until the removal is durable.
    pub(crate) fn hold_files(&mut self, ticket: u64) {
        let oldest_file = self.oldest_needed_file();
        self.removed = oldest_file.map(|oldest_file| Removed { oldest_file, ticket });
    }

    /// A truncation or reset is written, and synced too or not.
    pub(crate) fn removal_written(&mut self, ticket: u64, synced: bool) {
        self.removal_written = ticket;
        if synced {
            self.removal_durable(ticket);
        }
    }

    fn removal_durable(&mut self, ticket: u64) {
        self.removed.take_if(|removed| removed.ticket <= ticket);
    }

    /// Notes where an entry was written; false when it is no longer the shard's entry there.
    pub(crate) fn place(&mut self, index: u64, ticket: u64, file: u32, at: u32) -> bool {
        if self.cached_at(index).is_none_or(|cached| cached.ticket != ticket) {
            return false;
        }
        let Some(run) = self.run_of(index) else {
            return false;
        };
        let run = &mut self.runs[run];
        let Ok(offset) = usize::try_from(index - run.first) else {
            return false;
        };
        run.slots[offset].file = file;
        run.slots[offset].at = at;
        self.written = self.written.max(Some(RaftIndex(index)));
        true
    }

    /// Where in `cached` the entry is. Indexes are consecutive but where a snapshot was installed, so the first
    /// guess is nearly always right.
    fn cached_place(&self, index: u64) -> Option<usize> {
        let guess = usize::try_from(index.checked_sub(self.cached.front()?.index)?).ok()?;
        let is_it = |at: &usize| self.cached.get(*at).is_some_and(|cached| cached.index == index);
        Some(guess)
            .filter(is_it)
            .or_else(|| Some(self.cached.partition_point(|cached| cached.index < index)).filter(is_it))
    }

    fn cached_at(&self, index: u64) -> Option<&Cached> {
        self.cached.get(self.cached_place(index)?)
    }

    pub(crate) fn cached(&self, index: u64) -> Option<&Payload> {
        self.cached_at(index).map(|cached| &cached.payload)
    }

    /// Drops a written entry from the cache. Returns the bytes freed.
    pub(crate) fn evict(&mut self, index: u64, ticket: u64) -> usize {
        let place = self
            .cached_place(index)
            .filter(|place| self.cached[*place].ticket == ticket);
        place
            .and_then(|place| self.cached.remove(place))
            .map_or(0, |cached| cached.payload.cost())
    }

    /// The oldest file with an entry that must stay, if any is written.
    pub(crate) fn oldest_needed_file(&self) -> Option<u64> {
        let removed = self.removed.as_ref().map(|removed| removed.oldest_file);
        let skipped = self
            .skipped
            .as_ref()
            .filter(|skipped| self.purged_durable < Some(skipped.through))
            .map(|skipped| skipped.oldest_file);
        self.oldest_live_file()
            .into_iter()
            .chain(removed)
            .chain(skipped)
            .min()
    }

    fn oldest_live_file(&self) -> Option<u64> {
        let from = match (self.purged_durable, self.released) {
            (Some(purged), Some(released)) => purged.min(released).0 + 1,
            _ => 0,
        };
        let run = self.runs.iter().find(|run| run.end() > from)?;
        self.slot(run.first.max(from))
            .map(|slot| u64::from(slot.file))
            .filter(|file| *file != u64::from(UNWRITTEN))
    }

    /// Forgets where entries of a file about to go lay. Those still cached stay readable until they leave by age.
    pub(crate) fn drop_file(&mut self, file: u32) {
        while let Some(run) = self.runs.front_mut() {
            while run.slots.front().is_some_and(|slot| slot.file == file) {
                run.slots.pop_front();
                run.first += 1;
            }
            if !run.slots.is_empty() {
                break;
            }
            self.runs.pop_front();
        }
    }

    /// First live index that is in no file, if one is missing.
    pub(crate) fn first_hole(&self) -> Option<u64> {
        let last = self.last()?.index.0;
        let mut next = match self.purged {
            Some(purged) => purged.index.0 + 1,
            None => self.runs.front()?.first,
        };
        for run in &self.runs {
            if run.first > next {
                return Some(next);
            }
            next = next.max(run.end());
        }
        (next <= last).then_some(next)
    }

    /// Notes what a sync that begins now will cover.
    pub(crate) fn begin_sync(&mut self) {
        self.syncing = self.written;
        self.purged_syncing = self.purged_written;
        self.removal_syncing = self.removal_written;
    }

    /// That sync has ended well.
    pub(crate) fn end_sync(&mut self) {
        self.durable = self.durable.max(self.syncing);
        self.purged_durable = self.purged_durable.max(self.purged_syncing);
        self.removal_durable(self.removal_syncing);
    }

    /// Takes over what recovery found.
    pub(crate) fn adopt(&mut self, mark: &ShardMark) {
        self.vote.clone_from(&mark.vote);
        self.purged = mark.purged;
        self.purged_durable = mark.purged.map(|purged| purged.index);
        self.purged_written = self.purged_durable;
        self.released = mark.released;
        self.damaged = mark.damaged;
        self.durable = self.last().or(self.purged).map(|position| position.index);
        self.written = self.durable;
    }
}
