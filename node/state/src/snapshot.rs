//! The whole state as bytes, and back. Format: `docs/formats/snapshot.md`.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};
use meridian_lineage::{Staging, Standing};
use meridian_tiered_storage::manifest::{Manifest, ManifestError};
use meridian_types::{
    LeaderEpoch, LogPosition, Offset, Partition, ProducerId, RaftIndex, ShardId, Term, TimestampMs, TopicId,
};
use thiserror::Error;

use crate::chunk::{Chunk, ChunkIndex};
use crate::codec::{
    Fault, bounded, get_bytes, get_count, get_partition, get_signed_varint, get_str, get_topic, get_varint,
    put_bytes, put_count, put_i64, put_partition, put_signed_varint, put_u32, put_u64, put_varint,
};
use crate::command::{get_committed, put_committed};
use crate::epochs::EpochMap;
use crate::groups::{Group, SavedGroup};
use crate::install::Staged;
use crate::partition::PartitionState;
use crate::producers::{BATCHES_REMEMBERED, ProducedBatch, Producer, Producers};
use crate::state::State;

/// The newest version that [`State::encode_snapshot`] writes. Each shard is written in the oldest that has room for what
/// it knows: nodes of a version before may be in the region, and all must write the same bytes
/// (`docs/decisions/0009-feature-level.md`).
pub const SNAPSHOT_VERSION: u8 = 4;

/// The version without a tier.
const VERSION_UNTIERED: u8 = 1;
/// The version for a shard that is in the bucket, and counts nothing.
const VERSION_TIERED: u8 = 2;
/// The version for a shard that counts its content, with or without a tier.
const VERSION_COUNTED: u8 = 3;
/// The version for a shard that takes a checkpoint of its owner in, counted or not yet.
const VERSION_STAGED: u8 = 4;

const MAGIC: [u8; 4] = *b"MDSS";
/// Sections are closed once they are this long, so that nothing needs one huge buffer.
const SECTION_BYTES: usize = 1 << 20;
/// Kind, length and checksum.
const SECTION_HEAD_BYTES: usize = 1 + 8 + 4;

mod section {
    pub(super) const HEAD: u8 = 1;
    pub(super) const PARTITIONS: u8 = 2;
    pub(super) const GROUPS: u8 = 3;
    pub(super) const DROPPED: u8 = 4;
    pub(super) const TIER: u8 = 5;
    pub(super) const STANDING: u8 = 6;
    pub(super) const STAGED: u8 = 7;
    pub(super) const STAGED_BODY: u8 = 8;
    pub(super) const FILLED: u8 = 9;
    pub(super) const END: u8 = 0xff;
}

/// Bytes that are not a snapshot this version can read. Take another snapshot, or replay the log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// The bytes do not start like a snapshot.
    #[error("not a snapshot of a shard's state: it does not start with \"MDSS\"")]
    Magic,
    /// Written by a newer version of Meridian. Run that version on this node.
    #[error("snapshot has format version {version}; this version of Meridian reads up to {SNAPSHOT_VERSION}")]
    Version {
        /// The version found.
        version: u8,
    },
    /// A checksum does not match: the snapshot was damaged at rest or on its way.
    #[error("snapshot is corrupt: section {section} at byte {at} has a wrong checksum")]
    Checksum {
        /// Kind of the section.
        section: u8,
        /// Where it starts.
        at: usize,
    },
    /// The bytes end too early.
    #[error("snapshot is cut short")]
    Truncated,
    /// The manifest in it is not one. Take another snapshot, or replay the log.
    #[error("snapshot holds a bad manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// What it says cannot be.
    #[error("snapshot is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: String,
    },
}

impl From<Fault> for SnapshotError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Short => Self::Truncated,
            Fault::Invalid(what) => malformed(what),
        }
    }
}

impl From<bytes::TryGetError> for SnapshotError {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Truncated
    }
}

fn malformed(what: impl Into<String>) -> SnapshotError {
    SnapshotError::Malformed { what: what.into() }
}

