use meridian_types::Uuid;

use super::*;
use crate::configs::ConfigOp;
use crate::describe::ConfigSource;
use crate::node::{NodeRegistration, RegisterNodeError};
use crate::testing::{
    NOW, address, alter, apply, change, create, found, founded, founding, id, new_topic, registration,
    remove, set,
};
use crate::topic::NameError;

mod membership;
mod producer_ids;
mod properties;

#[test]
fn nothing_works_before_the_founding_and_only_the_first_counts() {
    let mut controller = Controller::new();
    let create = Command::CreateTopics {
        topics: vec![new_topic(1, "t", 1, &[])],
        now: NOW,
    };
    assert_eq!(apply(&mut controller, &create), Outcome::NotFounded);
    for (founding, message) in [
        (
            Founding {
                shards: 0,
                ..founding()
            },
            "a region has 1 to 4096 shards, a power of two; asked for were 0",
        ),
        (
            Founding {
                shards: 12,
                ..founding()
            },
            "a region has 1 to 4096 shards, a power of two; asked for were 12",
        ),
        (
            Founding {
                region: "we st".into(),
                ..founding()
            },
            "region name \"we st\" must be 1 to 64 ASCII letters, digits, '.', '_' or '-'",
        ),
        (
            Founding {
                region_epoch: RegionEpoch(2048),
                ..founding()
            },
            "region epoch 2048 is beyond 2047",
        ),
    ] {
        let Outcome::Founded(Err(error)) = apply(&mut controller, &found(founding)) else {
            panic!("{message}")
        };
        assert_eq!(error.to_string(), message);
    }
    assert_eq!(
        apply(&mut controller, &found(founding())),
        Outcome::Founded(Ok(()))
    );
    let other = Founding {
        region: "east".into(),
        ..founding()
    };
    let again = apply(&mut controller, &found(other));
    assert!(
        matches!(again, Outcome::Founded(Err(FoundingError::Founded { region, .. })) if region == "west")
    );
    assert_eq!(controller.founding(), Some(&founding()));
}

