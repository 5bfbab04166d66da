//! What is tiered is read byte for byte, whatever happens to the bucket.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use meridian_shard::{BucketStanding, OffsetSpec, RegionSettings};
use meridian_tiered_storage::store::Operation;
use meridian_tiered_storage::testing::Fault;
use meridian_tiered_storage::{ManifestFile, TopicsFile};
use meridian_types::{Offset, Partition, TimestampMs};

use crate::harness::{FOREVER, Node, Place, batch, value};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_is_read_byte_for_byte_when_the_journals_files_are_gone_also_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(directory.path());
    let node = Node::start(directory.path(), &place).await;
    let topic = node.topic("kept", FOREVER).await;
    let partitions: Vec<_> = [0, 1, 4]
        .into_iter()
        .map(|index| Partition { topic, index })
        .collect();
    let mut stored: Vec<Vec<Bytes>> = vec![Vec::new(); partitions.len()];
    for n in 0..100 {
        let batch = batch(&value(n, 20_000), 1000 + 10 * n as i64);
        let appends = partitions.iter().map(|partition| node.append(*partition, &batch));
        let appended = futures::future::join_all(appends).await;
        stored
            .iter_mut()
            .zip(appended)
            .for_each(|(stored, batch)| stored.push(batch));
    }
    node.until("everything is in the bucket", Node::is_tiered).await;
    // 6 MB in files of 1 MiB; two may stay.
    node.tick_until_file(Partition { topic, index: 2 }, 4).await;
    let look = async |node: &Node| {
        for (partition, stored) in partitions.iter().zip(&stored) {
            let read = node.read_all(*partition, Offset(0)).await;
            assert!(read == *stored, "{partition}: the same bytes");
            let middle = node.read(*partition, Offset(21), 1).await.expect("readable");
            assert_eq!(middle, [stored[10].clone()], "the batch that holds it");
        }
        let partition = partitions[0];
        assert_eq!(node.find(partition, OffsetSpec::Earliest).await, Some((0, None)));
        let local = node
            .find(partition, OffsetSpec::EarliestLocal)
            .await
            .expect("an offset")
            .0;
        assert!(local >= 20, "the hot index begins at {local}");
        assert_eq!(
            node.find(partition, OffsetSpec::LatestTiered).await,
            Some((199, None))
        );
        let at = |time| node.find(partition, OffsetSpec::AtOrAfter(TimestampMs(time)));
        assert_eq!(at(0).await, Some((0, Some(1000))));
        assert_eq!(at(1041).await, Some((10, Some(1050))));
        assert_eq!(at(1990).await, Some((198, Some(1990))));
        assert_eq!(at(1991).await, None);
        let max = node.find(partition, OffsetSpec::MaxTimestamp).await;
        assert_eq!(max, Some((198, Some(1990))));
    };
    node.until("the hot index is cut", |node| {
        let state = node.region.applied_state(node.region.shard_of(partitions[0]));
        state
            .partition(partitions[0])
            .expect("there")
            .local_start_offset()
            >= Offset(20)
    })
    .await;
    look(&node).await;
    node.stop().await;

    let node = Node::start(directory.path(), &place).await;
    look(&node).await;
    let more = node.append(partitions[0], &batch("more", 9000)).await;
    let all = node.read_all(partitions[0], Offset(0)).await;
    assert_eq!(all.last(), Some(&more));
    assert_eq!(all.len(), 101);
    // What readers without brokers need.
    node.until("the names of the topics are told", |_| {
        !place.keys(".json").is_empty()
    })
    .await;
    let names = std::fs::read(place.directory.join(&place.keys(".json")[0])).expect("a file");
    let names = TopicsFile::decode(&names).expect("a topics file");
    assert_eq!(names.topics[0].name, "kept");
    let shard = node.region.shard_of(partitions[0]);
    let of_shard = format!("cluster/{shard}/manifest/");
    let copies: Vec<_> = place
        .keys(".manifest")
        .into_iter()
        .filter(|key| key.starts_with(&of_shard))
        .collect();
    assert!(!copies.is_empty() && copies.len() <= 3, "{copies:?}");
    let copy = std::fs::read(place.directory.join(&copies[copies.len() - 1])).expect("a file");
    let copy = ManifestFile::decode(&copy).expect("a manifest file");
    assert_eq!(copy.manifest.start(partitions[0]), Some(Offset(0)));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_fails_in_every_way_loses_and_garbles_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(directory.path());
    let node = Node::start(directory.path(), &place).await;
    let topic = node.topic("kept", FOREVER).await;
    let partition = Partition { topic, index: 0 };
    place.faults.at_random(7, 200);
    // Silent damage of a write: only reading back finds it.
    // Copies of the state take some of these.
    for _ in 0..8 {
        place.faults.next(Operation::Put, Fault::FlipBit);
        place.faults.next(Operation::Put, Fault::Truncate);
        place.faults.next(Operation::Put, Fault::LoseAnswer);
    }
    let mut stored = Vec::new();
    for n in 0..150 {
        stored.push(node.append(partition, &batch(&value(n, 20_000), 1000)).await);
    }
    node.until("everything is in the bucket", Node::is_tiered).await;
    node.tick_until_file(Partition { topic, index: 1 }, 2).await;
    assert!(
        node.read_all(partition, Offset(0)).await == stored,
        "the same bytes"
    );
    let usage = node.region.tier_usage().expect("it has a bucket");
    assert!(usage.rounds_failed > 0, "{usage:?}");

    // The bucket is away: produce goes on, the lag shows, cold reads say so, and nothing is given up.
    place.faults.at_random(7, 0);
    place.faults.outage(true);
    let oldest = node.oldest_file();
    for n in 0..100 {
        stored.push(node.append(partition, &batch(&value(n, 20_000), 6000)).await);
    }
    assert!(node.waiting_bytes() > 1_500_000, "{}", node.waiting_bytes());
    node.until("the lag grows", |node| {
        let usage = node.region.tier_usage().expect("it has a bucket");
        usage
            .shards
            .iter()
            .any(|shard| shard.waiting_for > Duration::from_millis(300))
    })
    .await;
    let gone_bytes = (node.oldest_file() - oldest) << 20;
    assert!(gone_bytes <= 4 << 20, "only what was tiered before may go");
    // Nor is the lag forgotten by a node that starts meanwhile, and cannot ask whose the bucket is.
    node.stop().await;
    let node = Node::start(directory.path(), &place).await;
    node.until("the lag is seen again", |node| node.waiting_bytes() > 1_500_000)
        .await;
    place.faults.outage(false);
    node.until("everything is in the bucket", Node::is_tiered).await;
    assert!(
        node.read_all(partition, Offset(0)).await == stored,
        "the same bytes"
    );
    node.until("nothing waits", |node| node.waiting_bytes() == 0)
        .await;
    // Bundles that were uploaded in vain are no orphans for ever.
    node.until("orphans are gone", |node| {
        place.keys(".bundle").len() as u64 == node.objects()
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_retention_moves_the_local_start_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(directory.path());
    let node = Node::start(directory.path(), &place).await;
    let configs = [("retention.ms", "-1"), ("local.retention.ms", "1000")];
    let partition = Partition {
        topic: node.topic("short", &configs).await,
        index: 0,
    };
    let mut stored = Vec::new();
    for n in 0..20 {
        stored.push(node.append(partition, &batch(&value(n, 1000), 1_000_000)).await);
    }
    node.until("everything is in the bucket", Node::is_tiered).await;
    assert_eq!(
        node.find(partition, OffsetSpec::EarliestLocal).await,
        Some((0, None))
    );
    node.now.fetch_add(1001, Ordering::Relaxed);
    node.until("the hot index is cut", |node| {
        let state = node.region.applied_state(node.region.shard_of(partition));
        state.partition(partition).expect("there").local_start_offset() == Offset(40)
    })
    .await;
    assert_eq!(
        node.find(partition, OffsetSpec::EarliestLocal).await,
        Some((40, None))
    );
    assert_eq!(node.find(partition, OffsetSpec::Earliest).await, Some((0, None)));
    assert!(node.read_all(partition, Offset(0)).await == stored);
    assert_eq!(
        node.find(partition, OffsetSpec::AtOrAfter(TimestampMs(0))).await,
        Some((0, Some(1_000_000)))
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_some_node_keeps_at_an_older_level_does_not_tier() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(directory.path());
    let old = |settings: &mut RegionSettings| settings.feature_level_max = 2;
    let node = Node::with(directory.path(), &place, old).await;
    let partition = Partition {
        topic: node.topic("kept", FOREVER).await,
        index: 0,
    };
    node.append(partition, &batch("v", 1000)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(place.keys(".bundle").is_empty());
    node.stop().await;
    let node = Node::start(directory.path(), &place).await;
    node.until("everything is in the bucket", Node::is_tiered).await;
    assert!(!place.keys(".bundle").is_empty());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_belongs_to_another_region_is_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(directory.path());
    let theirs = Bytes::from_static(b"meridian-owner 1\nregion east\n");
    place
        .store()
        .put("cluster/OWNER", vec![theirs.clone()])
        .await
        .expect("written");
    let node = Node::start(directory.path(), &place).await;
    let partition = Partition {
        topic: node.topic("kept", FOREVER).await,
        index: 0,
    };
    let stored = node.append(partition, &batch("v", 1000)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(place.keys(".bundle").is_empty());
    assert_eq!(place.store().get("cluster/OWNER").await.expect("there"), theirs);
    node.until("the lag shows", |node| node.waiting_bytes() > 0).await;
    assert_eq!(node.read_all(partition, Offset(0)).await, [stored]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_with_history_writes_nothing_to_a_bucket_that_has_no_word_of_it() {
    let (directory, elsewhere) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    let place = Place::new(directory.path());
    let node = Node::start(directory.path(), &place).await;
    let topic = node.topic("kept", FOREVER).await;
    let partition = Partition { topic, index: 0 };
    let mut stored = vec![node.append(partition, &batch(&value(1, 20_000), 1000)).await];
    node.until("everything is in the bucket", Node::is_tiered).await;
    node.stop().await;

    let other = Place::new(elsewhere.path());
    let node = Node::start(directory.path(), &other).await;
    stored.push(node.append(partition, &batch(&value(2, 20_000), 1010)).await);
    let standing = |node: &Node| node.region.tier_usage().map(|usage| usage.standing);
    node.until("the bucket is refused", |node| {
        standing(node) == Some(BucketStanding::Refused)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let written: Vec<_> = other
        .keys("")
        .into_iter()
        .filter(|key| key.starts_with("cluster"))
        .collect();
    assert!(written.is_empty(), "{written:?}");
    node.stop().await;

    let node = Node::start(directory.path(), &place).await;
    node.until("everything is in the bucket", Node::is_tiered).await;
    assert!(node.read_all(partition, Offset(0)).await == stored);
    node.stop().await;
}
