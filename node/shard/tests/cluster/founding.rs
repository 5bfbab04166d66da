//! How nodes find one another.

use std::collections::BTreeSet;
use std::time::Duration;

use meridian_shard::{ReadError, ReadFrom, RegionStartError};
use meridian_types::{NodeId, Offset, Partition, ShardId};

use crate::harness::{Cluster, SHARDS};

#[test]
fn three_nodes_found_one_region_and_hold_the_same() {
    let cluster = Cluster::founded(3);
    cluster.until_led();
    let ids: BTreeSet<_> = cluster
        .nodes
        .values()
        .map(|node| node.region.cluster_id())
        .collect();
    assert_eq!(ids.len(), 1, "one cluster id");
    cluster.until("each hears all", |cluster| {
        let all = (1..=3).map(NodeId).collect();
        (1..=3).all(|id| cluster.region(id).alive_nodes() == all)
    });
    // Who is preferred may come late, and gets its shards then.
    cluster.until("leaders are spread", |cluster| {
        let led: BTreeSet<_> = (0..SHARDS)
            .filter_map(|shard| cluster.leader_of(ShardId(shard)))
            .collect();
        led.len() == 3
    });

    // Whoever is asked, the controller's leader decides, and the node sees what it did.
    let topics: Vec<_> = (1..=3)
        .map(|id| cluster.create_topic(id, &format!("asked-{id}")))
        .collect();
    for topic in topics {
        for index in 0..8 {
            let partition = Partition { topic, index };
            assert_eq!(cluster.append(partition, "first").0, 0);
            assert_eq!(cluster.append(partition, "second").0, 1);
        }
    }
    cluster.until_equal();
    let partition = Partition {
        topic: cluster
            .region(1)
            .controller()
            .topic("asked-1")
            .expect("created")
            .id,
        index: 3,
    };
    let leader = cluster.until_leader(cluster.region(1).shard_of(partition));
    for id in 1..=3 {
        let expected = [(0, "first".to_owned()), (1, "second".to_owned())];
        assert_eq!(
            cluster.values(id, partition, ReadFrom::Any),
            expected,
            "from node {id}"
        );
        let leads = cluster.region(id).positions(partition, ReadFrom::Leader).is_ok();
        assert_eq!(leads, id == leader);
        let beyond = cluster.region(id).read(partition, Offset(9), 100, ReadFrom::Any);
        let beyond = cluster.wait(beyond).expect_err("there is no such record");
        let is_final = matches!(beyond, ReadError::OffsetOutOfRange { .. });
        assert_eq!(is_final, id == leader, "a replica may only be behind: {beyond}");
    }
    let shard = cluster.region(1).shard_of(partition);
    cluster.until("all tell clients the same epoch", |cluster| {
        let epochs: BTreeSet<_> = (1..=3)
            .map(|id| cluster.region(id).leader_epoch_of(shard))
            .collect();
        epochs.len() == 1
    });
}

#[test]
fn a_region_comes_back_when_all_its_nodes_were_killed() {
    let mut cluster = Cluster::founded(3);
    cluster.until_led();
    let partition = Partition {
        topic: cluster.create_topic(2, "kept"),
        index: 0,
    };
    cluster.append(partition, "v");
    let founded_as = cluster.region(1).cluster_id();
    (1..=3).for_each(|id| cluster.kill(id));
    cluster.start(&[1, 2, 3], &[1, 2, 3]).expect("they start again");
    cluster.until_led();
    assert_eq!(cluster.region(3).cluster_id(), founded_as);
    assert_eq!(cluster.append(partition, "w").0, 1);
    cluster.until_equal();
}

#[test]
fn a_node_of_another_region_is_told_so() {
    let mut cluster = Cluster::founded(1);
    let mut other = cluster.settings(2, &[1]);
    other.peer.region = "other".to_owned();
    other.start_timeout = Duration::from_millis(500);
    let seeds = other.seeds.clone();
    // It stays alone; nobody lets it in.
    let started = cluster.start_with(vec![other]);
    let Err(RegionStartError::Join(reason)) = started else {
        panic!("{started:?}")
    };
    assert!(
        reason.contains("`test`") && reason.contains(&seeds[0].to_string()),
        "{reason}"
    );
}

#[test]
fn a_node_without_its_data_must_not_come_back_under_its_old_id() {
    let mut cluster = Cluster::founded(3);
    cluster.until_led();
    cluster.kill(3);
    cluster.wipe(3);
    let mut wiped = cluster.settings(3, &[1, 2]);
    wiped.start_timeout = Duration::from_millis(500);
    let Err(error) = cluster.start_with(vec![wiped]) else {
        panic!("it was let in")
    };
    let text = error.to_string();
    assert!(
        text.contains("node 3") && text.contains("lost its data"),
        "{text}"
    );
}
