//! What is changed through a broker of a mirror: configs, topics that clients ask for, and writes that wait for another region.

use std::time::Duration;

use meridian_wire::metadata::MetadataRequestTopic;
use meridian_wire::{ErrorCode, IncrementalAlterConfigsRequest, MetadataRequest, incremental_alter_configs};
use tokio::time::Instant;

use crate::harness::{Client, PATIENCE, TestBroker, batch, produce};
use crate::mirror::{EAST, NOW_MS, WEST, agreed, partition_of, regions};

pub(crate) fn alter(kind: i8, name: &str, config: &str, value: &str) -> IncrementalAlterConfigsRequest {
    IncrementalAlterConfigsRequest {
        resources: vec![incremental_alter_configs::AlterConfigsResource {
            resource_type: kind,
            resource_name: name.to_owned().into(),
            configs: vec![incremental_alter_configs::AlterableConfig {
                name: config.to_owned().into(),
                config_operation: 0,
                value: Some(value.to_owned().into()),
            }],
        }],
        validate_only: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configs_altered_at_a_mirror_are_altered_in_all_regions() {
    const TOPIC: i8 = 2;
    const BROKER: i8 = 4;
    let (west, east) = regions().await;
    west.create_topic("t", 1, &[]).await;
    agreed(&west, &east, WEST).await;
    let mut client = east.client().await;
    let altered = client
        .call(&alter(TOPIC, "t", "retention.ms", "1234000"), 1)
        .await;
    let first = &altered.responses[0];
    assert_eq!((first.error_code, first.error_message.as_deref()), (0, None));
    // The whole cluster's, and one that is not possible.
    let altered = client
        .call(&alter(BROKER, "", "log.retention.ms", "99000000"), 1)
        .await;
    assert_eq!(altered.responses[0].error_code, 0, "{altered:?}");
    let refused = client.call(&alter(TOPIC, "t", "retention.ms", "soon"), 1).await;
    assert_eq!(refused.responses[0].error_code, ErrorCode::InvalidConfig.code());
    // Of the broker itself: its own region's matter.
    let own = client
        .call(&alter(BROKER, &EAST.to_string(), "fetch.max.bytes", "1000000"), 1)
        .await;
    assert_eq!(own.responses[0].error_code, 0, "{own:?}");
    // Whoever was answered finds it there.
    for broker in [&west, &east] {
        let controller = broker.region.controller();
        let topic = controller.topic("t").expect("it is known");
        assert_eq!(topic.configs.get("retention.ms").map(|it| &**it), Some("1234000"));
    }
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn geo_acks_wait_for_another_region_and_say_so_when_there_is_none() {
    let (west, east) = regions().await;
    west.create_topic("t", 1, &[("geo.acks", "1")]).await;
    west.create_topic("falls", 1, &[("geo.acks", "1"), ("geo.acks.fallback.ms", "400")])
        .await;
    agreed(&west, &east, WEST).await;
    let mut client = west.client().await;
    let end_at_east = |name: &str| {
        let topic = east.region.controller().topic(name).expect("it is known").id;
        let partition = meridian_types::Partition { topic, index: 0 };
        let state = east.region.applied_state(east.region.shard_of(partition));
        state.partition(partition).map(|it| it.high_watermark().0)
    };
    for name in ["t", "falls"] {
        for written in 0..3 {
            let started = Instant::now();
            let answer = loop {
                let response = client
                    .call(&produce(name, 0, &batch(NOW_MS, &["x"]), -1), 11)
                    .await;
                let answer = partition_of(&response);
                // East is not heard to follow yet, and nothing was appended.
                if answer.error_code != ErrorCode::NotEnoughReplicas.code() || started.elapsed() > PATIENCE {
                    break answer;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            };
            assert_eq!(
                (answer.error_code, answer.base_offset),
                (0, written),
                "{answer:?}"
            );
            // What is acknowledged is there.
            assert_eq!(end_at_east(name), Some(written.cast_unsigned() + 1));
        }
    }
    east.stop().await;
    // While the other region is still taken for alive, and after that.
    let started = Instant::now();
    let mut errors = std::collections::BTreeSet::new();
    while !errors.contains(&ErrorCode::NotEnoughReplicas.code()) {
        assert!(started.elapsed() < PATIENCE, "{errors:?}");
        let mut request = produce("t", 0, &batch(NOW_MS, &["y"]), -1);
        request.timeout_ms = 1000;
        errors.insert(partition_of(&client.call(&request, 11).await).error_code);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let allowed = [
        ErrorCode::NotEnoughReplicas.code(),
        ErrorCode::NotEnoughReplicasAfterAppend.code(),
    ];
    assert!(errors.iter().all(|error| allowed.contains(error)), "{errors:?}");
    // One that waits no longer than it was told.
    let began = Instant::now();
    let response = client
        .call(&produce("falls", 0, &batch(NOW_MS, &["y"]), -1), 11)
        .await;
    let answer = partition_of(&response);
    assert_eq!((answer.error_code, answer.base_offset), (0, 3), "{answer:?}");
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(400) && took < Duration::from_secs(9),
        "{took:?}"
    );
    // Whoever asks for less waits for nobody.
    let response = client.call(&produce("t", 0, &batch(NOW_MS, &["z"]), 1), 11).await;
    assert_eq!(partition_of(&response).error_code, 0);
    west.stop().await;
}

/// What a broker tells of one topic that it is asked for by name.
async fn asked_for(client: &mut Client, name: &str, may_create: bool) -> (i16, Vec<i32>) {
    let request = MetadataRequest {
        topics: Some(vec![MetadataRequestTopic {
            name: Some(name.to_owned().into()),
            ..Default::default()
        }]),
        allow_auto_topic_creation: may_create,
        ..Default::default()
    };
    let topic = client.call(&request, 12).await.topics.remove(0);
    let leaders = topic.partitions.iter().map(|partition| partition.leader_id);
    (topic.error_code, leaders.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_a_client_asks_a_mirror_for_is_created_at_the_owner() {
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    let (west, east) = regions().await;
    west.create_topic("t", 1, &[]).await;
    agreed(&west, &east, WEST).await;
    let mut client = east.client().await;
    assert_eq!(
        asked_for(&mut client, "fresh", false).await,
        (unknown, Vec::new())
    );
    assert!(west.region.controller().topic("fresh").is_none());
    // The answer to the first question has it, with the owner's leader.
    let (error, leaders) = asked_for(&mut client, "fresh", true).await;
    assert_eq!(error, 0);
    assert!(
        !leaders.is_empty() && leaders.iter().all(|leader| *leader == WEST),
        "{leaders:?}"
    );
    let id = |broker: &TestBroker| broker.region.controller().topic("fresh").map(|topic| topic.id);
    assert!(id(&west).is_some());
    assert_eq!(id(&west), id(&east));
    let response = west
        .client()
        .await
        .call(&produce("fresh", 0, &batch(NOW_MS, &["x"]), -1), 11)
        .await;
    assert_eq!(partition_of(&response).error_code, 0);
    // Asked for in both regions at once, it is one topic.
    let mut other = west.client().await;
    let (ours, theirs) = tokio::join!(
        asked_for(&mut other, "twice", true),
        asked_for(&mut client, "twice", true)
    );
    assert_eq!((ours.0, theirs.0), (0, 0));
    // More than a question between regions holds, with names as long as they may be.
    let long: Vec<String> = (0..20).map(|number| format!("{number:0>249}")).collect();
    let request = MetadataRequest {
        topics: Some(
            long.iter()
                .map(|name| MetadataRequestTopic {
                    name: Some(name.clone().into()),
                    ..Default::default()
                })
                .collect(),
        ),
        allow_auto_topic_creation: true,
        ..Default::default()
    };
    let told = client.call(&request, 12).await;
    assert!(
        told.topics.len() == 20 && told.topics.iter().all(|topic| topic.error_code == 0),
        "{told:?}"
    );
    let (error, _) = asked_for(&mut client, "not/a/name", true).await;
    assert_eq!(error, ErrorCode::InvalidTopicException.code());
    // Without the owner a client is told so in time, and asks again.
    west.stop().await;
    let began = Instant::now();
    assert_eq!(asked_for(&mut client, "late", true).await, (unknown, Vec::new()));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    east.stop().await;
}
