//! Nodes that go without a word.

use std::time::Duration;

use meridian_shard::{AppendError, ControlError, HostPort, ReadFrom};
use meridian_state::{Command, ProduceRejection};
use meridian_types::{NodeId, Partition, ShardId};

use crate::harness::{Cluster, SHARDS, append, append_as};

#[test]
fn what_was_acknowledged_outlives_the_leader() {
    let mut cluster = Cluster::founded(3);
    cluster.until_led();
    let topic = cluster.create_topic(1, "kept");
    let partitions: Vec<_> = (0..8).map(|index| Partition { topic, index }).collect();
    let mut expected = vec![Vec::new(); partitions.len()];
    for round in 0..20 {
        for (partition, expected) in partitions.iter().zip(&mut expected) {
            let value = format!("{round}");
            expected.push((cluster.append(*partition, &value).0, value));
        }
    }
    for victim in [1, 2, 3] {
        cluster.kill(victim);
        let took = cluster.until_led();
        println!("node {victim} was killed; every shard is led again after {took:?}");
        for (partition, expected) in partitions.iter().zip(&mut expected) {
            let value = format!("without {victim}");
            expected.push((cluster.append(*partition, &value).0, value));
        }
        cluster.start(&[victim], &[1, 2, 3]).expect("it starts again");
        cluster.until_led();
        cluster.until_equal();
    }
    for (partition, expected) in partitions.iter().zip(&expected) {
        for id in 1..=3 {
            let values = cluster.values(id, *partition, ReadFrom::Any);
            let missing: Vec<_> = expected
                .iter()
                .filter(|record| !values.contains(record))
                .collect();
            assert!(missing.is_empty(), "node {id} lacks {missing:?}");
        }
    }
}

#[test]
fn a_leader_that_is_cut_off_says_so_and_what_it_took_alone_is_gone() {
    let cluster = Cluster::founded(3);
    cluster.until_led();
    let topic = cluster.create_topic(1, "cut");
    let partition = Partition { topic, index: 0 };
    cluster.append(partition, "before");
    let shard = cluster.region(1).shard_of(partition);
    let leader = cluster.until_leader(shard);
    let epoch = cluster.region(leader).leader_epoch(shard).expect("it leads");

    cluster.net.isolate(&format!("node-{leader}"));
    let alone = append(cluster.region(leader), partition, "alone");
    let alone = cluster.wait(async { tokio::time::timeout(Duration::from_secs(60), alone).await });
    assert!(
        alone.expect("an answer").is_err(),
        "nothing is acknowledged without a quorum"
    );
    cluster.until("the leader steps aside", |cluster| {
        cluster.region(leader).leader_epoch(shard).is_none()
    });
    cluster.until_another_leads(shard, leader);
    assert_eq!(cluster.append(partition, "after").0, 1, "the majority goes on");

    cluster.net.heal_all();
    cluster.until_led();
    cluster.until_equal();
    let values = cluster.values(leader, partition, ReadFrom::Any);
    assert_eq!(values, [(0, "before".to_owned()), (1, "after".to_owned())]);

    // What was decided under the old leadership never commits under a later one.
    let now_leads = cluster.until_leader(shard);
    let command = Command::DeleteGroups { groups: Vec::new() };
    let late = cluster.wait(cluster.region(now_leads).propose_at(shard, epoch, command));
    assert!(matches!(late, Err(ControlError::NotLeader { .. })), "{late:?}");
}

#[test]
fn a_planned_stop_hands_everything_over_first() {
    let mut cluster = Cluster::founded(3);
    cluster.until_led();
    let led = |cluster: &Cluster, id| {
        (0..SHARDS)
            .filter(|shard| cluster.leader_of(ShardId(*shard)) == Some(id))
            .count()
    };
    // Who is preferred may come late, and gets its shards then.
    cluster.until("node 1 leads something", |cluster| led(cluster, 1) > 0);
    let left = cluster.wait(cluster.region(1).hand_over(Duration::from_secs(30)));
    assert_eq!(left, 0);
    cluster.until_led();
    assert_eq!(led(&cluster, 1), 0);
    let epochs = |cluster: &Cluster| -> Vec<_> {
        let shards = (0..SHARDS).map(ShardId);
        shards
            .map(|shard| cluster.region(2).leader_epoch_of(shard))
            .collect()
    };
    let before = epochs(&cluster);
    cluster.stop(1);
    let took = cluster.until_led();
    // A machine that stands still for a moment takes longer, but has nobody elected.
    assert!(
        took < Duration::from_millis(500) || epochs(&cluster) == before,
        "nobody was missed: {took:?}"
    );
}

