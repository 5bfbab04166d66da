//! The 61-byte header of a batch.

use meridian_types::{LeaderEpoch, Offset, ProducerId, TimestampMs};

use super::compression::Compression;
use super::error::BatchError;
use super::layout::{self, RawHeader};

/// Length of a batch's header.
pub const HEADER_BYTES: usize = layout::RECORDS;

/// Who sets the time of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer: each record has its own timestamp.
    #[default]
    CreateTime,
    /// The broker: every record of the batch has the batch's max timestamp.
    LogAppendTime,
}

/// The header of one RecordBatch v2, every field in its own type.
///
/// Holds what the header says, checked for form only: see [`verify_crc`] for whether it is intact and
/// [`super::validate_produce`] for whether a client may append it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record; of a compacted batch, of the first it once had.
    pub base_offset: Offset,
    /// Epoch of the leader that appended it; `None` as producers send it.
    pub leader_epoch: Option<LeaderEpoch>,
    /// CRC32C over everything from the attributes on.
    pub crc: u32,
    /// How the records are compressed.
    pub compression: Compression,
    /// Who sets the records' time.
    pub timestamp_type: TimestampType,
    /// Part of a transaction.
    pub is_transactional: bool,
    /// Holds one control record (a transaction marker), which applications never see.
    pub is_control: bool,
    /// In compacted logs: when tombstones of this batch may go. It takes the place of the base timestamp.
    pub delete_horizon: Option<TimestampMs>,
    /// Offset of the last record, counted from `base_offset`; also of the last sequence. Compaction keeps it.
    pub last_offset_delta: u32,
    /// What the records' timestamps are counted from.
    pub base_timestamp: TimestampMs,
    /// Greatest timestamp of the records; under `LogAppendTime` the timestamp of all. -1 for none.
    pub max_timestamp: TimestampMs,
    /// The idempotent producer, if it is one.
    pub producer_id: Option<ProducerId>,
    /// Its epoch; -1 without a producer.
    pub producer_epoch: i16,
    /// Sequence of the first record; -1 without a producer.
    pub base_sequence: i32,
    /// Records inside; after compaction fewer than the offsets it spans, even none.
    pub record_count: u32,
    /// Invariant: at least `HEADER_BYTES`.
    size_bytes: usize,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, which need not hold the records.
    ///
    /// Errors: anything of [`BatchError`] but `Crc`; `Truncated` speaks of the header only.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let raw = RawHeader::new(bytes).ok_or(BatchError::Truncated {
            need_bytes: HEADER_BYTES,
            have_bytes: bytes.len(),
        })?;
        Self::from_raw(raw)
    }

    pub(super) fn from_raw(raw: RawHeader<'_>) -> Result<Self, BatchError> {
        if raw.magic() != 2 {
            return Err(BatchError::Magic { magic: raw.magic() });
        }
        let size_bytes = size_from_length(raw.batch_length())?;
        let attributes = raw.attributes();
        let has = |bit: i16| attributes & bit != 0;
        let base_timestamp = TimestampMs(raw.base_timestamp());
        Ok(Self {
            base_offset: Offset(not_negative("baseOffset", raw.base_offset())?),
            leader_epoch: u32::try_from(raw.leader_epoch()).ok().map(LeaderEpoch),
            crc: raw.crc(),
            compression: Compression::from_attributes(attributes)?,
            timestamp_type: timestamp_type(attributes),
            is_transactional: has(layout::TRANSACTIONAL_BIT),
            is_control: has(layout::CONTROL_BIT),
            delete_horizon: has(layout::DELETE_HORIZON_BIT).then_some(base_timestamp),
            last_offset_delta: not_negative("lastOffsetDelta", raw.last_offset_delta())?,
            base_timestamp,
            max_timestamp: TimestampMs(raw.max_timestamp()),
            producer_id: u64::try_from(raw.producer_id()).ok().map(ProducerId),
            producer_epoch: raw.producer_epoch(),
            base_sequence: raw.base_sequence(),
            record_count: not_negative("recordCount", raw.record_count())?,
            size_bytes,
        })
    }

    /// Length of the whole batch in bytes, header included.
    pub fn size(&self) -> usize {
        self.size_bytes
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(self.last_offset_delta.into())
    }

    /// Offset that follows this batch.
    pub fn next_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    /// Sequence of the last record: after 2147483647 comes 0. -1 without a producer.
    pub fn last_sequence(&self) -> i32 {
        if self.producer_id.is_none() || self.base_sequence < 0 {
            return -1;
        }
        let last = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        // Sequences are 31 bits wide, so the mask is the remainder by 2^31.
        (last & i64::from(i32::MAX)) as i32
    }
}

/// Checks the CRC of the batch at the start of `batch`; bytes behind it do not matter.
///
/// Errors: `Truncated` and `Length` when the batch is not whole, `Crc` when it is damaged.
#[inline]
pub fn verify_crc(batch: &[u8]) -> Result<(), BatchError> {
    let (raw, batch) = whole_batch(batch)?;
    let computed = layout::compute_crc(batch);
    if computed != raw.crc() {
        return Err(BatchError::Crc {
            stored: raw.crc(),
            computed,
        });
    }
    Ok(())
}

/// The batch at the start of `bytes`, cut to its own length.
pub(super) fn whole_batch(bytes: &[u8]) -> Result<(RawHeader<'_>, &[u8]), BatchError> {
    let raw = RawHeader::new(bytes).ok_or(BatchError::Truncated {
        need_bytes: HEADER_BYTES,
        have_bytes: bytes.len(),
    })?;
    let need_bytes = size_from_length(raw.batch_length())?;
    let batch = bytes.get(..need_bytes).ok_or(BatchError::Truncated {
        need_bytes,
        have_bytes: bytes.len(),
    })?;
    Ok((raw, batch))
}

/// Bytes of a whole batch, from the value of its length field.
pub(super) fn size_from_length(length: i32) -> Result<usize, BatchError> {
    match usize::try_from(length) {
        Ok(bytes) if bytes >= HEADER_BYTES - layout::LOG_OVERHEAD => Ok(bytes + layout::LOG_OVERHEAD),
        _ => Err(BatchError::Length { length }),
    }
}

pub(super) fn timestamp_type(attributes: i16) -> TimestampType {
    if attributes & layout::LOG_APPEND_TIME_BIT == 0 {
        TimestampType::CreateTime
    } else {
        TimestampType::LogAppendTime
    }
}

fn not_negative<S, U>(field: &'static str, value: S) -> Result<U, BatchError>
where
    S: Copy + Into<i64>,
    U: TryFrom<S>,
{
    U::try_from(value).map_err(|_| BatchError::Negative {
        field,
        value: value.into(),
    })
}
