//! Our codec against an independent one, both ways. The oracle sees only batches that one of us built: on
//! hostile bytes it aborts the process.

use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as oracle;
use proptest::prelude::*;

use super::*;

/// A record, with headers of unlike keys: the oracle keeps one of each key.
#[derive(Clone, Debug)]
struct Plain {
    time_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn plain() -> impl Strategy<Value = Plain> {
    let part = || prop::option::of(prop::collection::vec(any::<u8>(), 0..200));
    let headers = prop::collection::btree_map("[a-z]{0,4}", part(), 0..4);
    (NOW.0 - 5_000_000_000..NOW.0 + 1000, part(), part(), headers).prop_map(
        |(time_ms, key, value, headers)| Plain {
            time_ms,
            key,
            value,
            headers: headers.into_iter().collect(),
        },
    )
}

fn codec() -> impl Strategy<Value = Compression> {
    prop::sample::select(Compression::ALL.to_vec())
}

fn oracle_codec(codec: Compression) -> oracle::Compression {
    match codec {
        Compression::None => oracle::Compression::None,
        Compression::Gzip => oracle::Compression::Gzip,
        Compression::Snappy => oracle::Compression::Snappy,
        Compression::Lz4 => oracle::Compression::Lz4,
        Compression::Zstd => oracle::Compression::Zstd,
    }
}

fn build(plains: &[Plain], codec: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(codec)
        .with_producer(ProducerId(8), 2, 5)
        .transactional();
    for record in plains {
        let headers: Vec<(&[u8], Option<&[u8]>)> = record
            .headers
            .iter()
            .map(|(key, value)| (key.as_bytes(), value.as_deref()))
            .collect();
        builder
            .push(
                TimestampMs(record.time_ms),
                record.key.as_deref(),
                record.value.as_deref(),
                &headers,
            )
            .unwrap();
    }
    builder.build().unwrap()
}

fn oracle_build(plains: &[Plain], codec: Compression) -> Bytes {
    let records: Vec<_> = (0..)
        .zip(plains)
        .map(|(index, record)| oracle::Record {
            transactional: true,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: 8,
            producer_epoch: 2,
            timestamp_type: oracle::TimestampType::Creation,
            offset: index,
            sequence: 5 + index as i32,
            timestamp: record.time_ms,
            key: record.key.clone().map(Bytes::from),
            value: record.value.clone().map(Bytes::from),
            headers: record
                .headers
                .iter()
                .map(|(key, value)| (StrBytes::from_string(key.clone()), value.clone().map(Bytes::from)))
                .collect(),
        })
        .collect();
    let mut buffer = bytes::BytesMut::new();
    let options = oracle::RecordEncodeOptions {
        version: 2,
        compression: oracle_codec(codec),
    };
    oracle::RecordBatchEncoder::encode(&mut buffer, &records, &options).unwrap();
    buffer.freeze()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_oracle_reads_what_we_build(plains in prop::collection::vec(plain(), 1..20), codec in codec()) {
        let mut batch = build(&plains, codec);
        let decoded = oracle::RecordBatchDecoder::decode(&mut batch).unwrap();
        prop_assert_eq!(decoded.records.len(), plains.len());
        for ((index, record), plain) in (0..).zip(&decoded.records).zip(&plains) {
            prop_assert_eq!((record.offset, record.sequence), (index, 5 + index as i32));
            prop_assert_eq!((record.producer_id, record.producer_epoch), (8, 2));
            prop_assert!(record.transactional && !record.control);
            prop_assert_eq!(record.timestamp, plain.time_ms);
            prop_assert_eq!(record.key.as_deref(), plain.key.as_deref());
            prop_assert_eq!(record.value.as_deref(), plain.value.as_deref());
            let headers: Vec<_> = record
                .headers
                .iter()
                .map(|(key, value)| (key.to_string(), value.as_ref().map(|value| value.to_vec())))
                .collect();
            prop_assert_eq!(&headers, &plain.headers);
        }
    }

    #[test]
    fn we_read_what_the_oracle_builds(plains in prop::collection::vec(plain(), 1..20), codec in codec()) {
        let batch = oracle_build(&plains, codec);
        let validated = validate_produce(&batch, &rules()).unwrap();
        let latest = plains.iter().map(|record| record.time_ms).max().unwrap();
        prop_assert_eq!(validated.max_timestamp.0, latest);
        prop_assert_eq!(plains[validated.max_timestamp_offset_delta as usize].time_ms, latest);
        prop_assert_eq!(validated.header.last_sequence(), 5 + plains.len() as i32 - 1);
        let got = read(&batch);
        prop_assert_eq!(got.len(), plains.len());
        for ((index, record), plain) in (0..).zip(&got).zip(&plains) {
            prop_assert_eq!((record.offset.0, record.timestamp.0), (index, plain.time_ms));
            prop_assert_eq!(record.key.as_deref(), plain.key.as_deref());
            prop_assert_eq!(record.value.as_deref(), plain.value.as_deref());
            let headers: Vec<_> = record
                .headers
                .iter()
                .map(|header| (header.key_text().into_owned(), header.value.map(|value| value.to_vec())))
                .collect();
            prop_assert_eq!(&headers, &plain.headers);
        }
    }

    #[test]
    fn both_build_the_same_bytes_without_compression(plains in prop::collection::vec(plain(), 1..20)) {
        // Kafka counts timestamps from the first record, the oracle from the earliest: here they are the same.
        let mut plains = plains;
        plains.sort_by_key(|record| record.time_ms);
        prop_assert_eq!(build(&plains, Compression::None), oracle_build(&plains, Compression::None));
    }
}
