//! Of compacted topics the latest record of every key stays.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meridian_shard::{Appended, ReadFrom, RegionSettings};
use meridian_types::{Offset, Partition, ProducerId, TimestampMs};
use meridian_wire::batch::{BatchBuilder, BatchHeader, Compression};

use crate::harness::{Node, Place, all_records, keyed, value};

/// Compacted whenever there is anything new. `retention.ms` must not count.
const TABLE: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("min.cleanable.dirty.ratio", "0"),
    ("delete.retention.ms", "1000"),
    ("retention.ms", "1"),
];

/// Records of a partition that the bucket has.
fn tiered_records(node: &Node, partition: Partition) -> u64 {
    let state = node.region.applied_state(node.region.shard_of(partition));
    state.extents(partition).iter().map(|extent| extent.records).sum()
}

/// Offset, key and value of every record that is left, as a consumer reads them.
async fn contents(node: &Node, partition: Partition) -> Vec<(u64, String, Option<String>)> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    all_records(&node.read_all(partition, Offset(0)).await)
        .iter()
        .map(|record| {
            let key = record.key.as_ref().map(text).unwrap_or_default();
            (record.offset.0, key, record.value.as_ref().map(text))
        })
        .collect()
}

/// Waits until everything is in the bucket, so many records of it are left, and readers see that.
async fn until_left(node: &Node, partition: Partition, records: u64) {
    node.until("it is compacted", |node| {
        let state = node.region.applied_state(node.region.shard_of(partition));
        let held = state.partition(partition).expect("it has records");
        let is_cold = held.local_start_offset() == held.high_watermark();
        let left: u64 = state.extents(partition).iter().map(|extent| extent.records).sum();
        state.untiered_bytes() == 0 && is_cold && left == records
    })
    .await;
}

