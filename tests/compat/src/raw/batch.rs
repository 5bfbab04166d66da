//! Record batches, written and read by hand.

use std::io;

use super::{Body, Reader, invalid};

/// Bytes of a record batch before its records.
pub const BATCH_HEADER_BYTES: usize = 61;

/// What the header of a batch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of its first record.
    pub base_offset: i64,
    /// Bits 0-2: codec; 3: log append time; 4: transactional; 5: control.
    pub attributes: i16,
    /// Records in it.
    pub record_count: i32,
    /// The epoch of the leader that appended it.
    pub leader_epoch: i32,
    /// -1 for none.
    pub producer_id: i64,
    /// -1 for none.
    pub producer_epoch: i16,
    /// Of its first record, -1 for none.
    pub base_sequence: i32,
    /// Whether the CRC-32C holds.
    pub crc_holds: bool,
}

impl BatchHeader {
    /// The codec: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    pub fn codec(&self) -> i16 {
        self.attributes & 7
    }
}

/// The headers of a sequence of batches; a last batch cut off by the limit of the fetch is left out.
pub fn batches(mut records: &[u8]) -> Vec<BatchHeader> {
    let mut headers = Vec::new();
    while records.len() >= BATCH_HEADER_BYTES {
        let mut reader = Reader(records);
        let mut parse = || -> io::Result<(BatchHeader, usize)> {
            let base_offset = reader.i64()?;
            let length = usize::try_from(reader.i32()?).map_err(|_| invalid("length".into()))?;
            let mut rest = Reader(reader.take(length)?);
            let leader_epoch = rest.i32()?;
            rest.take(1)?;
            let crc = rest.i32()?.cast_unsigned();
            let crc_holds = crc32c(rest.0) == crc;
            let attributes = rest.i16()?;
            // Last offset delta and two timestamps.
            rest.take(20)?;
            let header = BatchHeader {
                base_offset,
                attributes,
                leader_epoch,
                producer_id: rest.i64()?,
                producer_epoch: rest.i16()?,
                base_sequence: rest.i32()?,
                record_count: rest.i32()?,
                crc_holds,
            };
            Ok((header, 12 + length))
        };
        let Ok((header, size)) = parse() else { break };
        headers.push(header);
        records = &records[size..];
    }
    headers
}

/// A batch of `values` without keys, uncompressed, timestamps 0.
pub fn plain_batch(values: &[&[u8]]) -> Vec<u8> {
    let records: Vec<_> = values.iter().map(|value| (None, Some(*value))).collect();
    batch_of(&records)
}

/// A batch of records with keys, uncompressed, timestamps 0; a record without a value ends its key.
pub fn keyed_batch(records: &[(&[u8], Option<&[u8]>)]) -> Vec<u8> {
    let records: Vec<_> = records.iter().map(|(key, value)| (Some(*key), *value)).collect();
    batch_of(&records)
}

/// Key and value of a record.
type Content<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

fn batch_of(contents: &[Content<'_>]) -> Vec<u8> {
    let mut records = Vec::new();
    for (delta, (key, value)) in contents.iter().enumerate() {
        let mut record = vec![0, 0];
        varint(&mut record, i64::try_from(delta).expect("few records"));
        for field in [key, value] {
            match field {
                Some(field) => {
                    varint(&mut record, i64::try_from(field.len()).expect("small records"));
                    record.extend_from_slice(field);
                }
                None => varint(&mut record, -1),
            }
        }
        record.push(0);
        varint(&mut records, i64::try_from(record.len()).expect("small records"));
        records.extend(record);
    }
    batch(0, i32::try_from(contents.len()).expect("few records"), &records)
}

/// A record of an uncompressed batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainRecord {
    /// Its offset.
    pub offset: i64,
    /// Its key, if it has one.
    pub key: Option<Vec<u8>>,
    /// Its value, if it has one.
    pub value: Option<Vec<u8>>,
}

