//! The hot index of a partition: where in the shard's log its batches lie.

use std::collections::VecDeque;

use meridian_types::{Offset, RaftIndex, TimestampMs};

use crate::codec::{Fault, get_signed_varint, get_varint, put_signed_varint, put_varint};

/// The batches that one append group added to one partition: one contiguous piece of one Raft entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// The entry of the shard's log that holds it.
    pub index: RaftIndex,
    /// Greatest timestamp of its records. Of a group without timestamps, when it was appended.
    pub max_timestamp: TimestampMs,
    /// Offsets it spans.
    pub count: u32,
    /// Where its first batch starts, in bytes from the start of the encoded command.
    pub at: u32,
    /// Bytes of its batches together.
    pub bytes: u32,
}

impl Chunk {
    /// Offset that follows its last record.
    pub fn end_offset(&self) -> Offset {
        self.base_offset.plus(self.count.into())
    }

    /// Writes everything but the base offset, as difference to the chunk before.
    pub(crate) fn put_after(&self, before: &Self, out: &mut Vec<u8>) {
        put_varint(out, self.count.into());
        put_varint(out, self.index.0.wrapping_sub(before.index.0));
        put_varint(out, self.at.into());
        put_varint(out, self.bytes.into());
        put_signed_varint(out, self.max_timestamp.0.wrapping_sub(before.max_timestamp.0));
    }

    /// Reads what [`Chunk::put_after`] wrote.
    pub(crate) fn get_after(before: &Self, from: &mut &[u8]) -> Result<Self, Fault> {
        let small =
            |value| u32::try_from(value).map_err(|_| Fault::Invalid("chunk has a number over 32 bits"));
        Ok(Self {
            base_offset: Offset(before.base_offset.0.saturating_add(before.count.into())),
            count: small(get_varint(from)?)?,
            index: RaftIndex(before.index.0.wrapping_add(get_varint(from)?)),
            at: small(get_varint(from)?)?,
            bytes: small(get_varint(from)?)?,
            max_timestamp: TimestampMs(before.max_timestamp.0.wrapping_add(get_signed_varint(from)?)),
        })
    }

    /// What the first chunk of a run is written after.
    pub(crate) fn before(base_offset: Offset) -> Self {
        Self {
            base_offset,
            index: RaftIndex(0),
            max_timestamp: TimestampMs(0),
            count: 0,
            at: 0,
            bytes: 0,
        }
    }
}

/// Chunks in offset order without gaps.
///
/// The newest lie open; older ones are packed in blocks at about ten bytes each, since a partition fed by
/// single records has a chunk for every record.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChunkIndex {
    packed: VecDeque<Block>,
    /// Fewer than twice [`BLOCK_CHUNKS`].
    open: Vec<Chunk>,
}

const BLOCK_CHUNKS: usize = 32;

/// A run of chunks, packed.
#[derive(Clone, Debug)]
struct Block {
    first: Chunk,
    end_offset: Offset,
    max_timestamp: TimestampMs,
    count: usize,
    /// Bytes of the batches of all its chunks.
    bytes: u64,
    /// The chunks after the first, each by [`Chunk::put_after`].
    rest: Box<[u8]>,
}

impl ChunkIndex {
    /// Adds the newest chunk. It must continue the one before.
    pub(crate) fn push(&mut self, chunk: Chunk) {
        debug_assert!(
            self.last()
                .is_none_or(|last| last.end_offset() == chunk.base_offset)
        );
        self.open.push(chunk);
        if self.open.len() == 2 * BLOCK_CHUNKS {
            self.packed.push_back(Block::pack(&self.open[..BLOCK_CHUNKS]));
            self.open.drain(..BLOCK_CHUNKS);
        }
    }

    /// Drops every chunk that ends at or before `start`; answers how many bytes of batches went.
    pub(crate) fn trim(&mut self, start: Offset) -> u64 {
        let mut dropped_bytes = 0;
        while let Some(block) = self.packed.front() {
            if block.first.end_offset() > start {
                return dropped_bytes;
            }
            let (gone, kept): (Vec<_>, Vec<_>) = block.iter().partition(|chunk| chunk.end_offset() <= start);
            dropped_bytes += gone.iter().map(|chunk| u64::from(chunk.bytes)).sum::<u64>();
            if !kept.is_empty() {
                self.packed[0] = Block::pack(&kept);
                return dropped_bytes;
            }
            self.packed.pop_front();
        }
        let gone = self.open.partition_point(|chunk| chunk.end_offset() <= start);
        dropped_bytes += self
            .open
            .drain(..gone)
            .map(|chunk| u64::from(chunk.bytes))
            .sum::<u64>();
        dropped_bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.packed.iter().map(|block| block.count).sum::<usize>() + self.open.len()
    }