#[test]
fn an_idle_region_wakes_for_a_write() {
    let cluster = Cluster::founded(3);
    cluster.until_led();
    let topic = cluster.create_topic(1, "idle");
    let leaders = |cluster: &Cluster| -> Vec<_> {
        let shards = (0..SHARDS).map(ShardId);
        shards
            .map(|shard| (cluster.leader_of(shard), cluster.region(1).leader_epoch_of(shard)))
            .collect()
    };
    // Again where the preferred leaders were late, and got their shards meanwhile.
    let is_kept = (0..5).any(|_| {
        cluster.until_led();
        let before = leaders(&cluster);
        // Longer than any lease here.
        cluster.pause(Duration::from_secs(8));
        leaders(&cluster) == before && before.iter().all(|(leader, _)| leader.is_some())
    });
    assert!(is_kept, "hibernation keeps the leaders");
    for index in 0..8 {
        let partition = Partition { topic, index };
        let shard = cluster.region(1).shard_of(partition);
        let leader = cluster.until_leader(shard);
        let woken = cluster.wait(append(cluster.region(leader), partition, "v"));
        assert_eq!(woken.expect("the first attempt is taken").0, 0);
    }
}

/// A producer that hears that its sequence does not fit may begin a new epoch, and send again what it thinks is not in
/// the log.
#[test]
fn a_leader_that_may_have_been_replaced_tells_no_producer_that_its_sequence_does_not_fit() {
    let cluster = Cluster::founded(3);
    cluster.until_led();
    let topic = cluster.create_topic(1, "sequences");
    let partition = Partition { topic, index: 0 };
    let shard = cluster.region(1).shard_of(partition);
    let leader = cluster.until_leader(shard);
    let append = |node, sequence| cluster.wait(append_as(cluster.region(node), partition, 7, sequence));
    assert_eq!(append(leader, 0).expect("its first").0, 0);
    let is_out_of_order = |refused: &AppendError| {
        matches!(
            refused,
            AppendError::Rejected(ProduceRejection::OutOfOrderSequence(_))
        )
    };
    let told = append(leader, 5).expect_err("there is a gap");
    assert!(is_out_of_order(&told), "by a leader that knows: {told}");

    cluster.net.isolate(&format!("node-{leader}"));
    // The next leader takes what the old one does not hear of.
    let told = append(leader, 2).expect_err("it has no quorum");
    assert!(!is_out_of_order(&told), "{told}");
    let next = cluster.until_another_leads(shard, leader);
    let told = append(next, 2).expect_err("the second may still be on its way");
    assert!(!is_out_of_order(&told), "{told}");
    // On a busy machine the next leader may step aside, too: as a producer would, it goes to whoever leads.
    let taken = |sequence| {
        let taken = std::cell::Cell::new(None);
        cluster.until("it is taken", |cluster| {
            let next = cluster.until_another_leads(shard, leader);
            match append(next, sequence) {
                Ok(offset) => taken.set(Some((next, offset.0))),
                Err(told) => assert!(!is_out_of_order(&told), "{told}"),
            }
            taken.get().is_some()
        });
        taken.get().expect("just seen")
    };
    assert_eq!(taken(1).1, 1);
    cluster.until("it has found this leader", |_| {
        let (next, offset) = taken(2);
        assert_eq!(offset, 2);
        let told = append(next, 7).expect_err("there is a gap");
        is_out_of_order(&told)
    });
    cluster.net.heal_all();
    cluster.until_equal();
}

