//! Batches for this crate's tests: real headers, and records that nobody looks into.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_tiered_storage::manifest::{NewExtent, NewObject, ObjectName};
use meridian_types::{
    LeaderEpoch, LogPosition, Offset, Partition, RaftIndex, Term, TimestampMs, TopicId, Uuid,
};
use meridian_wire::batch::{BatchHeader, stamp};

use crate::{AppendGroup, Chunk, Command, State};

/// A batch to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchSpec {
    pub(crate) records: u32,
    pub(crate) max_timestamp: i64,
    /// Id, epoch and first sequence.
    pub(crate) producer: Option<(u64, i16, i32)>,
    pub(crate) crc: u32,
    pub(crate) body_bytes: usize,
}

impl Default for BatchSpec {
    fn default() -> Self {
        Self {
            records: 1,
            max_timestamp: 1_000,
            producer: None,
            crc: 7,
            body_bytes: 10,
        }
    }
}

impl BatchSpec {
    pub(crate) fn records(records: u32) -> Self {
        Self {
            records,
            ..Self::default()
        }
    }

    /// As a producer sends it: base offset 0, leader epoch -1.
    pub(crate) fn unstamped(self) -> Vec<u8> {
        let (producer, epoch, sequence) = self.producer.map_or((-1, -1, -1), |(id, e, s)| (id as i64, e, s));
        let last_delta = self.records as i32 - 1;
        let mut out = Vec::new();
        out.extend_from_slice(&0_i64.to_be_bytes());
        out.extend_from_slice(&(49 + self.body_bytes as i32).to_be_bytes());
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        out.push(2);
        out.extend_from_slice(&self.crc.to_be_bytes());
        out.extend_from_slice(&0_i16.to_be_bytes());
        out.extend_from_slice(&last_delta.to_be_bytes());
        out.extend_from_slice(&self.max_timestamp.to_be_bytes());
        out.extend_from_slice(&self.max_timestamp.to_be_bytes());
        out.extend_from_slice(&producer.to_be_bytes());
        out.extend_from_slice(&epoch.to_be_bytes());
        out.extend_from_slice(&sequence.to_be_bytes());
        out.extend_from_slice(&(self.records as i32).to_be_bytes());
        assert_eq!(out.len(), 61);
        out.resize(61 + self.body_bytes, 0xaa);
        out
    }

    /// As it lies in the log.
    pub(crate) fn stamped(self, base_offset: u64, epoch: u32) -> Bytes {
        let mut batch = self.unstamped();
        stamp(&mut batch, Offset(base_offset), LeaderEpoch(epoch)).unwrap();
        batch.into()
    }

    pub(crate) fn header(self) -> BatchHeader {
        BatchHeader::parse(&self.unstamped()).unwrap()
    }
}

pub(crate) fn topic(n: u128) -> TopicId {
    TopicId(Uuid::from_u128(n))
}

pub(crate) fn partition(n: u128, index: u32) -> Partition {
    Partition {
        topic: topic(n),
        index,
    }
}

pub(crate) fn at(index: u64) -> LogPosition {
    LogPosition {
        term: Term(3),
        index: RaftIndex(index),
    }
}

pub(crate) fn group(partition: Partition, batches: impl IntoIterator<Item = Bytes>) -> AppendGroup {
    AppendGroup {
        partition,
        batches: batches.into_iter().collect(),
    }
}

/// What a leader proposes when it has uploaded everything up to `through` as object number `n`: one extent for each
/// partition.
pub(crate) fn bundle(state: &State, through: RaftIndex, n: u128) -> Command {
    let mut chunks: BTreeMap<Partition, Vec<Chunk>> = BTreeMap::new();
    for (partition, held, start) in state.untiered() {
        let taken = held.chunks_from(start).take_while(|chunk| chunk.index <= through);
        chunks.insert(partition, taken.collect());
    }
    chunks.retain(|_, chunks| !chunks.is_empty());
    let extents: Vec<_> = (0..)
        .zip(&chunks)
        .map(|(frame, (partition, chunks))| (*partition, extent_of(frame, chunks)))
        .collect();
    let stored_bytes: u64 = extents.iter().map(|(_, extent)| extent.stored_bytes).sum();
    let footer_at = 8 + stored_bytes;
    Command::Tiered {
        sequence: state.manifest().sequence(),
        through,
        object: NewObject {
            name: ObjectName {
                term: Term(3),
                id: Uuid::from_u128(n),
            },
            bytes: footer_at + 1000,
            footer_at,
            footer_crc: 9,
        },
        extents,
        now: TimestampMs(1_700_000_100_000),
    }
}

fn extent_of(frame: u32, chunks: &[Chunk]) -> NewExtent {
    let (first, last) = (chunks[0], chunks[chunks.len() - 1]);
    let bytes = chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum();
    NewExtent {
        base_offset: first.base_offset,
        end_offset: last.end_offset(),
        frame,
        raw_bytes: bytes,
        stored_bytes: bytes,
        max_timestamp: chunks.iter().map(|chunk| chunk.max_timestamp).max().unwrap(),
        records: last.end_offset().0 - first.base_offset.0,
    }
}

/// A stored file of the format. With `BLESS=1` in the environment it is written anew, for a review of the diff.
pub(crate) fn assert_fixture(name: &str, bytes: &[u8]) {
    let path = format!("{}/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    let stored = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert!(
        stored == bytes,
        "{name}: the format differs from what is stored; bump its version instead"
    );
}
