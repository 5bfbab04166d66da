//! What can be wrong with a batch and with its records.

use thiserror::Error;

use super::compression::CompressionError;

/// A batch that cannot be read. Whatever the bytes are, they are not data: do not store or serve them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// The bytes end inside the batch. Get the rest, or treat the batch as absent.
    #[error("record batch is cut short: {have_bytes} bytes of {need_bytes}")]
    Truncated {
        /// Bytes that a whole header, or the whole batch, would take.
        need_bytes: usize,
        /// Bytes that are there.
        have_bytes: usize,
    },
    /// The length field is smaller than a header.
    #[error("record batch gives its length as {length}, less than the {min} bytes of a header", min = 61 - 12)]
    Length {
        /// The field as it stood: bytes after itself.
        length: i32,
    },
    /// Not format version 2. Versions 0 and 1 (before Kafka 0.11) are not supported.
    #[error("record batch has format version {magic}; only version 2 is supported")]
    Magic {
        /// The version found.
        magic: i8,
    },
    /// The checksum does not match: the batch was damaged on its way or at rest.
    #[error("record batch is corrupt: its CRC32C is {stored:#010x}, its bytes give {computed:#010x}")]
    Crc {
        /// The header's checksum.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// Compression codes 5 to 7 are not assigned.
    #[error("record batch has compression code {code}; known are 0 (none) to 4 (zstd)")]
    Compression {
        /// The code found.
        code: u8,
    },
    /// The base offset, the last offset delta or the record count is negative.
    #[error("record batch has {field} {value}, which cannot be negative")]
    Negative {
        /// The field's name in Kafka's format.
        field: &'static str,
        /// Its value.
        value: i64,
    },
}

/// The records of a batch cannot be read. The batch is damaged or was built wrongly.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordsError {
    /// The header cannot be read, or the batch is not whole.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The block of records does not decompress within the limit.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// One record is malformed.
    #[error("record {index} of the batch is malformed: {fault}")]
    Record {
        /// Which record, from 0.
        index: u32,
        /// What is wrong with it.
        fault: RecordFault,
    },
    /// Bytes are left behind the last record.
    #[error("the batch has bytes behind its {record_count} records")]
    TrailingBytes {
        /// How many records the header announces.
        record_count: u32,
    },
}

/// What is wrong with one record.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordFault {
    /// The bytes end inside the record.
    #[error("the bytes end inside it")]
    Truncated,
    /// A variable-length number does not fit its type.
    #[error("a variable-length number is longer than its type allows")]
    Varint,
    /// A length or count is below what its field allows.
    #[error("{field} is {value}")]
    Negative {
        /// The field.
        field: &'static str,
        /// Its value.
        value: i32,
    },
    /// More headers are announced than the record has bytes for.
    #[error("{count} headers cannot fit in the {left_bytes} bytes left")]
    HeaderCount {
        /// Headers announced.
        count: u32,
        /// Bytes left in the record.
        left_bytes: usize,
    },
    /// The record's fields end before its announced length.
    #[error("its length announces {left_bytes} bytes more than its fields take")]
    Length {
        /// Bytes left behind the last field.
        left_bytes: usize,
    },
    /// The record lies outside the batch's range of offsets.
    #[error("its offset delta {offset_delta} is beyond the batch's last, {last_offset_delta}")]
    Offset {
        /// The record's offset delta.
        offset_delta: i32,
        /// The batch's last offset delta.
        last_offset_delta: u32,
    },
    /// Base timestamp and delta leave the range of 64 bits.
    #[error("its timestamp does not fit 64 bits")]
    Timestamp,
    /// The block of records does not decompress within the limit.
    #[error(transparent)]
    Compression(#[from] CompressionError),
}

impl RecordFault {
    /// Places the fault at record `index`; a fault of the whole block keeps no place.
    pub(super) fn at(self, index: u32) -> RecordsError {
        match self {
            Self::Compression(error) => RecordsError::Compression(error),
            fault => RecordsError::Record { index, fault },
        }
    }
}
