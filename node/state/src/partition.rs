//! One partition: its bounds, its hot index, its epochs and its producers.

use meridian_tiered_storage::manifest::Extent;
use meridian_types::{LeaderEpoch, Offset, ProducerId, RaftIndex, TimestampMs};
use meridian_wire::batch::BatchHeader;
use thiserror::Error;

use crate::chunk::{Chunk, ChunkIndex};
use crate::epochs::EpochMap;
use crate::producers::{Duplicate, Producer, Producers};

/// What a shard knows about one partition that has, or had, records.
///
/// A partition without any has no state at all: everything about it is 0 or none.
#[derive(Clone, Debug)]
pub struct PartitionState {
    /// Invariant 1: at most `high_watermark`.
    pub(crate) log_start_offset: Offset,
    /// Only applied batches are here, and applied is committed: the end is the high watermark.
    pub(crate) high_watermark: Offset,
    pub(crate) digest: u64,
    /// Invariant: bytes of all chunks.
    pub(crate) size_bytes: u64,
    /// Invariant: without gaps; ends at `high_watermark`; the first ends after `log_start_offset`. What lies
    /// between the log start and the first is in the bucket (invariant 6).
    pub(crate) chunks: ChunkIndex,
    pub(crate) epochs: EpochMap,
    pub(crate) producers: Producers,
}

/// The offset asked for is not in the log. Kafka's 1: the consumer resets by its own policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("offset {offset} is outside {log_start_offset}..={high_watermark}")]
pub struct OutOfRange {
    /// The offset asked for.
    pub offset: Offset,
    /// The first offset there is.
    pub log_start_offset: Offset,
    /// Where the log ends.
    pub high_watermark: Offset,
}

impl PartitionState {
    /// A partition before its first record.
    pub(crate) fn new() -> Self {
        Self {
            log_start_offset: Offset(0),
            high_watermark: Offset(0),
            digest: EMPTY_DIGEST,
            size_bytes: 0,
            chunks: ChunkIndex::default(),
            epochs: EpochMap::default(),
            producers: Producers::default(),
        }
    }

    /// The first offset that can be read.
    pub fn log_start_offset(&self) -> Offset {
        self.log_start_offset
    }

    /// Where the hot index begins: what lies below is read from the bucket. The high watermark when nothing is
    /// hot.
    pub fn local_start_offset(&self) -> Offset {
        self.chunks.first().map_or(self.high_watermark, |first| {
            first.base_offset.max(self.log_start_offset)
        })
    }

    /// Where the next record will go.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Up to where a `read_committed` consumer may read: no transaction is open below it.
    pub fn last_stable_offset(&self) -> Offset {
        self.high_watermark
    }

