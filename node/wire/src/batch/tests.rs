//! Claims that need more than one file of this module.

use bytes::Bytes;
use meridian_types::{LeaderEpoch, Offset, ProducerId, TimestampMs};

use super::*;
use crate::ErrorCode;

mod bombs;
mod codecs;
mod differential;
mod golden;
mod properties;
mod validation;

const LIMIT: usize = 64 << 20;
const NOW: TimestampMs = TimestampMs(1_700_000_000_000);

fn rules() -> ProduceRules {
    ProduceRules {
        message_bytes_max: 1 << 20,
        decompressed_bytes_max: LIMIT,
        now: NOW,
        timestamp_type: TimestampType::CreateTime,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: 3_600_000,
        is_compacted: false,
        is_zstd_allowed: true,
    }
}

/// Three records: plain; no key and a header twice; a tombstone.
fn three_records(builder: BatchBuilder) -> Bytes {
    let mut builder = builder;
    builder.push(NOW, Some(b"a"), Some(b"one"), &[]).unwrap();
    let headers: [(&[u8], Option<&[u8]>); 3] = [(b"h", Some(b"1")), (b"h", Some(b"2")), (b"n", None)];
    builder
        .push(TimestampMs(NOW.0 + 5), None, Some(b"two"), &headers)
        .unwrap();
    builder
        .push(TimestampMs(NOW.0 - 5), Some(b"c"), None, &[])
        .unwrap();
    builder.build().unwrap()
}

fn read(batch: &Bytes) -> Vec<Record> {
    records(batch, LIMIT).unwrap().map(Result::unwrap).collect()
}

/// Headers as text, in order.
fn headers_of(record: &Record) -> Vec<(String, Option<String>)> {
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    record
        .headers
        .iter()
        .map(|header| (text(header.key), header.value.map(text)))
        .collect()
}

fn header(key: &str, value: Option<&str>) -> (String, Option<String>) {
    (key.to_owned(), value.map(str::to_owned))
}

#[test]
fn every_codec_gives_back_what_was_pushed() {
    for codec in Compression::ALL {
        let batch = three_records(BatchBuilder::new(codec));
        let got = read(&batch);
        assert_eq!(
            got.iter().map(|r| r.offset.0).collect::<Vec<_>>(),
            [0, 1, 2],
            "{codec}"
        );
        assert_eq!(
            got.iter().map(|r| r.timestamp.0 - NOW.0).collect::<Vec<_>>(),
            [0, 5, -5]
        );
        assert_eq!(got[0].key.as_deref(), Some(b"a".as_slice()));
        assert_eq!(got[1].key, None);
        assert_eq!(got[2].value, None);
        assert_eq!(
            headers_of(&got[1]),
            [header("h", Some("1")), header("h", Some("2")), header("n", None)]
        );
        let validated = validate_produce(&batch, &rules()).unwrap();
        assert_eq!(validated.header.compression, codec);
        assert_eq!(
            (
                validated.max_timestamp.0 - NOW.0,
                validated.max_timestamp_offset_delta
            ),
            (5, 1)
        );
        assert_eq!(validated.max_timestamp, validated.header.max_timestamp);
    }
}

#[test]
fn uncompressed_records_share_the_batch_memory() {
    let batch = three_records(BatchBuilder::new(Compression::None));
    let range = batch.as_ptr_range();
    for part in read(&batch).into_iter().filter_map(|record| record.value) {
        assert!(range.contains(&part.as_ptr()));
    }
}

#[test]
fn stamping_sets_offset_and_epoch_and_keeps_the_crc() {
    let mut batch = three_records(BatchBuilder::new(Compression::None)).to_vec();
    assert_eq!(BatchHeader::parse(&batch).unwrap().leader_epoch, None);
    stamp(&mut batch, Offset(1 << 40), LeaderEpoch(7)).unwrap();
    verify_crc(&batch).unwrap();
    let header = BatchHeader::parse(&batch).unwrap();
    assert_eq!(
        (header.base_offset, header.leader_epoch),
        (Offset(1 << 40), Some(LeaderEpoch(7)))
    );
    assert_eq!(
        (header.last_offset(), header.next_offset()),
        (Offset((1 << 40) + 2), Offset((1 << 40) + 3))
    );
    assert_eq!(header.size(), batch.len());
    assert!(stamp(&mut batch[..60], Offset(0), LeaderEpoch(0)).is_err());
}

#[test]
fn log_append_time_gives_every_record_the_brokers_time() {
    for codec in Compression::ALL {
        let mut batch = three_records(BatchBuilder::new(codec)).to_vec();
        set_log_append_time(&mut batch, TimestampMs(77)).unwrap();
        verify_crc(&batch).unwrap();
        let once = batch.clone();
        set_log_append_time(&mut batch, TimestampMs(77)).unwrap();
        assert_eq!(batch, once);
        assert!(
            read(&batch.clone().into())
                .iter()
                .all(|record| record.timestamp == TimestampMs(77))
        );
        set_max_timestamp(&mut batch, TimestampType::CreateTime, TimestampMs(NOW.0 + 5)).unwrap();
        assert_eq!(batch, three_records(BatchBuilder::new(codec)));
    }
}

#[test]
fn an_unchanged_log_append_time_does_not_recompute_the_crc() {
    let mut batch = three_records(BatchBuilder::new(Compression::None).log_append_time()).to_vec();
    batch[layout::CRC] ^= 1;
    let damaged = batch.clone();
    set_log_append_time(&mut batch, TimestampMs(NOW.0 + 5)).unwrap();
    assert_eq!(batch, damaged, "a CRC made anew would have hidden the damage");
}

