//! Topics and configs, over the wire.

use crate::harness::{TestBroker, batch, fetch};
use meridian_wire::create_partitions::CreatePartitionsTopic;
use meridian_wire::create_topics::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig};
use meridian_wire::delete_records::{DeleteRecordsPartition, DeleteRecordsTopic};
use meridian_wire::delete_topics::DeleteTopicState;
use meridian_wire::describe_configs::DescribeConfigsResource;
use meridian_wire::describe_topic_partitions::TopicRequest;
use meridian_wire::{
    AlterConfigsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest,
    DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest, DescribeLogDirsRequest,
    DescribeProducersRequest, DescribeTopicPartitionsRequest, ErrorCode, IncrementalAlterConfigsRequest,
    ListConfigResourcesRequest, Str, alter_configs, incremental_alter_configs,
};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

fn new_topic(name: &'static str, partitions: i32, replication: i16) -> CreatableTopic {
    CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: replication,
        ..Default::default()
    }
}

fn create(topics: Vec<CreatableTopic>) -> CreateTopicsRequest {
    CreateTopicsRequest {
        topics,
        timeout_ms: 10_000,
        ..Default::default()
    }
}

fn describe(kind: i8, name: &'static str, keys: &[&'static str]) -> DescribeConfigsRequest {
    let configuration_keys = (!keys.is_empty()).then(|| keys.iter().map(|key| Str::from(*key)).collect());
    let resource = DescribeConfigsResource {
        resource_type: kind,
        resource_name: name.into(),
        configuration_keys,
    };
    DescribeConfigsRequest {
        resources: vec![resource],
        include_synonyms: true,
        include_documentation: true,
    }
}

#[tokio::test]
async fn topics_are_created_by_kafkas_rules() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let assigned = CreatableTopic {
        assignments: vec![
            CreatableReplicaAssignment {
                partition_index: 1,
                broker_ids: vec![1],
            },
            CreatableReplicaAssignment {
                partition_index: 0,
                broker_ids: vec![1],
            },
        ],
        ..new_topic("assigned", -1, -1)
    };
    let gap = CreatableTopic {
        assignments: vec![CreatableReplicaAssignment {
            partition_index: 1,
            broker_ids: vec![1],
        }],
        ..new_topic("gap", -1, -1)
    };
    let config = |name: &'static str, value| CreatableTopicConfig {
        name: name.into(),
        value,
    };
    let wrong = CreatableTopic {
        configs: vec![config("retention.ms", Some("soon".into()))],
        ..new_topic("wrong", 1, 1)
    };
    let null = CreatableTopic {
        configs: vec![config("retention.ms", None)],
        ..new_topic("null", 1, 1)
    };
    let cases = vec![
        (new_topic("plain", 3, 1), ErrorCode::None),
        (new_topic("defaults", -1, -1), ErrorCode::None),
        (assigned, ErrorCode::None),
        (gap, ErrorCode::InvalidReplicaAssignment),
        (new_topic("none", 0, 1), ErrorCode::InvalidPartitions),
        (new_topic("many", 1, 9), ErrorCode::InvalidReplicationFactor),
        (new_topic("bad name", 1, 1), ErrorCode::InvalidTopicException),
        (wrong, ErrorCode::InvalidConfig),
        (null, ErrorCode::InvalidConfig),
        (new_topic("twice", 1, 1), ErrorCode::InvalidRequest),
        (new_topic("twice", 1, 1), ErrorCode::InvalidRequest),
    ];
    let (topics, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let validated = client
        .call(
            &CreateTopicsRequest {
                validate_only: true,
                ..create(topics.clone())
            },
            7,
        )
        .await;
    let created = client.call(&create(topics.clone()), 7).await;
    for response in [&validated, &created] {
        let codes: Vec<i16> = response.topics.iter().map(|topic| topic.error_code).collect();
        assert_eq!(
            codes,
            expected.iter().map(|error| error.code()).collect::<Vec<_>>()
        );
        for topic in &response.topics {
            assert_eq!(topic.error_message.is_some(), topic.error_code != 0, "{topic:?}");
        }
    }
    let plain = &created.topics[0];
    assert_eq!((plain.num_partitions, plain.replication_factor), (3, 1));
    assert!(
        plain
            .configs
            .as_ref()
            .unwrap()
            .iter()
            .any(|config| &*config.name == "retention.ms")
    );
    assert_eq!(created.topics[2].num_partitions, 2);
    let again = client.call(&create(topics), 4).await;
    assert_eq!(again.topics[0].error_code, ErrorCode::TopicAlreadyExists.code());
    broker.stop().await;
}

