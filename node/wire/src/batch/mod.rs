//! RecordBatch v2: the unit that producers send, the log stores and consumers read.
//!
//! A batch is a 61-byte header and a block of records, which may be compressed. Between socket and disk
//! it stays bytes: [`BatchHeader`] reads the header, [`validate_produce`] checks a client's batch without
//! copying it, and the functions of [`mod@stamp`] patch single fields in place. [`records`] walks the records for
//! those who need them, [`BatchBuilder`] makes batches. The format is drawn in `docs/formats/record-batch.md`.

// cargo-fuzz sets `fuzzing`.
#![allow(unexpected_cfgs)]

pub mod builder;
pub mod compression;
pub mod control;
pub mod error;
pub mod header;
mod layout;
mod record_parser;
pub mod record_refs;
pub mod records;
pub mod retain;
pub mod split;
pub mod stamp;
pub mod validate;
mod varint;

#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(test)]
mod tests;

pub use builder::{BatchBuilder, BuildError};
pub use compression::{Compression, CompressionError, compress, decompress};
pub use control::{ControlRecord, EndTxn, end_txn_batch};
pub use error::{BatchError, RecordFault, RecordsError};
pub use header::{BatchHeader, HEADER_BYTES, TimestampType, verify_crc};
pub use record_refs::{HeaderRefs, RecordRef, RecordRefs, record_refs};
pub use records::{Headers, Record, RecordHeader, Records, records};
pub use retain::retain;
pub use split::{Batch, Batches, batches};
pub use stamp::{set_log_append_time, set_max_timestamp, set_producer, stamp};
pub use validate::{
    ProduceBatchError, ProduceRules, RecordRejection, RejectionReason, Validated, validate_produce,
};
