//! A mirror that the owner's log no longer reaches back to takes over the owner's state, and goes on behind it.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meridian_shard::{AppendError, ReadFrom};
use meridian_state::{Command, CommittedOffset};
use meridian_tiered_storage::store::{Operation, Store};
use meridian_types::{Offset, Partition, ProducerId, ShardId, TimestampMs, TopicId};
use meridian_wire::batch::{BatchBuilder, BatchHeader, Compression};
use object_store::local::LocalFileSystem;
use tokio::time::Instant;

use crate::harness::{PATIENCE, SHARDS, World, batch, idempotent, logs};

const PARTITIONS: u32 = 8;
const VALUE_BYTES: usize = 8000;

fn partitions(topic: TopicId) -> impl Iterator<Item = Partition> {
    (0..PARTITIONS).map(move |index| Partition { topic, index })
}

/// A batch of a producer, whose values no codec makes smaller.
fn large(producer: u64, sequence: i32) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None).with_producer(ProducerId(producer), 0, sequence);
    let mut word =
        (producer << 32 | u64::from(sequence.cast_unsigned())).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let value: Vec<u8> = std::iter::repeat_with(|| {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word.to_le_bytes()[3]
    })
    .take(VALUE_BYTES)
    .collect();
    builder
        .push(TimestampMs(10), None, Some(&value), &[])
        .expect("it fits");
    builder.build().expect("a batch")
}

