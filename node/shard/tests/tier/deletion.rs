//! What nobody needs goes from the bucket, and nothing else.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::StreamExt;
use meridian_controller::Command as ControlCommand;
use meridian_shard::ReadFrom;
use meridian_tiered_storage::merge::MergeSettings;
use meridian_tiered_storage::{ManifestFile, ObjectName};
use meridian_types::{Offset, Partition, ShardId, Term, TopicId, Uuid};

use crate::harness::{FOREVER, Node, Place, SHARDS, batch, keyed, value};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_deletion_of_records_and_of_topics_reach_the_bucket() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(directory.path());
    let node = Node::start(directory.path(), &place).await;
    let (kept, by_size) = (
        node.topic("kept", FOREVER).await,
        node.topic(
            "by-size",
            &[("retention.ms", "-1"), ("retention.bytes", "300000")],
        )
        .await,
    );
    let a = Partition {
        topic: kept,
        index: 0,
    };
    let b = (0..SHARDS)
        .map(|index| Partition {
            topic: by_size,
            index,
        })
        .find(|b| node.region.shard_of(*b) != node.region.shard_of(a))
        .expect("consecutive partitions visit every shard");
    for n in 0..50 {
        node.append(a, &batch(&value(n, 20_000), 1000)).await;
        node.append(b, &batch(&value(n, 20_000), 1000)).await;
    }
    node.until("everything is in the bucket", Node::is_tiered).await;
    node.until("retention has cut the log", |node| {
        let positions = node.region.positions(b, ReadFrom::Leader).expect("led here");
        positions.log_start_offset >= Offset(50)
    })
    .await;
    let prefix = format!("cluster/{}/", node.region.shard_of(a));
    let of_shard = || {
        place
            .keys(".bundle")
            .iter()
            .filter(|key| key.starts_with(&prefix))
            .count()
    };
    assert!(of_shard() > 0);
    node.region.delete_records(a, None).await.expect("deleted");
    node.until("its objects are deleted", |node| {
        let shard = node.region.shard_of(a);
        let state = node.region.applied_state(shard);
        state.extents(a).is_empty() && state.manifest().unlinked().count() == 0
    })
    .await;
    // What was uploaded in vain goes as an orphan.
    node.until("nothing else was in that shard", |_| of_shard() == 0)
        .await;
    assert!(node.read_all(a, Offset(100)).await.is_empty());
    for topic in [kept, by_size] {
        let command = ControlCommand::DeleteTopics {
            topics: vec![topic],
            now: node.region.now(),
        };
        node.region.control(command).await.expect("deleted");
    }
    node.until("nothing is left of the topics", |_| {
        place.keys(".bundle").is_empty()
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_go_after_the_grace_period_and_nothing_else_does() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(directory.path());
    let node = Node::start(directory.path(), &place).await;
    let partition = Partition {
        topic: node.topic("kept", FOREVER).await,
        index: 0,
    };
    node.append(partition, &batch("v", 1000)).await;
    node.until("everything is in the bucket", Node::is_tiered).await;
    let shard = node.region.shard_of(partition);
    let name = |n| ObjectName {
        term: Term(1),
        id: Uuid::from_u128(n),
    };
    let store = place.store();
    let orphan = name(99).key("cluster", shard);
    let strange = [format!("cluster/{shard}/notes.txt"), name(99).key("other", shard)];
    for key in strange.iter().chain([&orphan]) {
        store
            .put(key, vec![Bytes::from_static(b"x")])
            .await
            .expect("written");
    }
    node.until("the orphan is gone", |_| !place.keys(".bundle").contains(&orphan))
        .await;
    let mut left = Vec::new();
    let mut listing = store.list("");
    while let Some(listed) = listing.next().await {
        left.push(listed.expect("a listing").key);
    }
    for key in strange {
        assert!(left.contains(&key), "{key} is not ours to delete");
    }
    assert_eq!(node.read_all(partition, Offset(0)).await.len(), 1);
    // It is counted a moment after it is gone.
    node.until("one orphan is counted", |node| {
        let usage = node.region.tier_usage().expect("it has a bucket");
        usage.orphans_deleted == 1
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_deleted_topics_outlives_the_grace_also_where_merges_and_compaction_were() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(directory.path());
    let node = Node::with(directory.path(), &place, |settings| {
        let settings = &mut settings.bucket.as_mut().expect("there is one").settings;
        settings.round_bytes = 1;
        settings.merge = MergeSettings {
            extents_min: 4,
            removed_min: 3,
            ..MergeSettings::default()
        };
    })
    .await;
    let table = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0")];
    let (small, table) = (
        node.topic("small", FOREVER).await,
        node.topic("table", &table).await,
    );
    let partition = |topic: TopicId| Partition { topic, index: 0 };
    for n in 0..12 {
        node.append(partition(small), &batch(&value(n, 2000), 1000)).await;
        let value = format!("{n}");
        node.append(partition(table), &keyed(1000, &[("a", Some(&value))]))
            .await;
        node.until("it is in the bucket", Node::is_tiered).await;
    }
    node.until("it was merged and compacted", |node| {
        let usage = node.region.tier_usage().expect("it has a bucket");
        usage.merges > 0 && usage.compactions > 0
    })
    .await;
    // Half of one topic by hand, then both.
    let half = Some(Offset(12));
    node.region
        .delete_records(partition(small), half)
        .await
        .expect("deleted");
    let positions = node.region.positions(partition(small), ReadFrom::Leader);
    assert_eq!(positions.expect("led here").log_start_offset, Offset(12));
    assert_eq!(node.read_all(partition(small), Offset(12)).await.len(), 6);
    let command = ControlCommand::DeleteTopics {
        topics: vec![small, table],
        now: node.region.now(),
    };
    node.region.control(command).await.expect("deleted");
    node.until("no object is left", |_| place.keys(".bundle").is_empty())
        .await;
    // Nor do the copies for readers without brokers name any.
    node.until("copies say so", |_| {
        let mut newest: BTreeMap<String, String> = BTreeMap::new();
        for key in place.keys(".manifest") {
            let (shard, _) = key.split_once("/manifest/").expect("where copies are");
            newest.insert(shard.to_owned(), key);
        }
        !newest.is_empty()
            && newest.values().all(|key| {
                let bytes = std::fs::read(place.directory.join(key)).unwrap_or_default();
                ManifestFile::decode(&bytes).is_ok_and(|file| file.manifest.is_empty())
            })
    })
    .await;
    for shard in (0..SHARDS).map(ShardId) {
        let state = node.region.applied_state(shard);
        assert!(state.manifest().is_empty());
        state.check().expect("invariants hold");
    }
    node.stop().await;
}
