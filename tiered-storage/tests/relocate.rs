//! Merges and compaction, from the bucket into the bucket.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use meridian_tiered_storage::bundle::{Bundle, BundleLimits, BundleWriter};
use meridian_tiered_storage::compact::{self, CompactionSettings, Compactor, LatestOffsets};
use meridian_tiered_storage::manifest::{Manifest, ObjectName, Replacement};
use meridian_tiered_storage::merge::{self, MergeSettings};
use meridian_tiered_storage::relocate::{self, ExtentReader, RelocateError};
use meridian_tiered_storage::store::{Operation, Store};
use meridian_tiered_storage::testing::{Fault, Faults, FaultyStore};
use meridian_tiered_storage::upload::{ReadBack, upload};
use meridian_types::{Offset, Partition, ShardId, Term, TimestampMs, Uuid};
use meridian_wire::batch::{self, Record};
use object_store::memory::InMemory;
use support::{batch, partition};

const CLUSTER: &str = "c";
const SHARD: ShardId = ShardId(3);
const LIMIT: usize = 64 << 20;
const LIMITS: BundleLimits = BundleLimits {
    frame_bytes: 4_000,
    zstd_level: 3,
};

struct World {
    store: Store,
    faults: Faults,
    manifest: Manifest,
    objects: u128,
}

impl World {
    fn new() -> Self {
        let (objects, faults) = FaultyStore::new(Arc::new(InMemory::new()));
        Self {
            store: Store::over(objects, "tier"),
            faults,
            manifest: Manifest::new(),
            objects: 0,
        }
    }

    async fn upload(&mut self, bundle: &Bundle) -> ObjectName {
        self.objects += 1;
        let name = ObjectName {
            term: Term(1),
            id: Uuid::from_u128(self.objects),
        };
        upload(&self.store, &name.key(CLUSTER, SHARD), bundle, ReadBack::Whole)
            .await
            .unwrap();
        name
    }

    async fn round(&mut self, batches: Vec<(u32, Bytes)>) {
        let mut writer = BundleWriter::new(LIMITS);
        for (index, batch) in batches {
            writer.push(partition(index), &[batch]).unwrap();
        }
        let bundle = writer.finish().unwrap();
        let object = self.upload(&bundle).await;
        let (sequence, through) = (self.manifest.sequence(), self.manifest.through().next());
        let start = |_: Partition| Some(Offset(0));
        self.manifest
            .add_bundle(
                sequence,
                through,
                bundle.object(object),
                &bundle.extents,
                start,
                TimestampMs(0),
            )
            .unwrap();
    }

    async fn replace(&mut self, bundle: &Bundle, replacements: &[Replacement]) {
        let name = self.upload(bundle).await;
        let sequence = self.manifest.sequence();
        self.manifest
            .replace(sequence, bundle.object(name), replacements, TimestampMs(0))
            .unwrap();
        self.manifest.check().unwrap();
    }

    async fn contents(&self, partition: Partition) -> Vec<u8> {
        let mut reader = ExtentReader::new(&self.store, CLUSTER, SHARD, &self.manifest);
        let mut all = Vec::new();
        for extent in self.manifest.extents(partition) {
            for part in reader.read(partition, extent).await.unwrap() {
                all.extend_from_slice(&part);
            }
        }
        all
    }

    async fn records(&self, partition: Partition) -> Vec<Record> {
        let contents = self.contents(partition).await.into();
        let batches = batch::batches(&contents).map(|batch| batch.unwrap().bytes);
        let records = batches.flat_map(|batch| batch::records(&batch, LIMIT).unwrap());
        records.map(|record| record.unwrap()).collect()
    }

    /// Gives the last extent another greatest timestamp than its batches have.
    async fn restate_last_extent(&mut self, p: Partition, max_timestamp: TimestampMs) {
        let last = *self.manifest.extents(p).last().unwrap();
        let mut writer = BundleWriter::new(LIMITS);
        {
            let mut reader = ExtentReader::new(&self.store, CLUSTER, SHARD, &self.manifest);
            let parts = reader.read(p, &last).await.unwrap();
            writer.push(p, &parts).unwrap();
        }
        let bundle = writer.finish().unwrap();
        let mut extent = bundle.extents[0].1;
        extent.max_timestamp = max_timestamp;
        let replacement = Replacement {
            partition: p,
            offsets: last.offsets(),
            extents: vec![extent],
        };
        self.replace(&bundle, &[replacement]).await;
    }

    /// One pass, as a driver makes it; where it ended, if one was due.
    async fn compact(
        &mut self,
        p: Partition,
        clean_end: Offset,
        now: i64,
        keys_bytes: usize,
    ) -> Option<Offset> {
        let settings = CompactionSettings {
            object_bytes_max: 6_000,
            ..CompactionSettings::default()
        };
        let plan = compact::plan(self.manifest.extents(p), clean_end, TimestampMs(now), &settings)?;
        let mut latest = LatestOffsets::new(keys_bytes, LIMIT);
        let manifest = self.manifest.clone();
        let store = self.store.clone();
        let mut reader = ExtentReader::new(&store, CLUSTER, SHARD, &manifest);
        let dirty: Vec<_> = plan.dirty().copied().collect();
        relocate::note_keys(&mut reader, p, &dirty, plan.dirty_from, &mut latest)
            .await
            .unwrap();
        let compactor = Compactor {
            latest: &latest,
            now: TimestampMs(now),
            delete_retention_ms: settings.delete_retention_ms,
        };
        for group in &plan.groups {
            let done = relocate::compact(&mut reader, p, group, &compactor, LIMITS)
                .await
                .unwrap();
            if let Some((bundle, replacement)) = done {
                self.replace(&bundle, &[replacement]).await;
            }
        }
        Some(latest.end())
    }
}

