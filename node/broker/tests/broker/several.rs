//! Three brokers: whatever node a client asks, it learns the same, and finds its way when a leader is gone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meridian_types::{ProducerId, TimestampMs, Uuid};
use meridian_wire::batch::{BatchBuilder, Compression};
use meridian_wire::create_topics::{CreatableTopic, CreatableTopicConfig};
use meridian_wire::describe_cluster::DescribeClusterBroker;
use meridian_wire::describe_region::RegionShard;
use meridian_wire::metadata::MetadataResponsePartition;
use meridian_wire::produce::PartitionProduceResponse;
use meridian_wire::{
    BalanceRegionRequest, CreateTopicsRequest, DescribeClusterRequest, DescribeRegionRequest,
    DescribeRegionResponse, DrainNodeRequest, ErrorCode, FetchRequest, ListOffsetsRequest, MetadataRequest,
    MetadataResponse, ProduceRequest, Str, UnregisterBrokerRequest,
};
use tokio::time::Instant;

use crate::harness::{Client, PATIENCE, batch, fetch, produce};
use crate::nodes::{NOW_MS, Nodes};

pub(crate) async fn create(
    nodes: &Nodes,
    at: u32,
    name: &'static str,
    partitions: i32,
    configs: &[(&str, &str)],
) -> Uuid {
    let config = |(name, value): &(&str, &str)| CreatableTopicConfig {
        name: (*name).to_owned().into(),
        value: Some((*value).to_owned().into()),
    };
    let request = CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: -1,
            configs: configs.iter().map(config).collect(),
            ..Default::default()
        }],
        timeout_ms: 10_000,
        ..Default::default()
    };
    let response = nodes.client(at).await.call(&request, 7).await;
    let created = &response.topics[0];
    assert_eq!(created.error_code, 0, "{:?}", created.error_message);
    assert_eq!(created.replication_factor, 3);
    nodes.until_known(created.topic_id).await;
    created.topic_id
}

async fn metadata(client: &mut Client) -> MetadataResponse {
    let request = MetadataRequest {
        topics: None,
        ..Default::default()
    };
    client.call(&request, 12).await
}

fn partitions(response: &MetadataResponse) -> Vec<MetadataResponsePartition> {
    response.topics[0].partitions.clone()
}

/// Producers so far.
static PRODUCERS: AtomicU64 = AtomicU64::new(1000);

