//! Small pieces of partitions become large ones while the region works.

use std::time::Duration;

use bytes::Bytes;
use meridian_shard::RegionSettings;
use meridian_tiered_storage::merge::MergeSettings;
use meridian_types::{Offset, Partition};

use crate::harness::{Node, Place, batch, value};

/// Kept for ever, and read from the bucket as soon as it is there.
const COLD: &[(&str, &str)] = &[("retention.ms", "-1"), ("local.retention.ms", "0")];

fn merging(settings: &mut RegionSettings) {
    let bucket = settings.bucket.as_mut().expect("there is one");
    // A round for each append.
    bucket.settings.round_bytes = 1;
    bucket.settings.merge = MergeSettings {
        extents_min: 4,
        removed_min: 3,
        object_bytes_max: 1 << 20,
        freed_bytes_min: 64 << 20,
    };
}

/// Appends to both partitions in rounds of their own.
async fn append_rounds(node: &Node, partitions: &[Partition], rounds: u64) -> Vec<Vec<Bytes>> {
    let mut stored = vec![Vec::new(); partitions.len()];
    for n in 0..rounds {
        for (partition, stored) in partitions.iter().zip(&mut stored) {
            stored.push(node.append(*partition, &batch(&value(n, 5000), 1000)).await);
        }
        node.until("it is in the bucket", Node::is_tiered).await;
    }
    stored
}

fn extents(node: &Node, partition: Partition) -> usize {
    let state = node.region.applied_state(node.region.shard_of(partition));
    state.extents(partition).len()
}

async fn until_read_from_the_bucket(node: &Node, partitions: &[Partition]) {
    node.until("all of it is read from the bucket", |node| {
        partitions.iter().all(|partition| {
            let state = node.region.applied_state(node.region.shard_of(*partition));
            let held = state.partition(*partition).expect("it has records");
            held.local_start_offset() == held.high_watermark()
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_rounds_become_few_objects_with_the_same_bytes() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(directory.path());
    let node = Node::with(directory.path(), &place, merging).await;
    let topic = node.topic("small", COLD).await;
    // Of one shard, so that they share objects.
    let partitions = [0, 4].map(|index| Partition { topic, index });
    let stored = append_rounds(&node, &partitions, 16).await;
    node.until("little is left to merge", |node| {
        // A merge is counted a moment after it is seen.
        let usage = node.region.tier_usage().expect("it has a bucket");
        let is_counted =
            usage.merges > 0 && usage.rewrite_read_bytes > 100_000 && usage.rewrite_written_bytes > 50_000;
        is_counted && partitions.iter().all(|partition| extents(node, *partition) <= 7)
    })
    .await;
    let usage = node.region.tier_usage().expect("it has a bucket");
    assert_eq!(usage.rewrites_failed, 0, "{usage:?}");
    until_read_from_the_bucket(&node, &partitions).await;
    for (partition, stored) in partitions.iter().zip(&stored) {
        assert!(
            node.read_all(*partition, Offset(0)).await == *stored,
            "{partition}"
        );
    }
    // What was merged is no longer needed, and goes.
    node.until("nothing is left over", |node| {
        place.keys(".bundle").len() as u64 == node.objects()
    })
    .await;
    for shard in 0..4 {
        let state = node.region.applied_state(meridian_types::ShardId(shard));
        state.check().expect("invariants hold");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_object_stays_as_it_is_and_does_not_keep_others_from_being_merged() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(directory.path());
    let never = |settings: &mut RegionSettings| {
        merging(settings);
        settings
            .bucket
            .as_mut()
            .expect("there is one")
            .settings
            .merge
            .extents_min = 0;
    };
    let node = Node::with(directory.path(), &place, never).await;
    let topic = node.topic("small", COLD).await;
    let partition = Partition { topic, index: 0 };
    let stored = append_rounds(&node, &[partition], 12).await.remove(0);
    let shard = node.region.shard_of(partition);
    let damaged = {
        let state = node.region.applied_state(shard);
        let extent = state.extents(partition)[1];
        state.manifest().object(extent.object).expect("it is named").name
    };
    node.stop().await;
    let path = place.directory.join(damaged.key("cluster", shard));
    let mut content = std::fs::read(&path).expect("readable");
    content[100] ^= 0xff;
    std::fs::write(&path, content).expect("writable");

    let node = Node::with(directory.path(), &place, merging).await;
    node.until("the rest is merged", |node| {
        let usage = node.region.tier_usage().expect("it has a bucket");
        usage.rewrites_failed > 0 && usage.merges > 0 && extents(node, partition) <= 8
    })
    .await;
    // Longer than any grace.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(path.exists(), "what is damaged may be mended yet");
    let behind = node.read_all(partition, Offset(4)).await;
    assert!(behind == stored[2..], "the same bytes");
    node.stop().await;
}
