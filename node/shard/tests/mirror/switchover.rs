//! Ownership moves there and back under load, and nothing is lost, doubled or reordered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use meridian_lineage::Role;
use meridian_shard::{AppendError, Region, SwitchOverError};
use meridian_types::{Partition, RegionEpoch, RegionNumber, TopicId};
use meridian_wire::batch::BatchHeader;
use tokio::time::Instant;

use crate::harness::{PATIENCE, World, idempotent, logs, values};

const PARTITIONS: u32 = 8;

/// Writes 0, 1, 2, .. to one partition at whoever owns, as an idempotent producer does, until told to stop. Returns how
/// many were acknowledged.
async fn produce(
    regions: Vec<Region>,
    owner: Arc<AtomicU16>,
    partition: Partition,
    stop: Arc<AtomicBool>,
) -> i32 {
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        let region = &regions[usize::from(owner.load(Ordering::Relaxed))];
        let batch = idempotent(100 + u64::from(partition.index), next, &next.to_string());
        let header = BatchHeader::parse(&batch).expect("a batch");
        match region.append(partition, BytesMut::from(&batch[..]), header).await {
            Ok(_) => next += 1,
            Err(AppendError::NotLeader { .. } | AppendError::Unknown { .. } | AppendError::Busy { .. }) => {
                // The next one to own, as a client finds it by the metadata.
                for (number, region) in (0_u16..).zip(&regions) {
                    let shard = region.shard_of(partition);
                    if region.leader_epoch(shard).is_some() {
                        owner.store(number, Ordering::Relaxed);
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(AppendError::Rejected(rejection)) => {
                // Its state has not come yet: retriable, as the broker says.
                assert!(
                    format!("{rejection:?}").contains("Unsettled")
                        || format!("{rejection:?}").contains("NotOwner"),
                    "{rejection}"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    next
}

pub(crate) fn is_owner_of_all(world: &World, number: u16, epoch: u32) -> bool {
    let status = world.region(number).mirror_status();
    status.owner == RegionNumber(number)
        && status.region_epoch == RegionEpoch(epoch)
        && status.shards.len() == logs().count()
        && status
            .shards
            .iter()
            .all(|shard| shard.role == Role::Owner && shard.region_epoch == RegionEpoch(epoch))
}

/// Asks for a switchover, again while the link has only come up this moment.
async fn begin_switch(world: &World, from: u16, to: u16) {
    let started = Instant::now();
    loop {
        match world.region(from).switch_over(RegionNumber(to), PATIENCE).await {
            Ok(_) => return,
            Err(SwitchOverError::Refused(reason)) if started.elapsed() < PATIENCE => {
                let may_be = ["not heard", "does not follow", "cannot be named"];
                assert!(may_be.iter().any(|it| reason.contains(it)), "{reason}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) async fn switch(world: &World, from: u16, to: u16, epoch: u32) {
    begin_switch(world, from, to).await;
    world
        .until("the other region owns", |world| is_owner_of_all(world, to, epoch))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ownership_moves_there_and_back_under_load_and_nothing_is_lost() {
    let mut world = World::of_two().await;
    let topic: TopicId = world.topic(0, "t").await;
    world.until_equal(0, 1).await;
    let stop = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = (0..PARTITIONS)
        .map(|index| {
            let partition = Partition { topic, index };
            let regions = vec![world.region(0).clone(), world.region(1).clone()];
            let owner = Arc::new(AtomicU16::new(0));
            tokio::spawn(produce(regions, owner, partition, Arc::clone(&stop)))
        })
        .collect();
    for (from, to, epoch) in [(0, 1, 1), (1, 0, 2), (0, 1, 3)] {
        tokio::time::sleep(Duration::from_millis(200)).await;
        switch(&world, from, to, epoch).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeMap::new();
    for (index, producer) in (0..).zip(producers) {
        acknowledged.insert(index, producer.await.expect("it ends well"));
    }
    world.until_equal(1, 0).await;
    for (index, count) in acknowledged {
        assert!(count > 0, "partition {index} was written");
        let partition = Partition { topic, index };
        let (there, here) = world.batches_of_both(1, 0, partition).await;
        assert_eq!(there, here, "partition {index} is equal byte for byte");
        let found: Vec<_> = values(&there)
            .into_iter()
            .map(|(_, value)| value.parse::<i32>().expect("a number"))
            .collect();
        // The last one may have been taken without an answer.
        let expected: Vec<i32> = (0..).take(found.len()).collect();
        assert_eq!(
            found, expected,
            "partition {index}: nothing lost, doubled or reordered"
        );
        assert!(
            (count..=count + 1).contains(&i32::try_from(found.len()).expect("few")),
            "partition {index}"
        );
    }
    for number in [0, 1] {
        world.stop(number).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_that_is_not_done_in_time_is_taken_back() {
    let mut world = World::of_two().await;
    let topic = world.topic(0, "t").await;
    let partition = Partition { topic, index: 1 };
    world
        .append(0, partition, &idempotent(1, 0, "0"))
        .await
        .expect("it is taken");
    world.until_equal(0, 1).await;
    until_registered(&world).await;
    world.until_equal(0, 1).await;
    let started = Instant::now();
    let mut next = 1;
    let begun = loop {
        // From now on one frame gets through, and then nothing for minutes.
        assert!(world.region(0).throttle_link(RegionNumber(1), Some(1)));
        world
            .append(0, partition, &idempotent(1, next, &next.to_string()))
            .await
            .expect("it is taken");
        next += 1;
        world.until_equal(0, 1).await;
        let begun = world
            .region(0)
            .switch_over(RegionNumber(1), Duration::from_millis(500))
            .await;
        match begun {
            // A machine that stood still for a moment no longer takes the other for one that follows.
            Err(SwitchOverError::Refused(reason)) if started.elapsed() < PATIENCE => {
                assert!(reason.contains("does not follow"), "{reason}");
                world.region(0).throttle_link(RegionNumber(1), None);
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            begun => break begun,
        }
    };
    assert_eq!(begun.expect("it begins"), RegionEpoch(0));
    world
        .until("the owner goes on", |world| is_owner_of_all(world, 0, 1))
        .await;
    world
        .append_until_taken(0, partition, &idempotent(1, next, &next.to_string()))
        .await;
    // Who was behind follows the new epoch, also in logs to which nothing was written since.
    world.region(0).throttle_link(RegionNumber(1), None);
    world.until_equal(0, 1).await;
    until_mirrors(&world, 1, 1).await;
    let batches = world.batches(1, partition).await;
    let found: Vec<_> = values(&batches).into_iter().map(|(_, value)| value).collect();
    let expected: Vec<_> = (0..=next).map(|value| value.to_string()).collect();
    assert_eq!(found, expected);
    for number in [0, 1] {
        world.stop(number).await;
    }
}

/// Writes one record after the other to the owner, each of which must be taken at once. Returns how many, and the longest
/// time that one took.
async fn write(region: Region, partition: Partition, stop: Arc<AtomicBool>) -> (i32, Duration) {
    let mut longest = Duration::ZERO;
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        let batch = idempotent(7, next, &next.to_string());
        let header = BatchHeader::parse(&batch).expect("a batch");
        let begun = Instant::now();
        let appended = region.append(partition, BytesMut::from(&batch[..]), header).await;
        appended.expect("writes are not stopped");
        longest = longest.max(begun.elapsed());
        next += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (next, longest)
}

/// Waits until a region mirrors every log under this epoch.
pub(crate) async fn until_mirrors(world: &World, number: u16, epoch: u32) {
    world
        .until("all logs are mirrored under the epoch", |world| {
            let status = world.region(number).mirror_status();
            status.shards.len() == logs().count()
                && status
                    .shards
                    .iter()
                    .all(|shard| shard.role == Role::Mirror && shard.region_epoch == RegionEpoch(epoch))
        })
        .await;
}

/// Waits until both regions know one another, and the owner has registered both.
pub(crate) async fn until_registered(world: &World) {
    world
        .until("both are registered", |world| {
            [0, 1]
                .iter()
                .all(|number| world.region(*number).controller().regions().count() == 2)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_never_stopped_for_a_region_that_does_not_follow() {
    let mut world = World::of_two().await;
    let topic = world.topic(0, "t").await;
    let partition = Partition { topic, index: 1 };
    until_registered(&world).await;
    world.until_equal(0, 1).await;
    // Every log is held there, and nobody follows any more.
    world.stop(1).await;
    world
        .until("the owner knows that", |world| {
            logs().all(|shard| world.region(0).remote().in_step(shard).is_empty())
        })
        .await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(world.region(0).clone(), partition, Arc::clone(&stop)));
    // Far apart, so that a machine that stands still for a moment is not taken for a switchover that waits too long.
    for (timeout, least, most) in [(500, 500, 4900), (60_000, 5000, 50_000)] {
        let begun = Instant::now();
        let refused = world
            .region(0)
            .switch_over(RegionNumber(1), Duration::from_millis(timeout))
            .await;
        let took = begun.elapsed();
        let Err(SwitchOverError::Refused(reason)) = refused else {
            panic!("{refused:?}");
        };
        assert!(reason.contains("does not follow 5 of 5 logs"), "{reason}");
        assert!(
            (Duration::from_millis(least)..Duration::from_millis(most)).contains(&took),
            "{took:?}"
        );
    }
    stop.store(true, Ordering::Relaxed);
    let (written, longest) = writer.await.expect("it ends well");
    assert!(written > 20, "{written} were written");
    // Less than it waited with writes going on.
    assert!(longest < Duration::from_millis(4900), "one took {longest:?}");
    assert!(is_owner_of_all(&world, 0, 0), "no epoch was ended");
    world.stop(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_whose_links_are_coming_back_is_waited_for_with_writes_going_on() {
    let mut world = World::of_two().await;
    let topic = world.topic(0, "t").await;
    until_registered(&world).await;
    world.until_equal(0, 1).await;
    world.stop(1).await;
    let owner = world.region(0).clone();
    let stop = Arc::new(AtomicBool::new(false));
    // How long the owner was seen to be drained.
    let watched = tokio::spawn({
        let (owner, stop) = (owner.clone(), Arc::clone(&stop));
        async move {
            let mut drained = Duration::ZERO;
            let mut at = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(2)).await;
                let now = Instant::now();
                if owner.mirror_status().draining.is_some() {
                    drained += now - at;
                }
                at = now;
            }
            drained
        }
    });
    let asked = tokio::spawn({
        let owner = owner.clone();
        async move {
            let started = Instant::now();
            loop {
                // On a busy machine links may take longer than it waits.
                match owner.switch_over(RegionNumber(1), Duration::from_secs(20)).await {
                    Err(SwitchOverError::Refused(reason)) if started.elapsed() < PATIENCE => {
                        assert!(reason.contains("does not follow"), "{reason}");
                    }
                    begun => return begun,
                }
            }
        }
    });
    for sequence in 0..50 {
        let partition = Partition { topic, index: 1 };
        let appended = world.append(0, partition, &idempotent(7, sequence, "x")).await;
        appended.expect("writes go on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!asked.is_finished());
    assert!(world.region(0).mirror_status().draining.is_none());
    world.start(1, &[0]).await;
    assert_eq!(
        asked.await.expect("it ends well").expect("it begins"),
        RegionEpoch(0)
    );
    world
        .until("the other region owns", |world| is_owner_of_all(world, 1, 1))
        .await;
    stop.store(true, Ordering::Relaxed);
    let drained = watched.await.expect("it ends well");
    // By far not the time that it waits at most.
    assert!(drained < Duration::from_secs(10), "{drained:?} without writes");
    drop(owner);
    world.until_equal(1, 0).await;
    for number in [0, 1] {
        world.stop(number).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_goes_on_after_the_death_of_either_side() {
    let mut world = World::of_two().await;
    let topic = world.topic(0, "t").await;
    let partition = Partition { topic, index: 3 };
    for sequence in 0..20 {
        world
            .append(0, partition, &idempotent(1, sequence, &sequence.to_string()))
            .await
            .expect("it is taken");
    }
    until_registered(&world).await;
    begin_switch(&world, 0, 1).await;
    // In the middle of it, each dies once.
    world.stop(1).await;
    world.stop(0).await;
    world.start(0, &[]).await;
    world.start(1, &[0]).await;
    world
        .until("the other region owns", |world| is_owner_of_all(world, 1, 1))
        .await;
    world.until_equal(1, 0).await;
    let appended = world
        .append_until_taken(1, partition, &idempotent(1, 20, "20"))
        .await;
    assert_eq!(appended.base_offset.0, 20, "the new owner knows the producer");
    for number in [0, 1] {
        world.stop(number).await;
    }
}
