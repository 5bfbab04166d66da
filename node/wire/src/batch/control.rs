//! Control records: the markers that end transactions.
//!
//! ```text
//! key     version: i16   type: i16 (0 abort, 1 commit)
//! value   version: i16   coordinatorEpoch: i32
//! ```

use bytes::{Buf, Bytes};
use meridian_types::{ProducerId, TimestampMs};

use super::builder::{BatchBuilder, BuildError};
use super::compression::Compression;
use super::records::Record;

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndTxn {
    /// Its records are to be ignored.
    Abort,
    /// Its records count.
    Commit,
}

/// What a control record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRecord {
    /// A transaction of the batch's producer ends here.
    EndTxn {
        /// How.
        outcome: EndTxn,
        /// Epoch of the coordinator that decided it.
        coordinator_epoch: i32,
    },
    /// Another type, such as KRaft's own; to be passed over.
    Other {
        /// Its type.
        kind: i16,
    },
}

impl ControlRecord {
    /// Reads the record of a control batch. `None` when key or value are not of the form above; later versions
    /// may be longer.
    pub fn parse(record: &Record) -> Option<Self> {
        let mut key = record.key.clone()?;
        let version = key.try_get_i16().ok()?;
        let kind = key.try_get_i16().ok()?;
        let outcome = match (version, kind) {
            (..0, _) => return None,
            (_, 0) => EndTxn::Abort,
            (_, 1) => EndTxn::Commit,
            (_, kind) => return Some(Self::Other { kind }),
        };
        let mut value = record.value.clone()?;
        if value.try_get_i16().ok()? < 0 {
            return None;
        }
        Some(Self::EndTxn {
            outcome,
            coordinator_epoch: value.try_get_i32().ok()?,
        })
    }
}

/// The control batch that ends the transaction of a producer, as a client would send it: unstamped.
pub fn end_txn_batch(
    producer_id: ProducerId,
    producer_epoch: i16,
    outcome: EndTxn,
    coordinator_epoch: i32,
    now: TimestampMs,
) -> Result<Bytes, BuildError> {
    let kind: i16 = match outcome {
        EndTxn::Abort => 0,
        EndTxn::Commit => 1,
    };
    let mut key = [0; 4];
    key[2..].copy_from_slice(&kind.to_be_bytes());
    let mut value = [0; 6];
    value[2..].copy_from_slice(&coordinator_epoch.to_be_bytes());
    // Markers carry no sequence: they are not part of what the producer sent.
    let mut builder = BatchBuilder::new(Compression::None)
        .with_producer(producer_id, producer_epoch, -1)
        .transactional()
        .control();
    builder.push(now, Some(&key), Some(&value), &[])?;
    builder.build()
}
