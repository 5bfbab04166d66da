//! The checks that a batch must pass before a client may append it, in Kafka's order.
//!
//! Source: `ProduceRequest.validateRecords`, `UnifiedLog.analyzeAndValidateRecords` and `LogValidator` of
//! Apache Kafka. Stricter than Kafka where Kafka would rebuild the batch: we never do, so records must
//! number their offsets 0, 1, 2 and so on.

use std::fmt;

use meridian_types::TimestampMs;
use thiserror::Error;

use super::compression::{Compression, CompressionError, Decompressor};
use super::error::{BatchError, RecordFault, RecordsError};
use super::header::{BatchHeader, TimestampType, size_from_length, timestamp_type};
use super::layout::{self, RawHeader};
use super::record_parser::{Scan, SliceInput};
use crate::ErrorCode;

/// Rejected records that are listed; a batch of millions is refused with the first of them.
const REJECTIONS_MAX: usize = 1000;

/// "No timestamp" in Kafka's format.
const NO_TIMESTAMP: i64 = -1;

/// What the topic, the request and the node ask of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProduceRules {
    /// `max.message.bytes`: largest batch as sent.
    pub message_bytes_max: usize,
    /// Most that a compressed batch may decompress to.
    pub decompressed_bytes_max: usize,
    /// The broker's time.
    pub now: TimestampMs,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far a record's time may lie before `now`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`: how far a record's time may lie after `now`.
    pub timestamp_after_max_ms: i64,
    /// `cleanup.policy` contains `compact`, so every record needs a key.
    pub is_compacted: bool,
    /// The request is Produce v7 or later.
    pub is_zstd_allowed: bool,
}

/// A batch that may be appended, and what reading its records showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validated {
    /// The header as the client sent it.
    pub header: BatchHeader,
    /// Greatest timestamp of the records, -1 when none has one; under `LogAppendTime` the broker's time.
    /// Where it differs from the header's, write it with [`super::set_max_timestamp`].
    pub max_timestamp: TimestampMs,
    /// Offset delta of the first record that has it.
    pub max_timestamp_offset_delta: u32,
}

/// Why a client's batch is refused. [`Self::error_code`] is what Kafka answers.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProduceBatchError {
    /// No bytes at all.
    #[error("a partition of a produce request needs one record batch, and has none")]
    Empty,
    /// Something follows the batch.
    #[error(
        "a partition of a produce request needs exactly one record batch; {extra_bytes} bytes follow the first"
    )]
    NotOneBatch {
        /// Bytes behind the first batch.
        extra_bytes: usize,
    },
    /// Format version 0 or 1, or none at all.
    #[error("record batch has format version {magic}; only version 2 is supported")]
    Magic {
        /// The version found.
        magic: i8,
    },
    /// The codec is unknown.
    #[error("record batch has compression code {code}; known are 0 (none) to 4 (zstd)")]
    UnknownCompression {
        /// The code found.
        code: u8,
    },
    /// zstd needs Produce v7.
    #[error("zstd needs Produce version 7 or later")]
    ZstdNotAllowed,
    /// The batch is cut short or its checksum is wrong. The sender may try again.
    #[error(transparent)]
    Corrupt(BatchError),
    /// Only the broker gives offsets.
    #[error("the base offset of a produced batch must be 0, and is {base_offset}")]
    BaseOffset {
        /// The offset found.
        base_offset: i64,
    },
    /// Larger than the topic takes. The sender may split it.
    #[error("record batch takes {size_bytes} bytes; the topic's max.message.bytes is {max_bytes}")]
    TooLarge {
        /// The batch's size.
        size_bytes: usize,
        /// The topic's limit.
        max_bytes: usize,
    },
    /// Decompresses to more than the broker reads. The sender may split it.
    #[error("the records decompress to more than {max_bytes} bytes")]
    DecompressedTooLarge {
        /// The broker's limit.
        max_bytes: usize,
    },
    /// Record count and offset range disagree, or the batch is empty.
    #[error(
        "record batch gives {record_count} records and last offset delta {last_offset_delta}; \
             a produced batch has at least one record, and its last offset delta is one less than their number"
    )]
    Count {
        /// The header's record count.
        record_count: i32,
        /// The header's last offset delta.
        last_offset_delta: i32,
    },
    /// Control batches are the broker's own.
    #[error("clients may not write control batches")]
    Control,
    /// Producer id without epoch or sequence.
    #[error(
        "record batch of producer {producer_id} has epoch {producer_epoch} and base sequence {base_sequence}; \
             neither may be negative"
    )]
    Sequence {
        /// The producer.
        producer_id: i64,
        /// Its epoch.
        producer_epoch: i16,
        /// Its base sequence.
        base_sequence: i32,
    },
    /// Only the broker may set timestamp type LogAppendTime.
    #[error("producers may not set timestamp type LogAppendTime")]
    LogAppendTime,
    /// The block of records cannot be read.
    #[error(transparent)]
    Records(RecordsError),
    /// A record's offset delta is not its place in the batch.
    #[error(
        "record {index} of the batch has offset delta {offset_delta}; a produced batch numbers its records from 0"
    )]
    OffsetDelta {
        /// The record's place.
        index: u32,
        /// Its offset delta.
        offset_delta: i32,
    },
    /// The topic's settings refuse some of the records.
    #[error("{}", Rejections(.records))]
    Rejected {
        /// Which and why, in order; at most 1000. Never empty.
        records: Vec<RecordRejection>,
    },
}

