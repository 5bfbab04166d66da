//! Verification over a bucket in memory, whole and damaged.

use std::sync::Arc;

use meridian_types::{Offset, Partition, TimestampMs};
use meridian_wire::batch::Compression;
use object_store::memory::InMemory;

use super::*;
use crate::bundle::BundleLimits;
use crate::sample::SampleBucket;

const SETTINGS: VerifySettings = VerifySettings {
    depth: Depth::Contents,
    parallel: 2,
};

async fn bucket() -> (Store, SampleBucket, Partition) {
    let store = Store::over(Arc::new(InMemory::new()), "");
    let limits = BundleLimits {
        frame_bytes: 16 << 10,
        ..BundleLimits::default()
    };
    let mut bucket = SampleBucket::new(store.clone(), "c", 2, limits);
    let topic = bucket.topic("orders", 2);
    for round in 0..3 {
        for index in 0..2 {
            for batch in 0..8 {
                let time = TimestampMs(round * 1000 + batch);
                bucket.append(topic, index, 20, 200, time, Compression::None);
            }
        }
        bucket.tier().await;
    }
    bucket.publish().await;
    (store, bucket, Partition { topic, index: 0 })
}

async fn report(store: &Store) -> Report {
    verify(store, None, SETTINGS, &|_| {}).await.unwrap()
}

/// The key of the first bundle of a partition.
fn key(bucket: &SampleBucket, partition: Partition) -> String {
    let (shard, manifest) = bucket.manifest(partition);
    let (_, object) = manifest.objects().next().unwrap();
    object.name.key(bucket.cluster(), shard)
}

async fn change(store: &Store, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = store.get(key).await.unwrap().to_vec();
    change(&mut bytes);
    store.put(key, vec![bytes.into()]).await.unwrap();
}

fn kinds(report: &Report) -> Vec<ProblemKind> {
    report.problems.iter().map(|problem| problem.kind).collect()
}

#[tokio::test]
async fn a_whole_bucket_is_whole_and_counted() {
    let (store, _, _) = bucket().await;
    let seen = Mutex::new(Vec::new());
    let report = verify(&store, Some("c"), SETTINGS, &|progress| {
        seen.lock().push(progress);
    })
    .await
    .unwrap();
    assert!(report.is_whole(), "{:?}", report.problems);
    assert_eq!((report.shards, report.partitions, report.extents), (2, 2, 6));
    assert_eq!((report.objects, report.records), (6, 2 * 3 * 8 * 20));
    assert!(
        report.frames >= 6 && report.orphans.is_empty() && report.notes.is_empty(),
        "{report:?}"
    );
    let last = *seen.lock().last().unwrap();
    assert_eq!((last.objects, last.total_objects), (6, 6));
    assert!(last.bytes >= last.total_bytes, "{last:?}");
}

#[tokio::test]
async fn a_bit_that_rotted_is_found_with_its_offsets() {
    let (store, bucket, partition) = bucket().await;
    change(&store, &key(&bucket, partition), |bytes| bytes[500] ^= 4).await;
    let report = report(&store).await;
    assert_eq!(kinds(&report), [ProblemKind::Content]);
    let problem = &report.problems[0];
    assert_eq!(
        (problem.topic.as_deref(), problem.partition),
        (Some("orders"), Some(0))
    );
    assert_eq!(problem.offsets.as_ref().unwrap().start, Offset(0));
    // Directories alone do not show it.
    let settings = VerifySettings {
        depth: Depth::Directories,
        ..SETTINGS
    };
    assert!(verify(&store, None, settings, &|_| {}).await.unwrap().is_whole());
}

#[tokio::test]
async fn damage_of_every_kind_is_named() {
    let (store, bucket, partition) = bucket().await;
    let key = key(&bucket, partition);
    let whole = store.get(&key).await.unwrap();

    change(&store, &key, |bytes| bytes[0] = b'X').await;
    assert_eq!(kinds(&report(&store).await), [ProblemKind::Directory]);

    change(&store, &key, |bytes| {
        bytes.clear();
        bytes.extend_from_slice(&whole[..whole.len() - 20]);
    })
    .await;
    let found = kinds(&report(&store).await);
    assert!(
        !found.is_empty() && found.iter().all(|kind| *kind == ProblemKind::Length),
        "{found:?}"
    );

    change(&store, &key, |bytes| {
        bytes.clear();
        bytes.extend_from_slice(&whole);
        let footer = bytes.len() - 40;
        bytes[footer] ^= 1;
    })
    .await;
    assert_eq!(kinds(&report(&store).await), [ProblemKind::Directory]);

    store.delete(&key).await.unwrap();
    let missing = report(&store).await;
    assert_eq!(kinds(&missing), [ProblemKind::Missing]);
    assert!(missing.problems[0].to_string().contains(&key));
}

#[tokio::test]
async fn an_object_that_was_merged_away_meanwhile_is_no_problem() {
    let (store, mut bucket, partition) = bucket().await;
    let catalog = Catalog::open(&store, None).await.unwrap();
    let key = key(&bucket, partition);
    // The region goes on: the first bundle is trimmed away and deleted before it is looked at.
    bucket.trim(partition, Offset(160));
    bucket.publish().await;
    store.delete(&key).await.unwrap();
    let verifier = Verifier {
        store: &store,
        catalog: &catalog,
        depth: Depth::Contents,
        report: Mutex::default(),
        read_bytes: AtomicU64::new(0),
        done_objects: AtomicU64::new(0),
        totals: (0, 0),
        progress: &|_| {},
    };
    for (shard, newest) in &catalog.shards {
        verifier.shard(*shard, &newest.file, 1).await.unwrap();
    }
    let report = verifier.report.into_inner();
    assert!(report.is_whole(), "{:?}", report.problems);
}

#[tokio::test]
async fn missing_offsets_at_the_start_are_a_gap() {
    let (store, mut bucket, partition) = bucket().await;
    bucket.trim(partition, Offset(160));
    bucket.publish().await;
    assert!(
        report(&store).await.is_whole(),
        "what was deleted on purpose is no gap"
    );
    bucket.trim(partition, Offset(0));
    bucket.publish().await;
    assert_eq!(kinds(&report(&store).await), [ProblemKind::Gap]);
}

#[tokio::test]
async fn orphans_are_listed_and_damaged_lists_are_told() {
    let (store, bucket, partition) = bucket().await;
    let (shard, _) = bucket.manifest(partition);
    let orphan = format!("c/{shard}/0000000000000001-00000000-0000-0000-0000-0000000000ff.bundle");
    store
        .put(&orphan, vec![Bytes::from_static(b"left behind")])
        .await
        .unwrap();
    let newer = format!("c/{shard}/manifest/{:020}-x.manifest", 1_000_000);
    store
        .put(&newer, vec![Bytes::from_static(b"torn")])
        .await
        .unwrap();
    let report = report(&store).await;
    assert_eq!(report.orphans.len(), 1);
    assert_eq!(report.orphans[0].key, orphan);
    assert_eq!(kinds(&report), [ProblemKind::DamagedFile]);
    assert_eq!(report.problems[0].key.as_deref(), Some(newer.as_str()));
}