impl State {
    /// The whole state, as parts to be joined. Equal states give equal bytes.
    pub fn encode_snapshot(&self) -> Vec<Bytes> {
        let version = match (self.standing.is_counted(), self.is_tiered()) {
            _ if self.staged.is_some() => VERSION_STAGED,
            (true, _) => VERSION_COUNTED,
            (false, true) => VERSION_TIERED,
            (false, false) => VERSION_UNTIERED,
        };
        let mut sections = Sections::new(version);
        let head = sections.open(section::HEAD);
        put_u32(head, self.shard.0);
        put_u64(head, self.applied.term.0);
        put_u64(head, self.applied.index.0);
        // The hash order differs between replicas that came by their partitions in different orders.
        let mut topics: Vec<_> = self.topics.iter().collect();
        topics.sort_unstable_by_key(|(topic, _)| **topic);
        for (topic, partitions) in topics {
            for (index, state) in partitions {
                let out = sections.open(section::PARTITIONS);
                put_partition(
                    out,
                    Partition {
                        topic: *topic,
                        index: *index,
                    },
                );
                put_partition_state(out, state);
            }
        }
        for (name, group) in self.groups() {
            put_group(sections.open(section::GROUPS), name, group);
        }
        for (topic, dropped_at) in &self.dropped {
            let out = sections.open(section::DROPPED);
            out.extend_from_slice(topic.0.as_bytes());
            put_i64(out, dropped_at.0);
        }
        if self.is_tiered() {
            let out = sections.open(section::TIER);
            put_i64(out, self.tier.clock.0);
            self.tier.manifest.encode(out);
        }
        if self.standing.is_counted() {
            self.standing.encode(sections.open(section::STANDING));
        }
        if let Some(staged) = &self.staged {
            let out = sections.open(section::STAGED);
            put_u64(out, staged.staging.checkpoint());
            put_u64(out, staged.staging.total_bytes());
            for part in staged.staging.body().chunks(SECTION_BYTES) {
                sections.open(section::STAGED_BODY).extend_from_slice(part);
            }
            for (partition, chunks) in &staged.filled {
                let out = sections.open(section::FILLED);
                put_partition(out, *partition);
                put_chunks(out, chunks);
            }
        }
        sections.finish()
    }

    /// Reads a snapshot. Trusts nothing; what it returns satisfies [`State::check`].
    pub fn decode_snapshot(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut from = bytes.strip_prefix(&MAGIC).ok_or(SnapshotError::Magic)?;
        let version = from.try_get_u8()?;
        if !(VERSION_UNTIERED..=SNAPSHOT_VERSION).contains(&version) {
            return Err(SnapshotError::Version { version });
        }
        let mut state: Option<Self> = None;
        let mut staged = None;
        loop {
            let (kind, mut body) = next_section(&mut from, bytes.len())?;
            let body = &mut body;
            match (kind, &mut state) {
                (section::HEAD, None) => state = Some(get_head(body)?),
                (section::PARTITIONS, Some(state)) => get_partitions(body, state)?,
                (section::GROUPS, Some(state)) => get_groups(body, state)?,
                (section::DROPPED, Some(state)) => {
                    while !body.is_empty() {
                        state
                            .dropped
                            .insert(get_topic(body)?, TimestampMs(body.try_get_i64_le()?));
                    }
                }
                (section::TIER, Some(state)) if version > VERSION_UNTIERED && !state.is_tiered() => {
                    state.tier.clock = TimestampMs(body.try_get_i64_le()?);
                    state.tier.manifest = Manifest::decode(std::mem::take(body))?;
                    if !state.is_tiered() {
                        return Err(malformed("its manifest never had a change"));
                    }
                }
                (section::STANDING, Some(state))
                    if version >= VERSION_COUNTED && !state.standing.is_counted() =>
                {
                    state.standing = Standing::decode(body).map_err(Fault::from)?;
                }
                (section::STAGED..=section::FILLED, Some(_)) if version >= VERSION_STAGED => {
                    get_staged(kind, body, &mut staged)?;
                }
                (section::END, Some(_)) => break,
                _ => return Err(malformed(format!("section {kind} is unknown or out of place"))),
            }
            if !body.is_empty() {
                return Err(malformed(format!("section {kind} has bytes behind its end")));
            }
        }
        if !from.is_empty() {
            return Err(malformed("bytes are left behind its end"));
        }
        let mut state = state.ok_or_else(|| malformed("it has no head"))?;
        state.staged = staged.map(StagedParts::join).transpose()?;
        if version == VERSION_TIERED && !state.is_tiered() {
            return Err(malformed("it has no manifest"));
        }
        if version == VERSION_STAGED && state.staged.is_none() {
            return Err(malformed("it has no staged checkpoint"));
        }
        if version == VERSION_COUNTED && !state.standing.is_counted() {
            return Err(malformed(
                "it does not say where the shard stands among the regions",
            ));
        }
        state.check().map_err(malformed)?;
        Ok(state)
    }

