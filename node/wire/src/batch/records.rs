//! The records of a batch, for those who need them: consumers, the command line, compaction, replay.

use std::borrow::Cow;

use bytes::Bytes;
use meridian_types::{Offset, TimestampMs};

use super::compression::{Compression, decompress};
use super::error::{BatchError, RecordFault, RecordsError};
use super::header::{BatchHeader, HEADER_BYTES};
use super::record_parser::{SliceInput, parse_header};
use super::record_refs::read_record;

/// One record. Key, value and headers share memory with the batch, or with what it decompressed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its offset in the partition.
    pub offset: Offset,
    /// Its time; under `LogAppendTime` that of the batch. -1 for none.
    pub timestamp: TimestampMs,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers.
    pub headers: Headers,
}

/// The headers of a record in order; a key may come several times.
///
/// Kept as bytes and read when asked for: a record of many tiny headers takes no more memory than it came in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    count: u32,
    /// Invariant: `count` well-formed headers.
    block: Bytes,
}

impl Headers {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each header, in order.
    pub fn iter(&self) -> impl Iterator<Item = RecordHeader> + '_ {
        let mut rest = SliceInput::new(&self.block);
        (0..self.count).map_while(move |_| {
            let (key, value) = parse_header(&mut rest).ok()?;
            Some(RecordHeader {
                key: self.block.slice_ref(key),
                value: value.map(|value| self.block.slice_ref(value)),
            })
        })
    }
}

/// One header of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Its key: text by convention, not checked.
    pub key: Bytes,
    /// Its value.
    pub value: Option<Bytes>,
}

impl RecordHeader {
    /// The key as text; bytes that are not UTF-8 are replaced.
    pub fn key_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.key)
    }
}

/// Iterates over the records of `batch`, one whole batch; does not check its CRC.
///
/// A compressed batch is decompressed here, to at most `decompressed_bytes_max` bytes.
/// Errors: a header that cannot be read, a batch that is not whole, records that do not decompress. A malformed
/// record is an error item, and the last one.
pub fn records(batch: &Bytes, decompressed_bytes_max: usize) -> Result<Records, RecordsError> {
    let header = BatchHeader::parse(batch)?;
    if header.size() > batch.len() {
        return Err(BatchError::Truncated {
            need_bytes: header.size(),
            have_bytes: batch.len(),
        }
        .into());
    }
    let block = batch.slice(HEADER_BYTES..header.size());
    let block = match header.compression {
        Compression::None => block,
        codec => decompress(codec, &block, decompressed_bytes_max)?.into(),
    };
    Ok(records_of_block(&header, block))
}

/// The records of a batch whose `block` of records is already decompressed.
pub(super) fn records_of_block(header: &BatchHeader, block: Bytes) -> Records {
    Records {
        at: 0,
        block,
        header: *header,
        index: 0,
        is_done: false,
    }
}

/// See [`records`].
#[derive(Clone, Debug)]
pub struct Records {
    header: BatchHeader,
    block: Bytes,
    at: usize,
    index: u32,
    is_done: bool,
}

impl Records {
    /// The batch's header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    fn read(&mut self) -> Result<Record, RecordFault> {
        let mut rest = SliceInput::new(&self.block[self.at..]);
        let record = read_record(&self.header, &mut rest)?;
        let record = Record {
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.map(|key| self.share(key)),
            value: record.value.map(|value| self.share(value)),
            headers: Headers {
                count: record.headers.count,
                block: self.share(record.headers.block),
            },
        };
        self.at = self.block.len() - rest.rest().len();
        Ok(record)
    }

    fn share(&self, part: &[u8]) -> Bytes {
        self.block.slice_ref(part)
    }
}

impl Iterator for Records {
    type Item = Result<Record, RecordsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        if self.index == self.header.record_count {
            self.is_done = true;
            return (self.at < self.block.len()).then_some(Err(RecordsError::TrailingBytes {
                record_count: self.header.record_count,
            }));
        }
        let record = self.read().map_err(|fault| fault.at(self.index));
        self.index += 1;
        self.is_done = record.is_err();
        Some(record)
    }
}
