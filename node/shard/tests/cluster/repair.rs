//! Replicas that lost something, or that were away for too long.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use meridian_journal::FaultyDisk;
use meridian_shard::{ReadError, ReadFrom};
use meridian_types::{NodeId, Offset, Partition, ShardId};

use crate::harness::{Cluster, append};
use crate::membership::{all_shards, voters};

/// Changes one byte behind `mark` in the newest place of a node's journal that has it.
fn damage(cluster: &Cluster, node: u32, mark: &[u8]) {
    let directory = cluster.directory(node).join("journal");
    let files = std::fs::read_dir(directory).expect("a directory");
    let files: BTreeSet<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    for path in files.iter().rev() {
        let mut content = std::fs::read(path).expect("readable");
        let found = content.windows(mark.len()).rposition(|window| window == mark);
        if let Some(at) = found {
            content[at + mark.len() / 2] ^= 0xff;
            std::fs::write(path, content).expect("writable");
            return;
        }
    }
    panic!("the mark is in none of {files:?}");
}

/// Changes one byte behind `mark` wherever a disk has it, while the node runs.
pub(crate) fn rot(disk: &FaultyDisk, mark: &[u8]) {
    let seen = disk.image().mount();
    let mut rotten = 0;
    for file in seen.list().expect("listed") {
        let mut content = vec![0; usize::try_from(file.bytes).expect("small")];
        let opened = seen.open(&file.name).expect("it is there");
        opened.read_at(0, &mut content).expect("readable");
        if let Some(at) = content.windows(mark.len()).position(|window| window == mark) {
            disk.rot(&file.name, (at + mark.len() / 2) as u64, 0xff);
            rotten += 1;
        }
    }
    assert!(rotten > 0, "the mark is nowhere");
}

fn three() -> BTreeSet<NodeId> {
    (1..=3).map(NodeId).collect()
}

#[test]
fn a_damaged_replica_is_made_anew_from_the_others() {
    let mut cluster = Cluster::founded(3);
    cluster.until_led();
    let topic = cluster.create_topic(1, "damaged");
    let partition = Partition { topic, index: 0 };
    cluster.append(partition, "before");
    let mark = "here it will be damaged ".repeat(100);
    cluster.append(partition, &mark);
    for _ in 0..10 {
        cluster.append(partition, "after");
    }
    cluster.until_equal();
    cluster.kill(3);
    damage(&cluster, 3, mark.as_bytes());
    cluster
        .start(&[3], &[1, 2])
        .expect("one damaged shard does not stop the node");
    cluster.until("node 3 holds everything again", |cluster| {
        let usage = cluster.region(3).usage();
        usage.shards.len() == 4 && usage.shards.iter().all(|shard| shard.stopped.is_none())
    });
    cluster.until("it votes again", |cluster| {
        all_shards().all(|shard| voters(cluster, shard) == three())
    });
    cluster.append(partition, "at last");
    cluster.until_equal();
    let values = cluster.values(3, partition, ReadFrom::Any);
    assert_eq!(values.len(), 13);
    assert_eq!(values[1].1, mark);
}

#[test]
fn damage_that_a_reader_finds_is_repaired_from_the_others_on_a_follower_and_on_the_leader() {
    let cluster = Cluster::founded_on_faulty_disks(3);
    cluster.until_led();
    let topic = cluster.create_topic(1, "rotten");
    let partition = Partition { topic, index: 0 };
    let shard = cluster.region(1).shard_of(partition);
    let mark = "here it will rot ".repeat(100);
    cluster.append(partition, &mark);
    // So that memory does not have it any more.
    let value = "v".repeat(50_000);
    for _ in 0..40 {
        cluster.append(partition, &value);
    }
    cluster.until_equal();
    let expected = cluster.values(1, partition, ReadFrom::Any);
    let leader = cluster.until_leader(shard);
    let follower = (1..=3).find(|id| *id != leader).expect("there are three");
    for victim in [follower, leader] {
        rot(&cluster.disks[&victim], mark.as_bytes());
        let first = |cluster: &Cluster| {
            let read = cluster
                .region(victim)
                .read(partition, Offset(0), 100, ReadFrom::Any);
            cluster.wait(read).map(|read| read.bytes)
        };
        let found = first(&cluster).expect_err("it is not what was written");
        assert!(matches!(found, ReadError::Storage { .. }), "{found}");
        cluster.until("it has it again, and votes", |cluster| {
            voters(cluster, shard) == three() && first(cluster).is_ok_and(|bytes| bytes > 0)
        });
        cluster.until_led();
        cluster.until_equal();
        assert_eq!(cluster.values(victim, partition, ReadFrom::Any), expected);
        assert!(
            cluster
                .region(victim)
                .usage()
                .shards
                .iter()
                .all(|shard| !shard.damaged)
        );
    }
}