#[test]
fn last_sequence_wraps_from_the_greatest_to_zero() {
    let last = |base_sequence| {
        let builder = BatchBuilder::new(Compression::None).with_producer(ProducerId(9), 3, base_sequence);
        let header = BatchHeader::parse(&three_records(builder)).unwrap();
        assert_eq!(
            (header.producer_id, header.producer_epoch),
            (Some(ProducerId(9)), 3)
        );
        header.last_sequence()
    };
    assert_eq!(last(0), 2);
    assert_eq!(last(i32::MAX - 2), i32::MAX);
    assert_eq!(last(i32::MAX - 1), 0);
    assert_eq!(last(i32::MAX), 1);
    let without = three_records(BatchBuilder::new(Compression::None));
    assert_eq!(BatchHeader::parse(&without).unwrap().last_sequence(), -1);
}

#[test]
fn a_built_batch_can_move_to_another_producer_epoch() {
    let mut batch = three_records(BatchBuilder::new(Compression::Zstd)).to_vec();
    set_producer(&mut batch, ProducerId(4), 1, 100).unwrap();
    let header = validate_produce(&batch, &rules()).unwrap().header;
    assert_eq!(
        (header.producer_id, header.producer_epoch, header.base_sequence),
        (Some(ProducerId(4)), 1, 100)
    );
}

#[test]
fn batches_are_split_and_a_truncated_last_one_is_left_over() {
    let one = three_records(BatchBuilder::new(Compression::None));
    let two = three_records(BatchBuilder::new(Compression::Lz4).stored_at(Offset(3), LeaderEpoch(1)));
    let row = Bytes::from([&one[..], &two[..], &one[..]].concat());
    for cut in 0..=row.len() {
        let part = row.slice(..cut);
        let mut iter = batches(&part);
        let whole: Vec<Batch> = iter.by_ref().map(Result::unwrap).collect();
        let used: usize = whole.iter().map(|batch| batch.bytes.len()).sum();
        assert_eq!(iter.rest().len(), cut - used);
        let expected = [one.len(), one.len() + two.len(), row.len()]
            .iter()
            .filter(|end| **end <= cut)
            .count();
        assert_eq!(whole.len(), expected);
    }
}

#[test]
fn an_unreadable_batch_ends_the_row_with_an_error() {
    let mut row = three_records(BatchBuilder::new(Compression::None)).to_vec();
    row[layout::MAGIC] = 1;
    let found: Vec<_> = batches(&row.into()).collect();
    assert_eq!(found, [Err(BatchError::Magic { magic: 1 })]);
}

#[test]
fn repeated_records_equal_pushed_ones() {
    let headers: [(&[u8], Option<&[u8]>); 1] = [(b"h", Some(b"v"))];
    let mut one_by_one = BatchBuilder::new(Compression::None);
    let mut at_once = BatchBuilder::new(Compression::None);
    let value = [7; 300];
    for _ in 0..20_000 {
        one_by_one.push(NOW, None, Some(&value), &headers).unwrap();
    }
    at_once
        .push_repeated(20_000, NOW, None, Some(&value), &headers)
        .unwrap();
    assert_eq!(one_by_one.build().unwrap(), at_once.build().unwrap());
}

#[test]
fn size_estimates_bound_what_is_built() {
    let headers: [(&[u8], Option<&[u8]>); 1] = [(b"header", Some(b"v"))];
    let mut builder = BatchBuilder::new(Compression::None);
    for len in [0, 1, 63, 64, 8191, 8192, 100_000] {
        let value = vec![1; len];
        let before = builder.uncompressed_size();
        builder
            .push(
                TimestampMs(i64::from(u32::MAX) * len as i64),
                None,
                Some(&value),
                &headers,
            )
            .unwrap();
        let added = builder.uncompressed_size() - before;
        let bound = BatchBuilder::record_size_max(None, Some(&value), &headers);
        assert!(added <= bound && bound <= added + 20, "{added} <= {bound}");
    }
    let size = builder.uncompressed_size();
    assert_eq!(builder.build().unwrap().len(), size);
}

#[test]
fn transaction_markers_are_control_batches_that_clients_may_not_send() {
    for (outcome, kind) in [(EndTxn::Abort, 0), (EndTxn::Commit, 1)] {
        let batch = end_txn_batch(ProducerId(5), 2, outcome, 11, NOW).unwrap();
        let header = BatchHeader::parse(&batch).unwrap();
        assert!(header.is_control && header.is_transactional);
        let marker = &read(&batch)[0];
        assert_eq!(marker.key.as_deref(), Some([0, 0, 0, kind].as_slice()));
        assert_eq!(
            ControlRecord::parse(marker),
            Some(ControlRecord::EndTxn {
                outcome,
                coordinator_epoch: 11
            })
        );
        let refused = validate_produce(&batch, &rules()).unwrap_err();
        assert_eq!(
            (refused.clone(), refused.error_code()),
            (ProduceBatchError::Control, ErrorCode::InvalidRecord)
        );
    }
}

#[test]
fn control_records_of_other_forms_are_told_apart() {
    let record = |key: &[u8], value: &[u8]| Record {
        offset: Offset(0),
        timestamp: NOW,
        key: Some(Bytes::copy_from_slice(key)),
        value: Some(Bytes::copy_from_slice(value)),
        headers: Headers::default(),
    };
    assert_eq!(
        ControlRecord::parse(&record(&[0, 0, 0, 3], &[])),
        Some(ControlRecord::Other { kind: 3 })
    );
    assert_eq!(ControlRecord::parse(&record(&[0, 0, 0], &[])), None);
    assert_eq!(ControlRecord::parse(&record(&[255, 255, 0, 1], &[0; 6])), None);
    assert_eq!(ControlRecord::parse(&record(&[0, 0, 0, 1], &[0; 5])), None);
}
