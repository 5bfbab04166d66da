//! A mirror whose journal takes less at once than the owner's.

use meridian_journal::FaultyDisk;
use meridian_state::Command;
use meridian_types::{Partition, ShardId, TopicId};
use tokio::time::{Duration, sleep};

use crate::harness::{World, batch};

const PARTITIONS: u32 = 8;

/// Files so small that a frame does not fit one.
const FILE_BYTES: u64 = 128 << 10;

fn value(bytes: usize) -> String {
    "0123456789abcdef".repeat(bytes / 16)
}

async fn fill(world: &World, topic: TopicId, rounds: u32, bytes: usize) {
    for _ in 0..rounds {
        for index in 0..PARTITIONS {
            let partition = Partition { topic, index };
            let appended = world.append(0, partition, &batch(&[&value(bytes)])).await;
            appended.expect("the owner takes it");
        }
    }
}

async fn assert_equal(world: &World, topic: TopicId) {
    for index in 0..PARTITIONS {
        let partition = Partition { topic, index };
        let (ours, theirs) = world.batches_of_both(0, 1, partition).await;
        assert!(!ours.is_empty(), "partition {partition}");
        assert!(ours == theirs, "partition {partition} is equal byte for byte");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_longer_than_a_mirrors_journal_takes_arrive_in_pieces() {
    let mut world = World::new();
    world.file_bytes_of(1, FILE_BYTES);
    world.start(0, &[]).await;
    let topic = world.topic(0, "t").await;
    // It finds all this when it asks for the first time, in frames of up to 1 MiB.
    fill(&world, topic, 20, 20_000).await;
    world.start(1, &[0]).await;
    world.until_equal(0, 1).await;
    assert_equal(&world, topic).await;
    // While it follows, too, and behind a restart.
    fill(&world, topic, 5, 60_000).await;
    world.until_equal(0, 1).await;
    world.stop(1).await;
    fill(&world, topic, 10, 20_000).await;
    world.start(1, &[0]).await;
    world.until_equal(0, 1).await;
    assert_equal(&world, topic).await;
    for number in [0, 1] {
        world.stop(number).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_long_for_a_mirrors_journal_stops_no_shard_and_comes_once_that_is_larger() {
    let mut world = World::new();
    world.file_bytes_of(1, FILE_BYTES);
    world.start(0, &[]).await;
    world.start(1, &[0]).await;
    let topic = world.topic(0, "t").await;
    fill(&world, topic, 1, 1000).await;
    world.until_equal(0, 1).await;
    let long = Partition { topic, index: 0 };
    let shard = world.region(0).shard_of(long);
    let appended = world.append(0, long, &batch(&[&value(200_000)])).await;
    appended.expect("the owner's journal takes it");
    fill(&world, topic, 1, 1000).await;
    // The other logs go on, and this one waits where it is.
    world
        .until("the other logs are equal", |world| {
            let mut others = crate::harness::logs().filter(|other| *other != shard);
            others.all(|other| world.place(0, other) == world.place(1, other))
        })
        .await;
    sleep(Duration::from_secs(2)).await;
    assert!(world.place(1, shard).0 < world.place(0, shard).0);
    let leads = world.region(1).mirror_status().shards;
    assert!(
        leads
            .iter()
            .any(|it| it.shard == shard && it.diverged_at.is_none()),
        "the shard runs and is led: {leads:?}"
    );
    world.stop(1).await;
    world.file_bytes_of(1, 4 << 20);
    world.start(1, &[0]).await;
    world.until_equal(0, 1).await;
    assert_equal(&world, topic).await;
    for number in [0, 1] {
        world.stop(number).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_with_a_full_disk_takes_no_more_says_why_and_goes_on_when_there_is_room() {
    let mut world = World::new();
    let disk = FaultyDisk::seeded(1);
    let file_bytes = 1 << 20;
    disk.set_capacity(2 * file_bytes + 1000);
    world.disk_of(1, disk.clone());
    world.file_bytes_of(1, file_bytes);
    world.start(0, &[]).await;
    world.start(1, &[0]).await;
    let topic = world.topic(0, "t").await;
    fill(&world, topic, 1, 1000).await;
    world.until_equal(0, 1).await;
    // More than the mirror's disk takes.
    fill(&world, topic, 10, 60_000).await;
    let is_told = |world: &World| {
        let status = world.region(1).mirror_status();
        let mut reasons = status.shards.iter().filter_map(|shard| shard.refusal.as_deref());
        reasons.any(|reason| reason.contains("no space"))
    };
    world.until("the status tells of the full disk", is_told).await;
    let usage = world.region(1).usage().journal;
    assert!(usage.full.is_some(), "{usage:?}");
    // What makes room still finds some: commands of the mirror's own, of any log.
    sleep(Duration::from_secs(1)).await;
    for shard in 0..crate::harness::SHARDS {
        let command = Command::SetLocalStart { starts: Vec::new() };
        let proposed = world.region(1).propose(ShardId(shard), command).await;
        assert!(proposed.is_ok(), "shard {shard}: {proposed:?}");
    }
    disk.set_capacity(64 << 20);
    world.until_equal(0, 1).await;
    world
        .until("the status tells of it no more", |world| !is_told(world))
        .await;
    assert_equal(&world, topic).await;
    for number in [0, 1] {
        world.stop(number).await;
    }
}
