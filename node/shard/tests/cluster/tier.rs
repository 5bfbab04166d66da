//! Several nodes and one bucket: leaders that go in the middle of a round.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meridian_journal::FaultyDisk;
use meridian_shard::{Bucket, ReadError, ReadFrom, RegionSettings, TierSettings};
use meridian_tiered_storage::cold::{CacheSettings, ColdReader};
use meridian_tiered_storage::store::{Operation, Store};
use meridian_tiered_storage::testing::{Fault, Faults, FaultyStore};
use meridian_types::{Offset, Partition, ShardId};
use object_store::local::LocalFileSystem;
use tokio::time::Instant;

use crate::harness::{Cluster, PATIENCE, SHARDS};
use crate::repair::rot;

fn bucket(cluster: &Cluster, directory: &Path) -> (Bucket, Faults) {
    let inner = LocalFileSystem::new_with_prefix(directory).expect("a store");
    let (faulty, faults) = FaultyStore::new(Arc::new(inner));
    let store = Store::over(faulty, "");
    let cache = CacheSettings::default();
    let reader = cluster.wait(ColdReader::open(store.clone(), &cache));
    let bucket = Bucket {
        reader: reader.expect("a cache"),
        store,
        settings: TierSettings {
            round_bytes: 1 << 20,
            round_interval: Duration::from_millis(200),
            bundle_bytes: 2 << 20,
            retry_pause: Duration::from_millis(50),
            copy_interval: Duration::from_millis(200),
            delete_grace: Duration::from_millis(500),
            sweep_interval: Duration::from_millis(500),
            ..TierSettings::default()
        },
    };
    (bucket, faults)
}

fn settings(cluster: &Cluster, id: u32, bucket: &Bucket) -> RegionSettings {
    let mut settings = cluster.settings(id, &[1, 2, 3]);
    settings.bucket = Some(bucket.clone());
    settings.journal_bytes_max = 16 << 20;
    settings.shard.checkpoint_entries = 20;
    settings
}

fn is_tiered(cluster: &Cluster) -> bool {
    (0..SHARDS).map(ShardId).all(|shard| {
        let leader = cluster.leader_of(shard);
        leader.is_some_and(|leader| cluster.region(leader).applied_state(shard).untiered_bytes() == 0)
    })
}

/// Names of the bundles in the bucket.
pub(crate) fn bundles(directory: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                open.push(path);
            } else if name.ends_with(".bundle") {
                names.insert(name);
            }
        }
    }
    names
}

#[test]
fn leaders_that_go_in_the_middle_of_a_round_leave_every_record_and_no_object_too_many() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut cluster = Cluster::new();
    let (bucket, faults) = bucket(&cluster, directory.path());
    let all = [1, 2, 3].map(|id| settings(&cluster, id, &bucket));
    cluster.start_with(all.into()).expect("the region is founded");
    cluster.until_led();
    let topic = cluster.create_topic(1, "kept");
    let partitions: Vec<_> = (0..SHARDS).map(|index| Partition { topic, index }).collect();
    let mut expected = vec![Vec::new(); partitions.len()];
    let mut count = 0;
    let mut append = |cluster: &Cluster, expected: &mut Vec<Vec<(u64, String)>>, records: usize| {
        for _ in 0..records {
            for (partition, expected) in partitions.iter().zip(expected.iter_mut()) {
                count += 1;
                let value = format!("{count}-{}", "x".repeat(60_000));
                expected.push((cluster.append(*partition, &value).0, value));
            }
        }
    };
    let shard = cluster.region(1).shard_of(partitions[0]);
    for turn in 0..4 {
        let puts = faults.count(Operation::Put);
        for _ in 0..4 {
            faults.next(Operation::Put, Fault::Delay(Duration::from_millis(1500)));
        }
        append(&cluster, &mut expected, 10);
        cluster.until("an upload is under way", |_| faults.count(Operation::Put) > puts);
        let leader = cluster.until_leader(shard);
        if turn % 2 == 0 {
            cluster.kill(leader);
            cluster.until_led();
            append(&cluster, &mut expected, 10);
            let again = settings(&cluster, leader, &bucket);
            cluster.start_with(vec![again]).expect("it starts again");
        } else {
            // It goes on with its upload, and learns only later that another leads.
            cluster.net.isolate(&format!("node-{leader}"));
            let others: Vec<_> = (1..=3).filter(|id| *id != leader).collect();
            cluster.until("another leads", |cluster| {
                let leads = |id: &u32| cluster.region(*id).leader_epoch(shard).is_some();
                others.iter().any(leads)
            });
            cluster.pause(Duration::from_secs(2));
            cluster.net.heal_all();
        }
        cluster.until_led();
        cluster.until_equal();
    }
    append(&cluster, &mut expected, 40);
    cluster.until("everything is in the bucket", is_tiered);
    // About 25 MB on every node, which keeps 16 MiB: the oldest files go.
    for _ in 0..300 {
        append(&cluster, &mut expected, 1);
        let has_given_up = |id: u32| cluster.region(id).usage().journal.oldest_file > 2;
        if (1..=3).all(has_given_up) {
            break;
        }
        cluster.pause(Duration::from_millis(100));
    }
    for id in 1..=3 {
        let journal = cluster.region(id).usage().journal;
        assert!(
            journal.oldest_file > 2,
            "node {id} keeps its oldest files: {journal:?}"
        );
    }
    cluster.until_equal();
    for (partition, expected) in partitions.iter().zip(&expected) {
        let first = cluster.values(1, *partition, ReadFrom::Any);
        let missing: Vec<_> = expected
            .iter()
            .filter(|record| !first.contains(record))
            .map(|record| record.0)
            .collect();
        assert!(missing.is_empty(), "{partition} lacks {missing:?}");
        for id in 2..=3 {
            let values = cluster.values(id, *partition, ReadFrom::Any);
            assert!(values == first, "node {id} has other records of {partition}");
        }
    }
    cluster.until("only what the manifests name is left", |cluster| {
        let named: BTreeSet<String> = (0..SHARDS)
            .flat_map(|shard| {
                let state = cluster.region(1).applied_state(ShardId(shard));
                state
                    .manifest()
                    .names()
                    .map(|name| name.to_string())
                    .collect::<Vec<_>>()
            })
            .collect();
        !named.is_empty() && bundles(directory.path()) == named
    });
}

