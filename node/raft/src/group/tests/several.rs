//! Replication and elections.

use std::time::Duration;

use meridian_types::{NodeId, Term};
use tokio::time::Instant;

use super::cluster::{Cluster, ids, until};
use super::machine::command;
use crate::{Leadership, ProposeError, TransferError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_applies_what_was_proposed_in_order() {
    let (cluster, term) = Cluster::founded().await;
    let mut pending = Vec::new();
    for number in 1..=500 {
        let proposed = cluster.node(1).group.propose(term, command(number)).await;
        pending.push(proposed.expect("queued"));
    }
    let mut before = 0;
    for (number, pending) in (1..=500).zip(pending) {
        let (_, reply) = pending.await.expect("applied");
        let total = reply.into::<u64>().expect("a sum");
        assert_eq!(total, before + number);
        before = total;
    }
    cluster.agree(&[1, 2, 3], (1..=500).sum()).await;
    for follower in [2, 3] {
        let leadership = *cluster.node(follower).group.leadership().borrow();
        let leader = NodeId(1);
        assert_eq!(leadership, Leadership::Following { leader, term });
        let members = cluster.node(follower).group.members().borrow().clone();
        assert_eq!((members.voters, members.joint), (ids(&[1, 2, 3]), None));
    }
    let progress = cluster.node(1).group.progress().expect("it leads");
    assert_eq!(progress.matched.len(), 3);
    assert_eq!(progress.committed, progress.last);
    assert_eq!(cluster.node(2).group.progress(), None);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_is_replaced_at_once_and_nothing_committed_is_lost() {
    let (mut cluster, term) = Cluster::founded().await;
    for number in 1..=200 {
        cluster.add(1, term, number).await.expect("committed");
    }
    cluster.kill(1).await;

    let begin = Instant::now();
    let (leader, next) = cluster.replace(1, term, &[2, 3]).await;
    let took = begin.elapsed();
    println!("elected in {took:?}");
    assert!(
        took < Duration::from_secs(5),
        "the lease of 6 s was ended, not waited out: {took:?}"
    );
    assert!(next > term);

    assert_eq!(cluster.node(leader).machine.total(), (1..=200).sum());
    let total = cluster.add(leader, next, 1000).await.expect("committed");
    assert_eq!(total, (1..=200).sum::<u64>() + 1000);
    cluster.start(1, &[]).await;
    cluster.agree(&[1, 2, 3], total).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_suspects_wrongly_changes_nothing() {
    let (cluster, term) = Cluster::founded().await;
    // More than once and by turns: a lease that was ended by mistake begins again.
    for suspicious in [3, 2, 3] {
        let heard = cluster.add(1, term, 1).await.expect("committed");
        cluster.agree(&[1, 2, 3], heard).await;
        let group = &cluster.node(suspicious).group;
        group.end_lease(NodeId(1), term);
        group.elect();
        tokio::time::sleep(Duration::from_millis(200)).await;
        for node in [1, 2, 3] {
            let now = *cluster.node(node).group.leadership().borrow();
            let expected = match node {
                1 => Leadership::Leading { term },
                _ => Leadership::Following {
                    leader: NodeId(1),
                    term,
                },
            };
            assert_eq!(now, expected, "on node {node}");
        }
        cluster.node(1).group.beat();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_about_a_former_leader_change_nothing() {
    let (cluster, term) = Cluster::founded().await;
    for node in [2, 3] {
        let group = &cluster.node(node).group;
        group.end_lease(NodeId(1), Term(term.0 - 1));
        group.end_lease(NodeId(2), term);
        group.elect();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(cluster.led_by(1).await, term);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_group_wakes_for_a_proposal_and_keeps_its_leader() {
    let mut cluster = Cluster::new();
    cluster.settings.election_timeout = Duration::from_millis(100);
    cluster.settings.heartbeat_interval = Duration::from_millis(50);
    let term = cluster.found().await;
    for round in 1..=3u64 {
        // Longer than the lease of 200 ms.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut pending = Vec::new();
        for _ in 0..10 {
            let proposed = cluster.node(1).group.propose(term, command(1)).await;
            pending.push(proposed.expect("queued"));
        }
        for (number, pending) in (1..).zip(pending) {
            let (_, reply) = pending.await.expect("applied");
            assert_eq!(reply.into::<u64>(), Some((round - 1) * 10 + number));
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_quorum_keeps_what_is_in_its_log_pending_and_takes_nothing_more() {
    let mut cluster = Cluster::new();
    // A lease of 3 s, which a machine that stands still for a moment outlives.
    cluster.settings.election_timeout = Duration::from_millis(1500);
    cluster.settings.heartbeat_interval = Duration::from_millis(500);
    let term = cluster.found().await;
    cluster.add(1, term, 1).await.expect("committed");
    cluster.net.isolate("node-1");
    let proposed = cluster.node(1).group.propose(term, command(2)).await;
    let mut pending = proposed.expect("queued within the lease");
    let early = tokio::time::timeout(Duration::from_millis(300), &mut pending).await;
    assert!(early.is_err(), "it was answered without a quorum");
    until("the quorum is silent", || {
        let silent = cluster
            .node(1)
            .group
            .progress()
            .and_then(|progress| progress.quorum_silent);
        silent > Some(Duration::from_secs(3))
    })
    .await;
    let refused = cluster.add(1, term, 3).await.expect_err("no quorum");
    assert!(matches!(refused, ProposeError::LeaseExpired), "{refused}");

    cluster.net.heal_all();
    for other in [2, 3] {
        cluster.node(1).group.reconnected(NodeId(other));
    }
    let (_, reply) = tokio::time::timeout(Duration::from_secs(60), pending)
        .await
        .expect("in time")
        .expect("committed at last");
    assert_eq!(reply.into::<u64>(), Some(3));
    assert_eq!(cluster.add(1, term, 4).await.expect("committed"), 7);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_without_waiting_for_a_lease() {
    let (cluster, term) = Cluster::founded().await;
    let total = cluster.add(1, term, 7).await.expect("committed");
    cluster.agree(&[3], total).await;
    let begin = Instant::now();
    cluster
        .node(1)
        .group
        .transfer(NodeId(3))
        .await
        .expect("handed over");
    println!("handed over in {:?}", begin.elapsed());
    let next = cluster.led_by(3).await;
    assert_eq!(cluster.add(3, next, 1).await.expect("committed"), total + 1);
    let error = cluster
        .node(1)
        .group
        .transfer(NodeId(2))
        .await
        .expect_err("it leads no more");
    assert_eq!(error, TransferError::NotLeader);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_stays_where_the_next_leader_is_not_ready() {
    let (mut cluster, term) = Cluster::founded().await;
    let error = cluster
        .node(1)
        .group
        .transfer(NodeId(4))
        .await
        .expect_err("no member");
    assert!(matches!(error, TransferError::NotReady { .. }), "{error}");
    assert_eq!(cluster.led_by(1).await, term);

    // Asked, but dead: the leader is silent from then on, and the third takes over.
    cluster.add(1, term, 1).await.expect("committed");
    cluster.agree(&[1, 2, 3], 1).await;
    cluster.kill(2).await;
    let error = cluster
        .node(1)
        .group
        .transfer(NodeId(2))
        .await
        .expect_err("it is dead");
    assert_eq!(error, TransferError::TimedOut { to: NodeId(2) });
    assert_eq!(*cluster.node(1).group.leadership().borrow(), Leadership::Unknown);
    cluster.node(3).group.end_lease(NodeId(1), term);
    // The former leader was heard by a quorum a moment ago, and votes when that is over.
    cluster.start(2, &[]).await;
    until("the third leads", || {
        cluster.node(3).group.elect();
        matches!(
            *cluster.node(3).group.leadership().borrow(),
            Leadership::Leading { .. }
        )
    })
    .await;
    cluster.stop().await;
}
