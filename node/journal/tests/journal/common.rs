//! A journal on a faulty disk, driven by hand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use meridian_journal::inspect::{Finding, FrameInfo, Problem, Summary, walk};
use meridian_journal::{
    Disk, Done, Entry, FaultyDisk, Journal, JournalError, JournalSettings, Payload, RoundOutcome, Writer,
};
use meridian_types::{LogPosition, RaftIndex, ShardId, Term};

pub(crate) const ONE: ShardId = ShardId(1);
pub(crate) const TWO: ShardId = ShardId(2);

pub(crate) fn at(term: u64, index: u64) -> LogPosition {
    LogPosition {
        term: Term(term),
        index: RaftIndex(index),
    }
}

/// Bytes that differ by shard and index.
pub(crate) fn payload(shard: ShardId, index: u64, len: usize) -> Bytes {
    let seed = u64::from(shard.0) * 1000 + index;
    (0..len)
        .map(|n| (seed * 31 + n as u64).to_le_bytes()[0])
        .collect::<Vec<u8>>()
        .into()
}

pub(crate) fn entry(shard: ShardId, term: u64, index: u64, len: usize) -> Entry {
    Entry {
        position: at(term, index),
        payload: Payload::from(payload(shard, index, len)),
    }
}

pub(crate) fn settings() -> JournalSettings {
    JournalSettings {
        file_bytes: 64 << 10,
        cache_bytes: 0,
        ..JournalSettings::new(9)
    }
}

/// Outcomes in the order they were told, by the name given.
#[derive(Clone, Default)]
pub(crate) struct Told(pub(crate) Arc<Mutex<Vec<Outcome>>>);

type Outcome = (String, Result<(), JournalError>);

impl Told {
    pub(crate) fn done(&self, name: impl Into<String>) -> Done {
        let (told, name) = (self.clone(), name.into());
        Box::new(move |result| told.0.lock().unwrap().push((name, result)))
    }

    pub(crate) fn take(&self) -> Vec<Outcome> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// An open journal.
pub(crate) struct Node {
    pub(crate) disk: FaultyDisk,
    pub(crate) journal: Journal,
    pub(crate) writer: Writer,
    pub(crate) told: Told,
}

impl Node {
    pub(crate) fn open(disk: &FaultyDisk, settings: JournalSettings) -> Self {
        let (journal, writer) = Journal::open(disk.mount(), settings).unwrap();
        Self {
            disk: disk.clone(),
            journal,
            writer,
            told: Told::default(),
        }
    }

    /// Appends entries and waits for them.
    pub(crate) fn append(
        &mut self,
        shard: ShardId,
        term: u64,
        indexes: std::ops::RangeInclusive<u64>,
        len: usize,
    ) {
        for index in indexes {
            self.journal.append(
                shard,
                vec![entry(shard, term, index, len)],
                self.told.done("append"),
            );
            self.round();
        }
        assert!(self.told.take().iter().all(|(_, result)| result.is_ok()));
    }

    pub(crate) fn vote(&mut self, shard: ShardId, vote: &'static [u8]) {
        self.journal
            .save_vote(shard, Bytes::from_static(vote), self.told.done("vote"));
        self.round();
    }

    pub(crate) fn purge(&mut self, shard: ShardId, through: LogPosition) {
        self.journal.purge(shard, through, self.told.done("purge"));
        self.round();
    }

    pub(crate) fn round(&mut self) -> RoundOutcome {
        self.writer.run_round()
    }

    /// Ends in good order.
    pub(crate) fn shutdown(mut self) -> FaultyDisk {
        self.journal.shutdown();
        for _ in 0..100 {
            if self.round() == RoundOutcome::Stopped {
                return self.disk;
            }
        }
        panic!("the writer does not stop");
    }

    pub(crate) fn read(
        &self,
        shard: ShardId,
        index: u64,
        len: usize,
    ) -> Result<Bytes, meridian_journal::ReadError> {
        let parts = self
            .journal
            .read(shard, RaftIndex(index), 0, u32::try_from(len).unwrap())?;
        Ok(parts.concat().into())
    }
}

/// All frames and problems on a disk.
pub(crate) fn look(disk: &dyn Disk) -> (Vec<FrameInfo>, Vec<Problem>, Summary) {
    let (mut frames, mut problems) = (Vec::new(), Vec::new());
    let summary = walk(
        disk,
        &mut |finding| match finding {
            Finding::Frame(frame) => frames.push(frame),
            Finding::Problem(problem) => problems.push(problem),
            Finding::File { .. } => {}
        },
        &mut |_| {},
    )
    .unwrap();
    (frames, problems, summary)
}

/// Files by number, as inspection sees them.
pub(crate) fn files(disk: &dyn Disk) -> BTreeMap<u64, (String, u64, bool)> {
    let mut files = BTreeMap::new();
    let mut each = |finding| {
        if let Finding::File {
            number,
            name,
            bytes,
            sealed,
        } = finding
        {
            files.insert(number, (name, bytes, sealed));
        }
    };
    walk(disk, &mut each, &mut |_| {}).unwrap();
    files
}