#[test]
fn topics_are_found_by_name_and_by_id() {
    let mut controller = founded();
    create(&mut controller, new_topic(1, "b", 3, &[])).unwrap();
    create(&mut controller, new_topic(2, "a", 100_000, &[])).unwrap();
    assert_eq!(controller.topic("b").unwrap().id, id(1));
    assert_eq!(&*controller.topic_by_id(id(2)).unwrap().name, "a");
    assert_eq!(
        controller.topics().map(|topic| &*topic.name).collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert_eq!(
        controller
            .topics_from("aa")
            .map(|topic| &*topic.name)
            .collect::<Vec<_>>(),
        ["b"]
    );
    assert_eq!(
        (controller.topic_count(), controller.partition_count()),
        (2, 100_003)
    );
    let partition = Partition {
        topic: id(2),
        index: 7,
    };
    assert_eq!(
        controller.shard_of(partition),
        Some(ShardMap::shared(16).of(partition))
    );
}

#[test]
fn names_follow_kafkas_rules() {
    let mut controller = founded();
    let mut name = |name: &str| create(&mut controller, new_topic(1, name, 1, &[])).unwrap_err();
    assert_eq!(name(""), NameError::Empty.into());
    assert_eq!(name("."), NameError::Dots.into());
    assert_eq!(name(".."), NameError::Dots.into());
    assert_eq!(name("a b"), NameError::Character { character: ' ' }.into());
    assert_eq!(name("naïve"), NameError::Character { character: 'ï' }.into());
    assert_eq!(
        name(&"x".repeat(250)),
        NameError::TooLong { characters: 250 }.into()
    );
    create(&mut controller, new_topic(1, &"x".repeat(249), 1, &[])).unwrap();
    create(&mut controller, new_topic(2, "...", 1, &[])).unwrap();
}

#[test]
fn dots_and_underscores_collide() {
    let mut controller = founded();
    create(&mut controller, new_topic(1, "a.b", 1, &[])).unwrap();
    let error = create(&mut controller, new_topic(2, "a_b", 1, &[])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "topic 'a_b' collides with existing topic 'a.b': '.' and '_' are the same in metric names"
    );
    create(&mut controller, new_topic(2, "a-b", 1, &[])).unwrap();
    apply(
        &mut controller,
        &Command::DeleteTopics {
            topics: vec![id(1)],
            now: NOW,
        },
    );
    create(&mut controller, new_topic(3, "a_b", 1, &[])).unwrap();
}

#[test]
fn refused_topics_do_not_disturb_the_others_of_the_batch() {
    let mut controller = founded();
    let topics = vec![
        new_topic(1, "a", 1, &[]),
        new_topic(2, "a", 1, &[]),
        new_topic(1, "b", 1, &[]),
        new_topic(4, "c", 0, &[]),
        new_topic(5, "d", PARTITIONS_MAX + 1, &[]),
        new_topic(6, "e", 1, &[("retention.mss", "1")]),
        new_topic(0, "f", 1, &[]),
        new_topic(8, "g", PARTITIONS_MAX, &[("retention.ms", " 5 ")]),
    ];
    let Outcome::TopicsCreated(results) = apply(&mut controller, &Command::CreateTopics { topics, now: NOW })
    else {
        panic!("creates answer as such")
    };
    let messages: Vec<String> = results
        .iter()
        .map(|result| {
            result
                .as_ref()
                .map_or_else(ToString::to_string, |t| t.name.to_string())
        })
        .collect();
    assert_eq!(
        messages,
        [
            "a".to_owned(),
            "topic 'a' already exists".into(),
            format!("topic id {} is nil or taken already", id(1)),
            "number of partitions is 0; it must be from 1 to 1048576".into(),
            "number of partitions is 1048577; it must be from 1 to 1048576".into(),
            "unknown topic config 'retention.mss'; did you mean 'retention.ms'?".into(),
            format!("topic id {} is nil or taken already", id(0)),
            "g".into(),
        ]
    );
    assert_eq!(controller.topic("g").unwrap().configs["retention.ms"], "5");
}

#[test]
fn a_deleted_topic_is_remembered_for_a_week_and_its_name_is_free() {
    let mut controller = founded();
    create(&mut controller, new_topic(1, "t", 5, &[])).unwrap();
    let delete = Command::DeleteTopics {
        topics: vec![id(1), id(9)],
        now: NOW,
    };
    let Outcome::TopicsDeleted(results) = apply(&mut controller, &delete) else {
        panic!("deletes answer as such")
    };
    assert_eq!(results[0].as_ref().unwrap().partitions, 5);
    assert_eq!(results[1], Err(TopicNotFound { topic: id(9) }));
    assert!(controller.topic("t").is_none() && controller.topic_by_id(id(1)).is_none());
    assert_eq!(controller.partition_count(), 0);
    assert_eq!(&*controller.deleted_topic(id(1)).unwrap().name, "t");

    assert!(matches!(
        create(&mut controller, new_topic(1, "t", 1, &[])),
        Err(CreateTopicError::IdTaken { .. })
    ));
    create(&mut controller, new_topic(2, "t", 1, &[])).unwrap();
    let later = |ms| Command::DeleteTopics {
        topics: vec![],
        now: TimestampMs(NOW.0 + ms),
    };
    apply(&mut controller, &later(crate::topic::DELETED_TOPIC_MEMORY_MS));
    assert_eq!(controller.deleted_topics().len(), 1);
    apply(&mut controller, &later(crate::topic::DELETED_TOPIC_MEMORY_MS + 1));
    assert_eq!(controller.deleted_topics().len(), 0);
}

#[test]
fn partitions_are_only_added() {
    let mut controller = founded();
    create(&mut controller, new_topic(1, "t", 3, &[("retention.ms", "7")])).unwrap();
    let topics = [(1, 3), (1, 2), (1, PARTITIONS_MAX + 1), (2, 5), (1, 8)].map(|(n, total)| (id(n), total));
    let command = Command::CreatePartitions {
        topics: topics.into(),
    };
    let Outcome::PartitionsCreated(results) = apply(&mut controller, &command) else {
        panic!("answers as such")
    };
    let not_more = |total| Err(CreatePartitionsError::NotMore { present: 3, total });
    assert_eq!(
        results[..3],
        [
            not_more(3),
            not_more(2),
            Err(CreatePartitionsError::TooMany {
                total: PARTITIONS_MAX + 1
            })
        ]
    );
    assert_eq!(results[3], Err(TopicNotFound { topic: id(2) }.into()));
    assert_eq!(results[4].as_ref().unwrap().partitions, 8);
    assert_eq!(controller.topic("t").unwrap().settings.retention_ms(), Some(7));
    assert_eq!(controller.partition_count(), 8);
}

#[test]
fn topic_settings_come_from_the_topic_then_the_cluster_then_the_defaults() {
    let mut controller = founded();
    create(
        &mut controller,
        new_topic(1, "own", 1, &[("retention.ms", "1000")]),
    )
    .unwrap();
    create(&mut controller, new_topic(2, "plain", 1, &[])).unwrap();
    let retention = |controller: &Controller, n| controller.topic_settings(id(n)).unwrap().retention_ms();
    assert_eq!(
        (retention(&controller, 1), retention(&controller, 2)),
        (Some(1000), Some(604_800_000))
    );

    alter(
        &mut controller,
        change(ConfigResource::Cluster, vec![set("log.retention.hours", "2")]),
    )
    .unwrap();
    assert_eq!(
        (retention(&controller, 1), retention(&controller, 2)),
        (Some(1000), Some(7_200_000))
    );
    alter(
        &mut controller,
        change(ConfigResource::Cluster, vec![set("log.retention.ms", "-1")]),
    )
    .unwrap();
    assert_eq!(
        (retention(&controller, 1), retention(&controller, 2)),
        (Some(1000), None)
    );

    let reset = change(
        ConfigResource::Topic(id(1)),
        vec![ConfigOp::Delete {
            name: "retention.ms".into(),
        }],
    );
    alter(&mut controller, reset).unwrap();
    assert_eq!(retention(&controller, 1), None);
    assert!(Arc::ptr_eq(
        &controller.topic("own").unwrap().settings,
        controller.topic_defaults()
    ));
}

#[test]
fn described_values_name_their_source_and_synonyms() {
    let mut controller = founded();
    create(&mut controller, new_topic(1, "t", 1, &[("retention.ms", "1000")])).unwrap();
    alter(
        &mut controller,
        change(ConfigResource::Cluster, vec![set("log.retention.hours", "2")]),
    )
    .unwrap();
    let described = controller.describe_topic(controller.topic("t").unwrap());
    let find = |name| described.iter().find(|config| config.name == name).unwrap();
    let retention = find("retention.ms");
    assert_eq!(
        (retention.value.as_deref(), retention.source),
        (Some("1000"), ConfigSource::DynamicTopic)
    );
    let synonyms: Vec<_> = retention
        .synonyms
        .iter()
        .map(|s| (s.name, s.value.as_deref().unwrap(), s.source.number()))
        .collect();
    assert_eq!(
        synonyms,
        [
            ("retention.ms", "1000", 1),
            ("log.retention.hours", "7200000", 3),
            ("log.retention.ms", "604800000", 5),
        ]
    );
    let policy = find("cleanup.policy");
    assert_eq!(
        (policy.value.as_deref(), policy.source, policy.kind.number()),
        (Some("delete"), ConfigSource::Default, 7)
    );
    assert!(!policy.is_read_only && !policy.is_sensitive && policy.documentation.contains("compact"));
}

#[test]
fn configs_change_all_or_nothing() {
    let mut controller = founded();
    create(&mut controller, new_topic(1, "t", 1, &[("retention.ms", "1000")])).unwrap();
    let topic = ConfigResource::Topic(id(1));
    let bad = change(
        topic,
        vec![set("retention.bytes", "5"), set("retention.ms", "-2")],
    );
    let error = alter(&mut controller, bad).unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid value '-2' for config 'retention.ms': it must be at least -1"
    );
    assert_eq!(controller.topic("t").unwrap().configs.len(), 1);

    let conflict = change(
        topic,
        vec![
            set("min.compaction.lag.ms", "10"),
            set("max.compaction.lag.ms", "9"),
        ],
    );
    assert!(matches!(
        alter(&mut controller, conflict),
        Err(ConfigError::Conflict { .. })
    ));

    let replace = ConfigChange {
        replace_all: true,
        ..change(topic, vec![set("retention.bytes", "5")])
    };
    alter(&mut controller, replace).unwrap();
    let configs = &controller.topic("t").unwrap().configs;
    assert_eq!(
        configs.iter().collect::<Vec<_>>(),
        [(&"retention.bytes".to_owned(), &"5".to_owned())]
    );
}