/// One record that the topic's settings refuse: an entry of `record_errors` in Produce v8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRejection {
    /// Which record of the batch, from 0.
    pub batch_index: u32,
    /// Why; its text is the entry's message.
    pub reason: RejectionReason,
}

/// Why a record is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RejectionReason {
    /// Compaction keeps the last record of each key.
    #[error("a compacted topic does not take records without a key")]
    NoKey,
    /// Outside of what the topic takes.
    #[error("timestamp {timestamp} is outside of what the topic takes, {earliest} to {latest}")]
    Timestamp {
        /// The record's.
        timestamp: TimestampMs,
        /// The earliest accepted.
        earliest: TimestampMs,
        /// The latest accepted.
        latest: TimestampMs,
    },
}

impl ProduceBatchError {
    /// Kafka's error code for it.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::Corrupt(_) => ErrorCode::CorruptMessage,
            Self::TooLarge { .. } | Self::DecompressedTooLarge { .. } => ErrorCode::MessageTooLarge,
            Self::ZstdNotAllowed | Self::UnknownCompression { .. } => ErrorCode::UnsupportedCompressionType,
            Self::LogAppendTime => ErrorCode::InvalidTimestamp,
            Self::Rejected { records } if records.iter().any(RecordRejection::is_for_time) => {
                ErrorCode::InvalidTimestamp
            }
            Self::Empty
            | Self::NotOneBatch { .. }
            | Self::Magic { .. }
            | Self::BaseOffset { .. }
            | Self::Count { .. }
            | Self::Control
            | Self::Sequence { .. }
            | Self::Records(_)
            | Self::OffsetDelta { .. }
            | Self::Rejected { .. } => ErrorCode::InvalidRecord,
        }
    }

    /// The entries of `record_errors`, for the error that has any.
    pub fn record_rejections(&self) -> &[RecordRejection] {
        match self {
            Self::Rejected { records } => records,
            _ => &[],
        }
    }
}

impl RecordRejection {
    fn is_for_time(&self) -> bool {
        matches!(self.reason, RejectionReason::Timestamp { .. })
    }
}

/// Checks the records of one partition of a produce request: exactly one batch, intact and allowed by `rules`.
///
/// An uncompressed batch is read where it lies. A compressed one is decompressed step by step and thrown away
/// again, never beyond `decompressed_bytes_max`. Nothing is changed: the caller stamps the batch afterwards.
pub fn validate_produce(bytes: &[u8], rules: &ProduceRules) -> Result<Validated, ProduceBatchError> {
    let raw = one_batch(bytes, rules)?;
    check_header(raw, bytes, rules)?;
    let header = BatchHeader::from_raw(raw).map_err(ProduceBatchError::Corrupt)?;
    let records = &bytes[layout::RECORDS..];
    if header.compression == Compression::None {
        return scan(SliceInput::new(records), header, rules);
    }
    let stream = Decompressor::new(header.compression, records, rules.decompressed_bytes_max)
        .map_err(|error| unreadable(error.into()))?;
    scan(stream, header, rules)
}

/// The request's form: one whole batch of version 2 and of a codec that may be used.
fn one_batch<'a>(bytes: &'a [u8], rules: &ProduceRules) -> Result<RawHeader<'a>, ProduceBatchError> {
    if bytes.is_empty() {
        return Err(ProduceBatchError::Empty);
    }
    // All versions have the magic at the same place, and older ones may be shorter than a header of version 2.
    if let Some(&magic) = bytes.get(layout::MAGIC)
        && magic != 2
    {
        return Err(ProduceBatchError::Magic { magic: magic as i8 });
    }
    let have_bytes = bytes.len();
    let raw = RawHeader::new(bytes).ok_or(ProduceBatchError::Corrupt(BatchError::Truncated {
        need_bytes: layout::RECORDS,
        have_bytes,
    }))?;
    match Compression::from_attributes(raw.attributes()) {
        Ok(Compression::Zstd) if !rules.is_zstd_allowed => return Err(ProduceBatchError::ZstdNotAllowed),
        Err(BatchError::Compression { code }) => return Err(ProduceBatchError::UnknownCompression { code }),
        _ => {}
    }
    let need_bytes = size_from_length(raw.batch_length()).map_err(ProduceBatchError::Corrupt)?;
    if need_bytes > have_bytes {
        return Err(ProduceBatchError::Corrupt(BatchError::Truncated {
            need_bytes,
            have_bytes,
        }));
    }
    if need_bytes < have_bytes {
        return Err(ProduceBatchError::NotOneBatch {
            extra_bytes: have_bytes - need_bytes,
        });
    }
    Ok(raw)
}

