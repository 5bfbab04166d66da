//! What a produce request's batch is refused for, and in which order.

use super::super::stamp::{put, renew_crc};
use super::*;

fn plain() -> Vec<u8> {
    three_records(BatchBuilder::new(Compression::None)).to_vec()
}

/// `plain()` with a field changed and the CRC made good.
fn with<const LEN: usize>(at: usize, bytes: [u8; LEN]) -> Vec<u8> {
    let mut batch = plain();
    put(&mut batch, at, bytes);
    renew_crc(&mut batch);
    batch
}

fn refusal(batch: &[u8], rules: &ProduceRules) -> (ProduceBatchError, ErrorCode) {
    let error = validate_produce(batch, rules).unwrap_err();
    let code = error.error_code();
    assert!(!error.to_string().is_empty());
    (error, code)
}

#[test]
fn nothing_and_more_than_one_batch_are_refused() {
    assert_eq!(
        refusal(&[], &rules()),
        (ProduceBatchError::Empty, ErrorCode::InvalidRecord)
    );
    let two = [plain(), plain()].concat();
    let extra_bytes = plain().len();
    assert_eq!(
        refusal(&two, &rules()),
        (
            ProduceBatchError::NotOneBatch { extra_bytes },
            ErrorCode::InvalidRecord
        )
    );
}

#[test]
fn older_formats_are_refused_by_name_even_when_shorter_than_a_header() {
    let mut old = plain();
    old[layout::MAGIC] = 1;
    let expected = (ProduceBatchError::Magic { magic: 1 }, ErrorCode::InvalidRecord);
    assert_eq!(refusal(&old, &rules()), expected);
    assert_eq!(refusal(&old[..34], &rules()), expected);
}

#[test]
fn truncated_batches_are_corrupt_at_every_length() {
    let batch = plain();
    for len in 1..batch.len() {
        let (error, code) = refusal(&batch[..len], &rules());
        assert!(
            matches!(error, ProduceBatchError::Corrupt(BatchError::Truncated { .. })),
            "{len}: {error}"
        );
        assert_eq!(code, ErrorCode::CorruptMessage);
    }
    for length in [i32::MIN, -1, 0, 48] {
        let (error, code) = refusal(&with(layout::BATCH_LENGTH, length.to_be_bytes()), &rules());
        assert_eq!(error, ProduceBatchError::Corrupt(BatchError::Length { length }));
        assert_eq!(code, ErrorCode::CorruptMessage);
    }
}

#[test]
fn every_flipped_bit_under_the_crc_is_corruption() {
    let batch = plain();
    for at in layout::LAST_OFFSET_DELTA..batch.len() {
        for bit in 0..8 {
            let mut flipped = batch.clone();
            flipped[at] ^= 1 << bit;
            let (error, code) = refusal(&flipped, &rules());
            assert!(
                matches!(error, ProduceBatchError::Corrupt(BatchError::Crc { .. })),
                "{at}: {error}"
            );
            assert_eq!(code, ErrorCode::CorruptMessage);
        }
    }
}

#[test]
fn zstd_needs_a_request_that_knows_it() {
    let zstd = three_records(BatchBuilder::new(Compression::Zstd));
    validate_produce(&zstd, &rules()).unwrap();
    let old = ProduceRules {
        is_zstd_allowed: false,
        ..rules()
    };
    assert_eq!(
        refusal(&zstd, &old),
        (
            ProduceBatchError::ZstdNotAllowed,
            ErrorCode::UnsupportedCompressionType
        )
    );
    validate_produce(&three_records(BatchBuilder::new(Compression::Lz4)), &old).unwrap();
}

#[test]
fn unassigned_compression_codes_are_refused() {
    for code in 5..=7 {
        assert_eq!(
            refusal(&with(layout::ATTRIBUTES, [0, code]), &rules()),
            (
                ProduceBatchError::UnknownCompression { code },
                ErrorCode::UnsupportedCompressionType
            )
        );
    }
}

#[test]
fn clients_do_not_choose_offsets() {
    for base_offset in [1, -1] {
        assert_eq!(
            refusal(
                &with(layout::BASE_OFFSET, i64::to_be_bytes(base_offset)),
                &rules()
            ),
            (
                ProduceBatchError::BaseOffset { base_offset },
                ErrorCode::InvalidRecord
            )
        );
    }
}

