//! Batches written by Apache Kafka's own code (`golden/Golden.java`) read as what was put in.

use super::*;

fn golden(name: &str) -> Bytes {
    let bytes: &'static [u8] = match name {
        "none" => include_bytes!("golden/none.bin"),
        "gzip" => include_bytes!("golden/gzip.bin"),
        "snappy" => include_bytes!("golden/snappy.bin"),
        "lz4" => include_bytes!("golden/lz4.bin"),
        "zstd" => include_bytes!("golden/zstd.bin"),
        "zstd-22" => include_bytes!("golden/zstd-22.bin"),
        "log-append-time" => include_bytes!("golden/log-append-time.bin"),
        "transactional" => include_bytes!("golden/transactional.bin"),
        "commit-marker" => include_bytes!("golden/commit-marker.bin"),
        _ => panic!("no such file"),
    };
    Bytes::from_static(bytes)
}

fn check_three(records: &[Record]) {
    let text = |part: &Option<Bytes>| {
        part.as_ref()
            .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    };
    let fields: Vec<_> = records[..3]
        .iter()
        .map(|r| (r.offset.0, text(&r.key), text(&r.value)))
        .collect();
    assert_eq!(
        fields,
        [
            (0, Some("a".into()), Some("one".into())),
            (1, None, Some("two".into())),
            (2, Some("c".into()), None)
        ]
    );
    assert_eq!(
        headers_of(&records[1]),
        [header("h", Some("1")), header("h", Some("2")), header("n", None)]
    );
    assert!(records[0].headers.is_empty() && records[2].headers.is_empty());
}

#[test]
fn every_codec_of_the_java_client_is_read_and_accepted() {
    for (name, codec) in [
        ("gzip", Compression::Gzip),
        ("snappy", Compression::Snappy),
        ("lz4", Compression::Lz4),
        ("zstd", Compression::Zstd),
        ("zstd-22", Compression::Zstd),
    ] {
        let batch = golden(name);
        let validated = validate_produce(&batch, &rules()).unwrap();
        assert_eq!(
            (validated.header.compression, validated.header.record_count),
            (codec, 4),
            "{name}"
        );
        assert_eq!(validated.max_timestamp, validated.header.max_timestamp);
        let got = read(&batch);
        check_three(&got);
        assert_eq!(
            got.iter().map(|r| r.timestamp.0 - NOW.0).collect::<Vec<_>>(),
            [0, 5, -5, 0]
        );
        let big: Vec<u8> = (0..70_000_u32).map(|i| (i / 100) as u8).collect();
        assert_eq!(got[3].value.as_deref(), Some(&big[..]));
    }
}

#[test]
fn our_uncompressed_batch_is_javas_byte_for_byte() {
    assert_eq!(
        three_records(BatchBuilder::new(Compression::None)),
        golden("none")
    );
    let transactional = BatchBuilder::new(Compression::None)
        .with_producer(ProducerId(4242), 7, i32::MAX)
        .transactional();
    assert_eq!(three_records(transactional), golden("transactional"));
}

#[test]
fn setting_log_append_time_gives_javas_bytes() {
    let java = golden("log-append-time");
    let header = BatchHeader::parse(&java).unwrap();
    assert_eq!(header.timestamp_type, TimestampType::LogAppendTime);
    let got = read(&java);
    check_three(&got);
    assert!(
        got.iter()
            .all(|record| record.timestamp == TimestampMs(NOW.0 + 999))
    );
    let mut ours = three_records(BatchBuilder::new(Compression::None)).to_vec();
    set_log_append_time(&mut ours, TimestampMs(NOW.0 + 999)).unwrap();
    assert_eq!(read(&ours.clone().into()), got);
    let ours = BatchHeader::parse(&ours).unwrap();
    assert_eq!(
        (
            ours.max_timestamp,
            ours.timestamp_type,
            ours.last_offset_delta,
            ours.record_count
        ),
        (
            header.max_timestamp,
            header.timestamp_type,
            header.last_offset_delta,
            header.record_count
        )
    );
}

#[test]
fn javas_commit_marker_is_ours_stamped() {
    let java = golden("commit-marker");
    let marker = ControlRecord::parse(&read(&java)[0]);
    assert_eq!(
        marker,
        Some(ControlRecord::EndTxn {
            outcome: EndTxn::Commit,
            coordinator_epoch: 11
        })
    );
    let mut ours = end_txn_batch(ProducerId(4242), 7, EndTxn::Commit, 11, NOW)
        .unwrap()
        .to_vec();
    stamp(&mut ours, Offset(99), LeaderEpoch(3)).unwrap();
    assert_eq!(ours, java);
}
