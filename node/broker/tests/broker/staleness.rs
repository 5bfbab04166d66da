//! Two regions of one broker each, one held back: who bounds how old a copy may be goes to the owner, and who
//! has written something finds it where the mirror is read.

use std::time::Duration;

use meridian_client::{
    Admin, Cluster, ClusterSettings, ConsumeError, Consumer, ConsumerSettings, Endpoint, NewRecord, Producer,
    ProducerSettings, StartAt, Token,
};
use meridian_shard::CopyAge;
use meridian_types::{LeaderEpoch, Offset, Partition, RegionNumber, TimestampMs, TopicId};
use meridian_wire::fetch::PartitionData;
use meridian_wire::{DescribeMirrorRequest, ErrorCode, ThrottleLinkRequest};
use tokio::time::Instant;

use crate::harness::{Client, PATIENCE, TestBroker, batch};
use crate::mirror::{EAST, NOW_MS, WEST, agreed, fetch_at, partition_of, regions};

/// So little that after one frame nothing passes for the time of a test.
const NEXT_TO_NOTHING: Option<u64> = Some(1);

/// Long enough for a frame to leave also on a busy machine, so that what is written after it is not in it.
const FRAME_PAUSE: Duration = Duration::from_millis(700);

/// Keeps everything from east, or lets it go on.
fn hold_back(west: &TestBroker, is_held: bool) {
    let limit = NEXT_TO_NOTHING.filter(|_| is_held);
    assert!(west.region.throttle_link(RegionNumber(1), limit));
}

async fn look(broker: &TestBroker, topic: &'static str, offset: i64, epoch: i32) -> PartitionData {
    // A connection of its own: one that came back is served by the leader for a while.
    let mut client = broker.client().await;
    let mut request = fetch_at(offset, epoch, "region-1", 0);
    request.topics[0].topic = topic.into();
    let answer = client.fetch(&request).await;
    answer.responses[0].partitions[0].clone()
}