/// Produces one record at whoever leads, as a client would, and returns its offset. It is of a producer of its own, so that one
/// of unknown fate leaves no copy.
async fn write(nodes: &Nodes, topic: &'static str, id: Uuid, value: &str) -> i64 {
    let producer = ProducerId(PRODUCERS.fetch_add(1, Ordering::Relaxed));
    let mut builder = BatchBuilder::new(Compression::None).with_producer(producer, 0, 0);
    builder
        .push(TimestampMs(NOW_MS), None, Some(value.as_bytes()), &[])
        .unwrap();
    let record = builder.build().unwrap();
    let started = Instant::now();
    loop {
        let answer = ask_leader(nodes, id, &produce(topic, 0, &record, -1)).await;
        if answer.error_code == 0 {
            return answer.base_offset;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "nobody takes the record: {answer:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the leader answers, once one is found that says that it leads.
async fn ask_leader(nodes: &Nodes, id: Uuid, request: &ProduceRequest) -> PartitionProduceResponse {
    let started = Instant::now();
    loop {
        let leader = nodes.leader_of(id, 0).await;
        let response = nodes.client(leader).await.call(request, 9).await;
        let answer = response.responses[0].partition_responses[0].clone();
        if answer.error_code != ErrorCode::NotLeaderOrFollower.code() || started.elapsed() > PATIENCE {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until `at` answers a consumer's fetch with `count` records' bytes, or any at all.
async fn until_readable(nodes: &Nodes, at: u32, topic: &'static str, offset: i64) {
    let mut client = nodes.client(at).await;
    let started = Instant::now();
    loop {
        let response = client.fetch(&fetch(topic, 0, offset)).await;
        if response.responses[0].partitions[0].records.bytes() > 0 {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{response:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_node_tells_the_same_and_a_dead_one_is_no_broker_any_more() {
    let mut nodes = Nodes::start(3).await;
    let topic = create(&nodes, 3, "t", 8, &[]).await;
    let started = Instant::now();
    // Each hears of the leaders, and of who is alive, for itself.
    let told = loop {
        let mut told = Vec::new();
        for id in nodes.ids() {
            told.push(metadata(&mut nodes.client(id).await).await);
        }
        let is_whole = |partition: &MetadataResponsePartition| {
            partition.error_code == 0 && partition.isr_nodes.len() == 3 && partition.leader_epoch > 0
        };
        let is_one = told.iter().all(|it| partitions(it) == partitions(&told[0]));
        if is_one && partitions(&told[0]).iter().all(is_whole) {
            break told;
        }
        assert!(started.elapsed() < PATIENCE, "{told:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let before = partitions(&told[0]);
    for partition in &before {
        assert_eq!(partition.error_code, 0);
        assert!(partition.leader_epoch > 0);
        assert_eq!(partition.replica_nodes.len(), 3);
        assert!(partition.replica_nodes.contains(&partition.leader_id));
        assert_eq!(
            (&partition.isr_nodes, partition.offline_replicas.len()),
            (&partition.replica_nodes, 0)
        );
    }
    let racks: Vec<_> = told[0].brokers.iter().map(|it| it.rack.as_deref()).collect();
    assert_eq!(racks, [Some("rack-1"), Some("rack-2"), Some("rack-3")]);

    nodes.kill(2);
    nodes
        .until("its shards are led by others", |nodes| {
            let led = |shard| {
                nodes
                    .region(1)
                    .leader_of(shard)
                    .is_some_and(|leader| leader.0 != 2)
            };
            nodes.region(1).alive_nodes().len() == 2 && (0..4).map(meridian_types::ShardId).all(led)
        })
        .await;
    nodes.leader_of(topic, 0).await;
    let mut client = nodes.client(1).await;
    let started = Instant::now();
    let after = loop {
        let after = metadata(&mut client).await;
        // Who leads is known a moment before the epoch is.
        let is_new = |(before, after): (&MetadataResponsePartition, MetadataResponsePartition)| {
            let least = before.leader_epoch + i32::from(before.leader_id == 2);
            after.leader_id >= 0 && after.leader_id != 2 && after.leader_epoch >= least
        };
        if before.iter().zip(partitions(&after)).all(is_new) || started.elapsed() > PATIENCE {
            break after;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(
        after.brokers.iter().map(|it| it.node_id).collect::<Vec<_>>(),
        [1, 3]
    );
    for (before, after) in before.iter().zip(partitions(&after)) {
        assert!(
            after.leader_id != 2 && after.leader_epoch >= before.leader_epoch,
            "{after:?}"
        );
        if before.leader_id == 2 {
            assert!(after.leader_epoch > before.leader_epoch, "{before:?} {after:?}");
        }
        assert_eq!(
            (after.isr_nodes.contains(&2), &after.offline_replicas),
            (false, &vec![2])
        );
    }
    let fenced = |include_fenced_brokers| DescribeClusterRequest {
        include_fenced_brokers,
        ..Default::default()
    };
    let alive = client.call(&fenced(false), 2).await;
    let all = client.call(&fenced(true), 2).await;
    let fenced: Vec<&DescribeClusterBroker> = all.brokers.iter().filter(|it| it.is_fenced).collect();
    assert_eq!((alive.brokers.len(), all.brokers.len(), fenced.len()), (2, 3, 1));
    nodes.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_comes_to_the_wrong_node_is_told_the_right_one() {
    let nodes = Nodes::start(3).await;
    let topic = create(&nodes, 1, "t", 1, &[]).await;
    let leader = nodes.leader_of(topic, 0).await;
    let other = leader % 3 + 1;
    let mut client = nodes.client(other).await;
    let request = produce("t", 0, &batch(NOW_MS, &["x"]), -1);
    let refused = client.call(&request, 10).await;
    let answer = &refused.responses[0].partition_responses[0];
    assert_eq!(answer.error_code, ErrorCode::NotLeaderOrFollower.code());
    assert_eq!(answer.current_leader.leader_id, leader.cast_signed());
    let told = &refused.node_endpoints[0];
    assert_eq!(
        (told.node_id, told.port),
        (leader.cast_signed(), nodes.port(leader))
    );
    let at_leader = metadata(&mut nodes.client(leader).await).await;
    assert_eq!(
        answer.current_leader.leader_epoch,
        partitions(&at_leader)[0].leader_epoch
    );
    // Versions before KIP-951 only hear that it is not here.
    let refused = client.call(&request, 9).await;
    assert_eq!(
        refused.responses[0].partition_responses[0].error_code,
        ErrorCode::NotLeaderOrFollower.code()
    );

    // A consumer that knows nothing of replicas is sent on, and one of a stale epoch too.
    let old = client.call(&fetch("t", 0, 0), 10).await;
    assert_eq!(
        old.responses[0].partitions[0].error_code,
        ErrorCode::NotLeaderOrFollower.code()
    );
    let mut stale = fetch("t", 0, 0);
    stale.topics[0].partitions[0].current_leader_epoch = 0;
    let fenced = client.call(&stale, 12).await;
    let answer = &fenced.responses[0].partitions[0];
    assert_eq!(answer.error_code, ErrorCode::FencedLeaderEpoch.code());
    assert_eq!(answer.current_leader.leader_id, leader.cast_signed());
    // Offsets are the leader's to tell, as in Kafka.
    let mut latest = ListOffsetsRequest::default();
    latest.topics.push(meridian_wire::list_offsets::ListOffsetsTopic {
        name: "t".into(),
        partitions: vec![meridian_wire::list_offsets::ListOffsetsPartition {
            timestamp: -1,
            ..Default::default()
        }],
    });
    let listed = client.call(&latest, 7).await;
    assert_eq!(
        listed.topics[0].partitions[0].error_code,
        ErrorCode::NotLeaderOrFollower.code()
    );
    nodes.stop();
}

fn near(rack: &'static str, offset: i64, wait_ms: i32) -> FetchRequest {
    FetchRequest {
        rack_id: rack.into(),
        max_wait_ms: wait_ms,
        ..fetch("t", 0, offset)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_consumer_reads_from_the_replica_in_its_rack() {
    let nodes = Nodes::start(3).await;
    let topic = create(&nodes, 1, "t", 1, &[]).await;
    assert_eq!(write(&nodes, "t", topic, "first").await, 0);
    let leader = nodes.leader_of(topic, 0).await;
    let follower = leader % 3 + 1;
    let racks = ["", "rack-1", "rack-2", "rack-3"];
    let (here, there) = (racks[leader as usize], racks[follower as usize]);
    until_readable(&nodes, follower, "t", 0).await;

    let started = Instant::now();
    // The leader hears a moment later how far the follower is. A connection that was answered is not pointed elsewhere.
    let (mut at_leader, pointed) = loop {
        let mut at_leader = nodes.client(leader).await;
        let pointed = at_leader.fetch(&near(there, 0, 0)).await;
        let replica = pointed.responses[0].partitions[0].preferred_read_replica;
        if replica == follower.cast_signed() {
            break (at_leader, pointed);
        }
        assert!(started.elapsed() < PATIENCE, "{pointed:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let answer = &pointed.responses[0].partitions[0];
    assert_eq!((answer.error_code, answer.records.bytes()), (0, 0));
    assert_eq!(answer.preferred_read_replica, follower.cast_signed());
    assert_eq!(answer.high_watermark, 1);
    for rack in [here, "rack-of-nobody", ""] {
        let served = at_leader.fetch(&near(rack, 0, 0)).await;
        let answer = &served.responses[0].partitions[0];
        assert_eq!(answer.preferred_read_replica, -1, "{rack}");
        assert!(answer.records.bytes() > 0, "{rack}");
    }
    // It came back with nothing read: whatever the reason, it is served here.
    let served = at_leader.fetch(&near(there, 0, 0)).await;
    assert!(served.responses[0].partitions[0].records.bytes() > 0);

    let mut at_follower = nodes.client(follower).await;
    let read = at_follower.fetch(&near(there, 0, 0)).await;
    let answer = &read.responses[0].partitions[0];
    assert_eq!((answer.error_code, answer.preferred_read_replica), (0, -1));
    assert!(answer.records.bytes() > 0);

    // Beyond what the follower has: it waits for that, and in the end sends the consumer back to the leader.
    let begun = Instant::now();
    let behind = at_follower.fetch(&near(there, 5, 200)).await;
    assert_eq!(
        behind.responses[0].partitions[0].error_code,
        ErrorCode::OffsetNotAvailable.code()
    );
    assert!(begun.elapsed() >= Duration::from_millis(200));
    let patient = near(there, 1, 50_000);
    let (read, offset) = tokio::join!(at_follower.fetch(&patient), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        write(&nodes, "t", topic, "second").await
    });
    assert_eq!(offset, 1);
    let answer = &read.responses[0].partitions[0];
    assert!(answer.error_code == 0 && answer.records.bytes() > 0, "{answer:?}");
    // The leader knows that there is nothing.
    let nowhere = at_leader.fetch(&near("", 7, 0)).await;
    assert_eq!(
        nowhere.responses[0].partitions[0].error_code,
        ErrorCode::OffsetOutOfRange.code()
    );
    nodes.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn acks_of_all_ask_for_living_replicas() {
    let mut nodes = Nodes::start(3).await;
    let topic = create(&nodes, 1, "three", 1, &[("min.insync.replicas", "3")]).await;
    let two = create(&nodes, 1, "two", 1, &[("min.insync.replicas", "2")]).await;
    assert_eq!(write(&nodes, "three", topic, "all").await, 0);
    assert_eq!(write(&nodes, "two", two, "all").await, 0);
    let victim = nodes.leader_of(topic, 0).await % 3 + 1;
    nodes.kill(victim);
    nodes
        .until("it is missed", |nodes| {
            nodes
                .ids()
                .iter()
                .all(|id| nodes.region(*id).alive_nodes().len() == 2)
        })
        .await;
    let request = |acks| produce("three", 0, &batch(NOW_MS, &["x"]), acks);
    let answer = ask_leader(&nodes, topic, &request(-1)).await;
    assert_eq!(answer.error_code, ErrorCode::NotEnoughReplicas.code());
    let message = answer.error_message.as_deref().unwrap();
    assert!(message.contains("2 of 3"), "{message}");
    // It asks for the leader alone.
    assert_eq!(ask_leader(&nodes, topic, &request(1)).await.error_code, 0);
    assert_eq!(write(&nodes, "two", two, "x").await, 1);
    nodes.stop();
}

async fn describe(client: &mut Client) -> DescribeRegionResponse {
    client.call(&DescribeRegionRequest {}, 0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_region_is_described_drained_and_balanced_from_any_node() {
    let mut nodes = Nodes::start(3).await;
    let mut client = nodes.client(1).await;
    // A leader knows how far its followers are once each has answered it, and leaders may still move to where they belong.
    let started = Instant::now();
    let mut told = describe(&mut client).await;
    loop {
        let is_known = |shard: &RegionShard| {
            let knows = shard.replicas.iter().all(|it| it.matched_index >= 0);
            shard.is_held && shard.replicas.len() == 3 && knows == (shard.leader_id == 1)
        };
        if told.shards.iter().skip(1).all(is_known) || started.elapsed() > PATIENCE {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        told = describe(&mut client).await;
    }
    assert_eq!((told.error_code, told.node_id, told.copies), (0, 1, 3));
    assert_eq!((told.nodes.len(), told.shards.len()), (3, 5));
    assert_eq!(told.shards[0].shard, -1);
    for shard in &told.shards[1..] {
        assert_eq!(
            (shard.placement.len(), shard.is_held, shard.replicas.len()),
            (3, true, 3)
        );
        let knows = shard.replicas.iter().all(|it| it.matched_index >= 0);
        assert_eq!(knows, shard.leader_id == 1, "only the leader knows: {shard:?}");
    }
    let drain = |node_id, undo| DrainNodeRequest { node_id, undo };
    assert_eq!(client.call(&drain(2, false), 0).await.error_code, 0);
    let told = describe(&mut nodes.client(1).await).await;
    let draining: Vec<_> = told.nodes.iter().map(|it| it.is_draining).collect();
    assert_eq!(draining, [false, true, false]);
    assert_eq!(client.call(&drain(2, true), 0).await.error_code, 0);
    let unknown = client.call(&drain(9, false), 0).await;
    assert_eq!(unknown.error_code, ErrorCode::BrokerIdNotRegistered.code());
    let started = Instant::now();
    let balanced = loop {
        let balanced = client.call(&BalanceRegionRequest { dry_run: true }, 0).await;
        // What the drain moved before it was undone comes back first.
        if balanced.moves.is_empty() || started.elapsed() > PATIENCE {
            break balanced;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((balanced.error_code, balanced.moves), (0, Vec::new()));

    let remove = |broker_id| UnregisterBrokerRequest { broker_id };
    let alive = client.call(&remove(3), 0).await;
    assert_eq!(alive.error_code, ErrorCode::InvalidRequest.code());
    let message = alive.error_message.as_ref().map(Str::as_str).unwrap_or_default();
    assert!(message.contains("drain it first"), "{message}");
    nodes.kill(3);
    nodes
        .until("it is missed", |nodes| {
            nodes
                .ids()
                .iter()
                .all(|id| nodes.region(*id).alive_nodes().len() == 2)
        })
        .await;
    let mut removed = client.call(&remove(3), 0).await;
    for _ in 0..1200 {
        if removed.error_code == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        removed = client.call(&remove(3), 0).await;
    }
    assert_eq!(removed.error_code, 0, "{:?}", removed.error_message);
    let gone = client.call(&remove(3), 0).await;
    assert_eq!(gone.error_code, ErrorCode::BrokerIdNotRegistered.code());
    nodes.stop();
}
