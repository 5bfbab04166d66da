//! Makes batches: for producers, tools and benchmarks.

use bytes::Bytes;
use meridian_types::{LeaderEpoch, Offset, ProducerId, TimestampMs};
use thiserror::Error;

use super::compression::{Compression, CompressionError, compress};
use super::header::{HEADER_BYTES, TimestampType};
use super::layout;
use super::stamp::{put, renew_crc};
use super::varint;

/// Most bytes of a record in front of its key's length: its own length, attributes, both deltas.
const RECORD_HEAD_BYTES_MAX: usize = 5 + 1 + 10 + 5;

/// Largest batch the format can hold: its length field is signed.
const BATCH_BYTES_MAX: usize = i32::MAX as usize;

/// A batch, or the record in hand, is too large for the format.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BuildError {
    /// The batch would pass 2 GiB or 2^31 records. Build the batch and start another.
    #[error("the record does not fit: a batch holds at most 2147483647 bytes and records")]
    Full,
    /// The codec refused.
    #[error(transparent)]
    Compression(#[from] CompressionError),
}

/// Collects records and makes one batch of them.
///
/// ```
/// use meridian_types::TimestampMs;
/// use meridian_wire::batch::{BatchBuilder, Compression, records};
///
/// let mut builder = BatchBuilder::new(Compression::Lz4);
/// builder.push(TimestampMs(1_000), Some(b"key"), Some(b"value"), &[(b"h", None)])?;
/// let batch = builder.build()?;
/// assert_eq!(records(&batch, 1 << 20).unwrap().count(), 1);
/// # Ok::<(), meridian_wire::batch::BuildError>(())
/// ```
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    compression: Compression,
    level: Option<i32>,
    base_offset: Offset,
    leader_epoch: Option<LeaderEpoch>,
    producer: Option<(ProducerId, i16, i32)>,
    timestamp_type: TimestampType,
    is_transactional: bool,
    is_control: bool,
    base_timestamp: i64,
    max_timestamp: i64,
    record_count: u32,
    /// Room for the header, then the records uncompressed.
    buffer: Vec<u8>,
}

impl BatchBuilder {
    /// An empty batch at offset 0 without producer, as a plain producer sends it.
    pub fn new(compression: Compression) -> Self {
        Self {
            compression,
            level: None,
            base_offset: Offset(0),
            leader_epoch: None,
            producer: None,
            timestamp_type: TimestampType::CreateTime,
            is_transactional: false,
            is_control: false,
            base_timestamp: -1,
            max_timestamp: -1,
            record_count: 0,
            buffer: vec![0; HEADER_BYTES],
        }
    }

    /// Compresses at `level` of the codec's own scale, see [`compress`].
    pub fn with_level(mut self, level: i32) -> Self {
        self.level = Some(level);
        self
    }

    /// Reserves memory for `bytes` of records.
    pub fn with_capacity(mut self, bytes: usize) -> Self {
        self.buffer.reserve(bytes);
        self
    }

    /// The batch as a broker stores it: at `base_offset`, appended under `leader_epoch`.
    pub fn stored_at(mut self, base_offset: Offset, leader_epoch: LeaderEpoch) -> Self {
        self.base_offset = base_offset;
        self.leader_epoch = Some(leader_epoch);
        self
    }

    /// Makes the batch one of an idempotent producer; `base_sequence` is that of its first record.
    pub fn with_producer(mut self, id: ProducerId, epoch: i16, base_sequence: i32) -> Self {
        self.producer = Some((id, epoch, base_sequence));
        self
    }

    /// Makes the batch part of the producer's transaction.
    pub fn transactional(mut self) -> Self {
        self.is_transactional = true;
        self
    }

    /// Sets the timestamp type `LogAppendTime`: readers then see the greatest timestamp for every record.
    pub fn log_append_time(mut self) -> Self {
        self.timestamp_type = TimestampType::LogAppendTime;
        self
    }

    /// Makes it a control batch.
    pub(super) fn control(mut self) -> Self {
        self.is_control = true;
        self
    }