/// Appends, and waits while the journal has no room.
async fn append(world: &World, partition: Partition, batch: &Bytes) {
    let started = Instant::now();
    loop {
        let header = BatchHeader::parse(batch).expect("a batch");
        let appended = world
            .region(0)
            .append(partition, BytesMut::from(&batch[..]), header)
            .await;
        match appended {
            Ok(_) => return,
            Err(AppendError::Busy { .. } | AppendError::NotLeader { .. } | AppendError::Storage { .. }) => {
                assert!(started.elapsed() < PATIENCE, "no room");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn fill(world: &World, topic: TopicId, rounds: std::ops::Range<i32>) {
    for round in rounds {
        for partition in partitions(topic) {
            append(world, partition, &large(100 + u64::from(partition.index), round)).await;
        }
    }
}

/// Sequence of the oldest content command that a log of the owner can still give.
fn begins_at(world: &World, region: u16, shard: ShardId) -> u64 {
    let state = world.region(region).applied_state(shard);
    state
        .standing()
        .index()
        .points()
        .first()
        .map_or(0, |point| point.progress.sequence)
}

/// The journal of the owner has given up the beginning of every partition.
async fn until_purged(world: &World, topic: TopicId) {
    world
        .until("the owner's log is purged", |world| {
            partitions(topic).all(|partition| {
                let shard = world.region(0).shard_of(partition);
                let state = world.region(0).applied_state(shard);
                let state = state.partition(partition).expect("written");
                state.local_start_offset() > Offset(0) || state.log_start_offset() > Offset(0)
            })
        })
        .await;
}

async fn commit(world: &World, topic: TopicId, offset: u64) -> CommittedOffset {
    let owner = world.region(0);
    let committed = CommittedOffset {
        offset: Offset(offset),
        leader_epoch: None,
        metadata: "here".to_owned(),
        committed_at: TimestampMs(1_000_000),
    };
    let command = Command::CommitOffsets {
        group: "readers".to_owned(),
        now: TimestampMs(1_000_000),
        offsets: vec![(Partition { topic, index: 1 }, committed.clone())],
    };
    let shard = owner.group_shard("readers");
    let started = Instant::now();
    // As for records, the journal may have no room now; twice is the same as once.
    while let Err(error) = owner.propose(shard, command.clone()).await {
        assert!(started.elapsed() < PATIENCE, "the owner takes it: {error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    committed
}

/// Records, producers, group offsets and digests are the same in both.
async fn assert_equal(world: &World, topic: TopicId, committed: &CommittedOffset) {
    world.until_equal(0, 1).await;
    for partition in partitions(topic) {
        let (ours, theirs) = world.batches_of_both(0, 1, partition).await;
        assert!(!ours.is_empty(), "partition {partition}");
        assert!(ours == theirs, "partition {partition} is equal byte for byte");
        let shard = world.region(0).shard_of(partition);
        let (ours, theirs) = (
            world.region(0).applied_state(shard),
            world.region(1).applied_state(shard),
        );
        let (ours, theirs) = (
            ours.partition(partition).expect("written"),
            theirs.partition(partition).expect("it came"),
        );
        assert_eq!(ours.log_start_offset(), theirs.log_start_offset());
        assert_eq!(ours.digest(), theirs.digest(), "partition {partition}");
        assert_eq!(ours.producers(), theirs.producers(), "partition {partition}");
    }
    let mirror = world.region(1);
    let state = mirror.applied_state(mirror.group_shard("readers"));
    let group = state.group("readers").expect("it came");
    let partition = Partition { topic, index: 1 };
    assert_eq!(group.offsets.get(&partition), Some(committed));
}

async fn stop(mut world: World) {
    for number in [0, 1] {
        world.stop(number).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_region_gets_every_record_of_an_owner_whose_log_is_purged_behind_its_bucket() {
    for mirror_has_bucket in [true, false] {
        let mut world = World::small(if mirror_has_bucket { vec![0, 1] } else { vec![0] });
        if !mirror_has_bucket {
            world.journal_bytes_of(1, 64 << 20);
        }
        world.start(0, &[]).await;
        let topic = world.topic(0, "t").await;
        fill(&world, topic, 0..80).await;
        let committed = commit(&world, topic, 30).await;
        until_purged(&world, topic).await;
        world.start(1, &[0]).await;
        // What comes meanwhile.
        fill(&world, topic, 80..90).await;
        assert_equal(&world, topic, &committed).await;
        let installed = (0..SHARDS)
            .filter(|shard| begins_at(&world, 1, ShardId(*shard)) > 0)
            .count();
        assert!(installed > 0, "at least one log came as a checkpoint");
        // The mirror goes on alone: nothing of it lies with the owner.
        world.stop(0).await;
        for partition in partitions(topic) {
            let batches = world.batches(1, partition).await;
            assert_eq!(batches.len(), 90, "partition {partition}");
        }
        if mirror_has_bucket {
            assert!(!world.bundles(1).is_empty());
        }
        world.stop(1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_comes_out_of_the_owners_bucket_where_that_can_be_read() {
    let mut world = World::small([0, 1]);
    // Names are compared, which merges change.
    world.merge.extents_min = 0;
    world.start(0, &[]).await;
    let topic = world.topic(0, "t").await;
    fill(&world, topic, 0..80).await;
    let committed = commit(&world, topic, 30).await;
    until_purged(&world, topic).await;
    // One that is away, and one that is there.
    let nowhere = tempfile::tempdir().expect("a directory");
    let away = LocalFileSystem::new_with_prefix(nowhere.path()).expect("a store");
    let readable = world.bucket_of(0);
    world.readable_buckets = vec![Store::over(Arc::new(away), ""), readable.clone()];
    world.start(1, &[0]).await;
    assert_equal(&world, topic, &committed).await;
    let copied = readable.stats().of(Operation::Get).bytes;
    let theirs = world.bundles(0);
    let names = world.bundles(1).intersection(&theirs).count();
    assert!(names > 0, "copies have the names of the originals");
    assert!(
        copied >= VALUE_BYTES as u64 * 80,
        "{copied} bytes were read there"
    );
    stop(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_is_installed_whatever_is_stopped_meanwhile() {
    let mut world = World::small([0, 1]);
    world.send_bytes_per_second_max = Some(2 << 20);
    world.start(0, &[]).await;
    let topic = world.topic(0, "t").await;
    fill(&world, topic, 0..80).await;
    let committed = commit(&world, topic, 30).await;
    until_purged(&world, topic).await;
    world.start(1, &[0]).await;
    for round in 0..6 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let number = round % 2;
        world.stop(u16::from(number == 0)).await;
        let seeds: &[u16] = if number == 0 { &[0] } else { &[] };
        world.start(u16::from(number == 0), seeds).await;
    }
    fill(&world, topic, 80..85).await;
    assert_equal(&world, topic, &committed).await;
    stop(world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_was_cut_off_for_long_catches_up() {
    for buckets in [vec![0, 1], vec![0]] {
        let mut world = World::small(buckets.clone());
        if buckets.len() == 1 {
            world.journal_bytes_of(1, 64 << 20);
        }
        world.start(0, &[]).await;
        world.start(1, &[0]).await;
        let topic = world.topic(0, "t").await;
        fill(&world, topic, 0..20).await;
        world.until_equal(0, 1).await;
        let stood_at: Vec<_> = logs().map(|shard| world.place(1, shard)).collect();
        world.stop(1).await;
        fill(&world, topic, 20..100).await;
        let committed = commit(&world, topic, 44).await;
        until_purged(&world, topic).await;
        world.start(1, &[0]).await;
        assert_equal(&world, topic, &committed).await;
        assert!(
            logs()
                .zip(stood_at)
                .any(|(shard, stood)| world.place(1, shard) != stood)
        );
        // It follows as before.
        let partition = Partition { topic, index: 0 };
        append(&world, partition, &idempotent(100, 100, "more")).await;
        assert_equal(&world, topic, &committed).await;
        stop(world).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_buckets_what_the_owner_still_has_arrives() {
    let mut world = World::small([]);
    world.start(0, &[]).await;
    let topic = world.topic(0, "t").await;
    // Retention takes most; the log behind it is given up.
    for rounds in 0..6 {
        fill(&world, topic, rounds * 15..rounds * 15 + 15).await;
        for partition in partitions(topic) {
            let end = world
                .region(0)
                .positions(partition, ReadFrom::Leader)
                .expect("led here")
                .high_watermark;
            let start = Offset(end.0.saturating_sub(5));
            let started = Instant::now();
            while let Err(error) = world.region(0).delete_records(partition, Some(start)).await {
                assert!(started.elapsed() < PATIENCE, "it is led here: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    let committed = commit(&world, topic, 88).await;
    world.start(1, &[0]).await;
    append(&world, Partition { topic, index: 3 }, &batch(&["last"])).await;
    assert_equal(&world, topic, &committed).await;
    for partition in partitions(topic) {
        assert!(world.batches(1, partition).await.len() >= 5);
    }
    stop(world).await;
}