/// Looks until the answer is as it should be.
async fn until(
    what: &str,
    broker: &TestBroker,
    (topic, offset, epoch): (&'static str, i64, i32),
    is_so: impl Fn(&PartitionData) -> bool,
) -> PartitionData {
    let started = Instant::now();
    loop {
        let answer = look(broker, topic, offset, epoch).await;
        if is_so(&answer) {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "{what}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn write(client: &mut Client, topic: &'static str, value: &str) {
    let written = client.produce(topic, 0, batch(NOW_MS, &[value])).await;
    assert_eq!(partition_of(&written).error_code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_whose_copy_is_older_than_the_bound_sends_its_readers_to_the_owner_until_it_has_caught_up() {
    let (west, east) = regions().await;
    let bounded = west
        .create_topic("t", 1, &[("geo.staleness.max.ms", "2000")])
        .await;
    west.create_topic("u", 1, &[]).await;
    let epoch = agreed(&west, &east, WEST).await;
    let shard = west.region.shard_of(Partition {
        topic: TopicId(bounded),
        index: 0,
    });
    assert_eq!(west.region.copy_age(shard), CopyAge::Own);
    let mut at_west = west.client().await;
    for topic in ["t", "u"] {
        write(&mut at_west, topic, "a").await;
    }
    let serves = |answer: &PartitionData| {
        (
            answer.error_code,
            answer.preferred_read_replica,
            answer.high_watermark,
        ) == (0, -1, 1)
    };
    let names = |replica| move |answer: &PartitionData| answer.preferred_read_replica == replica;
    for topic in ["t", "u"] {
        let answer = until("east serves", &east, (topic, 0, epoch), serves).await;
        assert!(answer.records.bytes() > 0);
        until("west names east", &west, (topic, 0, epoch), names(EAST)).await;
    }

    hold_back(&west, true);
    // One frame may still pass; what follows it does not.
    for value in ["b", "c", "d"] {
        for topic in ["t", "u"] {
            write(&mut at_west, topic, value).await;
        }
        tokio::time::sleep(FRAME_PAUSE).await;
    }
    let sent_back = until("east sends to west", &east, ("t", 0, epoch), names(WEST)).await;
    assert_eq!((sent_back.error_code, sent_back.records.bytes()), (0, 0));
    assert!(east.metric("meridian_fetch_stale_redirects_total") >= 1.0);
    assert!(
        matches!(east.region.copy_age(shard), CopyAge::Known(age) if age > Duration::from_secs(2)),
        "{:?}",
        east.region.copy_age(shard)
    );
    // The owner does not point back to it.
    let at_owner = look(&west, "t", 0, epoch).await;
    assert_eq!(
        (
            at_owner.error_code,
            at_owner.preferred_read_replica,
            at_owner.high_watermark
        ),
        (0, -1, 4)
    );
    // Who asks for no bound reads what is there, as ever.
    let unbounded = look(&east, "u", 0, epoch).await;
    assert_eq!((unbounded.error_code, unbounded.preferred_read_replica), (0, -1));
    assert!(unbounded.records.bytes() > 0 && unbounded.high_watermark < 4);

    hold_back(&west, false);
    let caught_up = |answer: &PartitionData| {
        (
            answer.error_code,
            answer.preferred_read_replica,
            answer.high_watermark,
        ) == (0, -1, 4)
    };
    until("east serves again", &east, ("t", 0, epoch), caught_up).await;
    until("west names east again", &west, ("t", 0, epoch), names(EAST)).await;
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_hears_nothing_of_the_owner_grows_stale_though_it_has_everything() {
    let (west, east) = regions().await;
    west.create_topic("t", 1, &[("geo.staleness.max.ms", "1500")])
        .await;
    let epoch = agreed(&west, &east, WEST).await;
    write(&mut west.client().await, "t", "a").await;
    let serves = |answer: &PartitionData| (answer.error_code, answer.high_watermark) == (0, 1);
    until("east serves", &east, ("t", 0, epoch), serves).await;
    west.stop().await;
    let sent_away = |answer: &PartitionData| {
        answer.preferred_read_replica == WEST || answer.error_code == ErrorCode::NotLeaderOrFollower.code()
    };
    until("east sends to west", &east, ("t", 0, epoch), sent_away).await;
    east.stop().await;
}

async fn cluster(broker: &TestBroker) -> Cluster {
    let server = Endpoint::new("127.0.0.1", broker.address.port());
    Cluster::connect(ClusterSettings::new(vec![server]))
        .await
        .unwrap()
}

/// A consumer that reads where `rack` is, from the start of the topic, behind a token.
async fn consumer_after(cluster: &Cluster, rack: &str, token: Token, limit: Duration) -> Consumer {
    let settings = ConsumerSettings {
        rack: Some(rack.to_owned()),
        ..ConsumerSettings::default()
    };
    let consumer = Consumer::start(cluster, settings);
    let assignment = [("t".to_owned(), 0, StartAt::Earliest)];
    consumer.assign_after(&assignment, &[token], limit).await.unwrap();
    consumer
}

async fn written(producer: &Producer, value: &str) -> Token {
    let record = NewRecord {
        // The brokers' clock stands still.
        timestamp: Some(TimestampMs(NOW_MS)),
        ..NewRecord::new("t", value.as_bytes())
    };
    let delivery = producer.send(&record).await.unwrap();
    let metadata = delivery.wait().await.unwrap();
    producer.token("t", &metadata).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_written_something_finds_it_where_a_mirror_is_read() {
    let (west, east) = regions().await;
    west.create_topic("t", 1, &[]).await;
    let epoch = agreed(&west, &east, WEST).await;
    let at_west = cluster(&west).await;
    let producer = Producer::start(&at_west, ProducerSettings::default())
        .await
        .unwrap();
    let first = written(&producer, "first").await;
    assert_eq!(
        (first.partition, first.offset, first.leader_epoch),
        (0, Offset(0), LeaderEpoch(epoch.cast_unsigned()))
    );
    assert_eq!(first.to_string().parse(), Ok(first));
    let again = Admin::new(&at_west)
        .tokens(&[("t".to_owned(), 0, Offset(0))])
        .await
        .unwrap();
    assert_eq!(again, [first], "anybody can ask for it");
    until("west names east", &west, ("t", 0, epoch), |answer| {
        answer.preferred_read_replica == EAST
    })
    .await;

    hold_back(&west, true);
    let mut last = first;
    for value in ["second", "third", "fourth"] {
        last = written(&producer, value).await;
        tokio::time::sleep(FRAME_PAUSE).await;
    }
    // The mirror is read, does not have it, and the error says how far it is.
    let at_east = cluster(&east).await;
    let limit = Duration::from_secs(4);
    let mut impatient = consumer_after(&at_east, "region-1", last, limit).await;
    let error = impatient.next().await.expect_err("nothing of it is read");
    let ConsumeError::NotYet {
        offset, end, waited, ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!((*offset, *waited), (Offset(3), limit));
    let (broker, end) = end.expect("the mirror has answered");
    assert_eq!(broker.0, EAST.cast_unsigned());
    assert!(end < Offset(4), "{error}");

    // One with more patience gets everything, from the first record on, once the mirror has it.
    let mut patient = consumer_after(&at_east, "region-1", last, PATIENCE).await;
    let early = tokio::time::timeout(Duration::from_millis(700), patient.next()).await;
    assert!(early.is_err(), "it waits: {early:?}");
    let fetched_before = west.metric("meridian_fetch_records_total");
    hold_back(&west, false);
    let mut read = Vec::new();
    while read.len() < 4 {
        let fetched = patient.next().await.unwrap();
        read.extend(fetched.records().map(|record| record.unwrap().value.unwrap()));
    }
    assert_eq!(read, ["first", "second", "third", "fourth"]);
    let fetched_since = west.metric("meridian_fetch_records_total") - fetched_before;
    assert!(
        fetched_since < 1.0,
        "it read {fetched_since} records at the owner, not next door"
    );

    // Another record in its place is told, not taken for it.
    let other = Token {
        leader_epoch: LeaderEpoch(last.leader_epoch.0 + 1),
        ..last
    };
    let mut misled = consumer_after(&at_east, "region-1", other, PATIENCE).await;
    let error = misled.next().await.expect_err("the record is another");
    assert!(matches!(error, ConsumeError::Replaced { .. }), "{error}");
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_of_a_link_are_limited_while_it_runs() {
    let (west, east) = regions().await;
    west.create_topic("t", 1, &[]).await;
    let epoch = agreed(&west, &east, WEST).await;
    let (mut at_west, mut at_east) = (west.client().await, east.client().await);
    let mut written = 0;
    // What west sends, and then what east lets come: each is asked of the one who keeps it.
    for (is_received, region) in [(false, "region-1"), (true, "region-0")] {
        let limit = |bytes_per_second_max| ThrottleLinkRequest {
            region: region.into(),
            bytes_per_second_max,
            is_received,
        };
        let keeper = if is_received { &mut at_east } else { &mut at_west };
        let set = keeper.call(&limit(1), 1).await;
        assert_eq!(set.error_code, 0, "{:?}", set.error_message);
        let started = Instant::now();
        loop {
            let told = keeper.call(&DescribeMirrorRequest::default(), 1).await;
            if told.links.iter().any(|link| link.bytes_per_second_max == 1) {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "the status tells it: {told:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for _ in 0..3 {
            write(&mut at_west, "t", "x").await;
            written += 1;
            tokio::time::sleep(FRAME_PAUSE).await;
        }
        let held = look(&east, "t", 0, epoch).await;
        assert!(
            held.high_watermark < written,
            "is_received {is_received}: all {written} came at 1 byte per second"
        );
        let keeper = if is_received { &mut at_east } else { &mut at_west };
        assert_eq!(keeper.call(&limit(0), 1).await.error_code, 0);
        until("east has everything", &east, ("t", 0, epoch), |answer| {
            answer.high_watermark == written
        })
        .await;
    }
    east.stop().await;
    west.stop().await;
}