    /// CRC-64 of the snapshot: equal for equal histories, on every replica (invariant 4).
    pub fn digest(&self) -> u64 {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        self.encode_snapshot().iter().for_each(|part| digest.update(part));
        digest.finalize()
    }
}

/// Collects sections into parts.
struct Sections {
    parts: Vec<Bytes>,
    kind: u8,
    body: Vec<u8>,
}

impl Sections {
    fn new(version: u8) -> Self {
        let mut magic = MAGIC.to_vec();
        magic.push(version);
        Self {
            parts: vec![magic.into()],
            kind: 0,
            body: Vec::new(),
        }
    }

    /// The section to write the next item to: of `kind`, and not over-long yet.
    fn open(&mut self, kind: u8) -> &mut Vec<u8> {
        if kind != self.kind || self.body.len() >= SECTION_BYTES {
            self.close();
            self.kind = kind;
        }
        &mut self.body
    }

    fn close(&mut self) {
        if self.body.is_empty() {
            return;
        }
        self.parts.push(section_head(self.kind, &self.body));
        self.parts.push(std::mem::take(&mut self.body).into());
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.close();
        self.parts.push(section_head(section::END, &[]));
        self.parts
    }
}

fn section_head(kind: u8, body: &[u8]) -> Bytes {
    let mut head = Vec::with_capacity(SECTION_HEAD_BYTES);
    head.push(kind);
    put_u64(&mut head, body.len() as u64);
    put_u32(&mut head, crc_fast::crc32_iscsi(body));
    head.into()
}

fn next_section<'a>(from: &mut &'a [u8], total_bytes: usize) -> Result<(u8, &'a [u8]), SnapshotError> {
    let at = total_bytes - from.len();
    let kind = from.try_get_u8()?;
    let length = from.try_get_u64_le()?;
    let checksum = from.try_get_u32_le()?;
    let length = usize::try_from(length).map_err(|_| SnapshotError::Truncated)?;
    let (body, rest) = from.split_at_checked(length).ok_or(SnapshotError::Truncated)?;
    if crc_fast::crc32_iscsi(body) != checksum {
        return Err(SnapshotError::Checksum { section: kind, at });
    }
    *from = rest;
    Ok((kind, body))
}

fn get_head(from: &mut &[u8]) -> Result<State, SnapshotError> {
    let mut state = State::new(ShardId(from.try_get_u32_le()?));
    state.applied = LogPosition {
        term: Term(from.try_get_u64_le()?),
        index: RaftIndex(from.try_get_u64_le()?),
    };
    Ok(state)
}

fn put_partition_state(out: &mut Vec<u8>, state: &PartitionState) {
    put_varint(out, state.log_start_offset.0);
    put_varint(out, state.high_watermark.0);
    put_u64(out, state.digest);
    put_varint(out, state.epochs.entries().len() as u64);
    for (epoch, start) in state.epochs.entries() {
        put_varint(out, epoch.0.into());
        put_varint(out, start.0);
    }
    put_varint(out, state.producers.entries().len() as u64);
    for producer in state.producers.entries() {
        put_producer(out, producer);
    }
    put_chunks(out, &state.chunks);
}

