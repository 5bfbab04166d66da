//! Topics that are not mirrored: their records stay in one region, whoever owns the cluster.

use std::time::Duration;

use meridian_types::{Partition, RegionNumber, ShardId, TopicId};
use meridian_wire::create_topics::{CreatableTopic, CreatableTopicConfig, CreatableTopicResult};
use meridian_wire::metadata::{MetadataRequestTopic, MetadataResponseTopic};
use meridian_wire::{
    AlterRegionRequest, CreateTopicsRequest, DeleteTopicsRequest, ErrorCode, MetadataRequest,
};
use tokio::time::Instant;

use crate::harness::{Client, PATIENCE, TestBroker, batch, fetch, produce};
use crate::mirror::{EAST, NOW_MS, WEST, agreed, partition_of, regions};
use crate::through_mirror;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

async fn alter(client: &mut Client, kind: i8, name: &str, config: &str, value: &str) -> (i16, String) {
    let request = through_mirror::alter(kind, name, config, value);
    let answer = client.call(&request, 1).await.responses.remove(0);
    let message = answer.error_message.map(|it| it.to_string());
    (answer.error_code, message.unwrap_or_default())
}

async fn create(client: &mut Client, name: &str, configs: &[(&str, &str)]) -> CreatableTopicResult {
    let config = |(name, value): &(&str, &str)| CreatableTopicConfig {
        name: (*name).to_owned().into(),
        value: Some((*value).to_owned().into()),
    };
    let request = CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: name.to_owned().into(),
            num_partitions: 2,
            replication_factor: -1,
            configs: configs.iter().map(config).collect(),
            ..Default::default()
        }],
        timeout_ms: 10_000,
        ..Default::default()
    };
    client.call(&request, 7).await.topics.remove(0)
}

async fn metadata(client: &mut Client, name: &str, creates: bool) -> MetadataResponseTopic {
    let request = MetadataRequest {
        topics: Some(vec![MetadataRequestTopic {
            name: Some(name.to_owned().into()),
            ..Default::default()
        }]),
        allow_auto_topic_creation: creates,
        ..Default::default()
    };
    client.call(&request, 12).await.topics.remove(0)
}

