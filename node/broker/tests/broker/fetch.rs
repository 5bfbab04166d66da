//! What is produced can be fetched, under the rules of the protocol.

use std::time::Duration;

use crate::harness::{TestBroker, batch, fetch, produce};
use bytes::BytesMut;
use meridian_types::Uuid;
use meridian_wire::batch::BatchHeader;
use meridian_wire::fetch::{FetchPartition, FetchTopic};
use meridian_wire::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use meridian_wire::metadata::MetadataRequestTopic;
use meridian_wire::offset_for_leader_epoch::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use meridian_wire::{
    ErrorCode, FetchRequest, ListOffsetsRequest, MetadataRequest, OffsetForLeaderEpochRequest,
};
use tokio::time::Instant;

const NOW_MS: i64 = 1_700_000_000_000;

fn bases(records: &[bytes::Bytes]) -> Vec<u64> {
    let mut bytes = BytesMut::new();
    records.iter().for_each(|piece| bytes.extend_from_slice(piece));
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let header = BatchHeader::parse(&bytes).unwrap();
        meridian_wire::batch::verify_crc(&bytes).unwrap();
        found.push(header.base_offset.0);
        let _ = bytes.split_to(header.size());
    }
    found
}

#[tokio::test]
async fn a_waiting_fetch_is_woken_by_a_produce_and_else_by_its_time() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 2, &[]).await;
    let mut consumer = broker.client().await;
    let waiting = FetchRequest {
        max_wait_ms: 50_000,
        ..fetch("t", 1, 0)
    };
    let id = consumer.send(&waiting, 12).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let begun = Instant::now();
    broker.client().await.produce("t", 1, batch(NOW_MS, &["x"])).await;
    let response = consumer.receive::<FetchRequest>(12, id).await;
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(bases(response.responses[0].partitions[0].records.segments()), [0]);

    let begun = Instant::now();
    let waiting = FetchRequest {
        max_wait_ms: 60,
        ..fetch("t", 1, 1)
    };
    let response = consumer.fetch(&waiting).await;
    assert!(begun.elapsed() >= Duration::from_millis(55));
    assert!(response.responses[0].partitions[0].records.is_empty());
    broker.stop().await;
}

#[tokio::test]
async fn a_fetch_waits_for_min_bytes_over_all_partitions() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 2, &[]).await;
    let mut consumer = broker.client().await;
    let size = batch(NOW_MS, &["x"]).len() as i32;
    let mut waiting = FetchRequest {
        max_wait_ms: 50_000,
        min_bytes: size * 3,
        ..fetch("t", 0, 0)
    };
    let second = FetchPartition {
        partition: 1,
        ..waiting.topics[0].partitions[0].clone()
    };
    waiting.topics[0].partitions.push(second);
    let id = consumer.send(&waiting, 12).await;
    let mut producer = broker.client().await;
    for partition in [0, 1] {
        producer.produce("t", partition, batch(NOW_MS, &["x"])).await;
    }
    assert!(
        tokio::time::timeout(Duration::from_millis(60), consumer.frame())
            .await
            .is_err()
    );
    producer.produce("t", 1, batch(NOW_MS, &["x"])).await;
    let response = consumer.receive::<FetchRequest>(12, id).await;
    let counts: Vec<usize> = response.responses[0]
        .partitions
        .iter()
        .map(|p| bases(p.records.segments()).len())
        .collect();
    assert_eq!(counts, [1, 2]);
    broker.stop().await;
}

#[tokio::test]
async fn byte_limits_hold_except_for_the_first_batch() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 2, &[]).await;
    let mut client = broker.client().await;
    for partition in [0, 1] {
        for _ in 0..3 {
            client.produce("t", partition, batch(NOW_MS, &["x"])).await;
        }
    }
    let size = batch(NOW_MS, &["x"]).len() as i32;
    let mut request = FetchRequest {
        max_bytes: 1,
        ..fetch("t", 0, 0)
    };
    let second = FetchPartition {
        partition: 1,
        ..request.topics[0].partitions[0].clone()
    };
    request.topics[0].partitions.push(second);
    let counts = |response: &meridian_wire::FetchResponse| -> Vec<usize> {
        response.responses[0]
            .partitions
            .iter()
            .map(|p| bases(p.records.segments()).len())
            .collect()
    };
    assert_eq!(
        counts(&client.fetch(&request).await),
        [1, 0],
        "the first batch comes whole"
    );
    request.max_bytes = size * 4;
    request.topics[0].partitions[0].partition_max_bytes = size * 2;
    assert_eq!(counts(&client.fetch(&request).await), [2, 2]);
    request.max_bytes = size * 2 + 1;
    assert_eq!(
        counts(&client.fetch(&request).await),
        [2, 0],
        "only the first batch may exceed a limit"
    );
    broker.stop().await;
}