fn put_chunks(out: &mut Vec<u8>, chunks: &ChunkIndex) {
    put_varint(out, chunks.len() as u64);
    let Some(first) = chunks.first() else { return };
    put_varint(out, first.base_offset.0);
    let mut before = Chunk::before(first.base_offset);
    for chunk in chunks.iter() {
        chunk.put_after(&before, out);
        before = chunk;
    }
}

fn get_partitions(from: &mut &[u8], state: &mut State) -> Result<(), SnapshotError> {
    // Topics come in order, so one entry is looked up per topic, not per partition.
    while !from.is_empty() {
        let topic = peek_topic(from)?;
        let partitions = state.topics.entry(topic).or_default();
        while !from.is_empty() && peek_topic(from)? == topic {
            let partition = get_partition(from)?;
            let partition_state = get_partition_state(from)?;
            if partitions
                .insert(partition.index, Box::new(partition_state))
                .is_some()
            {
                return Err(malformed(format!("partition {partition} comes twice")));
            }
        }
    }
    Ok(())
}

fn peek_topic(from: &[u8]) -> Result<TopicId, Fault> {
    get_topic(&mut &*from)
}

fn get_partition_state(from: &mut &[u8]) -> Result<PartitionState, Fault> {
    let mut state = PartitionState::new();
    state.log_start_offset = Offset(get_varint(from)?);
    state.high_watermark = Offset(get_varint(from)?);
    if i64::try_from(state.high_watermark.0).is_err() {
        return Err(Fault::Invalid("high watermark leaves the range of 63 bits"));
    }
    state.digest = from.try_get_u64_le()?;
    let count = get_many(from, 2)?;
    let mut epochs = Vec::with_capacity(count);
    for _ in 0..count {
        epochs.push((LeaderEpoch(get_u32(from)?), Offset(get_varint(from)?)));
    }
    state.epochs = EpochMap::from_entries(epochs);
    let count = get_many(from, 4)?;
    let mut producers = Vec::with_capacity(count);
    for _ in 0..count {
        producers.push(get_producer(from)?);
    }
    state.producers = Producers::from_entries(producers);
    state.chunks = ChunkIndex::default();
    for chunk in get_chunks(from, state.high_watermark)? {
        state.push_chunk(chunk);
    }
    Ok(state)
}

/// Chunks that follow one another, none of which reaches beyond `end`.
fn get_chunks(from: &mut &[u8], end: Offset) -> Result<Vec<Chunk>, Fault> {
    let count = get_many(from, 5)?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut chunks = Vec::with_capacity(count);
    let mut before = Chunk::before(Offset(get_varint(from)?));
    if before.base_offset > end {
        return Err(Fault::Invalid("a chunk lies beyond the high watermark"));
    }
    for _ in 0..count {
        let chunk = Chunk::get_after(&before, from)?;
        if chunk.end_offset() > end {
            return Err(Fault::Invalid("a chunk lies beyond the high watermark"));
        }
        chunks.push(chunk);
        before = chunk;
    }
    Ok(chunks)
}

/// The first section says of which checkpoint, the others bring what has come of it.
fn get_staged(kind: u8, from: &mut &[u8], staged: &mut Option<StagedParts>) -> Result<(), Fault> {
    match (kind, staged) {
        (section::STAGED, staged @ None) => {
            *staged = Some(StagedParts {
                checkpoint: from.try_get_u64_le()?,
                total_bytes: from.try_get_u64_le()?,
                body: Vec::new(),
                filled: BTreeMap::new(),
            });
        }
        (section::STAGED_BODY, Some(staged)) => staged.body.extend_from_slice(std::mem::take(from)),
        (section::FILLED, Some(staged)) => {
            while !from.is_empty() {
                let partition = get_partition(from)?;
                let mut chunks = ChunkIndex::default();
                // Kafka's offsets are signed.
                for chunk in get_chunks(from, Offset(i64::MAX.cast_unsigned()))? {
                    chunks.push(chunk);
                }
                staged.filled.insert(partition, chunks);
            }
        }
        _ => return Err(Fault::Invalid("a staged checkpoint is out of place")),
    }
    Ok(())
}