#[test]
fn lists_are_added_to_and_taken_from() {
    let mut controller = founded();
    create(&mut controller, new_topic(1, "t", 1, &[])).unwrap();
    let topic = ConfigResource::Topic(id(1));
    let policy = |controller: &Controller| controller.topic("t").unwrap().configs["cleanup.policy"].clone();
    let op = |append: bool, name: &str, value: &str| {
        let (name, value) = (name.to_owned(), value.to_owned());
        change(
            topic,
            vec![if append {
                ConfigOp::Append { name, value }
            } else {
                ConfigOp::Subtract { name, value }
            }],
        )
    };
    alter(&mut controller, op(true, "cleanup.policy", "compact")).unwrap();
    assert_eq!(policy(&controller), "delete,compact", "added to the default");
    alter(&mut controller, op(true, "cleanup.policy", "compact")).unwrap();
    assert_eq!(policy(&controller), "delete,compact", "not added twice");
    alter(&mut controller, op(false, "cleanup.policy", "delete")).unwrap();
    assert_eq!(policy(&controller), "compact");
    let settings = controller.topic_settings(id(1)).unwrap();
    assert!(settings.compacts && !settings.deletes() && settings.retention_ms().is_none());
    alter(&mut controller, op(false, "cleanup.policy", "compact")).unwrap();
    assert_eq!(policy(&controller), "", "an empty list keeps everything");
    assert_eq!(controller.topic_settings(id(1)).unwrap().retention_ms(), None);
    let error = alter(&mut controller, op(true, "retention.ms", "5")).unwrap_err();
    assert_eq!(
        error,
        ConfigError::NotAList {
            name: "retention.ms".into()
        }
    );
    let error = alter(&mut controller, op(true, "cleanup.policy", "squash")).unwrap_err();
    assert!(matches!(error, ConfigError::Invalid { .. }));
}