#[tokio::test]
async fn topics_are_deleted_by_name_and_by_id() {
    let broker = TestBroker::start().await;
    broker.create_topic("a", 1, &[]).await;
    let id = broker.create_topic("b", 1, &[]).await;
    let mut client = broker.client().await;
    client.produce("a", 0, batch(0, &["x"])).await;
    let by_name = DeleteTopicsRequest {
        topic_names: vec!["a".into(), "no".into()],
        timeout_ms: 5000,
        ..Default::default()
    };
    let response = client.call(&by_name, 5).await;
    let codes: Vec<i16> = response.responses.iter().map(|topic| topic.error_code).collect();
    assert_eq!(codes, [0, ErrorCode::UnknownTopicOrPartition.code()]);
    let by_id = DeleteTopicsRequest {
        topics: vec![DeleteTopicState {
            name: None,
            topic_id: id,
        }],
        timeout_ms: 5000,
        ..Default::default()
    };
    let response = client.call(&by_id, 6).await;
    assert_eq!(
        (
            response.responses[0].error_code,
            response.responses[0].name.as_deref()
        ),
        (0, Some("b"))
    );
    let again = client.call(&by_id, 6).await;
    assert_eq!(again.responses[0].error_code, ErrorCode::UnknownTopicId.code());
    broker.create_topic("a", 1, &[]).await;
    let fetched = client.fetch(&fetch("a", 0, 0)).await;
    assert_eq!(
        fetched.responses[0].partitions[0].high_watermark, 0,
        "a new topic of the name is empty"
    );
    broker.stop().await;
}

#[tokio::test]
async fn partitions_are_added_and_usable_at_once() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 2, &[]).await;
    let mut client = broker.client().await;
    let ask = |count| CreatePartitionsRequest {
        topics: vec![CreatePartitionsTopic {
            name: "t".into(),
            count,
            assignments: None,
        }],
        timeout_ms: 5000,
        validate_only: false,
    };
    assert_eq!(client.call(&ask(4), 3).await.results[0].error_code, 0);
    for count in [4, 3, -1] {
        let refused = client.call(&ask(count), 3).await.results[0].clone();
        assert_eq!(refused.error_code, ErrorCode::InvalidPartitions.code());
        assert!(refused.error_message.is_some());
    }
    let produced = client.produce("t", 3, batch(0, &["x"])).await;
    assert_eq!(produced.responses[0].partition_responses[0].error_code, 0);
    broker.stop().await;
}