    pub(crate) fn first(&self) -> Option<&Chunk> {
        self.packed
            .front()
            .map(|block| &block.first)
            .or(self.open.first())
    }

    /// Packing leaves the newest chunks open, so the last is always among them.
    pub(crate) fn last(&self) -> Option<&Chunk> {
        self.open.last()
    }

    /// Every chunk, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Chunk> + '_ {
        self.packed
            .iter()
            .flat_map(Block::iter)
            .chain(self.open.iter().copied())
    }

    /// The chunks from the one that contains `from`, oldest first.
    pub(crate) fn iter_from(&self, from: Offset) -> impl Iterator<Item = Chunk> + '_ {
        let block = self.packed.partition_point(|block| block.end_offset <= from);
        let open = self.open.partition_point(|chunk| chunk.end_offset() <= from);
        self.packed
            .range(block..)
            .flat_map(Block::iter)
            .skip_while(move |chunk| chunk.end_offset() <= from)
            .chain(self.open[open..].iter().copied())
    }

    /// The first chunk, from the one that contains `from` on, with a timestamp of at least `timestamp`.
    pub(crate) fn at_timestamp(&self, timestamp: TimestampMs, from: Offset) -> Option<Chunk> {
        let fits = |chunk: &Chunk| chunk.end_offset() > from && chunk.max_timestamp >= timestamp;
        let block = self.packed.partition_point(|block| block.end_offset <= from);
        self.packed
            .range(block..)
            .filter(|block| block.max_timestamp >= timestamp)
            .find_map(|block| block.iter().find(fits))
            .or_else(|| self.open.iter().copied().find(fits))
    }

    /// Bytes of the batches of the chunks that end after `from`.
    pub(crate) fn bytes_from(&self, from: Offset) -> u64 {
        let is_after = |chunk: &Chunk| chunk.end_offset() > from;
        let bytes_after = |chunks: &mut dyn Iterator<Item = Chunk>| -> u64 {
            chunks.filter(is_after).map(|chunk| u64::from(chunk.bytes)).sum()
        };
        let first = self.packed.partition_point(|block| block.end_offset <= from);
        let packed = self.packed.range(first..).map(|block| {
            if block.first.base_offset >= from {
                block.bytes
            } else {
                bytes_after(&mut block.iter())
            }
        });
        packed.sum::<u64>() + bytes_after(&mut self.open.iter().copied())
    }

    /// The first entry beyond `through` that a chunk lies in. Indexes do not fall along the chunks.
    pub(crate) fn first_index_beyond(&self, through: RaftIndex) -> Option<RaftIndex> {
        if self.last()?.index <= through {
            return None;
        }
        let after = self.packed.partition_point(|block| block.first.index <= through);
        self.packed
            .range(after.saturating_sub(1)..)
            .flat_map(Block::iter)
            .chain(self.open.iter().copied())
            .map(|chunk| chunk.index)
            .find(|index| *index > through)
    }

    /// The first chunk with the greatest timestamp.
    pub(crate) fn at_max_timestamp(&self) -> Option<Chunk> {
        let packed = self.packed.iter().map(|block| block.max_timestamp);
        let max = packed
            .chain(self.open.iter().map(|chunk| chunk.max_timestamp))
            .max()?;
        self.at_timestamp(max, Offset(0))
    }
}

