//! Batches that announce or unpack to more than they are worth are refused, and cheaply.

use super::super::stamp::{put, renew_crc};
use super::*;

/// A batch of one record with a value of `len` zeros.
fn zeros(codec: Compression, len: usize) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    builder.push(NOW, None, Some(&vec![0; len]), &[]).unwrap();
    builder.build().unwrap()
}

/// A batch that announces `count` records in `block`.
fn batch_of(count: i32, block: &[u8]) -> Bytes {
    let mut batch = three_records(BatchBuilder::new(Compression::None))[..HEADER_BYTES].to_vec();
    batch.extend_from_slice(block);
    let length = (batch.len() - layout::LOG_OVERHEAD) as i32;
    put(&mut batch, layout::BATCH_LENGTH, length.to_be_bytes());
    put(&mut batch, layout::RECORD_COUNT, count.to_be_bytes());
    put(&mut batch, layout::LAST_OFFSET_DELTA, (count - 1).to_be_bytes());
    renew_crc(&mut batch);
    batch.into()
}

#[test]
fn decompression_stops_at_the_limit_in_every_codec() {
    for codec in [
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ] {
        let bomb = zeros(codec, 20 << 20);
        assert!(bomb.len() < 2 << 20, "{codec}: {}", bomb.len());
        let rules = ProduceRules {
            message_bytes_max: LIMIT,
            decompressed_bytes_max: 1 << 20,
            ..rules()
        };
        let error = validate_produce(&bomb, &rules).unwrap_err();
        assert_eq!(
            error,
            ProduceBatchError::DecompressedTooLarge { max_bytes: 1 << 20 },
            "{codec}"
        );
        assert_eq!(error.error_code(), ErrorCode::MessageTooLarge);
        let error = records(&bomb, 1 << 20).unwrap_err();
        assert_eq!(
            error,
            RecordsError::Compression(CompressionError::TooLarge { limit_bytes: 1 << 20 })
        );
    }
}

#[test]
fn the_decompression_limit_is_inclusive() {
    for codec in Compression::ALL {
        for len in [0, 1, 16 * 1024, 16 * 1024 + 1, 100_000] {
            let data = vec![7; len];
            let mut block = Vec::new();
            compress(codec, None, &data, &mut block).unwrap();
            assert_eq!(
                decompress(codec, &block, len).as_ref(),
                Ok(&data),
                "{codec} {len}"
            );
            if len > 0 {
                let limit_bytes = len - 1;
                let error = CompressionError::TooLarge { limit_bytes };
                assert_eq!(
                    decompress(codec, &block, limit_bytes),
                    Err(error),
                    "{codec} {len}"
                );
            }
        }
    }
}

#[test]
fn a_snappy_block_that_lies_about_its_length_is_refused_before_memory_is_taken() {
    let lie = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00, 0x61];
    let error = decompress(Compression::Snappy, &lie, usize::MAX - 1).unwrap_err();
    assert!(matches!(error, CompressionError::Corrupt { .. }), "{error}");
}

#[test]
fn announced_counts_and_lengths_cost_nothing() {
    let huge = [0xfe, 0xff, 0xff, 0xff, 0x0f];
    let record = |fields: &[&[u8]]| {
        let body = fields.concat();
        [&[(body.len() * 2) as u8][..], &body].concat()
    };
    let zero: &[u8] = &[0];
    let null: &[u8] = &[1];
    let blocks = [
        huge.to_vec(),
        record(&[zero, zero, zero, &huge, null, zero]),
        record(&[zero, zero, zero, null, &huge, zero]),
        record(&[zero, zero, zero, null, null, &huge]),
        record(&[zero, zero, zero, null, null, &[2], &huge, zero]),
        record(&[zero, zero, zero, null, null, &[2], zero, &huge]),
    ];
    for block in blocks {
        for count in [1, i32::MAX] {
            let batch = batch_of(count, &block);
            let error = validate_produce(&batch, &rules()).unwrap_err();
            assert!(
                matches!(
                    error,
                    ProduceBatchError::Records(RecordsError::Record { index: 0, .. })
                ),
                "{error}"
            );
            let read: Vec<_> = records(&batch, LIMIT).unwrap().collect();
            assert!(read.len() == 1 && read[0].is_err());
        }
    }
}