    /// Appends a record; returns its offset delta.
    ///
    /// Errors: `Full`; the batch stays as it was.
    pub fn push(
        &mut self,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> Result<u32, BuildError> {
        let tail_bytes = tail_bytes(key, value, headers);
        let delta = self.record_count;
        self.open(timestamp, tail_bytes)?;
        put_tail(&mut self.buffer, key, value, headers);
        Ok(delta)
    }

    /// Appends the same record `count` times: key, value and headers are encoded once and copied.
    ///
    /// Errors: `Full`, with as many appended as fit.
    pub fn push_repeated(
        &mut self,
        count: u32,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> Result<(), BuildError> {
        let mut tail = Vec::with_capacity(tail_bytes(key, value, headers));
        put_tail(&mut tail, key, value, headers);
        let bytes = (tail.len() + RECORD_HEAD_BYTES_MAX).saturating_mul(count as usize);
        self.buffer.reserve(bytes.min(BATCH_BYTES_MAX));
        for _ in 0..count {
            self.open(timestamp, tail.len())?;
            self.buffer.extend_from_slice(&tail);
        }
        Ok(())
    }

    /// Writes a record up to its offset delta; `tail_bytes` more belong to it.
    fn open(&mut self, timestamp: TimestampMs, tail_bytes: usize) -> Result<(), BuildError> {
        let is_first = self.record_count == 0;
        let base = if is_first {
            timestamp.0
        } else {
            self.base_timestamp
        };
        let timestamp_delta = timestamp.0.wrapping_sub(base);
        let offset_delta = i64::from(self.record_count);
        let body = 1 + varint::len_i64(timestamp_delta) + varint::len_i64(offset_delta) + tail_bytes;
        let room = BATCH_BYTES_MAX - self.buffer.len();
        if body.saturating_add(5) > room || offset_delta == i64::from(i32::MAX) {
            return Err(BuildError::Full);
        }
        self.base_timestamp = base;
        self.max_timestamp = if is_first {
            timestamp.0
        } else {
            self.max_timestamp.max(timestamp.0)
        };
        self.record_count += 1;
        let buffer = &mut self.buffer;
        buffer.reserve(body + 5);
        varint::put_i64(buffer, body as i64);
        buffer.push(0);
        varint::put_i64(buffer, timestamp_delta);
        varint::put_i64(buffer, offset_delta);
        Ok(())
    }

    /// Records so far.
    pub fn record_count(&self) -> u32 {
        self.record_count
    }

    /// Whether nothing was appended yet.
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Size of the batch in bytes if it were built now without compression. A compressed one is as large at most,
    /// but for data that the codec cannot shrink, and its few bytes of framing.
    pub fn uncompressed_size(&self) -> usize {
        self.buffer.len()
    }

    /// What one more record adds to [`Self::uncompressed_size`], at most.
    pub fn record_size_max(
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> usize {
        RECORD_HEAD_BYTES_MAX + tail_bytes(key, value, headers)
    }

    /// Makes the batch.
    pub fn build(self) -> Result<Bytes, BuildError> {
        let mut batch = if self.compression == Compression::None {
            self.buffer
        } else {
            let records = &self.buffer[HEADER_BYTES..];
            let mut batch = Vec::with_capacity(HEADER_BYTES + records.len() / 2);
            batch.resize(HEADER_BYTES, 0);
            compress(self.compression, self.level, records, &mut batch)?;
            batch
        };
        let length = i32::try_from(batch.len() - layout::LOG_OVERHEAD).map_err(|_| BuildError::Full)?;
        let (producer_id, producer_epoch, base_sequence) = match self.producer {
            Some((id, epoch, sequence)) => (id.0 as i64, epoch, sequence),
            None => (-1, -1, -1),
        };
        let bit = |is_set: bool, bit: i16| if is_set { bit } else { 0 };
        let attributes = i16::from(self.compression.code())
            | bit(
                self.timestamp_type == TimestampType::LogAppendTime,
                layout::LOG_APPEND_TIME_BIT,
            )
            | bit(self.is_transactional, layout::TRANSACTIONAL_BIT)
            | bit(self.is_control, layout::CONTROL_BIT);
        let leader_epoch = self.leader_epoch.map_or(-1, |epoch| epoch.0 as i32);
        let last_offset_delta = self.record_count.saturating_sub(1);
        put(&mut batch, layout::BASE_OFFSET, self.base_offset.0.to_be_bytes());
        put(&mut batch, layout::BATCH_LENGTH, length.to_be_bytes());
        put(&mut batch, layout::LEADER_EPOCH, leader_epoch.to_be_bytes());
        put(&mut batch, layout::MAGIC, 2_i8.to_be_bytes());
        put(&mut batch, layout::ATTRIBUTES, attributes.to_be_bytes());
        put(
            &mut batch,
            layout::LAST_OFFSET_DELTA,
            last_offset_delta.to_be_bytes(),
        );
        put(
            &mut batch,
            layout::BASE_TIMESTAMP,
            self.base_timestamp.to_be_bytes(),
        );
        put(
            &mut batch,
            layout::MAX_TIMESTAMP,
            self.max_timestamp.to_be_bytes(),
        );
        put(&mut batch, layout::PRODUCER_ID, producer_id.to_be_bytes());
        put(&mut batch, layout::PRODUCER_EPOCH, producer_epoch.to_be_bytes());
        put(&mut batch, layout::BASE_SEQUENCE, base_sequence.to_be_bytes());
        put(&mut batch, layout::RECORD_COUNT, self.record_count.to_be_bytes());
        renew_crc(&mut batch);
        Ok(batch.into())
    }
}

/// Bytes of a record from its key's length on.
fn tail_bytes(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&[u8], Option<&[u8]>)]) -> usize {
    let of_headers: usize = headers
        .iter()
        .map(|(key, value)| nullable_bytes(Some(key)) + nullable_bytes(*value))
        .sum();
    nullable_bytes(key) + nullable_bytes(value) + varint::len_i64(headers.len() as i64) + of_headers
}

fn nullable_bytes(part: Option<&[u8]>) -> usize {
    part.map_or(1, |part| varint::len_i64(part.len() as i64) + part.len())
}

fn put_tail(
    buffer: &mut Vec<u8>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[(&[u8], Option<&[u8]>)],
) {
    put_nullable(buffer, key);
    put_nullable(buffer, value);
    varint::put_i64(buffer, headers.len() as i64);
    for (key, value) in headers {
        put_nullable(buffer, Some(key));
        put_nullable(buffer, *value);
    }
}

fn put_nullable(buffer: &mut Vec<u8>, part: Option<&[u8]>) {
    match part {
        None => varint::put_i64(buffer, -1),
        Some(part) => {
            varint::put_i64(buffer, part.len() as i64);
            buffer.extend_from_slice(part);
        }
    }
}