impl Block {
    /// `chunks` is not empty.
    fn pack(chunks: &[Chunk]) -> Self {
        let mut rest = Vec::with_capacity(chunks.len() * 10);
        for pair in chunks.windows(2) {
            pair[1].put_after(&pair[0], &mut rest);
        }
        Self {
            first: chunks[0],
            end_offset: chunks[chunks.len() - 1].end_offset(),
            max_timestamp: chunks
                .iter()
                .map(|chunk| chunk.max_timestamp)
                .max()
                .unwrap_or_default(),
            count: chunks.len(),
            bytes: chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum(),
            rest: rest.into(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = Chunk> + '_ {
        let mut rest = &self.rest[..];
        let mut before = None;
        std::iter::from_fn(move || {
            let next = match before {
                None => self.first,
                Some(_) if rest.is_empty() => return None,
                Some(before) => Chunk::get_after(&before, &mut rest).expect("packed by this process"),
            };
            before = Some(next);
            before
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunks of varying sizes and unordered timestamps, contiguous from offset 10.
    fn chunks(count: u64) -> Vec<Chunk> {
        let mut offset = 10;
        (0..count)
            .map(|n| {
                let chunk = Chunk {
                    base_offset: Offset(offset),
                    index: RaftIndex(5 + n * n),
                    max_timestamp: TimestampMs((n as i64 * 7919) % 1000 - 100),
                    count: 1 + (n % 5) as u32,
                    at: (n * 31 % 4096) as u32,
                    bytes: 61 + n as u32,
                };
                offset = chunk.end_offset().0;
                chunk
            })
            .collect()
    }

    fn index(chunks: &[Chunk]) -> ChunkIndex {
        let mut index = ChunkIndex::default();
        chunks.iter().for_each(|chunk| index.push(*chunk));
        index
    }

    #[test]
    fn chunk_takes_forty_bytes() {
        assert_eq!(size_of::<Chunk>(), 40);
    }

    #[test]
    fn every_lookup_agrees_with_a_plain_list() {
        let list = chunks(300);
        let index = index(&list);
        assert!(index.packed.len() > 5, "the test must cross packed blocks");
        assert_eq!(index.iter().collect::<Vec<_>>(), list);
        assert_eq!(index.len(), 300);
        assert_eq!(index.first(), list.first());
        assert_eq!(index.last(), list.last());
        let block_maxima = index.packed.iter().map(|block| block.max_timestamp);
        for from in (0..list[299].end_offset().0 + 5).map(Offset) {
            let want = list.iter().find(|chunk| chunk.end_offset() > from);
            assert_eq!(index.iter_from(from).next().as_ref(), want);
            let after = list.iter().filter(|chunk| chunk.end_offset() > from);
            assert_eq!(
                index.bytes_from(from),
                after.map(|chunk| u64::from(chunk.bytes)).sum::<u64>()
            );
            for timestamp in [-100, 0, 450, 898, 899]
                .map(TimestampMs)
                .into_iter()
                .chain(block_maxima.clone())
            {
                let want = list
                    .iter()
                    .find(|c| c.end_offset() > from && c.max_timestamp >= timestamp);
                assert_eq!(index.at_timestamp(timestamp, from).as_ref(), want);
            }
        }
        for through in (0..list[299].index.0 + 3).step_by(7).map(RaftIndex) {
            let want = list
                .iter()
                .map(|chunk| chunk.index)
                .find(|index| *index > through);
            assert_eq!(index.first_index_beyond(through), want, "{through}");
        }
        let max = list.iter().map(|chunk| chunk.max_timestamp).max();
        assert_eq!(
            index.at_max_timestamp(),
            list.iter().copied().find(|c| Some(c.max_timestamp) == max)
        );
    }

    #[test]
    fn trim_drops_exactly_what_ends_at_or_before_the_start() {
        let list = chunks(200);
        for start in (0..list[199].end_offset().0 + 3).map(Offset) {
            let mut index = index(&list);
            let (gone, kept): (Vec<Chunk>, Vec<Chunk>) = list.iter().partition(|c| c.end_offset() <= start);
            assert_eq!(
                index.trim(start),
                gone.iter().map(|chunk| u64::from(chunk.bytes)).sum::<u64>()
            );
            assert_eq!(index.iter().collect::<Vec<_>>(), kept);
            assert_eq!(index.first(), kept.first());
        }
    }

    #[test]
    fn packed_chunks_of_single_records_take_few_bytes() {
        let list: Vec<Chunk> = (0..64)
            .map(|n| Chunk {
                base_offset: Offset(n),
                index: RaftIndex(1_000_000 + n),
                max_timestamp: TimestampMs(1_700_000_000_000 + n as i64 * 3),
                count: 1,
                at: 42,
                bytes: 1100,
            })
            .collect();
        let bytes = index(&list).packed[0].rest.len();
        assert!(bytes <= 31 * 8, "31 chunks took {bytes} bytes");
    }
}