#[tokio::test]
async fn fetch_sessions_tell_only_news() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 3, &[]).await;
    let mut client = broker.client().await;
    let mut full = FetchRequest {
        session_epoch: 0,
        ..fetch("t", 0, 0)
    };
    for partition in [1, 2] {
        let added = FetchPartition {
            partition,
            ..full.topics[0].partitions[0].clone()
        };
        full.topics[0].partitions.push(added);
    }
    let response = client.fetch(&full).await;
    assert_eq!(response.responses[0].partitions.len(), 3);
    let session_id = response.session_id;
    assert_ne!(session_id, 0);

    let next = |session_epoch| FetchRequest {
        session_id,
        session_epoch,
        topics: Vec::new(),
        ..full.clone()
    };
    assert!(client.fetch(&next(1)).await.responses.is_empty());
    client.produce("t", 1, batch(NOW_MS, &["x"])).await;
    let response = client.fetch(&next(2)).await;
    assert_eq!((response.session_id, response.responses.len()), (session_id, 1));
    assert_eq!(response.responses[0].partitions[0].partition_index, 1);
    let wrong = client.fetch(&next(2)).await;
    assert_eq!(wrong.error_code, ErrorCode::InvalidFetchSessionEpoch.code());
    let gone = client
        .fetch(&FetchRequest {
            session_id: session_id ^ 1,
            ..next(3)
        })
        .await;
    assert_eq!(gone.error_code, ErrorCode::FetchSessionIdNotFound.code());
    broker.stop().await;
}

#[tokio::test]
async fn leader_epochs_are_checked_and_told() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1, &[]).await;
    let mut client = broker.client().await;
    client.produce("t", 0, batch(NOW_MS, &["x", "y"])).await;
    let metadata = MetadataRequest {
        topics: Some(vec![MetadataRequestTopic {
            name: Some("t".into()),
            ..Default::default()
        }]),
        ..Default::default()
    };
    let current = client.call(&metadata, 12).await.topics[0].partitions[0].leader_epoch;
    assert!(current >= 0);
    for (asked, error) in [
        (-1, ErrorCode::None),
        (current, ErrorCode::None),
        (current - 1, ErrorCode::FencedLeaderEpoch),
        (current + 1, ErrorCode::UnknownLeaderEpoch),
    ] {
        if asked < -1 {
            continue;
        }
        let mut request = fetch("t", 0, 0);
        request.topics[0].partitions[0].current_leader_epoch = asked;
        let fetched = client.fetch(&request).await;
        let expected = if asked == -1 { ErrorCode::None } else { error };
        assert_eq!(
            fetched.responses[0].partitions[0].error_code,
            expected.code(),
            "epoch {asked}"
        );
    }
    let mut diverged = fetch("t", 0, 2);
    diverged.topics[0].partitions[0].last_fetched_epoch = current;
    let answer = client.fetch(&diverged).await;
    assert_eq!(answer.responses[0].partitions[0].diverging_epoch.epoch, -1);
    let partition = |leader_epoch| OffsetForLeaderPartition {
        leader_epoch,
        ..Default::default()
    };
    let request = OffsetForLeaderEpochRequest {
        replica_id: -1,
        topics: vec![OffsetForLeaderTopic {
            topic: "t".into(),
            partitions: vec![partition(current), partition(current + 1)],
        }],
    };
    let ends = client.call(&request, 4).await;
    let ends: Vec<(i32, i64)> = ends.topics[0]
        .partitions
        .iter()
        .map(|end| (end.leader_epoch, end.end_offset))
        .collect();
    assert_eq!(ends, [(current, 2), (-1, -1)]);
    broker.stop().await;
}