#[test]
fn the_only_copy_is_kept_although_it_is_damaged() {
    let cluster = Cluster::founded_on_faulty_disks(1);
    cluster.until_led();
    let topic = cluster.create_topic(1, "alone");
    let partition = Partition { topic, index: 0 };
    let mark = "here it will rot ".repeat(100);
    cluster.append(partition, &mark);
    let value = "v".repeat(50_000);
    for _ in 0..40 {
        cluster.append(partition, &value);
    }
    rot(&cluster.disks[&1], mark.as_bytes());
    let read = |from| {
        let read = cluster
            .region(1)
            .read(partition, Offset(from), 100, ReadFrom::Leader);
        cluster.wait(read)
    };
    for _ in 0..2 {
        let found = read(0).expect_err("it is not what was written");
        assert!(matches!(found, ReadError::Storage { .. }), "{found}");
        // Longer than the pause between looks.
        cluster.pause(Duration::from_millis(700));
    }
    let shards = cluster.region(1).usage().shards;
    assert_eq!(shards.iter().filter(|shard| shard.damaged).count(), 1);
    assert!(shards.iter().all(|shard| shard.stopped.is_none()), "{shards:?}");
    assert!(read(1).is_ok(), "the rest is readable");
    let appended = cluster.wait(append(cluster.region(1), partition, "v"));
    assert_eq!(appended.expect("it goes on").0, 41);
}

#[test]
fn a_node_whose_facts_are_damaged_fetches_them_anew() {
    let mut cluster = Cluster::founded(3);
    cluster.until_led();
    let mark = "facts-that-will-be-damaged";
    cluster.create_topic(1, mark);
    let partition = Partition {
        topic: cluster.create_topic(1, "later"),
        index: 1,
    };
    cluster.append(partition, "v");
    cluster.until("node 3 has the facts", |cluster| {
        cluster.region(3).controller().topic("later").is_some()
    });
    cluster.kill(3);
    damage(&cluster, 3, mark.as_bytes());
    cluster
        .start(&[3], &[1, 2, 3])
        .expect("the others have the facts");
    assert!(cluster.region(3).controller().topic(mark).is_some());
    cluster.until("it votes again", |cluster| {
        voters(cluster, ShardId::CONTROLLER) == three()
    });
    cluster.until_led();
    cluster.until_equal();
}

#[test]
fn a_replica_that_was_away_for_long_catches_up_from_a_checkpoint() {
    let mut cluster = Cluster::new();
    let settings = |cluster: &Cluster, id| {
        let mut settings = cluster.settings(id, &[1, 2, 3]);
        settings.maintenance_interval = Duration::from_millis(50);
        settings.journal_bytes_max = 4 << 20;
        settings.shard.checkpoint_entries = 20;
        settings
    };
    let all = (1..=3).map(|id| settings(&cluster, id)).collect();
    cluster.start_with(all).expect("the region is founded");
    cluster.until_led();
    let topic = cluster.create_topic(1, "long");
    let partition = Partition { topic, index: 0 };
    cluster.append(partition, "first");
    cluster.until_equal();
    cluster.kill(3);
    cluster.until_led();
    let value = "v".repeat(50_000);
    let shard = cluster.region(1).shard_of(partition);
    for round in 0..300 {
        let offset = cluster.append(partition, &value);
        if round % 20 == 19 {
            cluster.until("the leader deletes", |cluster| {
                let leader = cluster.until_leader(shard);
                let deleted = cluster.region(leader).delete_records(partition, Some(offset));
                cluster.wait(deleted).is_ok()
            });
        }
    }
    let newest = cluster.append(partition, "newest");
    cluster.until("the log that node 3 has not seen is gone", |cluster| {
        let leader = cluster.until_leader(shard);
        // Checkpoints want entries.
        cluster.append(partition, "tick");
        cluster.region(leader).usage().journal.oldest_file > 1
    });
    let again = settings(&cluster, 3);
    cluster.start_with(vec![again]).expect("it starts again");
    cluster.until_led();
    cluster.until_equal();
    let positions = cluster
        .region(3)
        .positions(partition, ReadFrom::Any)
        .expect("it has a replica");
    assert!(positions.log_start_offset > Offset(0));
    let values = cluster.values(3, partition, ReadFrom::Any);
    assert!(values.contains(&(newest.0, "newest".to_owned())));
}