    /// Bytes of the batches in the hot index, the first of which may lie partly before the log start.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// FNV-1a over base offset (8 bytes, big endian) and CRC (4 bytes, big endian) of every batch that was
    /// ever appended. Equal digests at equal high watermarks prove equal logs.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The leader epoch of the newest record ever appended.
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.epochs.latest()
    }

    /// The leader epoch that the record at `offset` was written under, `None` before the log start.
    /// At the high watermark: that of the last record.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.epochs.at(offset)
    }

    /// Where the records of `epoch` end, as OffsetForLeaderEpoch answers (KIP-320): the greatest epoch not
    /// above the one asked for, and the start of the next one. An epoch before the first known one ends where
    /// that starts. `None` if `epoch` is newer than every record.
    ///
    /// A leader knows one epoch more, its own, even before it has appended: see
    /// [`PartitionState::end_offset_for_leader`].
    pub fn end_offset_for(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.epochs.end_of(epoch, self.high_watermark)
    }

    /// [`PartitionState::end_offset_for`] as a leader of epoch `current` answers: `current` itself, with or
    /// without records, ends at the high watermark. `None` if `epoch` is newer than `current`.
    pub fn end_offset_for_leader(
        &self,
        epoch: LeaderEpoch,
        current: LeaderEpoch,
    ) -> Option<(LeaderEpoch, Offset)> {
        if epoch == current {
            return Some((current, self.high_watermark));
        }
        if epoch > current {
            return None;
        }
        // Between the newest record's epoch and `current` nothing was written.
        self.end_offset_for(epoch)
            .or_else(|| self.latest_epoch().map(|latest| (latest, self.high_watermark)))
    }

    /// The chunks from the one that contains `from`: at least one, more as long as all fit `bytes_max`.
    /// Empty at the high watermark, and below [`Self::local_start_offset`].
    ///
    /// The first chunk may start before `from`; whole batches before it are skipped by the reader.
    pub fn spans(&self, from: Offset, bytes_max: u64) -> Result<Vec<Chunk>, OutOfRange> {
        if from < self.log_start_offset || from > self.high_watermark {
            return Err(OutOfRange {
                offset: from,
                log_start_offset: self.log_start_offset,
                high_watermark: self.high_watermark,
            });
        }
        let mut spans = Vec::new();
        if from < self.local_start_offset() {
            return Ok(spans);
        }
        let mut left_bytes = bytes_max;
        for chunk in self.chunks.iter_from(from) {
            if !spans.is_empty() && u64::from(chunk.bytes) > left_bytes {
                break;
            }
            left_bytes = left_bytes.saturating_sub(chunk.bytes.into());
            spans.push(chunk);
        }
        Ok(spans)
    }

    /// Every chunk, oldest first.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> + '_ {
        self.chunks.iter()
    }

    /// The chunks from the one that contains `from`, oldest first.
    pub fn chunks_from(&self, from: Offset) -> impl Iterator<Item = Chunk> + '_ {
        self.chunks.iter_from(from)
    }

    /// Bytes of the batches of the chunks that end after `from`.
    pub fn bytes_from(&self, from: Offset) -> u64 {
        self.chunks.bytes_from(from)
    }

    /// The first chunk, from the one that contains `from` on, with a timestamp of at least `timestamp`.
    ///
    /// The chunk's record may lie before `from`; then look again from the chunk's end.
    pub fn chunk_for_timestamp(&self, timestamp: TimestampMs, from: Offset) -> Option<Chunk> {
        self.chunks
            .at_timestamp(timestamp, from.max(self.log_start_offset))
    }

    /// The first chunk with the greatest timestamp.
    pub fn max_timestamp_chunk(&self) -> Option<Chunk> {
        self.chunks.at_max_timestamp()
    }

    /// Where the log should start for retention, if that is further on than now. `tiered` are the partition's
    /// extents in the bucket; they and chunks go whole.
    ///
    /// A piece goes when its newest record is older than `retention_ms`, or when what remains without it is
    /// still at least `retention_bytes`; oldest first, and the first that stays ends it. `None` keeps for ever.
    pub fn retention_start(
        &self,
        retention_ms: Option<u64>,
        retention_bytes: Option<u64>,
        now: TimestampMs,
        tiered: &[Extent],
    ) -> Option<Offset> {
        if retention_ms.is_none() && retention_bytes.is_none() {
            return None;
        }
        let mut start = self.log_start_offset;
        let mut left_bytes = self.total_bytes(tiered);
        for piece in self.pieces(tiered) {
            let left_without = left_bytes.saturating_sub(piece.bytes);
            let age_ms = now.0.saturating_sub(piece.max_timestamp.0);
            let is_old = retention_ms.is_some_and(|ms| u64::try_from(age_ms).is_ok_and(|age| age > ms));
            let is_over = retention_bytes.is_some_and(|bytes| left_without >= bytes);
            if !is_old && !is_over {
                break;
            }
            left_bytes = left_without;
            start = piece.end_offset;
        }
        (start > self.log_start_offset).then_some(start)
    }

    /// Where the hot index should begin by the limits for local data, if that is further on than now: only what
    /// the bucket holds (`tiered`) goes.
    pub fn local_retention_start(
        &self,
        retention_ms: Option<u64>,
        retention_bytes: Option<u64>,
        now: TimestampMs,
        tiered: &[Extent],
    ) -> Option<Offset> {
        let tiered_end = tiered.last()?.end_offset;
        let mut start = None;
        let mut left_bytes = self.size_bytes;
        for chunk in self
            .chunks
            .iter()
            .take_while(|chunk| chunk.end_offset() <= tiered_end)
        {
            let left_without = left_bytes.saturating_sub(chunk.bytes.into());
            let age_ms = now.0.saturating_sub(chunk.max_timestamp.0);
            let is_old = retention_ms.is_some_and(|ms| u64::try_from(age_ms).is_ok_and(|age| age > ms));
            let is_over = retention_bytes.is_some_and(|bytes| left_without >= bytes);
            if !is_old && !is_over {
                break;
            }
            left_bytes = left_without;
            start = Some(chunk.end_offset());
        }
        start
    }

    /// Bytes of the batches in both tiers, each record counted once.
    pub fn total_bytes(&self, tiered: &[Extent]) -> u64 {
        let cold: u64 = self.cold_pieces(tiered).map(|piece| piece.bytes).sum();
        cold + self.size_bytes
    }

    /// What the partition consists of, oldest first: extents where only the bucket has the records, then chunks.
    fn pieces<'a>(&'a self, tiered: &'a [Extent]) -> impl Iterator<Item = Piece> + 'a {
        let hot = self.chunks.iter().map(|chunk| Piece {
            end_offset: chunk.end_offset(),
            bytes: chunk.bytes.into(),
            max_timestamp: chunk.max_timestamp,
        });
        self.cold_pieces(tiered).chain(hot)
    }

    /// An extent that the local start divides counts with the share below it.
    fn cold_pieces<'a>(&self, tiered: &'a [Extent]) -> impl Iterator<Item = Piece> + 'a {
        let (log_start, local_start) = (self.log_start_offset, self.local_start_offset());
        let is_cold =
            move |extent: &&Extent| extent.end_offset > log_start && extent.base_offset < local_start;
        tiered.iter().filter(is_cold).map(move |extent| {
            let end_offset = extent.end_offset.min(local_start);
            let share = u128::from(end_offset.0 - extent.base_offset.0);
            let whole = u128::from(extent.end_offset.0 - extent.base_offset.0).max(1);
            Piece {
                end_offset,
                bytes: u64::try_from(u128::from(extent.raw_bytes) * share / whole).unwrap_or(u64::MAX),
                max_timestamp: extent.max_timestamp,
            }
        })
    }

    /// The oldest Raft entry beyond `through` that holds records of this partition.
    pub fn first_index_beyond(&self, through: RaftIndex) -> Option<RaftIndex> {
        self.chunks.first_index_beyond(through)
    }

    /// The idempotent producers known here, by id.
    pub fn producers(&self) -> &[Producer] {
        self.producers.entries()
    }

    /// What is known about one producer.
    pub fn producer(&self, id: ProducerId) -> Option<&Producer> {
        self.producers.get(id)
    }

    /// The batch if its producer has already appended it here.
    pub fn duplicate(&self, header: &BatchHeader) -> Option<Duplicate> {
        self.producers.get(header.producer_id?)?.duplicate(header)
    }

    /// Appends one batch that has been checked; chunk and producers follow for the group as a whole.
    pub(crate) fn append(&mut self, header: &BatchHeader, epoch: LeaderEpoch) {
        self.epochs.record(epoch, header.base_offset);
        self.digest = digest_batch(self.digest, header.base_offset, header.crc);
        self.high_watermark = header.next_offset();
    }

    /// Adds the chunk of the batches just appended.
    pub(crate) fn push_chunk(&mut self, chunk: Chunk) {
        self.size_bytes += u64::from(chunk.bytes);
        self.chunks.push(chunk);
    }

    /// Moves the log start to `start`, never back and never beyond the end.
    pub(crate) fn set_log_start(&mut self, start: Offset) {
        let start = start.min(self.high_watermark);
        if start > self.log_start_offset {
            self.log_start_offset = start;
            self.size_bytes -= self.chunks.trim(start);
            self.epochs.trim(start);
        }
    }

    /// Moves the start of the hot index to `start`; the bucket holds what lies below. Whole chunks only.
    pub(crate) fn set_local_start(&mut self, start: Offset) {
        self.size_bytes -= self.chunks.trim(start);
    }

    /// Forgets the hot index: what is in it lies in another log.
    pub(crate) fn drop_chunks(&mut self) {
        self.chunks = ChunkIndex::default();
        self.size_bytes = 0;
    }

    /// Asserts the invariants that concern one partition; says which is broken. `tiered` are its extents in the
    /// bucket.
    pub fn check(&self, tiered: &[Extent]) -> Result<(), String> {
        let (start, end) = (self.log_start_offset, self.high_watermark);
        let stable = self.last_stable_offset();
        if !(start <= stable && stable <= end) {
            return Err(format!("invariant 1: {start} <= {stable} <= {end} does not hold"));
        }
        self.epochs.check(start, end)?;
        self.producers.check(end)?;
        let mut size_bytes = 0;
        let mut before: Option<Chunk> = None;
        for chunk in self.chunks.iter() {
            if chunk.end_offset() <= start || chunk.count == 0 {
                return Err(format!(
                    "chunk at {} has nothing at or after {start}",
                    chunk.base_offset
                ));
            }
            if let Some(before) = before
                && (before.end_offset() != chunk.base_offset || before.index > chunk.index)
            {
                return Err(format!(
                    "chunk at {} does not continue the one before",
                    chunk.base_offset
                ));
            }
            size_bytes += u64::from(chunk.bytes);
            before = Some(chunk);
        }
        match before {
            Some(last) if last.end_offset() != end => {
                return Err(format!(
                    "the hot index ends at {}, the log at {end}",
                    last.end_offset()
                ));
            }
            _ => {}
        }
        let local_start = self.local_start_offset();
        let holds = |offset: Offset| {
            let after = tiered.partition_point(|extent| extent.end_offset <= offset);
            tiered
                .get(after)
                .is_some_and(|extent| extent.base_offset <= offset)
        };
        // The manifest has no gaps above the log start, so its ends tell.
        if start < local_start && !(holds(start) && holds(Offset(local_start.0 - 1))) {
            return Err(format!(
                "invariant 6: neither chunks nor the bucket hold {start}..{local_start}"
            ));
        }
        if size_bytes != self.size_bytes {
            return Err(format!(
                "chunks have {size_bytes} bytes, counted were {}",
                self.size_bytes
            ));
        }
        Ok(())
    }
}

/// A part of a partition that retention takes or leaves.
struct Piece {
    end_offset: Offset,
    bytes: u64,
    max_timestamp: TimestampMs,
}

/// The offset basis of 64-bit FNV-1a.
const EMPTY_DIGEST: u64 = 0xcbf2_9ce4_8422_2325;

fn digest_batch(digest: u64, base_offset: Offset, crc: u32) -> u64 {
    let bytes = base_offset.0.to_be_bytes().into_iter().chain(crc.to_be_bytes());
    bytes.fold(digest, |digest, byte| {
        (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