/// The records of a sequence of uncompressed batches without headers, and the offset behind the last whole batch; a last
/// batch cut off by the limit of the fetch is left out.
///
/// Errors: a batch is compressed, or not what it says.
pub fn plain_records(mut batches: &[u8]) -> io::Result<(Vec<PlainRecord>, Option<i64>)> {
    let mut found = Vec::new();
    let mut end = None;
    for header in self::batches(batches) {
        if header.codec() != 0 || !header.crc_holds {
            return Err(invalid(format!("not a plain batch: {header:?}")));
        }
        let mut reader = Reader(batches);
        reader.take(8)?;
        let length = usize::try_from(reader.i32()?).map_err(|_| invalid("length".into()))?;
        let mut body = Reader(reader.take(length)?);
        batches = reader.0;
        // Leader epoch, format, CRC and attributes.
        body.take(11)?;
        end = Some(header.base_offset + i64::from(body.i32()?) + 1);
        body.take(BATCH_HEADER_BYTES - 27)?;
        for _ in 0..header.record_count {
            // Length and attributes, then the timestamp.
            unzigzag(&mut body)?;
            body.take(1)?;
            unzigzag(&mut body)?;
            let delta = unzigzag(&mut body)?;
            let mut field = || -> io::Result<Option<Vec<u8>>> {
                let length = usize::try_from(unzigzag(&mut body)?).ok();
                length.map(|length| Ok(body.take(length)?.to_vec())).transpose()
            };
            found.push(PlainRecord {
                offset: header.base_offset + delta,
                key: field()?,
                value: field()?,
            });
            if unzigzag(&mut body)? != 0 {
                return Err(invalid("a record has headers".into()));
            }
        }
    }
    Ok((found, end))
}

fn unzigzag(reader: &mut Reader<'_>) -> io::Result<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = reader.take(1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    Err(invalid("a number without an end".into()))
}

/// A batch with a true CRC around any `records` bytes. `codec` as in [`BatchHeader::codec`].
pub fn batch(codec: i16, record_count: i32, records: &[u8]) -> Vec<u8> {
    let covered = Body::default()
        .i16(codec)
        .i32(record_count - 1)
        .i64(0)
        .i64(0)
        .i64(-1)
        .i16(-1)
        .i32(-1)
        .i32(record_count)
        .raw(records);
    let crc = crc32c(&covered.0);
    let content = Body::default()
        .i32(-1)
        .i8(2)
        .i32(crc.cast_signed())
        .raw(&covered.0);
    Body::default().i64(0).bytes(&content.0).0
}

/// Makes a batch that of an idempotent producer; `sequence` is that of its first record.
#[must_use]
pub fn of_producer(mut batch: Vec<u8>, producer: i64, epoch: i16, sequence: i32) -> Vec<u8> {
    batch[43..51].copy_from_slice(&producer.to_be_bytes());
    batch[51..53].copy_from_slice(&epoch.to_be_bytes());
    batch[53..57].copy_from_slice(&sequence.to_be_bytes());
    // It covers everything from the attributes on.
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while zigzag >= 0x80 {
        out.push((zigzag & 0x7f) as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

fn crc32c(data: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, data) as u32
}

/// CRC-32 as the client programs print it.
pub(crate) fn crc32(data: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, data) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_of_batches_are_read_back_and_a_cut_batch_is_left_out() {
        let mut records = plain_batch(&[b"one", b"two"]);
        records.extend(batch(3, 7, b"xyz"));
        let third = plain_batch(&[b"three"]);
        records.extend(&third[..third.len() - 1]);
        let got = batches(&records);
        let counts: Vec<_> = got.iter().map(|h| (h.codec(), h.record_count)).collect();
        assert_eq!(counts, [(0, 2), (3, 7)]);
        assert!(got.iter().all(|h| h.crc_holds));
    }

    #[test]
    fn records_are_read_back_as_they_were_written() {
        let mut bytes = plain_batch(&[b"one", b""]);
        bytes.extend(keyed_batch(&[(b"k", Some(&[7; 300])), (b"gone", None)]));
        let (records, end) = plain_records(&bytes).expect("plain batches");
        let seen: Vec<_> = records
            .iter()
            .map(|r| (r.offset, (r.key.as_deref(), r.value.as_deref())))
            .collect();
        let expected: [(i64, Content<'_>); 4] = [
            (0, (None, Some(b"one"))),
            (1, (None, Some(b""))),
            (0, (Some(b"k"), Some(&[7; 300]))),
            (1, (Some(b"gone"), None)),
        ];
        assert_eq!(seen, expected);
        assert_eq!(end, Some(2));
        bytes.truncate(bytes.len() - 1);
        assert_eq!(plain_records(&bytes).expect("one whole batch").0.len(), 2);
        assert!(plain_records(&batch(3, 1, b"xyz")).is_err());
    }

    #[test]
    fn a_flipped_bit_breaks_the_crc() {
        let mut records = plain_batch(&[b"one"]);
        *records.last_mut().unwrap() ^= 1;
        assert!(!batches(&records)[0].crc_holds);
    }
}
