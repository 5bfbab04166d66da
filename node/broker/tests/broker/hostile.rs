//! Clients that are slow, stuck or hostile are cut off, and harm nobody else.

use std::io::ErrorKind;
use std::time::Duration;

use crate::harness::{PATIENCE, TestBroker, batch, fetch, produce};
use meridian_wire::join_group::JoinGroupRequestProtocol;
use meridian_wire::metadata::MetadataRequestTopic;
use meridian_wire::offset_fetch::OffsetFetchRequestGroup;
use meridian_wire::{
    ApiVersionsRequest, DescribeGroupsRequest, ErrorCode, FetchRequest, JoinGroupRequest, MetadataRequest,
    OffsetFetchRequest, ProduceRequest,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NOW_MS: i64 = 1_700_000_000_000;
/// Version 0 of a question that everybody may ask.
const API_VERSIONS: &[u8] = &[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];

#[tokio::test]
async fn garbage_closes_its_own_connection_only() {
    let broker = TestBroker::start().await;
    let mut good = broker.client().await;
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0, 0, 0, 8, 0xff, 0xff, 0, 0, 0, 0, 0, 1],
        &[0, 0, 0, 10, 0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff],
        &[
            0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff,
        ],
        &[0xff; 64],
    ] {
        let mut bad = broker.client().await;
        bad.stream.write_all(bytes).await.unwrap();
        assert!(bad.frame().await.is_none(), "{bytes:?}");
    }
    good.call(&ApiVersionsRequest::default(), 2).await;
    broker.stop().await;
}

#[tokio::test]
async fn random_bytes_after_a_true_header_never_harm() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1, &[]).await;
    let mut seed = 1_u64;
    let mut random = || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u8
    };
    for api in meridian_wire::ApiKey::ALL {
        for round in 0..8 {
            let mut client = broker.client().await;
            let mut frame = api.code().to_be_bytes().to_vec();
            frame.extend_from_slice(&api.versions().last.to_be_bytes());
            frame.extend_from_slice(&[0, 0, 0, 1, 0xff, 0xff, 0]);
            frame.extend((0..round * 7).map(|_| random()));
            let mut bytes = (frame.len() as i32).to_be_bytes().to_vec();
            bytes.append(&mut frame);
            client.stream.write_all(&bytes).await.unwrap();
            client.stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            // Answered or closed, but not left hanging.
            let end = tokio::time::timeout(Duration::from_secs(20), client.stream.read_to_end(&mut rest));
            let _ = end.await.expect("the connection ends");
        }
    }
    let mut client = broker.client().await;
    client.produce("t", 0, batch(NOW_MS, &["x"])).await;
    let families = broker.registry.gather();
    let panics = families
        .iter()
        .filter(|family| family.name() == "meridian_connections_closed_total")
        .flat_map(|family| family.get_metric())
        .filter(|metric| metric.get_label()[0].value() == "panic")
        .count();
    assert_eq!(panics, 0);
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off_and_its_memory_comes_back() {
    let broker = TestBroker::with(|settings| {
        settings.limits.write_timeout = Duration::from_millis(300);
    })
    .await;
    broker.create_topic("t", 1, &[]).await;
    let mut producer = broker.client().await;
    let large = "x".repeat(900_000);
    for _ in 0..8 {
        producer.produce("t", 0, batch(NOW_MS, &[&large])).await;
    }
    let mut stuck = broker.client().await;
    let greedy = {
        let mut request = fetch("t", 0, 0);
        request.topics[0].partitions[0].partition_max_bytes = 50 << 20;
        request
    };
    for _ in 0..4 {
        stuck.send(&greedy, 12).await;
    }
    let mut waited = 0;
    while broker.metric("meridian_connections") > 1.0 {
        waited += 1;
        assert!(waited < 1200, "the stuck client is still connected");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    broker
        .until_metric("meridian_response_in_flight_bytes", 0.0)
        .await;
    drop(stuck);
    broker.stop().await;
}

#[tokio::test]
async fn a_frame_that_stops_half_way_is_cut_off() {
    let broker = TestBroker::with(|settings| {
        settings.limits.frame_timeout = Duration::from_millis(100);
        settings.limits.frame_stall_timeout = Duration::from_millis(20);
    })
    .await;
    let mut client = broker.client().await;
    client.stream.write_all(&[0, 0, 1, 0, 0, 3]).await.unwrap();
    assert!(client.frame().await.is_none());
    broker.stop().await;
}

#[tokio::test]
async fn idle_connections_are_closed_but_not_those_that_wait_for_an_answer() {
    let broker = TestBroker::with(|settings| settings.limits.idle_timeout = Duration::from_secs(2)).await;
    broker.create_topic("t", 1, &[]).await;
    let mut idle = broker.client().await;
    let mut waiting = broker.client().await;
    let request = FetchRequest {
        max_wait_ms: 5000,
        ..fetch("t", 0, 0)
    };
    let id = waiting.send(&request, 12).await;
    assert!(idle.frame().await.is_none());
    waiting.receive::<FetchRequest>(12, id).await;
    broker.stop().await;
}

#[tokio::test]
async fn connections_above_the_limit_are_closed_at_once() {
    let broker = TestBroker::with(|settings| settings.limits.connections_per_ip_max = 2).await;
    let mut first = broker.client().await;
    let mut second = broker.client().await;
    first.call(&ApiVersionsRequest::default(), 0).await;
    second.call(&ApiVersionsRequest::default(), 0).await;
    assert!(broker.client().await.frame().await.is_none());
    drop(first);
    // The broker notices a moment later.
    let started = tokio::time::Instant::now();
    loop {
        let mut client = broker.client().await;
        client.stream.write_all(API_VERSIONS).await.unwrap();
        if client.frame().await.is_some() {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "there is no room for another");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn requests_in_flight_are_bounded_and_none_is_lost() {
    let broker = TestBroker::with(|settings| {
        settings.limits.connection_bytes_in_flight_max = 4000;
        settings.limits.connection_requests_in_flight_max = 4;
        settings.limits.node_bytes_in_flight_max = 20_000;
    })
    .await;
    broker.create_topic("t", 1, &[]).await;
    let clients = (0..8).map(|_| async {
        let mut client = broker.client().await;
        let mut sent = Vec::new();
        for _ in 0..50 {
            sent.push(
                client
                    .send(&produce("t", 0, &batch(NOW_MS, &["some text"]), -1), 9)
                    .await,
            );
        }
        for id in sent {
            let response = client.receive::<ProduceRequest>(9, id).await;
            assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
        }
    });
    futures::future::join_all(clients).await;
    let fetched = broker.client().await.fetch(&fetch("t", 0, 0)).await;
    assert_eq!(fetched.responses[0].partitions[0].high_watermark, 400);
    broker.stop().await;
}

#[tokio::test]
async fn a_shutdown_wakes_waiting_fetches_and_closes_everything() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1, &[]).await;
    let mut idle = broker.client().await;
    let mut waiting = broker.client().await;
    let request = FetchRequest {
        max_wait_ms: 60_000,
        ..fetch("t", 0, 0)
    };
    let id = waiting.send(&request, 12).await;
    idle.call(&ApiVersionsRequest::default(), 0).await;
    broker.until_metric("meridian_fetches_waiting", 1.0).await;
    broker.begin_shutdown();
    let answer = waiting.receive::<FetchRequest>(12, id).await;
    assert_eq!(
        answer.responses[0].partitions[0].error_code,
        ErrorCode::None.code()
    );
    assert!(waiting.frame().await.is_none());
    assert!(idle.frame().await.is_none());
    broker.stop().await;
}

#[tokio::test]
async fn a_shutdown_resets_who_was_never_answered_and_closes_the_others() {
    let broker = TestBroker::start().await;
    let (mut new, mut served) = (broker.client().await, broker.client().await);
    served.call(&ApiVersionsRequest::default(), 0).await;
    broker.until_metric("meridian_connections", 2.0).await;
    broker.begin_shutdown();
    let mut byte = [0];
    let reset = new.stream.read(&mut byte).await.unwrap_err();
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    assert_eq!(served.stream.read(&mut byte).await.unwrap(), 0);
    broker.stop().await;
}

#[tokio::test]
async fn a_peer_that_is_gone_ends_its_waiting_fetch() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1, &[]).await;
    let mut waiting = broker.client().await;
    waiting
        .send(
            &FetchRequest {
                max_wait_ms: 60_000,
                ..fetch("t", 0, 0)
            },
            12,
        )
        .await;
    broker.until_metric("meridian_fetches_waiting", 1.0).await;
    drop(waiting);
    broker.until_metric("meridian_fetches_waiting", 0.0).await;
    broker.stop().await;
}