#[tokio::test]
async fn configs_are_described_with_their_sources_and_altered_both_ways() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1, &[("retention.ms", "1000")]).await;
    let mut client = broker.client().await;
    let all = client.call(&describe(TOPIC, "t", &[]), 4).await.results[0]
        .configs
        .clone();
    assert!(all.len() > 20, "{}", all.len());
    let retention = all.iter().find(|config| &*config.name == "retention.ms").unwrap();
    assert_eq!(
        (
            retention.value.as_deref(),
            retention.config_source,
            retention.config_type
        ),
        (Some("1000"), 1, 5)
    );
    assert!(retention.synonyms.len() > 1 && retention.documentation.is_some());

    let op = |name: &'static str, config_operation, value: Option<&'static str>| {
        incremental_alter_configs::AlterableConfig {
            name: name.into(),
            config_operation,
            value: value.map(Str::from),
        }
    };
    let incremental = |configs| IncrementalAlterConfigsRequest {
        resources: vec![incremental_alter_configs::AlterConfigsResource {
            resource_type: TOPIC,
            resource_name: "t".into(),
            configs,
        }],
        validate_only: false,
    };
    let set = incremental(vec![
        op("max.message.bytes", 0, Some("5000")),
        op("cleanup.policy", 2, Some("compact")),
    ]);
    assert_eq!(client.call(&set, 1).await.responses[0].error_code, 0);
    let keys = ["retention.ms", "max.message.bytes", "cleanup.policy"];
    let mut values = async || -> Vec<Option<String>> {
        let described = client.call(&describe(TOPIC, "t", &keys), 4).await.results[0]
            .configs
            .clone();
        let value = |key: &&str| {
            described
                .iter()
                .find(|config| *config.name == **key)
                .unwrap()
                .value
                .as_ref()
                .map(ToString::to_string)
        };
        keys.iter().map(value).collect()
    };
    let text = |value: &str| Some(value.to_owned());
    let got = values().await;
    assert_eq!(got[..2], [text("1000"), text("5000")]);
    assert!(got[2].as_ref().unwrap().contains("compact") && got[2].as_ref().unwrap().contains("delete"));

    let replace = AlterConfigsRequest {
        resources: vec![alter_configs::AlterConfigsResource {
            resource_type: TOPIC,
            resource_name: "t".into(),
            configs: vec![alter_configs::AlterableConfig {
                name: "max.message.bytes".into(),
                value: Some("7000".into()),
            }],
        }],
        validate_only: false,
    };
    let mut other = broker.client().await;
    assert_eq!(other.call(&replace, 2).await.responses[0].error_code, 0);
    assert_eq!(values().await, [text("604800000"), text("7000"), text("delete")]);
    let refused = other
        .call(&incremental(vec![op("retention.mss", 0, Some("1"))]), 0)
        .await
        .responses[0]
        .clone();
    assert_eq!(refused.error_code, ErrorCode::InvalidConfig.code());
    assert!(refused.error_message.unwrap().contains("retention.ms"));
    broker.stop().await;
}

#[tokio::test]
async fn broker_configs_altered_through_the_protocol_take_effect() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let described = client.call(&describe(BROKER, "1", &["num.partitions"]), 4).await;
    assert_eq!(described.results[0].configs[0].value.as_deref(), Some("1"));
    let request = IncrementalAlterConfigsRequest {
        resources: vec![incremental_alter_configs::AlterConfigsResource {
            resource_type: BROKER,
            resource_name: Str::EMPTY,
            configs: vec![incremental_alter_configs::AlterableConfig {
                name: "num.partitions".into(),
                config_operation: 0,
                value: Some("5".into()),
            }],
        }],
        validate_only: false,
    };
    assert_eq!(client.call(&request, 1).await.responses[0].error_code, 0);
    let created = client.call(&create(vec![new_topic("t", -1, -1)]), 7).await;
    assert_eq!(created.topics[0].num_partitions, 5);
    let delay = client
        .call(&describe(BROKER, "1", &["group.initial.rebalance.delay.ms"]), 4)
        .await;
    let delay = &delay.results[0].configs[0];
    assert_eq!(
        (delay.value.as_deref(), delay.config_source),
        (Some("0"), 4),
        "as the node was started"
    );
    let unknown = client.call(&describe(BROKER, "9", &[]), 4).await;
    assert_eq!(unknown.results[0].error_code, ErrorCode::InvalidRequest.code());
    broker.stop().await;
}