#[test]
fn broker_configs_hold_for_the_cluster_and_some_for_one_node() {
    let mut controller = founded();
    let node = ConfigResource::Node(NodeId(2));
    let fetch = || vec![set("fetch.max.bytes", "2048")];
    assert_eq!(
        alter(&mut controller, change(node, fetch())),
        Err(ConfigError::NodeNotFound { node: NodeId(2) })
    );
    for (n, incarnation) in [(1, 1), (2, 2)] {
        let command = Command::RegisterNode {
            node: registration(n, incarnation),
            now: NOW,
        };
        assert!(matches!(
            apply(&mut controller, &command),
            Outcome::NodeRegistered(Ok(_))
        ));
    }
    alter(&mut controller, change(node, fetch())).unwrap();
    let bytes = |controller: &Controller, n| controller.broker_settings(NodeId(n)).fetch_bytes_max;
    assert_eq!((bytes(&controller, 1), bytes(&controller, 2)), (57_671_680, 2048));
    alter(
        &mut controller,
        change(ConfigResource::Cluster, vec![set("fetch.max.bytes", "4096")]),
    )
    .unwrap();
    assert_eq!(
        (
            bytes(&controller, 1),
            bytes(&controller, 2),
            bytes(&controller, 77)
        ),
        (4096, 2048, 4096)
    );

    let cluster_only = alter(&mut controller, change(node, vec![set("num.partitions", "4")])).unwrap_err();
    assert_eq!(
        cluster_only,
        ConfigError::ClusterOnly {
            name: "num.partitions".into()
        }
    );
    let fact = alter(
        &mut controller,
        change(ConfigResource::Cluster, vec![set("node.id", "4")]),
    )
    .unwrap_err();
    assert_eq!(
        fact,
        ConfigError::ReadOnly {
            name: "node.id".into()
        }
    );

    let described = controller.describe_broker(NodeId(2));
    let find = |name| described.iter().find(|config| config.name == name).unwrap();
    assert_eq!(find("node.id").value.as_deref(), Some("2"));
    assert!(find("node.id").is_read_only);
    assert_eq!(find("broker.rack").source, ConfigSource::StaticBroker);
    assert_eq!(find("fetch.max.bytes").source, ConfigSource::DynamicBroker);
    assert_eq!(find("log.retention.ms").value, None);
    assert_eq!(controller.describe_broker(NodeId(9)), []);
    let cluster: Vec<_> = controller
        .describe_cluster_configs()
        .into_iter()
        .map(|config| config.name)
        .collect();
    assert_eq!(cluster, ["fetch.max.bytes"]);

    // The first node holds every shard, so the other one can go.
    let removed = apply(&mut controller, &remove(2, false));
    assert_eq!(removed, Outcome::NodeRemoved(Ok(())));
    assert_eq!(bytes(&controller, 2), 4096);
}