/// Waits until so many steps are counted, which they are a moment after they are seen.
async fn until_counted(node: &Node, steps: u64) {
    node.until("the steps are counted", |node| {
        let usage = node.region.tier_usage().expect("it has a bucket");
        usage.compactions >= steps
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_latest_record_of_every_key_stays_where_it_was_and_tombstones_go_in_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(directory.path());
    let node = Node::start(directory.path(), &place).await;
    let topic = node.topic("table", TABLE).await;
    let partition = Partition { topic, index: 0 };
    node.append(partition, &keyed(5000, &[("a", Some("1")), ("b", Some("1"))]))
        .await;
    node.append(partition, &keyed(5000, &[("a", Some("2"))])).await;
    node.append(partition, &keyed(5000, &[("b", None)])).await;
    until_left(&node, partition, 2).await;
    let a = (2, "a".to_owned(), Some("2".to_owned()));
    assert_eq!(
        contents(&node, partition).await,
        [a.clone(), (3, "b".to_owned(), None)]
    );
    // The tombstone's time is over, and the next pass takes it.
    node.now.fetch_add(1001, Ordering::Relaxed);
    node.append(partition, &keyed(5000, &[("c", Some("1"))])).await;
    until_left(&node, partition, 2).await;
    let left = [a, (4, "c".to_owned(), Some("1".to_owned()))];
    assert_eq!(contents(&node, partition).await, left);
    let positions = node
        .region
        .positions(partition, ReadFrom::Leader)
        .expect("led here");
    assert_eq!(
        (positions.log_start_offset, positions.high_watermark),
        (Offset(0), Offset(5))
    );
    node.stop().await;

    // Another leader, which does not know how far it was compacted.
    let node = Node::start(directory.path(), &place).await;
    assert_eq!(contents(&node, partition).await, left);
    node.append(partition, &keyed(5000, &[("c", Some("2"))])).await;
    until_left(&node, partition, 2).await;
    assert_eq!(contents(&node, partition).await[1].0, 5);
    until_counted(&node, 1).await;
    let usage = node.region.tier_usage().expect("it has a bucket");
    assert_eq!(usage.rewrites_failed, 0, "{usage:?}");
    node.until("what was compacted is gone", |node| {
        place.keys(".bundle").len() as u64 == node.objects()
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_log_is_compacted_in_many_steps_with_little_memory_while_it_grows() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(directory.path());
    let small = |settings: &mut RegionSettings| {
        let settings = &mut settings.bucket.as_mut().expect("there is one").settings;
        settings.merge.object_bytes_max = 30_000;
        // About half of the keys.
        settings.compaction_keys_bytes = 9_000;
        settings.bundle_bytes = 40_000;
    };
    let node = Node::with(directory.path(), &place, small).await;
    let topic = node.topic("table", TABLE).await;
    let partition = Partition { topic, index: 3 };
    let mut latest = BTreeMap::new();
    let mut end = 0;
    for n in 0..80_u64 {
        let records: Vec<(String, String)> = (0..10)
            .map(|m| {
                (
                    format!("key-{:03}", (n * 7 + m * m * 13) % 250),
                    value(n * 10 + m, 200),
                )
            })
            .collect();
        let borrowed: Vec<(&str, Option<&str>)> = records
            .iter()
            .map(|(key, value)| (key.as_str(), Some(value.as_str())))
            .collect();
        node.append(partition, &keyed(5000, &borrowed)).await;
        for (key, value) in records {
            latest.insert(key, (end, value));
            end += 1;
        }
    }
    until_left(&node, partition, latest.len() as u64).await;
    let found: BTreeMap<_, _> = contents(&node, partition)
        .await
        .into_iter()
        .map(|(offset, key, value)| (key, (offset, value.expect("no tombstones"))))
        .collect();
    assert!(found == latest, "the same table");
    until_counted(&node, 3).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn young_records_are_left_alone_and_with_delete_old_ones_go_by_retention() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(directory.path());
    let node = Node::start(directory.path(), &place).await;
    let configs = [
        ("cleanup.policy", "compact,delete"),
        ("min.cleanable.dirty.ratio", "0"),
        ("min.compaction.lag.ms", "5000"),
        ("retention.ms", "60000"),
    ];
    let topic = node.topic("table", &configs).await;
    let partition = Partition { topic, index: 0 };
    let now = node.now.load(Ordering::Relaxed);
    for value in ["1", "2", "3"] {
        node.append(partition, &keyed(now, &[("a", Some(value)), ("b", Some(value))]))
            .await;
    }
    node.until("everything is in the bucket", Node::is_tiered).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(tiered_records(&node, partition), 6, "they are too young");
    node.now.fetch_add(5001, Ordering::Relaxed);
    until_left(&node, partition, 2).await;
    let offsets: Vec<u64> = contents(&node, partition)
        .await
        .iter()
        .map(|record| record.0)
        .collect();
    assert_eq!(offsets, [4, 5]);
    node.now.fetch_add(60_000, Ordering::Relaxed);
    node.until("retention has taken them", |node| {
        let positions = node
            .region
            .positions(partition, ReadFrom::Leader)
            .expect("led here");
        positions.log_start_offset == Offset(6)
    })
    .await;
    node.until("nothing is left of them", |_| place.keys(".bundle").is_empty())
        .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_whose_records_compaction_took_is_still_known() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(directory.path());
    let node = Node::start(directory.path(), &place).await;
    let topic = node.topic("table", TABLE).await;
    let partition = Partition { topic, index: 0 };
    let mut builder = BatchBuilder::new(Compression::None).with_producer(ProducerId(7), 0, 0);
    builder
        .push(TimestampMs(5000), Some(b"a"), Some(b"1"), &[])
        .expect("it fits");
    let idempotent = builder.build().expect("a batch");
    let send = async |node: &Node| -> Appended {
        let header = BatchHeader::parse(&idempotent).expect("a batch");
        let append = node
            .region
            .append(partition, BytesMut::from(&idempotent[..]), header);
        append.await.expect("appended")
    };
    assert!(!send(&node).await.duplicate);
    node.append(partition, &keyed(5000, &[("a", Some("2"))])).await;
    until_left(&node, partition, 1).await;
    assert!(send(&node).await.duplicate);
    node.stop().await;
    let node = Node::start(directory.path(), &place).await;
    assert!(send(&node).await.duplicate, "also after a restart");
    assert_eq!(contents(&node, partition).await.len(), 1);
    node.stop().await;
}