fn check_header(raw: RawHeader<'_>, batch: &[u8], rules: &ProduceRules) -> Result<(), ProduceBatchError> {
    if raw.base_offset() != 0 {
        return Err(ProduceBatchError::BaseOffset {
            base_offset: raw.base_offset(),
        });
    }
    if batch.len() > rules.message_bytes_max {
        return Err(ProduceBatchError::TooLarge {
            size_bytes: batch.len(),
            max_bytes: rules.message_bytes_max,
        });
    }
    let computed = layout::compute_crc(batch);
    if computed != raw.crc() {
        return Err(ProduceBatchError::Corrupt(BatchError::Crc {
            stored: raw.crc(),
            computed,
        }));
    }
    let (record_count, last_offset_delta) = (raw.record_count(), raw.last_offset_delta());
    if record_count <= 0 || last_offset_delta != record_count - 1 {
        return Err(ProduceBatchError::Count {
            record_count,
            last_offset_delta,
        });
    }
    if raw.attributes() & layout::CONTROL_BIT != 0 {
        return Err(ProduceBatchError::Control);
    }
    if raw.producer_id() >= 0 && (raw.producer_epoch() < 0 || raw.base_sequence() < 0) {
        return Err(ProduceBatchError::Sequence {
            producer_id: raw.producer_id(),
            producer_epoch: raw.producer_epoch(),
            base_sequence: raw.base_sequence(),
        });
    }
    if timestamp_type(raw.attributes()) == TimestampType::LogAppendTime {
        return Err(ProduceBatchError::LogAppendTime);
    }
    Ok(())
}

/// Reads every record once. The hot path of the broker for uncompressed batches.
fn scan(
    mut records: impl Scan,
    header: BatchHeader,
    rules: &ProduceRules,
) -> Result<Validated, ProduceBatchError> {
    let base = header.base_timestamp.0;
    let earliest = rules.now.0.saturating_sub(rules.timestamp_before_max_ms);
    let latest = rules.now.0.saturating_add(rules.timestamp_after_max_ms);
    let checks_time = rules.timestamp_type == TimestampType::CreateTime;
    let (mut max_timestamp, mut max_at) = (NO_TIMESTAMP, 0);
    let mut rejected = Vec::new();
    for index in 0..header.record_count {
        let record = records.next().map_err(|fault| unreadable(fault.at(index)))?;
        if i64::from(record.offset_delta) != i64::from(index) {
            return Err(ProduceBatchError::OffsetDelta {
                index,
                offset_delta: record.offset_delta,
            });
        }
        let timestamp = base
            .checked_add(record.timestamp_delta)
            .ok_or_else(|| unreadable(RecordFault::Timestamp.at(index)))?;
        if timestamp > max_timestamp {
            (max_timestamp, max_at) = (timestamp, index);
        }
        let reason = if rules.is_compacted && !record.has_key {
            RejectionReason::NoKey
        } else if checks_time && timestamp != NO_TIMESTAMP && !(earliest..=latest).contains(&timestamp) {
            RejectionReason::Timestamp {
                timestamp: TimestampMs(timestamp),
                earliest: TimestampMs(earliest),
                latest: TimestampMs(latest),
            }
        } else {
            continue;
        };
        rejected.push(RecordRejection {
            batch_index: index,
            reason,
        });
        if rejected.len() == REJECTIONS_MAX {
            return Err(ProduceBatchError::Rejected { records: rejected });
        }
    }
    if !rejected.is_empty() {
        return Err(ProduceBatchError::Rejected { records: rejected });
    }
    if !records
        .is_at_end()
        .map_err(|fault| unreadable(fault.at(header.record_count)))?
    {
        return Err(unreadable(RecordsError::TrailingBytes {
            record_count: header.record_count,
        }));
    }
    Ok(match rules.timestamp_type {
        TimestampType::CreateTime => Validated {
            header,
            max_timestamp: TimestampMs(max_timestamp),
            max_timestamp_offset_delta: max_at,
        },
        TimestampType::LogAppendTime => Validated {
            header,
            max_timestamp: rules.now,
            max_timestamp_offset_delta: 0,
        },
    })
}

fn unreadable(error: RecordsError) -> ProduceBatchError {
    match error {
        RecordsError::Compression(CompressionError::TooLarge { limit_bytes }) => {
            ProduceBatchError::DecompressedTooLarge {
                max_bytes: limit_bytes,
            }
        }
        error => ProduceBatchError::Records(error),
    }
}

/// How many records are refused, and why the first is.
struct Rejections<'a>(&'a [RecordRejection]);

impl fmt::Display for Rejections<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.0.len() >= REJECTIONS_MAX {
            "at least "
        } else {
            ""
        };
        write!(f, "{more}{} of the batch's records are refused", self.0.len())?;
        match self.0.first() {
            Some(first) => write!(f, "; the first is record {}: {}", first.batch_index, first.reason),
            None => Ok(()),
        }
    }
}