#[test]
fn malformed_records_say_what_is_wrong() {
    let cases: [(&[u8], RecordFault); 9] = [
        (&[], RecordFault::Truncated),
        (
            &[1],
            RecordFault::Negative {
                field: "its length",
                value: -1,
            },
        ),
        (&[12, 0, 0], RecordFault::Truncated),
        (&[0xff, 0xff, 0xff, 0xff, 0xff, 0x01], RecordFault::Varint),
        (
            &[12, 0, 0, 0, 3, 1, 0],
            RecordFault::Negative {
                field: "the key's length",
                value: -2,
            },
        ),
        (
            &[12, 0, 0, 0, 1, 3, 0],
            RecordFault::Negative {
                field: "the value's length",
                value: -2,
            },
        ),
        (
            &[12, 0, 0, 0, 1, 1, 1],
            RecordFault::Negative {
                field: "the number of headers",
                value: -1,
            },
        ),
        (
            &[16, 0, 0, 0, 1, 1, 2, 1, 1],
            RecordFault::Negative {
                field: "a header key's length",
                value: -1,
            },
        ),
        (&[14, 0, 0, 0, 1, 1, 0, 9], RecordFault::Length { left_bytes: 1 }),
    ];
    for (block, fault) in cases {
        let expected = RecordsError::Record { index: 0, fault };
        let batch = batch_of(1, block);
        assert_eq!(
            validate_produce(&batch, &rules()),
            Err(ProduceBatchError::Records(expected.clone()))
        );
        assert_eq!(records(&batch, LIMIT).unwrap().next(), Some(Err(expected)));
    }
}

#[test]
fn a_record_outside_of_the_batchs_offsets_is_refused_when_read() {
    for (zigzag, offset_delta) in [(2, 1), (1, -1)] {
        let batch = batch_of(1, &[12, 0, 0, zigzag, 1, 1, 0]);
        let fault = RecordFault::Offset {
            offset_delta,
            last_offset_delta: 0,
        };
        let found = records(&batch, LIMIT).unwrap().next();
        assert_eq!(found, Some(Err(RecordsError::Record { index: 0, fault })));
    }
}

#[test]
fn bytes_behind_the_last_record_are_refused() {
    let batch = batch_of(1, &[12, 0, 0, 0, 1, 1, 0, 0]);
    let expected = RecordsError::TrailingBytes { record_count: 1 };
    assert_eq!(
        validate_produce(&batch, &rules()),
        Err(ProduceBatchError::Records(expected.clone()))
    );
    let read: Vec<_> = records(&batch, LIMIT).unwrap().collect();
    assert_eq!((read.len(), &read[1]), (2, &Err(expected)));
}

#[test]
fn longest_varints_are_read_and_longer_ones_refused() {
    // A timestamp delta of i64::MIN takes all ten bytes.
    let longest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let mut block = vec![30, 0];
    block.extend_from_slice(&longest);
    block.extend_from_slice(&[0, 1, 1, 0]);
    let mut batch = batch_of(1, &block).to_vec();
    put(&mut batch, layout::BASE_TIMESTAMP, 0_i64.to_be_bytes());
    renew_crc(&mut batch);
    assert_eq!(read(&batch.clone().into())[0].timestamp, TimestampMs(i64::MIN));
    batch[HEADER_BYTES + 11] = 0x03;
    let error = records(&batch.into(), LIMIT)
        .unwrap()
        .next()
        .unwrap()
        .unwrap_err();
    assert_eq!(
        error,
        RecordsError::Record {
            index: 0,
            fault: RecordFault::Varint
        }
    );
}
