//! Where each header field lies, and how to read it unchecked by meaning.

/// Bytes in front of the part that `batch_length` counts: base offset and the length itself.
pub(super) const LOG_OVERHEAD: usize = 12;

pub(super) const BASE_OFFSET: usize = 0;
pub(super) const BATCH_LENGTH: usize = 8;
pub(super) const LEADER_EPOCH: usize = 12;
pub(super) const MAGIC: usize = 16;
pub(super) const CRC: usize = 17;
pub(super) const ATTRIBUTES: usize = 21;
pub(super) const LAST_OFFSET_DELTA: usize = 23;
pub(super) const BASE_TIMESTAMP: usize = 27;
pub(super) const MAX_TIMESTAMP: usize = 35;
pub(super) const PRODUCER_ID: usize = 43;
pub(super) const PRODUCER_EPOCH: usize = 51;
pub(super) const BASE_SEQUENCE: usize = 53;
pub(super) const RECORD_COUNT: usize = 57;
pub(super) const RECORDS: usize = 61;

pub(super) const COMPRESSION_MASK: i16 = 0b111;
pub(super) const LOG_APPEND_TIME_BIT: i16 = 1 << 3;
pub(super) const TRANSACTIONAL_BIT: i16 = 1 << 4;
pub(super) const CONTROL_BIT: i16 = 1 << 5;
pub(super) const DELETE_HORIZON_BIT: i16 = 1 << 6;

/// The header's 61 bytes, fields as they stand on the wire. Meaning is checked by the callers, each in
/// the order it must report errors in.
#[derive(Clone, Copy)]
pub(super) struct RawHeader<'a>(&'a [u8; RECORDS]);

impl<'a> RawHeader<'a> {
    /// `None` when `bytes` holds no whole header.
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(Self)
    }

    pub(super) fn base_offset(self) -> i64 {
        i64::from_be_bytes(self.field::<BASE_OFFSET, 8>())
    }

    pub(super) fn batch_length(self) -> i32 {
        i32::from_be_bytes(self.field::<BATCH_LENGTH, 4>())
    }

    pub(super) fn leader_epoch(self) -> i32 {
        i32::from_be_bytes(self.field::<LEADER_EPOCH, 4>())
    }

    pub(super) fn magic(self) -> i8 {
        i8::from_be_bytes(self.field::<MAGIC, 1>())
    }

    pub(super) fn crc(self) -> u32 {
        u32::from_be_bytes(self.field::<CRC, 4>())
    }

    pub(super) fn attributes(self) -> i16 {
        i16::from_be_bytes(self.field::<ATTRIBUTES, 2>())
    }

    pub(super) fn last_offset_delta(self) -> i32 {
        i32::from_be_bytes(self.field::<LAST_OFFSET_DELTA, 4>())
    }

    pub(super) fn base_timestamp(self) -> i64 {
        i64::from_be_bytes(self.field::<BASE_TIMESTAMP, 8>())
    }

    pub(super) fn max_timestamp(self) -> i64 {
        i64::from_be_bytes(self.field::<MAX_TIMESTAMP, 8>())
    }

    pub(super) fn producer_id(self) -> i64 {
        i64::from_be_bytes(self.field::<PRODUCER_ID, 8>())
    }

    pub(super) fn producer_epoch(self) -> i16 {
        i16::from_be_bytes(self.field::<PRODUCER_EPOCH, 2>())
    }

    pub(super) fn base_sequence(self) -> i32 {
        i32::from_be_bytes(self.field::<BASE_SEQUENCE, 4>())
    }

    pub(super) fn record_count(self) -> i32 {
        i32::from_be_bytes(self.field::<RECORD_COUNT, 4>())
    }

    fn field<const AT: usize, const LEN: usize>(self) -> [u8; LEN] {
        std::array::from_fn(|i| self.0[AT + i])
    }
}

/// CRC32C of what the batch's CRC covers: everything from the attributes on.
/// `batch` is one whole batch and at least a header long.
pub(super) fn compute_crc(batch: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(&batch[ATTRIBUTES..])
}
