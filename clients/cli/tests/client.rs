//! The library of `clients/rust` against a real server: a node of its own for each test, or what
//! `MERIDIAN_TEST_BOOTSTRAP=HOST:PORT` names.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test of real processes waits in real time"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meridian_client::admin::{ConfigChange, ConfigResource, NewTopic, OffsetSpec};
use meridian_client::consumer::OutOfRange;
use meridian_client::group::Assignor;
use meridian_client::{
    Acks, Admin, Cluster, ClusterSettings, ConsumeError, Consumer, ConsumerSettings, Endpoint, GroupConsumer,
    GroupEvent, GroupSettings, NewRecord, Producer, ProducerSettings, StartAt,
};
use meridian_types::{Offset, TimestampMs};
use meridian_wire::ErrorCode;
use meridian_wire::batch::{Compression, Record};
use tokio::time::{Instant, timeout};

use self::support::Node;

mod support;

/// A cluster with a fresh topic, and its node.
async fn topic(name: &str, partitions: u32) -> (Cluster, String, Option<Node>) {
    let (server, node) = match std::env::var("MERIDIAN_TEST_BOOTSTRAP") {
        Ok(server) => (server, None),
        Err(_) => {
            let node = Node::start();
            (node.server.clone(), Some(node))
        }
    };
    let settings = ClusterSettings::new(Endpoint::parse_list(&server).unwrap());
    let cluster = Cluster::connect(settings).await.unwrap();
    let name = format!("live-{name}-{}", meridian_client::driver::now_ms());
    let new = NewTopic {
        name: name.clone(),
        partitions: Some(partitions),
        ..NewTopic::default()
    };
    Admin::new(&cluster).create_topic(&new, false).await.unwrap();
    (cluster, name, node)
}