#[tokio::test]
async fn naming_a_topic_many_times_does_not_multiply_the_answer() {
    let broker = TestBroker::start().await;
    broker.create_topic("wide", 1000, &[]).await;
    let mut client = broker.client().await;
    let topic = MetadataRequestTopic {
        name: Some("wide".into()),
        ..Default::default()
    };
    let request = MetadataRequest {
        topics: Some(vec![topic; 10_000]),
        ..Default::default()
    };
    assert_eq!(client.call(&request, 12).await.topics.len(), 1);
    let groups = vec![
        OffsetFetchRequestGroup {
            group_id: "g".into(),
            topics: None,
            ..Default::default()
        };
        100
    ];
    let request = OffsetFetchRequest {
        groups,
        ..Default::default()
    };
    assert_eq!(client.call(&request, 9).await.groups.len(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn only_produce_may_be_large() {
    let broker = TestBroker::with(|settings| settings.limits.request_bytes_max = 10_000).await;
    broker.create_topic("t", 1, &[]).await;
    let mut client = broker.client().await;
    let text = "x".repeat(20_000);
    client.produce("t", 0, batch(NOW_MS, &[&text])).await;
    let topics = (0..1000).map(|number| MetadataRequestTopic {
        name: Some(format!("a-long-name-{number}").into()),
        ..Default::default()
    });
    client
        .send(
            &MetadataRequest {
                topics: Some(topics.collect()),
                ..Default::default()
            },
            12,
        )
        .await;
    assert!(client.frame().await.is_none());
    broker.stop().await;
}

#[tokio::test]
async fn a_broker_that_stops_releases_waiting_group_members() {
    let broker =
        TestBroker::with(|settings| settings.kafka.group_initial_rebalance_delay = Duration::from_secs(60))
            .await;
    let mut client = broker.client().await;
    let protocol = JoinGroupRequestProtocol {
        name: "range".into(),
        ..Default::default()
    };
    let join = JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![protocol],
        ..Default::default()
    };
    let id = client.send(&join, 3).await;
    let describe = DescribeGroupsRequest {
        groups: vec!["g".into()],
        ..Default::default()
    };
    let mut other = broker.client().await;
    let mut waited = 0;
    while &*other.call(&describe, 5).await.groups[0].group_state != "PreparingRebalance" {
        waited += 1;
        assert!(waited < 6000, "nobody waits");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let begun = tokio::time::Instant::now();
    broker.begin_shutdown();
    let answer = client.receive::<JoinGroupRequest>(3, id).await;
    assert_eq!(answer.error_code, ErrorCode::CoordinatorNotAvailable.code());
    broker.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(30));
}
