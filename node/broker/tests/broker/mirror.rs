//! Two regions of one broker each: one cluster to every client, whichever broker it asks.

use std::time::Duration;

use bytes::Bytes;
use meridian_types::{ProducerId, RegionNumber, ShardId, TimestampMs};
use meridian_wire::batch::{BatchBuilder, Compression};
use meridian_wire::create_topics::CreatableTopic;
use meridian_wire::delete_records::{DeleteRecordsPartition, DeleteRecordsTopic};
use meridian_wire::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use meridian_wire::offset_for_leader_epoch::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use meridian_wire::produce::PartitionProduceResponse;
use meridian_wire::{
    CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DescribeClusterRequest, ErrorCode,
    FetchRequest, FindCoordinatorRequest, HeartbeatRequest, InitProducerIdRequest, ListOffsetsRequest,
    MetadataRequest, MetadataResponse, OffsetForLeaderEpochRequest, ProduceResponse,
};
use tokio::time::Instant;

use crate::harness::{Client, PATIENCE, TestBroker, batch, fetch, produce};

pub(crate) const NOW_MS: i64 = 1_700_000_000_000;
pub(crate) const WEST: i32 = 1;
pub(crate) const EAST: i32 = 100_001;
/// Each region has so many shards.
const SHARDS: u32 = 4;

