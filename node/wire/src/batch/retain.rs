//! Batches with fewer records, as compaction leaves them.

use bytes::Bytes;
use meridian_types::TimestampMs;

use super::compression::{Compression, compress, decompress};
use super::error::{BatchError, RecordsError};
use super::header::{BatchHeader, HEADER_BYTES, TimestampType};
use super::layout;
use super::record_parser::SliceInput;
use super::records::Record;
use super::stamp::{put, renew_crc};
use super::{records, varint};

/// Rebuilds a batch from those of its records that `keep` chooses, as Kafka's log cleaner does (KIP-534).
///
/// Offsets, timestamps, the producer's fields, leader epoch, offset range and codec stay; the greatest timestamp is
/// that of the records kept. With `delete_horizon` it is written into the header, in the place of the base timestamp.
/// A batch of which nothing is left is an empty one, uncompressed, with its greatest timestamp as it was.
/// Gives `None` when every record is kept and there is no horizon to write: the batch can stay as it is.
///
/// Does not check the batch's CRC. Decompresses to at most `decompressed_bytes_max` bytes.
pub fn retain(
    batch: &Bytes,
    decompressed_bytes_max: usize,
    delete_horizon: Option<TimestampMs>,
    mut keep: impl FnMut(&Record) -> bool,
) -> Result<Option<Bytes>, RecordsError> {
    let header = BatchHeader::parse(batch)?;
    let Some(block) = batch.get(HEADER_BYTES..header.size()) else {
        return Err(BatchError::Truncated {
            need_bytes: header.size(),
            have_bytes: batch.len(),
        }
        .into());
    };
    // Decompressed once, then walked twice in step: as records, and as the bytes they are.
    let block = match header.compression {
        Compression::None => batch.slice_ref(block),
        codec => decompress(codec, block, decompressed_bytes_max)?.into(),
    };
    let mut rest = SliceInput::new(&block);
    let mut kept = Vec::new();
    let mut count: u32 = 0;
    let mut max_timestamp = None;
    for (index, record) in (0..).zip(records::records_of_block(&header, block.clone())) {
        let record = record?;
        let body = rest.record().map_err(|fault| fault.at(index))?.rest();
        if !keep(&record) {
            continue;
        }
        count += 1;
        max_timestamp = max_timestamp.max(Some(record.timestamp));
        let timestamp_delta = record
            .timestamp
            .0
            .wrapping_sub(delete_horizon.unwrap_or(header.base_timestamp).0);
        put_record(&mut kept, body, timestamp_delta);
    }
    if count == header.record_count && delete_horizon.is_none() {
        return Ok(None);
    }
    let mut rebuilt = batch[..HEADER_BYTES].to_vec();
    let mut attributes = i16::from_be_bytes([batch[layout::ATTRIBUTES], batch[layout::ATTRIBUTES + 1]]);
    if count == 0 {
        attributes &= !(layout::COMPRESSION_MASK | layout::DELETE_HORIZON_BIT);
        put(&mut rebuilt, layout::BASE_TIMESTAMP, (-1_i64).to_be_bytes());
    } else {
        compress(header.compression, None, &kept, &mut rebuilt)?;
        if let Some(horizon) = delete_horizon {
            attributes |= layout::DELETE_HORIZON_BIT;
            put(&mut rebuilt, layout::BASE_TIMESTAMP, horizon.0.to_be_bytes());
        }
        if let (TimestampType::CreateTime, Some(greatest)) = (header.timestamp_type, max_timestamp) {
            put(&mut rebuilt, layout::MAX_TIMESTAMP, greatest.0.to_be_bytes());
        }
    }
    let length = i32::try_from(rebuilt.len() - layout::LOG_OVERHEAD)
        .map_err(|_| BatchError::Length { length: i32::MAX })?;
    put(&mut rebuilt, layout::BATCH_LENGTH, length.to_be_bytes());
    put(&mut rebuilt, layout::ATTRIBUTES, attributes.to_be_bytes());
    put(&mut rebuilt, layout::RECORD_COUNT, count.to_be_bytes());
    renew_crc(&mut rebuilt);
    Ok(Some(rebuilt.into()))
}

/// Writes a record, of which `body` is what follows its length, with another timestamp delta.
fn put_record(out: &mut Vec<u8>, body: &[u8], timestamp_delta: i64) {
    let (attributes, timed) = body.split_at(1);
    let rest = behind_varint(timed);
    varint::put_i64(out, (1 + varint::len_i64(timestamp_delta) + rest.len()) as i64);
    out.extend_from_slice(attributes);
    varint::put_i64(out, timestamp_delta);
    out.extend_from_slice(rest);
}

/// `bytes` begin with a varint, which was read before.
fn behind_varint(bytes: &[u8]) -> &[u8] {
    let last = bytes.iter().position(|byte| *byte < 0x80);
    &bytes[last.map_or(bytes.len(), |at| at + 1)..]
}

#[cfg(test)]
mod tests {
    use meridian_types::{LeaderEpoch, Offset, ProducerId};

    use super::super::{BatchBuilder, batches, verify_crc};
    use super::*;

    const LIMIT: usize = 1 << 20;