/// A staged checkpoint while it is read.
struct StagedParts {
    checkpoint: u64,
    total_bytes: u64,
    body: Vec<u8>,
    filled: BTreeMap<Partition, ChunkIndex>,
}

impl StagedParts {
    fn join(self) -> Result<Box<Staged>, Fault> {
        let staging = Staging::restore(self.checkpoint, self.total_bytes, self.body)?;
        Ok(Box::new(Staged {
            staging,
            filled: self.filled,
        }))
    }
}

fn put_producer(out: &mut Vec<u8>, producer: &Producer) {
    put_varint(out, producer.id.0);
    put_signed_varint(out, producer.epoch.into());
    put_signed_varint(out, producer.last_append_at.0);
    put_varint(out, producer.batches().len() as u64);
    for batch in producer.batches() {
        put_signed_varint(out, batch.first_sequence.into());
        put_signed_varint(out, batch.last_sequence.into());
        put_varint(out, batch.base_offset.0);
        put_signed_varint(out, batch.max_timestamp.0);
    }
}

fn get_producer(from: &mut &[u8]) -> Result<Producer, Fault> {
    let id = ProducerId(get_varint(from)?);
    let epoch = i16::try_from(get_signed_varint(from)?)
        .map_err(|_| Fault::Invalid("producer epoch is over 16 bits"))?;
    let last_append_at = TimestampMs(get_signed_varint(from)?);
    let count = get_varint(from)?;
    if count > BATCHES_REMEMBERED as u64 {
        return Err(Fault::Invalid(
            "a producer has more batches than are ever remembered",
        ));
    }
    let sequence = |from: &mut &[u8]| {
        i32::try_from(get_signed_varint(from)?).map_err(|_| Fault::Invalid("sequence is over 32 bits"))
    };
    let mut batches = [ProducedBatch::default(); BATCHES_REMEMBERED];
    let batches = &mut batches[..count as usize];
    for batch in batches.iter_mut() {
        *batch = ProducedBatch {
            first_sequence: sequence(from)?,
            last_sequence: sequence(from)?,
            base_offset: Offset(get_varint(from)?),
            max_timestamp: TimestampMs(get_signed_varint(from)?),
        };
    }
    Ok(Producer::restore(id, epoch, last_append_at, batches))
}

fn put_group(out: &mut Vec<u8>, name: &str, group: &Group) {
    put_bytes(out, name.as_bytes());
    match &group.saved {
        None => out.push(0),
        Some(SavedGroup { body, saved_at }) => {
            out.push(1);
            put_i64(out, saved_at.0);
            put_bytes(out, body);
        }
    }
    put_count(out, group.offsets.len());
    for (partition, committed) in &group.offsets {
        put_partition(out, *partition);
        put_committed(out, committed);
    }
}

fn get_groups(from: &mut &[u8], state: &mut State) -> Result<(), SnapshotError> {
    while !from.is_empty() {
        let name = get_str(from)?;
        let saved = match from.try_get_u8()? {
            0 => None,
            1 => {
                let saved_at = TimestampMs(from.try_get_i64_le()?);
                Some(SavedGroup {
                    body: Bytes::copy_from_slice(get_bytes(from)?),
                    saved_at,
                })
            }
            _ => return Err(malformed("a group's flag is neither 0 nor 1")),
        };
        let mut offsets = BTreeMap::new();
        for _ in 0..get_count(from, 1)? {
            offsets.insert(get_partition(from)?, get_committed(from)?);
        }
        *state.groups.entry(&name) = Group { saved, offsets };
    }
    Ok(())
}

/// A count of things of at least `least_bytes` each.
fn get_many(from: &mut &[u8], least_bytes: usize) -> Result<usize, Fault> {
    let count = usize::try_from(get_varint(from)?).map_err(|_| Fault::Short)?;
    bounded(count, least_bytes, from.len())
}

fn get_u32(from: &mut &[u8]) -> Result<u32, Fault> {
    u32::try_from(get_varint(from)?).map_err(|_| Fault::Invalid("number is over 32 bits"))
}

#[cfg(test)]
mod tests;
