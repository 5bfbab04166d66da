//! The records of a batch, lent: for those who copy what they read anyway, such as replay.

use meridian_types::{Offset, TimestampMs};

use super::compression::{Compression, decompress_into};
use super::error::{BatchError, RecordFault, RecordsError};
use super::header::{BatchHeader, HEADER_BYTES, TimestampType};
use super::record_parser::{SliceInput, parse_fields, parse_header, parse_headers};

/// One record, lent from the batch or from what it decompressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Its offset in the partition.
    pub offset: Offset,
    /// Its time; under `LogAppendTime` that of the batch. -1 for none.
    pub timestamp: TimestampMs,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: HeaderRefs<'a>,
}

/// The headers of a record in order, lent; a key may come several times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderRefs<'a> {
    pub(super) count: u32,
    /// Invariant: `count` well-formed headers.
    pub(super) block: &'a [u8],
}

impl<'a> HeaderRefs<'a> {
    /// How many there are.
    pub fn len(self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.count == 0
    }

    /// Key and value of each, in order. The key is text by convention, not checked.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        let mut rest = SliceInput::new(self.block);
        (0..self.count).map_while(move |_| parse_header(&mut rest).ok())
    }
}

/// Iterates over the records of `batch`, one whole batch; does not check its CRC.
///
/// A compressed batch is decompressed into `scratch`, to at most `decompressed_bytes_max` bytes; what `scratch` held
/// before does not matter, so that one serves many batches.
/// Errors: as [`super::records`].
pub fn record_refs<'a>(
    batch: &'a [u8],
    scratch: &'a mut Vec<u8>,
    decompressed_bytes_max: usize,
) -> Result<RecordRefs<'a>, RecordsError> {
    let header = BatchHeader::parse(batch)?;
    let block = batch
        .get(HEADER_BYTES..header.size())
        .ok_or(BatchError::Truncated {
            need_bytes: header.size(),
            have_bytes: batch.len(),
        })?;
    let block = match header.compression {
        Compression::None => block,
        codec => {
            let len = decompress_into(codec, block, decompressed_bytes_max, scratch)?;
            &scratch[..len]
        }
    };
    Ok(RecordRefs {
        header,
        block_bytes: block.len(),
        rest: SliceInput::new(block),
        index: 0,
        is_done: false,
    })
}

/// See [`record_refs`].
pub struct RecordRefs<'a> {
    header: BatchHeader,
    block_bytes: usize,
    rest: SliceInput<'a>,
    index: u32,
    is_done: bool,
}

impl RecordRefs<'_> {
    /// The batch's header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Bytes of all records without compression.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }
}

impl<'a> Iterator for RecordRefs<'a> {
    type Item = Result<RecordRef<'a>, RecordsError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        if self.index == self.header.record_count {
            self.is_done = true;
            return (!self.rest.rest().is_empty()).then_some(Err(RecordsError::TrailingBytes {
                record_count: self.header.record_count,
            }));
        }
        let record = read_record(&self.header, &mut self.rest).map_err(|fault| fault.at(self.index));
        self.index += 1;
        self.is_done = record.is_err();
        Some(record)
    }
}

/// Reads the next record of a batch.
#[inline]
pub(super) fn read_record<'a>(
    header: &BatchHeader,
    rest: &mut SliceInput<'a>,
) -> Result<RecordRef<'a>, RecordFault> {
    let mut record = rest.record()?;
    let fields = parse_fields(&mut record)?;
    let headers = HeaderRefs {
        count: fields.header_count,
        block: record.rest(),
    };
    parse_headers(&mut record, headers.count)?;
    let last_offset_delta = header.last_offset_delta;
    let offset_delta = u32::try_from(fields.offset_delta)
        .ok()
        .filter(|delta| *delta <= last_offset_delta)
        .ok_or(RecordFault::Offset {
            offset_delta: fields.offset_delta,
            last_offset_delta,
        })?;
    let timestamp = match header.timestamp_type {
        TimestampType::LogAppendTime => header.max_timestamp,
        TimestampType::CreateTime => TimestampMs(
            header
                .base_timestamp
                .0
                .checked_add(fields.timestamp_delta)
                .ok_or(RecordFault::Timestamp)?,
        ),
    };
    Ok(RecordRef {
        offset: header.base_offset.plus(offset_delta.into()),
        timestamp,
        key: fields.key,
        value: fields.value,
        headers,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{BatchBuilder, records};
    use super::*;
    use meridian_types::LeaderEpoch;

    #[test]
    fn lent_records_are_those_that_are_shared() {
        let mut scratch = b"what another batch left".to_vec();
        for codec in Compression::ALL {
            let mut builder = BatchBuilder::new(codec).stored_at(Offset(40), LeaderEpoch(1));
            for number in 0..100_i64 {
                let value = vec![b'v'; number as usize * 10];
                let headers: [(&[u8], Option<&[u8]>); 2] = [(b"h", Some(b"1")), (b"h", None)];
                builder
                    .push(
                        TimestampMs(1000 + number),
                        (number % 3 > 0).then_some(b"k"),
                        (number % 5 > 0).then_some(&value),
                        &headers[..(number % 3) as usize],
                    )
                    .unwrap();
            }
            let batch = builder.build().unwrap();
            let shared: Vec<_> = records(&batch, 1 << 20)
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
            let lent: Vec<_> = record_refs(&batch, &mut scratch, 1 << 20)
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
            assert_eq!(lent.len(), 100);
            for (lent, shared) in lent.iter().zip(&shared) {
                assert_eq!((lent.offset, lent.timestamp), (shared.offset, shared.timestamp));
                assert_eq!(
                    (lent.key, lent.value),
                    (shared.key.as_deref(), shared.value.as_deref())
                );
                let headers: Vec<_> = shared.headers.iter().collect();
                assert_eq!(lent.headers.len(), headers.len());
                for ((key, value), header) in lent.headers.iter().zip(&headers) {
                    assert_eq!((key, value), (&header.key[..], header.value.as_deref()));
                }
            }
        }
    }

    #[test]
    fn the_limit_of_decompression_holds_for_lent_records_too() {
        let mut builder = BatchBuilder::new(Compression::Zstd);
        builder
            .push(TimestampMs(0), None, Some(&[0; 10_000]), &[])
            .unwrap();
        let batch = builder.build().unwrap();
        let mut scratch = vec![0; 1 << 20];
        assert!(record_refs(&batch, &mut scratch, 5000).is_err());
        assert!(record_refs(&batch, &mut scratch, 20_000).is_ok());
        assert!(record_refs(&batch[..batch.len() - 1], &mut scratch, 20_000).is_err());
    }
}