async fn read(cluster: &Cluster, topic: &str, partition: u32, start: StartAt, count: usize) -> Vec<Record> {
    let mut consumer = Consumer::start(cluster, ConsumerSettings::default());
    consumer
        .assign(&[(topic.to_owned(), partition, start)])
        .await
        .unwrap();
    let mut records = Vec::new();
    while records.len() < count {
        let fetched = timeout(Duration::from_secs(20), consumer.next())
            .await
            .unwrap()
            .unwrap();
        records.extend(fetched.records().map(Result::unwrap));
    }
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn every_codec_key_header_tombstone_and_large_record_comes_back() {
    let (cluster, topic, _node) = topic("codecs", 1).await;
    let large: Vec<u8> = (0..900_000_u32)
        .map(|it| it.wrapping_mul(2_654_435_761) as u8)
        .collect();
    let mut expected = Vec::new();
    for compression in Compression::ALL {
        let settings = ProducerSettings {
            compression,
            ..ProducerSettings::default()
        };
        let producer = Producer::start(&cluster, settings).await.unwrap();
        for value in [Some(&b"small"[..]), None, Some(&large[..])] {
            let headers: [(&[u8], Option<&[u8]>); 3] = [(b"h", Some(b"1")), (b"h", Some(b"2")), (b"n", None)];
            let record = NewRecord {
                timestamp: Some(TimestampMs(1_000_000 + expected.len() as i64)),
                key: Some(compression.name().as_bytes()),
                value,
                headers: &headers,
                ..NewRecord::new(&topic, b"")
            };
            let delivery = producer.send(&record).await.unwrap();
            assert_eq!(
                delivery.wait().await.unwrap().offset,
                Some(Offset(expected.len() as u64))
            );
            expected.push((compression.name(), value.map(<[u8]>::to_vec)));
        }
    }
    let records = read(&cluster, &topic, 0, StartAt::Earliest, expected.len()).await;
    for (index, (record, (key, value))) in records.iter().zip(&expected).enumerate() {
        assert_eq!(record.offset, Offset(index as u64));
        assert_eq!(record.timestamp, TimestampMs(1_000_000 + index as i64));
        assert_eq!(record.key.as_deref(), Some(key.as_bytes()));
        assert_eq!(record.value.as_deref(), value.as_deref());
        assert_eq!(record.headers.len(), 3);
        assert_eq!(record.headers.iter().last().unwrap().value, None);
    }
    let at = |start| read(&cluster, &topic, 0, start, 1);
    assert_eq!(at(StartAt::BeforeEnd(2)).await[0].offset, Offset(13));
    assert_eq!(
        at(StartAt::Time(TimestampMs(1_000_004))).await[0].offset,
        Offset(4)
    );
    assert_eq!(at(StartAt::Offset(Offset(7))).await[0].offset, Offset(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_records_over_partitions_come_once_and_in_order() {
    let (cluster, topic, _node) = topic("order", 4).await;
    let settings = ProducerSettings {
        batch_bytes: 2000,
        linger: Duration::ZERO,
        ..ProducerSettings::default()
    };
    let producer = Producer::start(&cluster, settings).await.unwrap();
    let total = 20_000_u32;
    for number in 0..total {
        let key = (number % 17).to_be_bytes();
        let value = number.to_be_bytes();
        producer
            .send(&NewRecord::new(&topic, &value).with_key(&key))
            .await
            .unwrap();
    }
    producer.flush().await;
    let mut consumer = Consumer::start(&cluster, ConsumerSettings::default());
    let all: Vec<_> = (0..4)
        .map(|index| (topic.clone(), index, StartAt::Earliest))
        .collect();
    consumer.assign(&all).await.unwrap();
    let mut last: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    while seen.len() < total as usize {
        let fetched = timeout(Duration::from_secs(20), consumer.next())
            .await
            .unwrap()
            .unwrap();
        for record in fetched.records() {
            let record = record.unwrap();
            let number = u32::from_be_bytes(record.value.unwrap()[..].try_into().unwrap());
            assert!(seen.insert(number), "{number} comes twice");
            let before = last.insert(record.key.unwrap().to_vec(), number);
            assert!(
                before.is_none_or(|before| before < number),
                "{number} comes behind {before:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_idempotence_and_without_acks_records_arrive_too() {
    let (cluster, topic, _node) = topic("acks", 1).await;
    for acks in [Acks::None, Acks::Leader, Acks::All] {
        let settings = ProducerSettings {
            acks,
            is_idempotent: false,
            ..ProducerSettings::default()
        };
        let producer = Producer::start(&cluster, settings).await.unwrap();
        let delivery = producer.send(&NewRecord::new(&topic, b"x")).await.unwrap();
        let offset = delivery.wait().await.unwrap().offset;
        assert_eq!(offset.is_some(), acks != Acks::None, "{acks:?}");
    }
    assert_eq!(read(&cluster, &topic, 0, StartAt::Earliest, 3).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_is_wrong() {
    let (cluster, topic, _node) = topic("refusals", 2).await;
    let admin = Admin::new(&cluster);
    let missing = admin.describe_topic("live-not-there").await.unwrap_err();
    assert_eq!(missing.code(), Some(ErrorCode::UnknownTopicOrPartition));
    let twice = NewTopic {
        name: topic.clone(),
        ..NewTopic::default()
    };
    let twice = admin.create_topic(&twice, false).await.unwrap_err();
    assert_eq!(twice.code(), Some(ErrorCode::TopicAlreadyExists));
    let settings = ProducerSettings {
        request_bytes_max: 8 << 20,
        ..ProducerSettings::default()
    };
    let producer = Producer::start(&cluster, settings).await.unwrap();
    let large = vec![7; 4 << 20];
    let refused = NewRecord {
        partition: Some(0),
        ..NewRecord::new(&topic, &large)
    };
    let refused = producer.send(&refused).await.unwrap().wait().await.unwrap_err();
    assert!(refused.to_string().contains("MESSAGE_TOO_LARGE"), "{refused}");
    // The hole that it leaves in the numbers is closed.
    let next = NewRecord {
        partition: Some(0),
        ..NewRecord::new(&topic, b"next")
    };
    assert_eq!(
        producer.send(&next).await.unwrap().wait().await.unwrap().offset,
        Some(Offset(0))
    );
    let wrong = NewRecord {
        partition: Some(9),
        ..NewRecord::new(&topic, b"x")
    };
    assert!(
        producer
            .send(&wrong)
            .await
            .unwrap_err()
            .to_string()
            .contains("numbered from 0")
    );
    let mut consumer = Consumer::start(&cluster, ConsumerSettings::default());
    consumer
        .assign(&[(topic.clone(), 1, StartAt::Offset(Offset(99)))])
        .await
        .unwrap();
    let error = timeout(Duration::from_secs(10), consumer.next())
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, ConsumeError::OutOfRange { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_grow_change_and_lose_records() {
    let (cluster, topic, _node) = topic("admin", 1).await;
    let admin = Admin::new(&cluster);
    let producer = Producer::start(&cluster, ProducerSettings::default())
        .await
        .unwrap();
    for _ in 0..10 {
        producer.send(&NewRecord::new(&topic, b"x")).await.unwrap();
    }
    producer.flush().await;
    let starts = admin
        .delete_records(&[(topic.clone(), 0, Some(Offset(4)))])
        .await
        .unwrap();
    assert_eq!(starts[&(topic.clone(), 0)], Offset(4));
    let found = admin
        .list_offsets(&[(topic.clone(), 0, OffsetSpec::Earliest)])
        .await
        .unwrap();
    assert_eq!(found[&(topic.clone(), 0)].offset, Some(Offset(4)));
    admin.create_partitions(&topic, 3, false).await.unwrap();
    let resource = ConfigResource::Topic(topic.clone());
    let set = ConfigChange::Set("retention.ms".to_owned(), "12345".to_owned());
    admin.alter_configs(&resource, &[set], false).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let configs = admin.describe_configs(&resource).await.unwrap();
        let retention = configs
            .iter()
            .find(|config| config.name == "retention.ms")
            .unwrap();
        let partitions = admin.describe_topic(&topic).await.unwrap().partitions.len();
        if retention.value.as_deref() == Some("12345") && partitions == 3 {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{retention:?}, {partitions} partitions"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        admin
            .list_topics()
            .await
            .unwrap()
            .iter()
            .any(|it| it.name == topic)
    );
    admin.delete_topic(&topic).await.unwrap();
}

/// What a member has seen.
#[derive(Default)]
struct Seen {
    values: Vec<u32>,
    partitions: BTreeSet<u32>,
}

/// Takes in what happens to a member within a moment.
async fn step(member: &mut GroupConsumer, seen: &mut Seen) {
    let Ok(event) = timeout(Duration::from_millis(50), member.next()).await else {
        return;
    };
    match event.unwrap() {
        GroupEvent::Assigned(partitions) => {
            seen.partitions.extend(partitions.iter().map(|(_, index)| *index));
        }
        GroupEvent::Revoking(partitions) | GroupEvent::Lost(partitions) => {
            for (_, index) in partitions {
                seen.partitions.remove(&index);
            }
        }
        GroupEvent::Records(fetched) => {
            for record in fetched.records() {
                let value = record.unwrap().value.unwrap();
                seen.values
                    .push(u32::from_be_bytes(value[..].try_into().unwrap()));
            }
        }
    }
}

type Running<'a> = (&'a mut GroupConsumer, &'a mut Seen);

/// Runs a member until something holds.
async fn run(a: Running<'_>, until: impl Fn(&Seen) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !until(a.1) {
        assert!(
            Instant::now() < deadline,
            "has {:?}, {} values",
            a.1.partitions,
            a.1.values.len()
        );
        step(a.0, a.1).await;
    }
}

/// Runs two members until something holds for both: one that is not run does not let go of anything.
async fn run_both(a: Running<'_>, b: Running<'_>, until: impl Fn(&Seen, &Seen) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !until(a.1, b.1) {
        assert!(
            Instant::now() < deadline,
            "have {:?} and {:?}",
            a.1.partitions,
            b.1.partitions
        );
        tokio::join!(step(a.0, a.1), step(b.0, b.1));
    }
}

async fn two_members_share(assignors: &[Assignor], name: &str) {
    let (cluster, topic, _node) = topic(name, 4).await;
    let producer = Producer::start(&cluster, ProducerSettings::default())
        .await
        .unwrap();
    let write = async |range: std::ops::Range<u32>| {
        for number in range {
            let value = number.to_be_bytes();
            let record = NewRecord {
                partition: Some(number % 4),
                ..NewRecord::new(&topic, &value)
            };
            producer.send(&record).await.unwrap();
        }
        producer.flush().await;
    };
    let settings = GroupSettings {
        start: OutOfRange::Earliest,
        assignors: assignors.to_vec(),
        session_timeout: Duration::from_secs(10),
        heartbeat_interval: Duration::from_millis(200),
        rebalance_timeout: Duration::from_secs(10),
        ..GroupSettings::new(format!("{topic}-group"), vec![topic.clone()])
    };
    write(0..100).await;
    let (mut a, mut seen_a) = (
        GroupConsumer::join(&cluster, settings.clone()).await.unwrap(),
        Seen::default(),
    );
    run((&mut a, &mut seen_a), |seen| {
        seen.values.len() == 100 && seen.partitions.len() == 4
    })
    .await;
    let (mut b, mut seen_b) = (
        GroupConsumer::join(&cluster, settings.clone()).await.unwrap(),
        Seen::default(),
    );
    run_both((&mut a, &mut seen_a), (&mut b, &mut seen_b), |a, b| {
        a.partitions.len() == 2 && b.partitions.len() == 2
    })
    .await;
    assert!(seen_a.partitions.is_disjoint(&seen_b.partitions));
    write(100..200).await;
    run_both((&mut a, &mut seen_a), (&mut b, &mut seen_b), |a, b| {
        a.values.len() == 150 && b.values.len() == 50
    })
    .await;
    let admin = Admin::new(&cluster);
    let described = admin.describe_group(&settings.group).await.unwrap();
    assert_eq!((described.state.as_str(), described.members.len()), ("Stable", 2));
    assert!(
        described
            .members
            .iter()
            .all(|member| member.partitions.len() == 2),
        "{described:?}"
    );
    // The one that leaves hands over what it has done.
    b.leave().await;
    run((&mut a, &mut seen_a), |seen| seen.partitions.len() == 4).await;
    write(200..220).await;
    run((&mut a, &mut seen_a), |seen| seen.values.len() >= 170).await;
    a.commit().await.unwrap();
    a.leave().await;
    let mut all: Vec<u32> = seen_a.values.iter().chain(&seen_b.values).copied().collect();
    all.sort_unstable();
    assert!(
        all.iter().copied().eq(0..220),
        "each record is read once: {all:?}"
    );
    let stored = admin.group_offsets(&settings.group).await.unwrap();
    assert_eq!(stored.values().map(|it| it.offset.0).sum::<u64>(), 220);
    let reset: BTreeMap<_, _> = stored.keys().map(|key| (key.clone(), Offset(1))).collect();
    admin.alter_group_offsets(&settings.group, &reset).await.unwrap();
    let stored = admin.group_offsets(&settings.group).await.unwrap();
    assert!(stored.values().all(|it| it.offset == Offset(1)));
    assert!(
        admin
            .list_groups()
            .await
            .unwrap()
            .iter()
            .any(|it| it.id == settings.group)
    );
    admin.delete_group(&settings.group).await.unwrap();
    let gone = admin.describe_group(&settings.group).await.unwrap_err();
    assert_eq!(gone.code(), Some(ErrorCode::GroupIdNotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_members_share_by_range() {
    two_members_share(&[Assignor::Range, Assignor::RoundRobin], "range").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_members_share_by_sticky() {
    two_members_share(&[Assignor::Sticky], "sticky").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_members_share_by_cooperative_sticky() {
    two_members_share(&[Assignor::CooperativeSticky], "cooperative").await;
}