/// Waits until both brokers say that the topic is led by `home`, and has its replicas there only.
async fn until_at(brokers: [&TestBroker; 2], name: &str, home: i32) -> TopicId {
    let started = Instant::now();
    loop {
        let mut told = Vec::new();
        for broker in brokers {
            told.push(metadata(&mut broker.client().await, name, false).await);
        }
        let is_so = told.iter().all(|topic| {
            !topic.partitions.is_empty()
                && topic.partitions.iter().all(|it| {
                    it.error_code == 0
                        && it.leader_id == home
                        && it.replica_nodes == [home]
                        && it.isr_nodes == [home]
                })
        });
        if is_so && told[0] == told[1] {
            return TopicId(told[0].topic_id);
        }
        assert!(started.elapsed() < PATIENCE, "{told:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Writes one record, again while its region is on the way to lead.
async fn write(client: &mut Client, topic: &'static str, value: &str) -> i64 {
    let started = Instant::now();
    loop {
        let response = client
            .call(&produce(topic, 0, &batch(NOW_MS, &[value]), -1), 11)
            .await;
        let answer = partition_of(&response);
        if answer.error_code == 0 {
            return answer.base_offset;
        }
        assert!(started.elapsed() < PATIENCE, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether any shard of the broker's region knows the topic.
fn is_held(broker: &TestBroker, topic: TopicId) -> bool {
    let shards = broker.region.shard_map().all();
    let holds = |shard| {
        let state = broker.region.applied_state(shard);
        state.partitions().any(|(partition, _)| partition.topic == topic)
    };
    shards.into_iter().any(holds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_excluded_topic_stays_in_its_region_through_a_switchover() {
    let (west, east) = regions().await;
    west.create_topic("t", 1, &[]).await;
    agreed(&west, &east, WEST).await;
    let (mut at_west, mut at_east) = (west.client().await, east.client().await);
    let set = alter(&mut at_west, BROKER, "", "geo.topics.exclude", "local-*, secret").await;
    assert_eq!(set, (0, String::new()));

    // Of the region that is asked: by a client that makes it, by one that only uses it, and by name.
    let started = Instant::now();
    loop {
        let made = create(&mut at_west, "local-a", &[]).await;
        if made.error_code == 0 {
            assert_eq!((made.num_partitions, made.replication_factor), (2, 1), "{made:?}");
            let configs = made.configs.unwrap();
            let home = configs.iter().find(|it| &*it.name == "geo.home").unwrap();
            assert_eq!(home.value.as_deref(), Some("region-0"));
            break;
        }
        // West itself is registered in a moment.
        assert!(started.elapsed() < PATIENCE, "{made:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let started = Instant::now();
    while metadata(&mut at_east, "local-b", true).await.error_code != 0 {
        assert!(started.elapsed() < PATIENCE, "it is not made on demand");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let made = create(&mut at_west, "named", &[("geo.home", "region-1")]).await;
    assert_eq!((made.error_code, made.replication_factor), (0, 1), "{made:?}");
    let everywhere = create(&mut at_west, "local-everywhere", &[("geo.home", "")]).await;
    assert_eq!(everywhere.error_code, 0, "{everywhere:?}");

    let both = [&west, &east];
    let a = until_at(both, "local-a", WEST).await;
    let b = until_at(both, "local-b", EAST).await;
    until_at(both, "named", EAST).await;
    let everywhere = metadata(&mut at_west, "local-everywhere", false).await;
    assert_eq!(TopicId(everywhere.topic_id).home(), None);

    assert_eq!(write(&mut at_west, "local-a", "1").await, 0);
    assert_eq!(write(&mut at_east, "local-b", "1").await, 0);
    assert_eq!(write(&mut at_west, "t", "everywhere").await, 0);
    let lost = partition_of(
        &at_east
            .call(&produce("local-a", 0, &batch(NOW_MS, &["x"]), -1), 11)
            .await,
    );
    assert_eq!(
        (lost.error_code, lost.current_leader.leader_id),
        (ErrorCode::NotLeaderOrFollower.code(), WEST),
        "whoever asks next door is told where to go"
    );
    let read = at_west.fetch(&fetch("local-b", 0, 0)).await;
    let read = &read.responses[0].partitions[0];
    assert_eq!(
        (read.error_code, read.current_leader.leader_id),
        (ErrorCode::NotLeaderOrFollower.code(), EAST)
    );

    // What every region has moves; what stays is written on, without an epoch in between.
    let before = metadata(&mut at_west, "local-a", false).await.partitions[0].leader_epoch;
    let started = Instant::now();
    while let Err(error) = west.region.switch_over(RegionNumber(1), PATIENCE).await {
        assert!(started.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let started = Instant::now();
    while west.region.controller().ownership().owner != RegionNumber(1)
        || metadata(&mut at_east, "t", false).await.partitions[0].leader_id != EAST
    {
        assert!(
            started.elapsed() < PATIENCE,
            "the switchover does not come to its end"
        );
        assert!(write(&mut at_west, "local-a", "meanwhile").await > 0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until_at(both, "local-a", WEST).await;
    until_at(both, "local-b", EAST).await;
    assert!(write(&mut at_west, "local-a", "2").await > 0);
    assert_eq!(write(&mut at_east, "local-b", "2").await, 1);
    assert_eq!(write(&mut at_east, "t", "everywhere").await, 1);
    let after = metadata(&mut at_west, "local-a", false).await.partitions[0].leader_epoch;
    assert_eq!(before, after);
    // Made now, while east owns, by a client of west that only uses it.
    let started = Instant::now();
    while metadata(&mut at_west, "secret", true).await.error_code != 0 {
        assert!(started.elapsed() < PATIENCE, "it is not made on demand");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until_at(both, "secret", WEST).await;

    // Nothing of it is anywhere else, nor compared with anything.
    assert!(is_held(&west, a) && !is_held(&east, a));
    assert!(is_held(&east, b) && !is_held(&west, b));
    let first = Partition { topic: a, index: 0 };
    assert_eq!(east.region.shard_of(first), ShardId::ELSEWHERE);
    for broker in both {
        let compared = broker.region.partition_digests();
        assert!(compared.iter().all(|it| it.partition.topic.home().is_none()));
    }
    // Deleted by the owner, it goes where it is.
    let delete = DeleteTopicsRequest {
        topic_names: vec!["local-a".into()],
        timeout_ms: 10_000,
        ..Default::default()
    };
    assert_eq!(at_east.call(&delete, 5).await.responses[0].error_code, 0);
    let started = Instant::now();
    while is_held(&west, a) {
        assert!(started.elapsed() < PATIENCE, "its records stay");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_stay_is_refused_with_a_reason() {
    let (west, east) = regions().await;
    west.create_topic("t", 1, &[]).await;
    agreed(&west, &east, WEST).await;
    let mut client = west.client().await;
    let started = Instant::now();
    while create(&mut client, "stays", &[("geo.home", "region-1")])
        .await
        .error_code
        != 0
    {
        assert!(started.elapsed() < PATIENCE, "east is not registered");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (configs, expected) in [
        (
            &[("geo.home", "mars")][..],
            "there is no such region; known are region-0, region-1",
        ),
        (
            &[("geo.home", "region-1"), ("geo.acks", "1")],
            "geo.acks (1) must be 0",
        ),
    ] {
        let refused = create(&mut client, "refused", configs).await;
        let message = refused.error_message.unwrap_or_default();
        assert_eq!(refused.error_code, ErrorCode::InvalidConfig.code(), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    for (kind, name, config, value, expected) in [
        (TOPIC, "t", "geo.home", "region-1", "decided when a topic is made"),
        (TOPIC, "stays", "geo.home", "", "decided when a topic is made"),
        (TOPIC, "stays", "geo.acks", "1", "geo.acks (1) must be 0"),
        (BROKER, "", "geo.topics.exclude", "local/*", "fits no topic name"),
    ] {
        let (code, message) = alter(&mut client, kind, name, config, value).await;
        assert_eq!(code, ErrorCode::InvalidConfig.code(), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    let (code, message) = alter(&mut client, TOPIC, "stays", "retention.ms", "1000").await;
    assert_eq!(code, 0, "{message}");
    let remove = AlterRegionRequest {
        number: 1,
        name: None,
        ..Default::default()
    };
    let refused = client.call(&remove, 0).await;
    let message = refused.error_message.unwrap_or_default();
    assert_ne!(refused.error_code, 0);
    assert!(
        message.contains("topics that stay in region 1 alone: 1, 'stays' among them"),
        "{message}"
    );
    east.stop().await;
    west.stop().await;
}