#[test]
fn the_size_limit_is_inclusive() {
    let size_bytes = plain().len();
    validate_produce(
        &plain(),
        &ProduceRules {
            message_bytes_max: size_bytes,
            ..rules()
        },
    )
    .unwrap();
    let max_bytes = size_bytes - 1;
    assert_eq!(
        refusal(
            &plain(),
            &ProduceRules {
                message_bytes_max: max_bytes,
                ..rules()
            }
        ),
        (
            ProduceBatchError::TooLarge {
                size_bytes,
                max_bytes
            },
            ErrorCode::MessageTooLarge
        )
    );
}

#[test]
fn count_and_offset_range_must_agree() {
    for (count, delta) in [(0, -1), (0, 0), (3, 3), (3, 1), (-1, -2), (i32::MIN, i32::MAX)] {
        let mut batch = with(layout::RECORD_COUNT, i32::to_be_bytes(count));
        put(&mut batch, layout::LAST_OFFSET_DELTA, i32::to_be_bytes(delta));
        renew_crc(&mut batch);
        assert_eq!(
            refusal(&batch, &rules()),
            (
                ProduceBatchError::Count {
                    record_count: count,
                    last_offset_delta: delta
                },
                ErrorCode::InvalidRecord
            )
        );
    }
}

#[test]
fn more_or_fewer_records_than_announced_are_refused() {
    for (count, code) in [
        (2, ErrorCode::InvalidRecord),
        (4, ErrorCode::InvalidRecord),
        (i32::MAX, ErrorCode::InvalidRecord),
    ] {
        for codec in Compression::ALL {
            let mut batch = three_records(BatchBuilder::new(codec)).to_vec();
            put(&mut batch, layout::RECORD_COUNT, i32::to_be_bytes(count));
            put(&mut batch, layout::LAST_OFFSET_DELTA, i32::to_be_bytes(count - 1));
            renew_crc(&mut batch);
            let (error, got) = refusal(&batch, &rules());
            assert!(matches!(error, ProduceBatchError::Records(_)), "{error}");
            assert_eq!(got, code);
        }
    }
}

#[test]
fn a_producer_id_needs_epoch_and_sequence() {
    for (epoch, sequence) in [(0, -1), (-1, 0), (i16::MIN, i32::MIN)] {
        let batch =
            three_records(BatchBuilder::new(Compression::None).with_producer(ProducerId(1), epoch, sequence));
        let (error, code) = refusal(&batch, &rules());
        assert!(matches!(error, ProduceBatchError::Sequence { .. }), "{error}");
        assert_eq!(code, ErrorCode::InvalidRecord);
    }
    let good = three_records(BatchBuilder::new(Compression::None).with_producer(ProducerId(1), 0, i32::MAX));
    validate_produce(&good, &rules()).unwrap();
}

#[test]
fn offsets_must_count_from_zero_in_every_codec() {
    for codec in Compression::ALL {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.push(NOW, None, Some(b"x"), &[]).unwrap();
        builder.push(NOW, None, Some(b"x"), &[]).unwrap();
        let mut block = builder.build().unwrap()[HEADER_BYTES..].to_vec();
        // The second record's offset delta, zigzag 1: make it 2.
        let second = block.len() / 2;
        assert_eq!(block[second + 3], 2);
        block[second + 3] = 4;
        let mut batch = three_records(BatchBuilder::new(codec))[..HEADER_BYTES].to_vec();
        compress(codec, None, &block, &mut batch).unwrap();
        let length = (batch.len() - layout::LOG_OVERHEAD) as i32;
        put(&mut batch, layout::BATCH_LENGTH, length.to_be_bytes());
        put(&mut batch, layout::RECORD_COUNT, 2_i32.to_be_bytes());
        put(&mut batch, layout::LAST_OFFSET_DELTA, 1_i32.to_be_bytes());
        renew_crc(&mut batch);
        assert_eq!(
            refusal(&batch, &rules()),
            (
                ProduceBatchError::OffsetDelta {
                    index: 1,
                    offset_delta: 2
                },
                ErrorCode::InvalidRecord
            )
        );
    }
}