#[test]
fn a_producer_whose_beginning_is_still_to_come_does_not_begin_in_the_middle() {
    let cluster = Cluster::founded(1);
    cluster.until_led();
    let topic = cluster.create_topic(1, "beginnings");
    let partition = Partition { topic, index: 0 };
    let append = |producer, sequence| {
        let appended = append_as(cluster.region(1), partition, producer, sequence);
        cluster.wait(appended)
    };
    // Its first batch was refused somewhere, this one got here.
    let early = append(7, 1).expect_err("its first batch is missing");
    assert!(
        matches!(early, AppendError::Rejected(ProduceRejection::Unsettled)),
        "it is to try again: {early}"
    );
    for sequence in 0..3 {
        let appended = append(7, sequence).expect("in its turn");
        assert_eq!(appended.0, u64::try_from(sequence).expect("small"));
    }
}

#[test]
fn a_leader_whose_disk_is_full_hands_over_to_one_that_has_room() {
    let cluster = Cluster::founded_on_faulty_disks(3);
    cluster.until_led();
    let topic = cluster.create_topic(1, "full");
    let partition = Partition { topic, index: 0 };
    let shard = cluster.region(1).shard_of(partition);
    let leader = cluster.until_leader(shard);
    let value = "v".repeat(50_000);
    cluster.disks[&leader].set_capacity(0);
    // The file being written and the one prepared have room for 8 MiB.
    for _ in 0..240 {
        cluster.append(partition, &value);
    }
    cluster.until("it leads nothing any more", |cluster| {
        (0..SHARDS).all(|shard| {
            let now = cluster.leader_of(ShardId(shard));
            now.is_some_and(|now| now != leader)
        })
    });

    // Where nobody has room, it stays as it is.
    for disk in cluster.disks.values() {
        disk.set_capacity(0);
    }
    let refused = |cluster: &Cluster| {
        let now = cluster.leader_of(shard)?;
        cluster.wait(append(cluster.region(now), partition, &value)).err()
    };
    cluster.until("nobody takes any more", |cluster| {
        matches!(refused(cluster), Some(AppendError::Storage { .. }))
    });
    // A machine that stands still for a moment may have somebody elected; full disks would again and again.
    let stays = (0..5).any(|_| {
        cluster.pause(Duration::from_secs(1));
        let epoch = cluster.region(leader).leader_epoch_of(shard);
        cluster.pause(Duration::from_secs(2));
        cluster.region(leader).leader_epoch_of(shard) == epoch
    });
    assert!(stays, "it is handed from one to the other");
    for disk in cluster.disks.values() {
        disk.set_capacity(u64::MAX);
    }
    cluster.append(partition, "room again");
    cluster.until_equal();
}

#[test]
fn a_node_that_comes_back_at_another_address_is_found() {
    let mut cluster = Cluster::new();
    let settings = |cluster: &Cluster, id| {
        let mut settings = cluster.settings(id, &[1, 2, 3]);
        // No checkpoint is made: where the others are, the node has only from its log.
        settings.maintenance_interval = Duration::from_secs(3600);
        settings
    };
    let all = (1..=3).map(|id| settings(&cluster, id)).collect();
    cluster.start_with(all).expect("the region is founded");
    cluster.until_led();
    let topic = cluster.create_topic(1, "moved");
    let partition = Partition { topic, index: 0 };
    cluster.until("node 2 knows the topic", |cluster| {
        cluster.region(2).controller().topic_by_id(topic).is_some()
    });
    cluster.kill(2);
    cluster.append(partition, "meanwhile");
    let mut moved = settings(&cluster, 2);
    moved.seeds.clear();
    moved.peer_listen.set_port(9777);
    moved.peer_advertise = Some(HostPort::new("node-2", 9777));
    cluster
        .start_with(vec![moved])
        .expect("it knows where the others are");
    cluster.until_led();
    cluster.until_equal();
    cluster.until("node 1 knows the new address", |cluster| {
        let registered = cluster.region(1).controller().node(NodeId(2)).cloned();
        let address = registered.and_then(|node| node.registration.peer);
        address.is_some_and(|address| address.port == 9777)
    });
}
