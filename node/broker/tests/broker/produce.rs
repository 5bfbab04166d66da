//! Batches are appended, refused and repeated under the rules of the protocol.

use crate::harness::{Client, TestBroker, batch, fetch, produce};
use bytes::BytesMut;
use meridian_types::{ProducerId, TimestampMs};
use meridian_wire::batch::{BatchBuilder, BatchHeader, Compression};
use meridian_wire::{ApiVersionsRequest, ErrorCode, ProduceRequest};

const NOW_MS: i64 = 1_700_000_000_000;

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 4, &[]).await;
    let mut client = broker.client().await;
    let mut sent = Vec::new();
    for number in 0..40 {
        match number % 4 {
            3 => sent.push((false, client.send(&ApiVersionsRequest::default(), 2).await)),
            _ => {
                let request = produce("t", number % 4, &batch(NOW_MS, &["x"]), -1);
                sent.push((true, client.send(&request, 9).await));
            }
        }
    }
    let mut offsets = [0_i64; 4];
    for (is_produce, id) in sent {
        if !is_produce {
            client.receive::<ApiVersionsRequest>(2, id).await;
            continue;
        }
        let response = client.receive::<ProduceRequest>(9, id).await;
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!(partition.base_offset, offsets[partition.index as usize]);
        offsets[partition.index as usize] += 1;
    }
    assert_eq!(offsets, [10, 10, 10, 0]);
    broker.stop().await;
}

#[tokio::test]
async fn refused_batches_say_why() {
    let broker = TestBroker::start().await;
    broker
        .create_topic("small", 1, &[("max.message.bytes", "100")])
        .await;
    broker
        .create_topic("compacted", 1, &[("cleanup.policy", "compact")])
        .await;
    broker
        .create_topic("stamped", 1, &[("message.timestamp.type", "LogAppendTime")])
        .await;
    let mut client = broker.client().await;
    let answer = async |client: &mut Client, topic, records| {
        client.produce(topic, 0, records).await.responses[0].partition_responses[0].clone()
    };
    let large = "x".repeat(200);
    let got = answer(&mut client, "small", batch(NOW_MS, &[&large])).await;
    assert_eq!(
        (got.error_code, got.base_offset),
        (ErrorCode::MessageTooLarge.code(), -1)
    );

    let mut damaged = BytesMut::from(&batch(NOW_MS, &["x"])[..]);
    damaged[70] ^= 1;
    let got = answer(&mut client, "small", damaged.freeze()).await;
    assert_eq!(got.error_code, ErrorCode::CorruptMessage.code());

    let mut keyless = meridian_wire::batch::BatchBuilder::new(meridian_wire::batch::Compression::None);
    keyless
        .push(meridian_types::TimestampMs(NOW_MS), None, Some(b"v"), &[])
        .unwrap();
    let got = answer(&mut client, "compacted", keyless.build().unwrap()).await;
    assert_eq!(got.error_code, ErrorCode::InvalidRecord.code());
    assert_eq!(got.record_errors[0].batch_index, 0);
    assert!(got.error_message.is_some());

    let got = answer(&mut client, "stamped", batch(5, &["x"])).await;
    assert_eq!((got.error_code, got.log_append_time_ms), (0, NOW_MS));
    let fetched = client.fetch(&fetch("stamped", 0, 0)).await;
    let records = fetched.responses[0].partitions[0].records.clone().into_bytes();
    assert_eq!(BatchHeader::parse(&records).unwrap().max_timestamp.0, NOW_MS);
    meridian_wire::batch::verify_crc(&records).unwrap();

    let got = client
        .call(&produce("small", 0, &batch(NOW_MS, &["x"]), 2), 9)
        .await;
    let code = got.responses[0].partition_responses[0].error_code;
    assert_eq!(code, ErrorCode::InvalidRequiredAcks.code());
    broker.stop().await;
}

#[tokio::test]
async fn acks_zero_has_no_answer_and_a_failure_closes_the_connection() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1, &[]).await;
    let mut client = broker.client().await;
    client.send(&produce("t", 0, &batch(NOW_MS, &["x"]), 0), 9).await;
    let id = client.send(&ApiVersionsRequest::default(), 2).await;
    client.receive::<ApiVersionsRequest>(2, id).await;
    let response = client.fetch(&fetch("t", 0, 0)).await;
    assert_eq!(response.responses[0].partitions[0].high_watermark, 1);
    client
        .send(&produce("nope", 0, &batch(NOW_MS, &["x"]), 0), 9)
        .await;
    assert!(client.frame().await.is_none());
    broker.stop().await;
}

#[tokio::test]
async fn idempotent_producers_get_kafkas_answers() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1, &[]).await;
    let mut client = broker.client().await;
    let send = async |client: &mut Client, epoch, sequence, values: &[&str]| {
        let mut builder = BatchBuilder::new(Compression::None).with_producer(ProducerId(7), epoch, sequence);
        for value in values {
            builder
                .push(TimestampMs(NOW_MS), None, Some(value.as_bytes()), &[])
                .unwrap();
        }
        let response = client.produce("t", 0, builder.build().unwrap()).await;
        let partition = &response.responses[0].partition_responses[0];
        (partition.error_code, partition.base_offset)
    };
    assert_eq!(send(&mut client, 0, 0, &["a", "b"]).await, (0, 0));
    assert_eq!(send(&mut client, 0, 2, &["c"]).await, (0, 2));
    assert_eq!(
        send(&mut client, 0, 0, &["a", "b"]).await,
        (0, 0),
        "a repetition gets its first offset"
    );
    assert_eq!(
        send(&mut client, 0, 5, &["d"]).await,
        (ErrorCode::OutOfOrderSequenceNumber.code(), -1)
    );
    assert_eq!(send(&mut client, 1, 0, &["e"]).await, (0, 3));
    assert_eq!(
        send(&mut client, 0, 3, &["f"]).await,
        (ErrorCode::InvalidProducerEpoch.code(), -1)
    );
    let fetched = client.fetch(&fetch("t", 0, 0)).await;
    assert_eq!(fetched.responses[0].partitions[0].high_watermark, 4);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_codec_passes_through_unchanged_and_a_bomb_is_refused() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1, &[]).await;
    let mut client = broker.client().await;
    let codecs = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];
    for (number, codec) in codecs.into_iter().enumerate() {
        let mut builder = BatchBuilder::new(codec);
        for index in 0..5000 {
            let value = format!("{}", index * 7919 % 10_007);
            builder
                .push(TimestampMs(NOW_MS), None, Some(value.as_bytes()), &[])
                .unwrap();
        }
        let sent = builder.build().unwrap();
        let response = client.produce("t", 0, sent.clone()).await;
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!(
            (partition.error_code, partition.base_offset),
            (0, number as i64 * 5000),
            "{codec:?}"
        );
        let fetched = client.fetch(&fetch("t", 0, partition.base_offset)).await;
        let got = fetched.responses[0].partitions[0].records.clone().into_bytes();
        assert_eq!(
            got[21..],
            sent[21..],
            "{codec:?}: from the CRC's range on, as the producer sent it"
        );
    }
    let mut bomb = BatchBuilder::new(Compression::Zstd);
    let zeros = vec![0; 1 << 20];
    for _ in 0..80 {
        bomb.push(TimestampMs(NOW_MS), None, Some(&zeros), &[]).unwrap();
    }
    let response = client.produce("t", 0, bomb.build().unwrap()).await;
    let code = response.responses[0].partition_responses[0].error_code;
    assert_eq!(code, ErrorCode::MessageTooLarge.code());
    broker.stop().await;
}
