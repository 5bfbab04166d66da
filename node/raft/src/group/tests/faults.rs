//! Disks that fill up or fail.

use std::time::Duration;

use meridian_journal::Fault;
use tokio::time::Instant;

use super::cluster::{Cluster, until};
use super::machine::{command, long_command};
use crate::Leadership;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_without_room_refuses_and_catches_up_when_there_is_room_again() {
    let (mut cluster, term) = Cluster::founded().await;
    let disk = cluster.disks(3).journal;
    disk.set_capacity(0);
    // Files of 1 MiB, the present one and the next: some ten thousand entries fill them.
    let mut total = 0;
    while cluster.node(3).group.admit(0, 500).is_ok() {
        let mut pending = Vec::new();
        for _ in 0..2000 {
            let proposed = cluster.node(1).group.propose(term, command(1)).await;
            pending.push(proposed.expect("queued"));
        }
        total += 2000;
        for pending in pending {
            pending.await.expect("committed by the others");
        }
        assert!(total < 200_000, "it does not fill");
    }
    for _ in 0..100 {
        let mut pending = Vec::new();
        for _ in 0..200 {
            let proposed = cluster.node(1).group.propose(term, command(1)).await;
            pending.push(proposed.expect("queued"));
        }
        total += 200;
        for pending in pending {
            pending.await.expect("committed by the others");
        }
    }
    assert_eq!(cluster.node(3).group.stopped(), None);
    assert!(cluster.node(3).machine.total() < total);
    disk.set_capacity(u64::MAX);
    cluster.agree(&[1, 2, 3], total).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_with_a_full_disk_takes_what_still_fits_the_file_that_it_writes() {
    let (mut cluster, term) = Cluster::founded().await;
    cluster.disks(3).journal.set_capacity(0);
    let mut total = 0;
    let propose = async |total: &mut u64, bytes| {
        let proposed = cluster.node(1).group.propose(term, long_command(1, bytes)).await;
        proposed.expect("queued").await.expect("committed");
        *total += 1;
        cluster.agree(&[1, 2, 3], *total).await;
    };
    // Files of 1 MiB, the present one and the next.
    while cluster.node(3).group.journal().admit(400_000, 1).is_ok() {
        propose(&mut total, 20_000).await;
        assert!(total < 200, "it does not fill");
    }
    assert!(cluster.node(3).group.admit(100_000, 1).is_err(), "not by far");
    let begin = Instant::now();
    for _ in 0..3 {
        propose(&mut total, 100_000).await;
    }
    let took = begin.elapsed();
    assert!(
        took < Duration::from_secs(9),
        "it waited for the room that it had been promised: {took:?}"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_fails_stops_and_the_others_go_on() {
    let (mut cluster, term) = Cluster::founded().await;
    let total = cluster.add(1, term, 5).await.expect("committed");
    cluster.agree(&[1, 2, 3], total).await;
    for call in 0..20 {
        cluster.disks(1).journal.plan(call, Fault::Error);
    }
    // Its own copy fails; the quorum of the others may still commit it.
    let proposed = cluster.node(1).group.propose(term, command(1)).await;
    drop(proposed.expect("queued"));
    until("it has stopped", || cluster.node(1).group.stopped().is_some()).await;
    until("it no longer says that it leads", || {
        *cluster.node(1).group.leadership().borrow() == Leadership::Unknown
    })
    .await;
    let (leader, next) = cluster.replace(1, term, &[2, 3]).await;
    let total = cluster.add(leader, next, 1).await.expect("committed");
    cluster.agree(&[2, 3], total).await;
    cluster.stop().await;
}
