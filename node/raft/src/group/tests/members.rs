//! Replicas that come and go.

use std::sync::atomic::Ordering;

use meridian_types::{NodeId, RaftIndex};

use super::cluster::{Cluster, SHARD, ids, until};
use super::machine::command;
use crate::ProposeError;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_joins_waits_quietly_and_gets_the_whole_log() {
    let (mut cluster, term) = Cluster::founded().await;
    let mut total = 0;
    for number in 1..=50 {
        total = cluster.add(1, term, number).await.expect("committed");
    }
    cluster.start(4, &[]).await;
    cluster.node(4).group.elect();
    cluster.node(4).group.beat();
    assert!(!cluster.node(4).group.is_initialized());
    cluster.node(1).group.add_learner(NodeId(4)).await.expect("added");
    cluster.agree(&[4], total).await;
    assert_eq!(cluster.node(4).machine.applied.load(Ordering::Relaxed), 50);
    let members = cluster.node(4).group.members().borrow().clone();
    assert_eq!((members.voters, members.learners), (ids(&[1, 2, 3]), ids(&[4])));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_are_exchanged_one_set_for_another() {
    let (mut cluster, term) = Cluster::founded().await;
    let total = cluster.add(1, term, 5).await.expect("committed");
    cluster.start(4, &[]).await;
    let refused = cluster.node(1).group.change_voters(ids(&[1, 2, 4])).await;
    let refused = refused.expect_err("4 is no member yet");
    assert!(matches!(refused, ProposeError::Refused { .. }), "{refused}");
    cluster.node(1).group.add_learner(NodeId(4)).await.expect("added");
    cluster.agree(&[4], total).await;
    for _ in 0..2 {
        let changed = cluster.node(1).group.change_voters(ids(&[1, 2, 4])).await;
        changed.expect("changed, or as it should be");
    }
    let members = cluster.node(1).group.members().borrow().clone();
    assert_eq!(members.voters, ids(&[1, 2, 4]));
    assert_eq!((members.learners, members.joint), (ids(&[]), None));

    // The removed one is gone without harm; the new one counts.
    cluster.kill(3).await;
    cluster.kill(2).await;
    let total = cluster.add(1, term, 1).await.expect("committed by 1 and 4");
    cluster.agree(&[1, 4], total).await;
    let elsewhere = cluster.node(4).group.add_learner(NodeId(5)).await;
    let elsewhere = elsewhere.expect_err("it does not lead");
    assert!(
        matches!(
            elsewhere,
            ProposeError::NotLeader {
                leader: Some(NodeId(1))
            }
        ),
        "{elsewhere}"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_replica_is_erased_and_may_come_back() {
    let (mut cluster, term) = Cluster::founded().await;
    let total = cluster.add(1, term, 5).await.expect("committed");
    cluster.agree(&[3], total).await;
    cluster
        .node(1)
        .group
        .change_voters(ids(&[1, 2]))
        .await
        .expect("changed");
    cluster.node(3).group.checkpoint().await.expect("saved");
    cluster.node(3).group.erase().await.expect("erased");
    cluster.kill(3).await;

    cluster.start(3, &[]).await;
    assert!(!cluster.node(3).group.is_initialized());
    assert_eq!(cluster.node(3).machine.total(), 0);
    cluster.node(1).group.add_learner(NodeId(3)).await.expect("added");
    cluster.agree(&[3], total).await;
    cluster
        .node(1)
        .group
        .remove_learner(NodeId(3))
        .await
        .expect("removed");
    cluster
        .node(1)
        .group
        .remove_learner(NodeId(3))
        .await
        .expect("gone already");
    cluster.stop().await;
}

/// A log of which the first part was purged: the base checkpoint, and entries after it.
async fn purged(ballast_bytes: usize, chunk_bytes: usize) -> (Cluster, u64, RaftIndex) {
    let mut cluster = Cluster::new();
    cluster.ballast_bytes = ballast_bytes;
    cluster.settings.network.chunk_bytes = chunk_bytes;
    let term = cluster.found().await;
    let mut steps = Vec::new();
    let mut total = 0;
    for number in 1..=60 {
        total = cluster.add(1, term, number).await.expect("committed");
        if number % 10 == 0 {
            steps.push(cluster.node(1).group.checkpoint().await.expect("saved").index);
        }
    }
    cluster.agree(&[1, 2, 3], total).await;
    let needed = RaftIndex(steps[2].0 + 1);
    let released = cluster
        .node(1)
        .group
        .release(Some(needed))
        .await
        .expect("released");
    assert_eq!(released, steps[2]);
    until("purged", || cluster.purged(1) == Some(steps[2])).await;
    cluster.start(4, &[]).await;
    (cluster, total, steps[2])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_begins_empty_gets_the_base_checkpoint_and_every_entry_after_it() {
    let (cluster, total, base) = purged(300_000, 10_000).await;
    cluster.node(1).group.add_learner(NodeId(4)).await.expect("added");
    cluster.agree(&[4], total).await;
    assert_eq!(
        cluster.purged(4),
        Some(base),
        "not the newest checkpoint, but the base"
    );
    assert_eq!(cluster.node(4).machine.applied.load(Ordering::Relaxed), 30);
    assert!(
        cluster.node(4).service.chunks.load(Ordering::Relaxed) > 30,
        "in pieces"
    );
    let first = cluster.node(4).journal.log(SHARD).first;
    assert_eq!(first.map(|first| first.index), Some(base.next()));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_got_a_checkpoint_restarts_from_it() {
    let (mut cluster, total, base) = purged(1000, 1 << 20).await;
    cluster.node(1).group.add_learner(NodeId(4)).await.expect("added");
    cluster.agree(&[4], total).await;
    cluster.kill(4).await;
    cluster.start(4, &[]).await;
    cluster.catch_up(1, 4, total).await;
    assert_eq!(cluster.purged(4), Some(base));
    assert_eq!(
        cluster.node(4).service.chunks.load(Ordering::Relaxed),
        0,
        "it was not sent again"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_arrives_damaged_is_refused_and_sent_again() {
    let (cluster, total, base) = purged(300_000, 10_000).await;
    cluster.node(4).service.flip.store(5_000, Ordering::Relaxed);
    cluster.node(1).group.add_learner(NodeId(4)).await.expect("added");
    cluster.agree(&[4], total).await;
    assert_eq!(cluster.purged(4), Some(base));
    assert!(
        cluster.node(4).service.chunks.load(Ordering::Relaxed) > 60,
        "twice"
    );
    assert_eq!(cluster.node(4).group.stopped(), None);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_that_rotted_on_the_leaders_disk_is_set_aside_for_the_next() {
    let (mut cluster, total, base) = purged(1000, 1 << 20).await;
    let name = format!("5-{base:020}.checkpoint");
    cluster.disks(1).checkpoints.rot(&name, 500, 1);
    cluster.node(1).group.add_learner(NodeId(4)).await.expect("added");
    cluster.agree(&[4], total).await;
    assert!(cluster.purged(4) > Some(base), "the next checkpoint");
    assert_eq!(cluster.node(1).group.stopped(), None);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_takes_the_place_of_what_was_never_committed() {
    let (mut cluster, term) = Cluster::founded().await;
    let shared = cluster.add(1, term, 1).await.expect("committed");
    cluster.agree(&[1, 2, 3], shared).await;
    cluster.kill(2).await;
    cluster.kill(3).await;
    let common = cluster.node(1).journal.log(SHARD).last.expect("entries").index;
    for _ in 0..20 {
        drop(cluster.node(1).group.propose(term, command(1_000_000)).await);
    }
    let journal = cluster.node(1).journal.clone();
    let abandoned = RaftIndex(common.0 + 20);
    until("they are in its journal", || {
        journal.durable(SHARD) >= Some(abandoned)
    })
    .await;
    assert!(journal.read(SHARD, abandoned, 0, 1).is_ok());
    cluster.kill(1).await;

    cluster.start(2, &[]).await;
    cluster.start(3, &[]).await;
    let (leader, next) = cluster.replace(1, term, &[2, 3]).await;
    let mut total = shared;
    for number in 1..=60 {
        total = cluster.add(leader, next, number).await.expect("committed");
    }
    cluster.agree(&[2, 3], total).await;
    let group = cluster.node(leader).group.clone();
    let base = group.checkpoint().await.expect("saved");
    total = cluster.add(leader, next, 1).await.expect("committed");
    group.checkpoint().await.expect("saved");
    group.release(Some(base.index.next())).await.expect("released");
    until("purged", || cluster.purged(leader) == Some(base.index)).await;

    cluster.start(1, &[]).await;
    cluster.catch_up(leader, 1, total).await;
    let first = cluster.node(1);
    assert_eq!(cluster.purged(1), Some(base.index), "it was given the checkpoint");
    let begun_at = *first.machine.begun_at.lock();
    assert_eq!(begun_at, Some(base), "before its state was seen");
    for index in 1..=abandoned.0 {
        let index = RaftIndex(index);
        assert!(first.journal.read(SHARD, index, 0, 1).is_err(), "{index}");
        assert_eq!(first.journal.term_of(SHARD, index), None, "{index}");
    }
    cluster.stop().await;
}