#[test]
fn compacted_topics_name_every_record_without_a_key() {
    for codec in Compression::ALL {
        let mut builder = BatchBuilder::new(codec);
        for key in [None, Some(b"k".as_slice()), None] {
            builder.push(NOW, key, Some(b"v"), &[]).unwrap();
        }
        let batch = builder.build().unwrap();
        validate_produce(&batch, &rules()).unwrap();
        let (error, code) = refusal(
            &batch,
            &ProduceRules {
                is_compacted: true,
                ..rules()
            },
        );
        let indexes: Vec<_> = error
            .record_rejections()
            .iter()
            .map(|r| (r.batch_index, r.reason))
            .collect();
        assert_eq!(
            indexes,
            [(0, RejectionReason::NoKey), (2, RejectionReason::NoKey)]
        );
        assert_eq!(code, ErrorCode::InvalidRecord);
    }
}

#[test]
fn timestamps_may_reach_exactly_to_the_topics_bounds() {
    let bounded = ProduceRules {
        timestamp_before_max_ms: 10,
        timestamp_after_max_ms: 20,
        ..rules()
    };
    let batch_at = |times: &[i64]| {
        let mut builder = BatchBuilder::new(Compression::None);
        for time in times {
            builder.push(TimestampMs(*time), None, None, &[]).unwrap();
        }
        builder.build().unwrap()
    };
    let (early, late) = (NOW.0 - 10, NOW.0 + 20);
    validate_produce(&batch_at(&[early, late, -1]), &bounded).unwrap();
    let (error, code) = refusal(&batch_at(&[early, early - 1, late + 1]), &bounded);
    let indexes: Vec<_> = error.record_rejections().iter().map(|r| r.batch_index).collect();
    assert_eq!((indexes, code), (vec![1, 2], ErrorCode::InvalidTimestamp));
    let by_broker = ProduceRules {
        timestamp_type: TimestampType::LogAppendTime,
        ..bounded
    };
    let validated = validate_produce(&batch_at(&[early - 1]), &by_broker).unwrap();
    assert_eq!(
        (validated.max_timestamp, validated.max_timestamp_offset_delta),
        (NOW, 0)
    );
}

#[test]
fn one_record_out_of_time_decides_the_code_of_a_mixed_refusal() {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(NOW, None, None, &[]).unwrap();
    builder
        .push(TimestampMs(NOW.0 + 3_600_001), Some(b"k"), None, &[])
        .unwrap();
    let (error, code) = refusal(
        &builder.build().unwrap(),
        &ProduceRules {
            is_compacted: true,
            ..rules()
        },
    );
    assert_eq!(
        (error.record_rejections().len(), code),
        (2, ErrorCode::InvalidTimestamp)
    );
}

#[test]
fn a_batch_of_millions_of_bad_records_lists_a_thousand() {
    let mut builder = BatchBuilder::new(Compression::Zstd);
    builder.push_repeated(1_000_000, NOW, None, None, &[]).unwrap();
    let batch = builder.build().unwrap();
    let (error, _) = refusal(
        &batch,
        &ProduceRules {
            is_compacted: true,
            message_bytes_max: LIMIT,
            ..rules()
        },
    );
    assert_eq!(error.record_rejections().len(), 1000);
    assert!(error.to_string().starts_with("at least 1000"));
}

#[test]
fn producers_may_not_claim_log_append_time() {
    let batch = three_records(BatchBuilder::new(Compression::None).log_append_time());
    for timestamp_type in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
        assert_eq!(
            refusal(
                &batch,
                &ProduceRules {
                    timestamp_type,
                    ..rules()
                }
            ),
            (ProduceBatchError::LogAppendTime, ErrorCode::InvalidTimestamp)
        );
    }
}

#[test]
fn a_wrong_max_timestamp_is_found_and_can_be_put_right() {
    let mut batch = with(layout::MAX_TIMESTAMP, i64::MAX.to_be_bytes());
    let validated = validate_produce(&batch, &rules()).unwrap();
    assert_ne!(validated.max_timestamp, validated.header.max_timestamp);
    set_max_timestamp(&mut batch, TimestampType::CreateTime, validated.max_timestamp).unwrap();
    assert_eq!(batch, plain());
}

#[test]
fn timestamps_beyond_64_bits_are_refused() {
    let batch = with(layout::BASE_TIMESTAMP, i64::MAX.to_be_bytes());
    let (error, code) = refusal(&batch, &rules());
    assert_eq!(
        error,
        ProduceBatchError::Records(RecordsError::Record {
            index: 1,
            fault: RecordFault::Timestamp
        })
    );
    assert_eq!(code, ErrorCode::InvalidRecord);
}