#[tokio::test]
async fn offsets_outside_of_the_log_and_unknown_partitions_have_their_errors() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1, &[]).await;
    let mut client = broker.client().await;
    client.produce("t", 0, batch(NOW_MS, &["x"])).await;
    let mut error = async |topic, partition, offset| {
        client.fetch(&fetch(topic, partition, offset)).await.responses[0].partitions[0].error_code
    };
    assert_eq!(error("t", 0, 1).await, 0);
    assert_eq!(error("t", 0, 2).await, ErrorCode::OffsetOutOfRange.code());
    assert_eq!(error("t", 0, -5).await, ErrorCode::OffsetOutOfRange.code());
    assert_eq!(error("t", 7, 0).await, ErrorCode::UnknownTopicOrPartition.code());
    assert_eq!(
        error("nope", 0, 0).await,
        ErrorCode::UnknownTopicOrPartition.code()
    );
    broker.stop().await;
}

#[tokio::test]
async fn list_offsets_finds_ends_and_times() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1, &[]).await;
    let mut client = broker.client().await;
    let ask = |timestamp| ListOffsetsRequest {
        replica_id: -1,
        topics: vec![ListOffsetsTopic {
            name: "t".into(),
            partitions: vec![ListOffsetsPartition {
                timestamp,
                ..Default::default()
            }],
        }],
        ..Default::default()
    };
    let empty = client.call(&ask(-3), 10).await.topics[0].partitions[0].clone();
    assert_eq!(
        (
            empty.error_code,
            empty.offset,
            empty.timestamp,
            empty.leader_epoch
        ),
        (0, -1, -1, -1)
    );
    for time in [100, 300, 200] {
        client.produce("t", 0, batch(NOW_MS + time, &["x", "y"])).await;
    }
    for (timestamp, offset, time) in [
        (-1, 6, -1),
        (-2, 0, -1),
        (-3, 2, NOW_MS + 300),
        (-4, 0, -1),
        (-5, -1, -1),
        (NOW_MS, 0, NOW_MS + 100),
        (NOW_MS + 101, 2, NOW_MS + 300),
        (NOW_MS + 301, -1, -1),
    ] {
        let found = client.call(&ask(timestamp), 10).await.topics[0].partitions[0].clone();
        assert_eq!(
            (found.error_code, found.offset, found.timestamp),
            (0, offset, time),
            "asked {timestamp}"
        );
        assert_eq!(found.leader_epoch >= 0, offset >= 0);
    }
    broker.stop().await;
}

#[tokio::test]
async fn topic_ids_name_topics_from_version_13_on() {
    let broker = TestBroker::start().await;
    let id = broker.create_topic("t", 1, &[]).await;
    let mut client = broker.client().await;
    let mut request = produce("t", 0, &batch(NOW_MS, &["x"]), -1);
    request.topic_data[0].topic_id = id;
    let response = client.call(&request, 13).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    assert_eq!(response.responses[0].topic_id, id);
    let mut request = fetch("t", 0, 0);
    let unknown = FetchTopic {
        topic_id: Uuid::from_u128(9),
        ..request.topics[0].clone()
    };
    request.topics[0].topic_id = id;
    request.topics.push(unknown);
    let response = client.call(&request, 17).await;
    assert_eq!(bases(response.responses[0].partitions[0].records.segments()), [0]);
    assert_eq!(
        response.responses[1].partitions[0].error_code,
        ErrorCode::UnknownTopicId.code()
    );
    broker.stop().await;
}

#[tokio::test]
async fn what_is_produced_is_fetched_with_its_offsets() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1, &[]).await;
    let mut client = broker.client().await;
    for number in 0..3 {
        let response = client.produce("t", 0, batch(NOW_MS, &["a", "b"])).await;
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!((partition.error_code, partition.base_offset), (0, number * 2));
        assert_eq!(
            (partition.log_start_offset, partition.log_append_time_ms),
            (0, -1)
        );
    }
    let response = client.fetch(&fetch("t", 0, 3)).await;
    let partition = &response.responses[0].partitions[0];
    assert_eq!(
        (
            partition.error_code,
            partition.high_watermark,
            partition.last_stable_offset
        ),
        (0, 6, 6)
    );
    assert_eq!(
        bases(partition.records.segments()),
        [2, 4],
        "the whole batch that contains the offset"
    );
    assert_eq!(partition.aborted_transactions, None);
    broker.stop().await;
}