/// West, which owns, and east, which mirrors it.
pub(crate) async fn regions() -> (TestBroker, TestBroker) {
    let west = TestBroker::of_region(0, Vec::new()).await;
    let seed = west.region.geo_address().expect("it listens");
    let east = TestBroker::of_region(1, vec![seed]).await;
    // A topic tells only of the shards that it has partitions in.
    let started = Instant::now();
    while !(0..SHARDS).all(|shard| east.region.remote().leader_of(ShardId(shard)).is_some()) {
        assert!(started.elapsed() < PATIENCE, "east does not know who leads");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (west, east)
}

async fn metadata(client: &mut Client) -> MetadataResponse {
    let request = MetadataRequest {
        topics: None,
        ..Default::default()
    };
    client.call(&request, 12).await
}

/// Waits until both brokers tell the same of topic `t`, led by `leader`; the leader's epoch.
pub(crate) async fn agreed(west: &TestBroker, east: &TestBroker, leader: i32) -> i32 {
    let (mut west, mut east) = (west.client().await, east.client().await);
    let started = Instant::now();
    loop {
        let (ours, theirs) = (metadata(&mut west).await, metadata(&mut east).await);
        let is_so = |told: &MetadataResponse| {
            let partitions = told
                .topics
                .first()
                .map(|topic| topic.partitions.as_slice())
                .unwrap_or_default();
            let is_led = partitions.iter().all(|partition| partition.leader_id == leader);
            told.controller_id == leader && told.brokers.len() == 2 && !partitions.is_empty() && is_led
        };
        if is_so(&ours) && ours == theirs {
            return ours.topics[0].partitions[0].leader_epoch;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "west tells {ours:#?}, east {theirs:#?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn partition_of(response: &ProduceResponse) -> PartitionProduceResponse {
    response.responses[0].partition_responses[0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_of_a_mirror_sends_every_client_to_the_owner() {
    let (west, east) = regions().await;
    west.create_topic("t", 3, &[]).await;
    let epoch = agreed(&west, &east, WEST).await;
    let mut client = east.client().await;

    let started = Instant::now();
    let told = loop {
        let told = metadata(&mut client).await;
        let mut partitions = told.topics[0].partitions.iter();
        // East is heard of a moment after the leaders are.
        if partitions.all(|partition| partition.isr_nodes.len() == 2) || started.elapsed() > PATIENCE {
            break told;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    for partition in &told.topics[0].partitions {
        assert_eq!(partition.replica_nodes, [WEST, EAST], "the owner's come first");
        assert_eq!(partition.isr_nodes, [WEST, EAST]);
    }
    let racks: Vec<_> = told
        .brokers
        .iter()
        .map(|broker| (broker.node_id, broker.rack.as_deref()))
        .collect();
    assert!(
        racks.contains(&(EAST, Some("region-1"))) && racks.contains(&(WEST, Some("region-0"))),
        "{racks:?}"
    );
    let cluster = client
        .call(
            &DescribeClusterRequest {
                endpoint_type: 1,
                ..Default::default()
            },
            1,
        )
        .await;
    assert_eq!((cluster.controller_id, cluster.brokers.len()), (WEST, 2));

    let response = client
        .call(&produce("t", 0, &batch(NOW_MS, &["x"]), -1), 11)
        .await;
    let refused = partition_of(&response);
    assert_eq!(refused.error_code, ErrorCode::NotLeaderOrFollower.code());
    assert_eq!(
        (
            refused.current_leader.leader_id,
            refused.current_leader.leader_epoch
        ),
        (WEST, epoch)
    );
    let endpoints: Vec<_> = response
        .node_endpoints
        .iter()
        .map(|node| (node.node_id, node.port))
        .collect();
    assert_eq!(endpoints, [(WEST, i32::from(west.address.port()))]);

    let request = FindCoordinatorRequest {
        coordinator_keys: vec!["g".into()],
        ..Default::default()
    };
    let found = client.call(&request, 4).await.coordinators.remove(0);
    assert_eq!(
        (found.error_code, found.node_id, found.port),
        (0, WEST, i32::from(west.address.port()))
    );
    let heartbeat = HeartbeatRequest {
        group_id: "g".into(),
        member_id: "m".into(),
        ..Default::default()
    };
    assert_eq!(
        client.call(&heartbeat, 4).await.error_code,
        ErrorCode::NotCoordinator.code()
    );

    let topic = CreatableTopic {
        name: "u".into(),
        num_partitions: 1,
        replication_factor: -1,
        ..Default::default()
    };
    let request = CreateTopicsRequest {
        topics: vec![topic],
        timeout_ms: 5000,
        ..Default::default()
    };
    let created = client.call(&request, 7).await.topics.remove(0);
    assert_eq!(created.error_code, ErrorCode::NotController.code());
    let message = created.error_message.expect("it says why");
    assert!(
        message.starts_with("region 0 owns this log in region epoch 0; here it is mirror"),
        "{message}"
    );
    let request = DeleteTopicsRequest {
        topic_names: vec!["t".into()],
        timeout_ms: 5000,
        ..Default::default()
    };
    assert_eq!(
        client.call(&request, 5).await.responses[0].error_code,
        ErrorCode::NotController.code()
    );

    let offsets = ListOffsetsRequest {
        replica_id: -1,
        topics: vec![ListOffsetsTopic {
            name: "t".into(),
            partitions: vec![ListOffsetsPartition {
                timestamp: -1,
                ..Default::default()
            }],
        }],
        ..Default::default()
    };
    let not_leader = ErrorCode::NotLeaderOrFollower.code();
    assert_eq!(
        client.call(&offsets, 7).await.topics[0].partitions[0].error_code,
        not_leader
    );
    let epochs = OffsetForLeaderEpochRequest {
        replica_id: -1,
        topics: vec![OffsetForLeaderTopic {
            topic: "t".into(),
            partitions: vec![OffsetForLeaderPartition::default()],
        }],
    };
    assert_eq!(
        client.call(&epochs, 4).await.topics[0].partitions[0].error_code,
        not_leader
    );
    let records = DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic {
            name: "t".into(),
            partitions: vec![DeleteRecordsPartition {
                partition_index: 0,
                offset: -1,
            }],
        }],
        timeout_ms: 5000,
    };
    assert_eq!(
        client.call(&records, 2).await.topics[0].partitions[0].error_code,
        not_leader
    );

    let ids = [
        init_producer(&mut client).await,
        init_producer(&mut west.client().await).await,
    ];
    assert_eq!(
        ids.map(|id| id >> 48),
        [1, 0],
        "each region gives out ids of its own"
    );
    east.stop().await;
    west.stop().await;
}

async fn init_producer(client: &mut Client) -> i64 {
    let request = InitProducerIdRequest {
        transactional_id: None,
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    };
    let given = client.call(&request, 4).await;
    assert_eq!(given.error_code, 0);
    given.producer_id
}

pub(crate) fn fetch_at(offset: i64, epoch: i32, rack: &str, wait_ms: i32) -> FetchRequest {
    let mut request = FetchRequest {
        rack_id: rack.to_owned().into(),
        max_wait_ms: wait_ms,
        ..fetch("t", 0, offset)
    };
    request.topics[0].partitions[0].current_leader_epoch = epoch;
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_reads_in_the_region_that_is_its_rack() {
    let (west, east) = regions().await;
    west.create_topic("t", 1, &[]).await;
    let epoch = agreed(&west, &east, WEST).await;
    let (mut at_west, mut at_east) = (west.client().await, east.client().await);
    let written = at_west.produce("t", 0, batch(NOW_MS, &["a", "b"])).await;
    assert_eq!(partition_of(&written).error_code, 0);

    // The owner's leader names the broker next door as soon as that has everything.
    let started = Instant::now();
    loop {
        let answer = at_west.fetch(&fetch_at(0, epoch, "region-1", 0)).await;
        let answer = &answer.responses[0].partitions[0];
        if answer.preferred_read_replica == EAST {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        // One that came back is served by the leader for a while.
        at_west = west.client().await;
    }
    let served = at_west.fetch(&fetch_at(0, epoch, "region-0", 0)).await;
    assert_eq!(
        served.responses[0].partitions[0].preferred_read_replica, -1,
        "it is there already"
    );

    let read = at_east.fetch(&fetch_at(0, epoch, "region-1", 10_000)).await;
    let read = &read.responses[0].partitions[0];
    assert_eq!((read.error_code, read.high_watermark), (0, 2));
    let there = at_west.fetch(&fetch_at(0, epoch, "", 0)).await;
    let there = &there.responses[0].partitions[0];
    let bytes = |records: &meridian_wire::Records| -> Vec<u8> {
        records.segments().iter().flat_map(|part| part.to_vec()).collect()
    };
    assert!(read.records.bytes() > 0);
    assert_eq!(bytes(&read.records), bytes(&there.records), "byte for byte");

    // One that waits at the end is woken by what comes over the link.
    let waiting = tokio::spawn(async move {
        let answer = at_east.fetch(&fetch_at(2, epoch, "region-1", 50_000)).await;
        (answer, at_east)
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    at_west.produce("t", 0, batch(NOW_MS, &["c"])).await;
    let started = Instant::now();
    let (answer, mut at_east) = waiting.await.expect("it ends");
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "it did not wait in vain"
    );
    let answer = &answer.responses[0].partitions[0];
    assert_eq!((answer.error_code, answer.high_watermark), (0, 3));

    // What the mirror does not have yet it may get at any moment: the client keeps its position.
    let beyond = at_east.fetch(&fetch_at(9, epoch, "region-1", 200)).await;
    let beyond = &beyond.responses[0].partitions[0];
    assert_eq!(beyond.error_code, ErrorCode::OffsetNotAvailable.code());
    let newer = at_east.fetch(&fetch_at(0, epoch + 1, "region-1", 0)).await;
    let newer = &newer.responses[0].partitions[0];
    assert_eq!(newer.error_code, ErrorCode::UnknownLeaderEpoch.code());
    east.stop().await;
    west.stop().await;
}

fn idempotent(id: i64, sequence: i32, value: &str) -> Bytes {
    let id = ProducerId(id.cast_unsigned());
    let mut builder = BatchBuilder::new(Compression::None).with_producer(id, 0, sequence);
    builder
        .push(TimestampMs(NOW_MS), None, Some(value.as_bytes()), &[])
        .unwrap();
    builder.build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotent_producer_goes_on_at_the_new_owner_without_loss_or_duplicates() {
    let (west, east) = regions().await;
    west.create_topic("t", 1, &[]).await;
    let before = agreed(&west, &east, WEST).await;
    let (mut at_west, mut at_east) = (west.client().await, east.client().await);
    let id = init_producer(&mut at_west).await;
    for sequence in 0..5 {
        let value = format!("v{sequence}");
        let written = at_west.produce("t", 0, idempotent(id, sequence, &value)).await;
        assert_eq!(partition_of(&written).base_offset, i64::from(sequence));
    }
    let started = Instant::now();
    while let Err(error) = west.region.switch_over(RegionNumber(1), PATIENCE).await {
        assert!(started.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It goes on at the old leader, which takes what comes before it is fenced, until that names another one.
    let mut sequence = 5;
    let hint = loop {
        let next = idempotent(id, sequence, "more");
        let response = at_west.call(&produce("t", 0, &next, -1), 11).await;
        let refused = partition_of(&response);
        if refused.current_leader.leader_id == EAST {
            break refused.current_leader.leader_epoch;
        }
        if refused.error_code == 0 {
            assert_eq!(refused.base_offset, i64::from(sequence));
            sequence += 1;
            continue;
        }
        let is_retriable = [
            ErrorCode::NotLeaderOrFollower,
            ErrorCode::NotEnoughReplicasAfterAppend,
        ]
        .iter()
        .any(|error| error.code() == refused.error_code);
        assert!(is_retriable, "{refused:?}");
        assert!(
            started.elapsed() < PATIENCE,
            "the new leader is not named: {refused:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let after = agreed(&west, &east, EAST).await;
    assert_eq!(
        (before >> 20, hint >> 20, after),
        (0, 1, hint),
        "epochs carry their region epoch"
    );
    let (last, next) = (sequence - 1, idempotent(id, sequence, "more"));
    let value = if last < 5 {
        format!("v{last}")
    } else {
        "more".to_owned()
    };
    // The last acknowledged batch comes again, as after a lost answer: it is known there.
    let again = loop {
        let response = at_east.produce("t", 0, idempotent(id, last, &value)).await;
        let answer = partition_of(&response);
        if answer.error_code != ErrorCode::NotLeaderOrFollower.code() {
            break answer;
        }
        assert!(started.elapsed() < PATIENCE, "it takes no writes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((again.error_code, again.base_offset), (0, i64::from(last)));
    let written = partition_of(&at_east.produce("t", 0, next).await);
    assert_eq!(
        (written.error_code, written.base_offset),
        (0, i64::from(sequence))
    );
    // The old owner follows, and serves what was written there.
    let read = at_west
        .fetch(&fetch_at(i64::from(sequence), hint, "region-0", 50_000))
        .await;
    let read = &read.responses[0].partitions[0];
    assert_eq!(
        (read.error_code, read.high_watermark),
        (0, i64::from(sequence) + 1)
    );
    east.stop().await;
    west.stop().await;
}