#[test]
fn a_wiped_node_does_not_come_back_as_the_old_one() {
    let mut controller = founded();
    let register = |incarnation| Command::RegisterNode {
        node: registration(1, incarnation),
        now: NOW,
    };
    let first = Command::RegisterNode {
        node: registration(9, 9),
        now: NOW,
    };
    assert_eq!(apply(&mut controller, &first), Outcome::NodeRegistered(Ok(2)));
    assert_eq!(
        apply(&mut controller, &register(5)),
        Outcome::NodeRegistered(Ok(3))
    );
    assert_eq!(
        apply(&mut controller, &register(5)),
        Outcome::NodeRegistered(Ok(4)),
        "a restart raises the epoch"
    );
    let present = Uuid::from_u128(5);
    let taken = RegisterNodeError::IdTaken {
        node: NodeId(1),
        present,
    };
    assert_eq!(
        apply(&mut controller, &register(6)),
        Outcome::NodeRegistered(Err(taken))
    );
    assert_eq!(
        apply(&mut controller, &remove(1, false)),
        Outcome::NodeRemoved(Ok(()))
    );
    let gone = apply(&mut controller, &remove(1, false));
    assert_eq!(
        gone,
        Outcome::NodeRemoved(Err(NodeNotFound { node: NodeId(1) }.into()))
    );
    assert_eq!(
        apply(&mut controller, &register(6)),
        Outcome::NodeRegistered(Ok(8))
    );

    let no_port = NodeRegistration {
        kafka: Some(address("node.example", 0)),
        ..registration(3, 1)
    };
    let outcome = apply(
        &mut controller,
        &Command::RegisterNode {
            node: no_port,
            now: NOW,
        },
    );
    assert!(matches!(
        outcome,
        Outcome::NodeRegistered(Err(RegisterNodeError::Address { .. }))
    ));
}

#[test]
fn a_hundred_thousand_topics_are_cheap() {
    let mut controller = founded();
    for batch in 0..100_u128 {
        let topics = (0..1000)
            .map(|n| new_topic(1 + batch * 1000 + n, &format!("topic-{batch}.{n}"), 1, &[]))
            .collect();
        let index = meridian_types::RaftIndex(controller.applied.index.0 + 1);
        let at = LogPosition {
            term: meridian_types::Term(1),
            index,
        };
        let Outcome::TopicsCreated(results) =
            controller.apply(at, &Command::CreateTopics { topics, now: NOW })
        else {
            panic!("creates answer as such")
        };
        assert!(results.iter().all(Result::is_ok));
    }
    alter(
        &mut controller,
        change(ConfigResource::Cluster, vec![set("log.retention.ms", "5")]),
    )
    .unwrap();
    assert_eq!(controller.topic_count(), 100_000);
    let bytes = controller.encode_snapshot().concat();
    assert!(bytes.len() < 100_000 * 64, "{} bytes", bytes.len());
    let back = Controller::decode_snapshot(&bytes).unwrap();
    assert_eq!(
        back.topic("topic-99.999").unwrap().settings.retention_ms(),
        Some(5)
    );
    assert_eq!(back.digest(), controller.digest());
}