#[tokio::test]
async fn records_are_deleted_up_to_an_offset() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1, &[]).await;
    let mut client = broker.client().await;
    client.produce("t", 0, batch(0, &["a", "b", "c"])).await;
    client.produce("t", 0, batch(0, &["d"])).await;
    let ask = |offset| DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic {
            name: "t".into(),
            partitions: vec![DeleteRecordsPartition {
                partition_index: 0,
                offset,
            }],
        }],
        timeout_ms: 5000,
    };
    for (offset, low_watermark, error) in [
        (2, 2, ErrorCode::None),
        (9, -1, ErrorCode::OffsetOutOfRange),
        (-1, 4, ErrorCode::None),
    ] {
        let answer = client.call(&ask(offset), 2).await.topics[0].partitions[0].clone();
        assert_eq!(
            (answer.low_watermark, answer.error_code),
            (low_watermark, error.code()),
            "{offset}"
        );
    }
    let fetched = client.fetch(&fetch("t", 0, 1)).await.responses[0].partitions[0].clone();
    assert_eq!(
        (fetched.error_code, fetched.log_start_offset),
        (ErrorCode::OffsetOutOfRange.code(), 4)
    );
    broker.stop().await;
}

#[tokio::test]
async fn topics_are_described_page_by_page() {
    let broker = TestBroker::start().await;
    for name in ["a", "b", "c"] {
        broker.create_topic(name, 4, &[]).await;
    }
    let mut client = broker.client().await;
    let mut cursor = None;
    let mut seen = Vec::new();
    for _ in 0..10 {
        let request = DescribeTopicPartitionsRequest {
            topics: Vec::new(),
            response_partition_limit: 5,
            cursor,
        };
        let page = client.call(&request, 0).await;
        let in_page: usize = page.topics.iter().map(|topic| topic.partitions.len()).sum();
        assert!(in_page <= 5);
        for topic in page.topics {
            let name = topic.name.unwrap().to_string();
            seen.extend(
                topic
                    .partitions
                    .iter()
                    .map(|partition| (name.clone(), partition.partition_index)),
            );
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    let expected: Vec<_> = ["a", "b", "c"]
        .iter()
        .flat_map(|name| (0..4).map(|index| ((*name).to_owned(), index)))
        .collect();
    assert_eq!(seen, expected);
    let topics = vec![
        TopicRequest { name: "nope".into() },
        TopicRequest { name: "a".into() },
    ];
    let request = DescribeTopicPartitionsRequest {
        topics,
        ..Default::default()
    };
    let page = client.call(&request, 0).await;
    let codes: Vec<i16> = page.topics.iter().map(|topic| topic.error_code).collect();
    assert_eq!(
        codes,
        [0, ErrorCode::UnknownTopicOrPartition.code()],
        "in order of name"
    );
    broker.stop().await;
}

#[tokio::test]
async fn cluster_log_sizes_producers_and_config_resources_are_told() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1, &[]).await;
    let mut client = broker.client().await;
    client.produce("t", 0, batch(0, &["x"])).await;
    let cluster = client.call(&DescribeClusterRequest::default(), 2).await;
    assert_eq!(
        (cluster.brokers.len(), cluster.controller_id, cluster.error_code),
        (1, 1, 0)
    );
    let wrong = DescribeClusterRequest {
        endpoint_type: 2,
        ..Default::default()
    };
    assert_eq!(
        client.call(&wrong, 1).await.error_code,
        ErrorCode::MismatchedEndpointType.code()
    );
    let logs = client.call(&DescribeLogDirsRequest { topics: None }, 4).await;
    assert!(logs.results[0].topics[0].partitions[0].partition_size > 60);
    let topics = vec![meridian_wire::describe_producers::TopicRequest {
        name: "t".into(),
        partition_indexes: vec![0, 5],
    }];
    let producers = client.call(&DescribeProducersRequest { topics }, 0).await;
    let codes: Vec<i16> = producers.topics[0]
        .partitions
        .iter()
        .map(|partition| partition.error_code)
        .collect();
    assert_eq!(codes, [0, ErrorCode::UnknownTopicOrPartition.code()]);
    let resources = client
        .call(
            &ListConfigResourcesRequest {
                resource_types: vec![TOPIC],
            },
            1,
        )
        .await;
    assert_eq!(resources.config_resources.len(), 1);
    broker.stop().await;
}