    fn batch(codec: Compression, is_log_append_time: bool) -> Bytes {
        let mut builder = BatchBuilder::new(codec)
            .stored_at(Offset(100), LeaderEpoch(7))
            .with_producer(ProducerId(42), 3, 900);
        if is_log_append_time {
            builder = builder.log_append_time();
        }
        for n in 0..6_i64 {
            let key = format!("key{n}");
            let value = (n != 4).then_some(&b"value"[..]);
            let header = (&b"h"[..], (n % 2 == 0).then_some(&b"x"[..]));
            builder
                .push(
                    TimestampMs(5_000 + 1_000 * (n % 4)),
                    Some(key.as_bytes()),
                    value,
                    &[header],
                )
                .unwrap();
        }
        builder.build().unwrap()
    }

    fn all(batch: &Bytes) -> Vec<Record> {
        records::records(batch, LIMIT)
            .unwrap()
            .map(|record| record.unwrap())
            .collect()
    }

    #[test]
    fn kept_records_and_all_fields_of_the_producer_stay_as_they_were() {
        for codec in Compression::ALL {
            for is_log_append_time in [false, true] {
                let before = batch(codec, is_log_append_time);
                let keep = |record: &Record| [101, 102, 104].contains(&record.offset.0);
                let after = retain(&before, LIMIT, None, keep).unwrap().unwrap();
                verify_crc(&after).unwrap();
                let expected: Vec<Record> = all(&before).into_iter().filter(keep).collect();
                assert_eq!(all(&after), expected);
                let (old, new) = (
                    BatchHeader::parse(&before).unwrap(),
                    BatchHeader::parse(&after).unwrap(),
                );
                assert_eq!(
                    (
                        new.base_offset,
                        new.last_offset_delta,
                        new.leader_epoch,
                        new.compression
                    ),
                    (
                        old.base_offset,
                        old.last_offset_delta,
                        old.leader_epoch,
                        old.compression
                    )
                );
                assert_eq!(
                    (
                        new.producer_id,
                        new.producer_epoch,
                        new.base_sequence,
                        new.last_sequence()
                    ),
                    (
                        old.producer_id,
                        old.producer_epoch,
                        old.base_sequence,
                        old.last_sequence()
                    )
                );
                assert_eq!(new.record_count, 3);
                let greatest = if is_log_append_time { 8_000 } else { 7_000 };
                assert_eq!(new.max_timestamp, TimestampMs(greatest));
                assert_eq!(batches(&after).count(), 1);
            }
        }
    }

    #[test]
    fn batch_that_loses_nothing_stays_as_it_is() {
        assert_eq!(
            retain(&batch(Compression::Zstd, false), LIMIT, None, |_| true),
            Ok(None)
        );
    }

    #[test]
    fn delete_horizon_takes_the_place_of_the_base_timestamp_and_no_record_changes() {
        for is_log_append_time in [false, true] {
            let before = batch(Compression::Lz4, is_log_append_time);
            let horizon = TimestampMs(1_000_000);
            let after = retain(&before, LIMIT, Some(horizon), |_| true).unwrap().unwrap();
            verify_crc(&after).unwrap();
            assert_eq!(all(&after), all(&before));
            assert_eq!(BatchHeader::parse(&after).unwrap().delete_horizon, Some(horizon));
            // A second pass finds it there and keeps it.
            let again = retain(&after, LIMIT, None, |record| record.offset.0 == 104)
                .unwrap()
                .unwrap();
            assert_eq!(BatchHeader::parse(&again).unwrap().delete_horizon, Some(horizon));
            assert_eq!(all(&again)[..], all(&before)[4..5]);
        }
    }

    #[test]
    fn batch_of_which_nothing_is_left_keeps_its_place_and_its_sequences() {
        let before = batch(Compression::Gzip, false);
        let after = retain(&before, LIMIT, Some(TimestampMs(9)), |_| false)
            .unwrap()
            .unwrap();
        verify_crc(&after).unwrap();
        assert_eq!(after.len(), HEADER_BYTES);
        assert!(all(&after).is_empty());
        let (old, new) = (
            BatchHeader::parse(&before).unwrap(),
            BatchHeader::parse(&after).unwrap(),
        );
        assert_eq!(
            (new.base_offset, new.next_offset()),
            (old.base_offset, old.next_offset())
        );
        assert_eq!(new.last_sequence(), old.last_sequence());
        assert_eq!((new.compression, new.delete_horizon), (Compression::None, None));
        assert_eq!(
            (new.base_timestamp, new.max_timestamp),
            (TimestampMs(-1), old.max_timestamp)
        );
    }

    #[test]
    fn no_cut_and_no_flipped_byte_panics() {
        let whole = batch(Compression::None, false);
        for cut in 0..whole.len() {
            assert!(retain(&whole.slice(..cut), LIMIT, None, |_| false).is_err());
        }
        for at in 0..whole.len() {
            for value in [0, 0x7f, 0x80, 0xff] {
                let mut bad = whole.to_vec();
                bad[at] = value;
                let _ = retain(&bad.into(), LIMIT, Some(TimestampMs(7)), |record| {
                    record.offset.0 % 2 == 0
                });
            }
        }
    }
}
