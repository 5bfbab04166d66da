//! Content comes to the mirror in the owner's order, byte for byte, whatever is stopped meanwhile.

use bytes::Bytes;
use meridian_lineage::Role;
use meridian_shard::{AppendError, ReadError, ReadFrom};
use meridian_state::{Command, CommittedOffset};
use meridian_types::{LeaderEpoch, Offset, Partition, ShardId, TimestampMs};

use crate::harness::{SHARDS, World, batch, idempotent, logs, node_of, values};
use crate::switchover::until_registered;

fn partitions(topic: meridian_types::TopicId) -> impl Iterator<Item = Partition> {
    (0..8).map(move |index| Partition { topic, index })
}

async fn fill(world: &World, owner: u16, topic: meridian_types::TopicId, rounds: std::ops::Range<usize>) {
    for round in rounds {
        for partition in partitions(topic) {
            let value = format!("{}-{round}", partition.index);
            let appended = world.append(owner, partition, &batch(&[&value, "again"])).await;
            appended.expect("the owner takes it");
        }
    }
}

async fn assert_equal(world: &World, topic: meridian_types::TopicId) {
    for partition in partitions(topic) {
        let (ours, theirs) = world.batches_of_both(0, 1, partition).await;
        assert!(!ours.is_empty(), "partition {partition}");
        assert_eq!(ours, theirs, "partition {partition} is equal byte for byte");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_holds_the_owners_records_at_equal_offsets_byte_for_byte() {
    let mut world = World::new();
    world.start(0, &[]).await;
    let early = world.topic(0, "early").await;
    fill(&world, 0, early, 0..5).await;
    world.start(1, &[0]).await;
    assert_eq!(world.region(1).cluster_id(), world.region(0).cluster_id());
    world.until_equal(0, 1).await;
    assert_equal(&world, early).await;
    // What comes while it follows.
    let late = world.topic(0, "late").await;
    fill(&world, 0, late, 0..20).await;
    world.until_equal(0, 1).await;
    assert_equal(&world, late).await;
    let controller = world.region(1).controller();
    assert_eq!(controller.topic("late").map(|topic| topic.id), Some(late));
    drop(controller);
    for shard in logs() {
        assert!(world.place(0, shard).0 > 0, "shard {shard}");
    }
    until_registered(&world).await;
    for number in [0, 1] {
        world.stop(number).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_takes_no_writes_serves_reads_and_names_the_owners_leader() {
    let mut world = World::of_two().await;
    let topic = world.topic(0, "t").await;
    let partition = Partition { topic, index: 2 };
    fill(&world, 0, topic, 0..2).await;
    world.until_equal(0, 1).await;
    let refused = world.append(1, partition, &batch(&["x"])).await;
    assert!(
        matches!(refused, Err(AppendError::NotLeader { leader: None })),
        "{refused:?}"
    );
    let mirror = world.region(1);
    let shard = mirror.shard_of(partition);
    assert_eq!(mirror.leader_epoch(shard), None);
    let asked = mirror.positions(partition, ReadFrom::Leader);
    assert!(
        matches!(asked, Err(ReadError::NotLeader { leader: None })),
        "{asked:?}"
    );
    let epoch: LeaderEpoch = world.region(0).leader_epoch(shard).expect("the owner leads");
    world
        .until("the mirror names the owner's leader", |world| {
            world.region(1).remote().leader_of(shard) == Some((node_of(0), epoch))
        })
        .await;
    let positions = world
        .region(1)
        .positions(partition, ReadFrom::Any)
        .expect("it serves");
    assert_eq!(
        (positions.leader_epoch, positions.high_watermark),
        (epoch, Offset(4))
    );
    assert_eq!(world.region(1).remote().controller(), Some(node_of(0)));
    assert!(world.region(0).remote().owner().is_none());
    // The owner knows who reads next door.
    world
        .until("the mirror is in step", |world| {
            world.region(0).remote().in_step(shard) == [node_of(1)]
        })
        .await;
    for number in [0, 1] {
        world.stop(number).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_and_elections_on_either_side_change_nothing() {
    let mut world = World::of_two().await;
    let topic = world.topic(0, "t").await;
    fill(&world, 0, topic, 0..5).await;
    // The mirror is away for a while; a restart is an election too.
    world.stop(1).await;
    fill(&world, 0, topic, 5..25).await;
    world.start(1, &[0]).await;
    world.until_equal(0, 1).await;
    // The owner comes back under new terms.
    world.stop(0).await;
    world.start(0, &[]).await;
    fill(&world, 0, topic, 25..30).await;
    world.until_equal(0, 1).await;
    assert_equal(&world, topic).await;
    for number in [0, 1] {
        world.stop(number).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn group_offsets_and_idempotent_producers_travel_with_the_records() {
    let mut world = World::of_two().await;
    let topic = world.topic(0, "t").await;
    let partition = Partition { topic, index: 0 };
    for sequence in 0..3 {
        let appended = world
            .append(0, partition, &idempotent(7, sequence, &sequence.to_string()))
            .await;
        appended.expect("it is taken");
    }
    let again = world
        .append(0, partition, &idempotent(7, 1, "1"))
        .await
        .expect("it is known");
    assert!(again.duplicate);
    let owner = world.region(0);
    let shard: ShardId = owner.group_shard("readers");
    let committed = CommittedOffset {
        offset: Offset(2),
        leader_epoch: None,
        metadata: "here".to_owned(),
        committed_at: TimestampMs(1_000_000),
    };
    let command = Command::CommitOffsets {
        group: "readers".to_owned(),
        now: TimestampMs(1_000_000),
        offsets: vec![(partition, committed.clone())],
    };
    owner.propose(shard, command).await.expect("the owner takes it");
    world.until_equal(0, 1).await;
    let mirror = world.region(1);
    {
        let state = mirror.applied_state(shard);
        let group = state.group("readers").expect("it came");
        assert_eq!(group.offsets.get(&partition), Some(&committed));
    }
    let batches: Vec<Bytes> = world.batches(1, partition).await;
    let found: Vec<_> = values(&batches).into_iter().map(|(_, value)| value).collect();
    assert_eq!(found, ["0", "1", "2"], "the duplicate is in neither region");
    let status = mirror.mirror_status();
    assert_eq!(status.shards.len(), SHARDS as usize + 1);
    assert!(status.shards.iter().all(|shard| shard.role == Role::Mirror));
    for number in [0, 1] {
        world.stop(number).await;
    }
}