#[tokio::test]
async fn merged_extents_hold_the_same_bytes() {
    let mut world = World::new();
    for n in 0..20 {
        let batches = vec![
            (0, batch(n * 30, 10, 50, 200)),
            (1, batch(n * 3, 3, 50, 20)),
            (0, batch(n * 30 + 10, 20, 50, 10)),
        ];
        world.round(batches).await;
    }
    let before = [
        world.contents(partition(0)).await,
        world.contents(partition(1)).await,
    ];
    let timestamp = |world: &World| {
        let extents = world.manifest.extents(partition(0)).iter();
        extents.map(|extent| extent.max_timestamp).max()
    };
    // Said by the manifest alone, as of batches that have no timestamps.
    let stated = TimestampMs(5_000_000);
    world.restate_last_extent(partition(0), stated).await;
    let settings = MergeSettings::default();
    let mut merges = 0;
    while let Some(plan) = merge::plan(&world.manifest, &settings) {
        let manifest = world.manifest.clone();
        let store = world.store.clone();
        let mut reader = ExtentReader::new(&store, CLUSTER, SHARD, &manifest);
        let (bundle, replacements) = relocate::merge(&mut reader, &plan, LIMITS)
            .await
            .unwrap()
            .unwrap();
        world.replace(&bundle, &replacements).await;
        merges += 1;
    }
    assert!(merges > 0);
    assert_eq!(world.contents(partition(0)).await, before[0]);
    assert_eq!(world.contents(partition(1)).await, before[1]);
    assert!(world.manifest.extents(partition(0)).len() < 10);
    assert_eq!(timestamp(&world), Some(stated));
}

#[tokio::test]
async fn compacted_partition_holds_the_latest_record_of_each_key() {
    let p = partition(0);
    let mut world = World::new();
    let mut clean_end = Offset(0);
    for n in 0..12 {
        world
            .round(vec![(0, batch(n * 40, 40, 25, 30)), (1, batch(n, 1, 9, 10))])
            .await;
        if n % 3 == 2 {
            // The last pass has room for a few keys only, and makes its way nevertheless.
            let keys_bytes = if n == 11 { 500 } else { usize::MAX };
            let end = world
                .compact(p, clean_end, 1_000_000 + n as i64, keys_bytes)
                .await
                .unwrap();
            assert!(end > clean_end);
            clean_end = end;
        }
    }
    while clean_end < Offset(480) {
        clean_end = world
            .compact(p, clean_end, 2_000_000, 3_000)
            .await
            .unwrap_or(Offset(480));
    }
    let mut latest = BTreeMap::new();
    let original: Vec<Record> = (0..12)
        .flat_map(|n| batch::records(&batch(n * 40, 40, 25, 30), LIMIT).unwrap())
        .map(|record| record.unwrap())
        .collect();
    for record in &original {
        latest.insert(record.key.clone().unwrap(), record.clone());
    }
    let mut found = BTreeMap::new();
    let records = world.records(p).await;
    for record in &records {
        assert_eq!(*record, original[record.offset.0 as usize]);
        found.insert(record.key.clone().unwrap(), record.clone());
    }
    assert_eq!(found, latest);
    assert!(records.len() < 200, "{} of 480 records are left", records.len());
    assert_eq!(world.manifest.end(p), Some(Offset(480)));
    assert_eq!(world.records(partition(1)).await.len(), 12);
}

#[tokio::test(start_paused = true)]
async fn damage_is_reported_and_nothing_is_made_of_it() {
    let mut world = World::new();
    for n in 0..8 {
        world.round(vec![(0, batch(n * 10, 10, 5, 100))]).await;
    }
    let plan = merge::plan(&world.manifest, &MergeSettings::default()).unwrap();
    let merge = async || {
        let mut reader = ExtentReader::new(&world.store, CLUSTER, SHARD, &world.manifest);
        relocate::merge(&mut reader, &plan, LIMITS).await
    };
    world.faults.next(Operation::Get, Fault::FlipBit);
    let error = merge().await.unwrap_err();
    assert!(matches!(error, RelocateError::Damaged { .. }), "{error}");
    world.faults.outage(true);
    let error = merge().await.unwrap_err();
    assert!(
        matches!(&error, RelocateError::Store(error) if error.is_retriable()),
        "{error}"
    );
    world.faults.outage(false);
    assert!(merge().await.unwrap().is_some());
    let stale = Manifest::new();
    let mut reader = ExtentReader::new(&world.store, CLUSTER, SHARD, &stale);
    let error = relocate::merge(&mut reader, &plan, LIMITS).await.unwrap_err();
    assert!(matches!(error, RelocateError::UnknownObject { .. }), "{error}");
}