#[test]
fn what_rots_on_the_only_disk_is_read_from_the_bucket_if_it_lies_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut cluster = Cluster::new();
    cluster.disks.insert(1, FaultyDisk::seeded(1));
    let (mut bucket, faults) = bucket(&cluster, directory.path());
    bucket.settings.read_timeout = Duration::from_millis(500);
    let mut settings = cluster.settings(1, &[]);
    settings.bucket = Some(bucket);
    cluster.start_with(vec![settings]).expect("the region is founded");
    cluster.until_led();
    let topic = cluster.create_topic(1, "rotten");
    let partition = Partition { topic, index: 0 };
    let mark = "here it will rot ".repeat(100);
    cluster.append(partition, &mark);
    // So that memory does not have it any more.
    let value = "v".repeat(50_000);
    for _ in 0..40 {
        cluster.append(partition, &value);
    }
    cluster.until("everything is in the bucket", is_tiered);
    let expected = cluster.values(1, partition, ReadFrom::Leader);
    faults.outage(true);
    let later = "this is not in the bucket yet ".repeat(100);
    let offset = cluster.append(partition, &later);
    for _ in 0..40 {
        cluster.append(partition, &value);
    }
    for mark in [&mark, &later] {
        rot(&cluster.disks[&1], mark.as_bytes());
    }
    let read = |from| {
        let read = cluster.region(1).read(partition, from, 100, ReadFrom::Leader);
        cluster.wait(read)
    };
    // The bucket would have it, and does not answer.
    let away = read(Offset(0)).expect_err("it is not there");
    assert!(matches!(away, ReadError::Unavailable { .. }), "{away}");
    let lost = read(offset).expect_err("it is nowhere else");
    assert!(matches!(lost, ReadError::Storage { .. }), "{lost}");
    faults.outage(false);
    // A busy machine may need more than one look at the bucket.
    let started = Instant::now();
    let first = loop {
        match read(Offset(0)) {
            Err(ReadError::Unavailable { .. }) if started.elapsed() < PATIENCE => {}
            read => break read.expect("it is in the bucket"),
        }
    };
    let in_bucket = cluster.region(1).tier_usage().expect("it has a bucket").cold;
    assert!(first.bytes > mark.len() && in_bucket.misses > 0, "{in_bucket:?}");
    assert_eq!(expected[0], (0, mark));
    assert!(read(Offset(1)).is_ok(), "the rest is read here");
    let shards = cluster.region(1).usage().shards;
    assert_eq!(shards.iter().filter(|shard| shard.damaged).count(), 1);
    assert!(shards.iter().all(|shard| shard.stopped.is_none()), "{shards:?}");
}

#[test]
fn a_member_that_comes_back_with_another_bucket_or_none_is_refused_and_taken_back_with_its_own() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut cluster = Cluster::new();
    let place = |name: &str| {
        let place = directory.path().join(name);
        std::fs::create_dir(&place).expect("a directory");
        place
    };
    let (own, _) = bucket(&cluster, &place("own"));
    let (other, _) = bucket(&cluster, &place("other"));
    let all = [1, 2, 3].map(|id| settings(&cluster, id, &own));
    cluster.start_with(all.into()).expect("the region is founded");
    cluster.until_led();
    let topic = cluster.create_topic(1, "kept");
    let partition = Partition { topic, index: 0 };
    cluster.append(partition, "before");
    cluster.kill(3);
    cluster.until_led();
    for (wrong, expected) in [
        (Some(other), "is not that of its region"),
        (None, "started without one"),
    ] {
        let again = RegionSettings {
            bucket: wrong,
            start_timeout: Duration::from_secs(5),
            ..settings(&cluster, 3, &own)
        };
        let refused = cluster.start_with(vec![again]).expect_err("it is refused");
        assert!(refused.to_string().contains(expected), "{refused}");
        assert!(bundles(&directory.path().join("other")).is_empty());
    }
    cluster.append(partition, "while it is away");
    let again = settings(&cluster, 3, &own);
    cluster.start_with(vec![again]).expect("it starts");
    cluster.until_led();
    cluster.until_equal();
}
