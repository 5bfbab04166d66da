//! Nodes that die at every step of what the tier does: another goes on, nothing is lost, nothing is left over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_shard::{
    AtStep, Bringing, Bucket, BundleStage, ReadFrom, RegionSettings, TierSettings, TierStep,
};
use meridian_tiered_storage::ObjectName;
use meridian_tiered_storage::cold::{CacheSettings, ColdReader};
use meridian_tiered_storage::merge::MergeSettings;
use meridian_tiered_storage::store::Store;
use meridian_tiered_storage::verify::{Depth, VerifySettings, verify};
use meridian_types::{Partition, ShardId, Term, TimestampMs, TopicId, Uuid};
use meridian_wire::batch::{BatchBuilder, Compression};
use object_store::local::LocalFileSystem;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::harness::{Cluster, PATIENCE, SHARDS};
use crate::tier::bundles;

/// How long somebody may take to come to a step: what the tier does stands behind all else.
const STEP_PATIENCE: Duration = Duration::from_secs(120);

/// Where the next node dies, and which one has.
#[derive(Default)]
struct Trap(Mutex<(Option<TierStep>, Option<u32>)>);

impl Trap {
    fn arm(&self, step: TierStep) {
        *self.0.lock() = (Some(step), None);
    }

    fn sprung(&self) -> Option<u32> {
        self.0.lock().1
    }

    /// Stops the first of the nodes that comes to the step, until it is killed.
    fn of(self: &Arc<Self>, node: u32) -> AtStep {
        let trap = Arc::clone(self);
        AtStep::new(move |step| {
            let mut state = trap.0.lock();
            let is_here = state.0 == Some(step);
            if is_here {
                *state = (None, Some(node));
            }
            Box::pin(async move {
                if is_here {
                    std::future::pending::<()>().await;
                }
            })
        })
    }
}

struct World {
    cluster: Cluster,
    directory: tempfile::TempDir,
    nodes: u32,
    store: Store,
    bucket: Bucket,
    trap: Arc<Trap>,
    /// Everything is kept of the first, and the latest of every key of the second.
    kept: TopicId,
    table: TopicId,
    appended: u32,
    expected: BTreeMap<Partition, Vec<(u64, String)>>,
    latest: BTreeMap<(Partition, String), String>,
}

impl World {
    fn new(nodes: u32) -> Self {
        let mut cluster = Cluster::new();
        let directory = tempfile::tempdir().expect("a directory");
        let inner = LocalFileSystem::new_with_prefix(directory.path()).expect("a store");
        let store = Store::over(Arc::new(inner), "");
        let reader = cluster.wait(ColdReader::open(store.clone(), &CacheSettings::default()));
        let bucket = Bucket {
            reader: reader.expect("a cache"),
            store: store.clone(),
            settings: TierSettings {
                // A round for whatever waits.
                round_bytes: 1,
                // Rounds that wait for some of these intervals no longer stand aside on a busy machine.
                round_interval: Duration::from_millis(100),
                retry_pause: Duration::from_millis(50),
                copy_interval: Duration::from_millis(100),
                delete_grace: Duration::from_millis(300),
                sweep_interval: Duration::from_millis(200),
                merge: MergeSettings {
                    extents_min: 3,
                    removed_min: 2,
                    ..MergeSettings::default()
                },
                compaction_interval: Duration::from_millis(100),
                ..TierSettings::default()
            },
        };
        let trap = Arc::new(Trap::default());
        let ids: Vec<u32> = (1..=nodes).collect();
        let settings = ids.iter().map(|id| settings(&cluster, *id, &ids, &bucket, &trap));
        let settings = settings.collect();
        cluster.start_with(settings).expect("the region is founded");
        cluster.until_led();
        let cold = ("local.retention.ms", "0");
        let kept = cluster.create_topic_with(1, "kept", &[cold]);
        let compact = [
            ("cleanup.policy", "compact"),
            ("min.cleanable.dirty.ratio", "0"),
            cold,
        ];
        let table = cluster.create_topic_with(1, "table", &compact);
        Self {
            cluster,
            directory,
            nodes,
            store,
            bucket,
            trap,
            kept,
            table,
            appended: 0,
            expected: BTreeMap::new(),
            latest: BTreeMap::new(),
        }
    }

    fn partitions(topic: TopicId) -> impl Iterator<Item = Partition> {
        (0..SHARDS).map(move |index| Partition { topic, index })
    }

    /// A record for every partition.
    fn append(&mut self) {
        for (kept, table) in Self::partitions(self.kept).zip(Self::partitions(self.table)) {
            self.appended += 1;
            let value = format!("{}-{}", self.appended, "x".repeat(200));
            let offset = self.cluster.append(kept, &value);
            self.expected
                .entry(kept)
                .or_default()
                .push((offset.0, value.clone()));
            let key = format!("key-{}", self.appended % 7);
            self.cluster.append_batch(table, &keyed(&key, &value));
            self.latest.insert((table, key), value);
        }
    }

    /// Lets a node die at a step, and brings it back after the others have gone on.
    fn die_at(&mut self, step: TierStep) {
        if matches!(step, TierStep::OrphansDue | TierStep::OrphanDeleted) {
            self.leave_orphans();
        }
        self.trap.arm(step);
        let started = Instant::now();
        let victim = loop {
            if let Some(victim) = self.trap.sprung() {
                break victim;
            }
            assert!(started.elapsed() < STEP_PATIENCE, "nobody comes to {step}");
            self.append();
            // Where the node is so busy that it falls behind, it is given time.
            let pause = (started.elapsed() / 20).max(Duration::from_millis(20));
            self.cluster.pause(pause);
        };
        self.cluster.kill(victim);
        if self.nodes > 1 {
            self.cluster.until_led();
            self.append();
        }
        let ids: Vec<u32> = (1..=self.nodes).collect();
        let again = settings(&self.cluster, victim, &ids, &self.bucket, &self.trap);
        self.cluster.start_with(vec![again]).expect("it starts again");
        self.cluster.until_led();
    }

    /// As a leader would that died before it committed.
    fn leave_orphans(&self) {
        let cluster = self.cluster.region(1).cluster_id();
        for shard in (0..SHARDS).map(ShardId) {
            let name = ObjectName {
                term: Term(1),
                id: Uuid::from_u128(u128::from(self.appended) << 32 | u128::from(shard.0)),
            };
            let path = self.directory.path().join(name.key(&cluster, shard));
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
            std::fs::write(path, b"left").expect("written");
        }
    }

    fn check(&self) {
        let cluster = &self.cluster;
        let of = |shard: ShardId| cluster.leader_of(shard).map(|leader| cluster.region(leader));
        let shards = || (0..SHARDS).map(ShardId);
        cluster.until("everything is in the bucket and read from there", |_| {
            shards().all(|shard| {
                of(shard).is_some_and(|region| {
                    let state = region.applied_state(shard);
                    let mut held = state.partitions();
                    state.untiered_bytes() == 0
                        && held.all(|(_, held)| held.local_start_offset() == held.high_watermark())
                })
            })
        });
        cluster.until_equal();
        for (partition, expected) in &self.expected {
            let first = self.values(1, *partition);
            let missing: Vec<_> = expected.iter().filter(|record| !first.contains(record)).collect();
            assert!(missing.is_empty(), "{partition} lacks {missing:?}");
            for node in 2..=self.nodes {
                assert!(self.values(node, *partition) == first, "node {node}, {partition}");
            }
        }
        for table in Self::partitions(self.table) {
            let found: BTreeSet<String> = self
                .values(1, table)
                .into_iter()
                .map(|(_, value)| value)
                .collect();
            let of_table = self
                .latest
                .iter()
                .filter(|((partition, _), _)| *partition == table);
            for ((_, key), value) in of_table {
                assert!(found.contains(value), "{table} lacks the latest of {key}");
            }
        }
        for node in 1..=self.nodes {
            for shard in shards() {
                let state = cluster.region(node).applied_state(shard);
                state.check().expect("invariants hold");
            }
        }
        cluster.until("only what the manifests name is left", |_| {
            let named: BTreeSet<String> = shards()
                .filter_map(of)
                .zip(shards())
                .flat_map(|(region, shard)| {
                    let state = region.applied_state(shard);
                    let names: Vec<String> = state.manifest().names().map(|name| name.to_string()).collect();
                    names
                })
                .collect();
            bundles(self.directory.path()) == named
        });
        let settings = VerifySettings {
            depth: Depth::Contents,
            parallel: 2,
        };
        let started = Instant::now();
        loop {
            // Copies may be a moment behind, and name what has just been deleted.
            let report = cluster.wait(verify(&self.store, None, settings, &|_| {}));
            let report = report.expect("it can be verified");
            if report.is_whole() {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "{:#?}", report.problems);
            cluster.pause(Duration::from_millis(100));
        }
    }

    fn values(&self, node: u32, partition: Partition) -> Vec<(u64, String)> {
        self.cluster.values(node, partition, ReadFrom::Any)
    }
}

fn settings(cluster: &Cluster, id: u32, seeds: &[u32], bucket: &Bucket, trap: &Arc<Trap>) -> RegionSettings {
    let seeds = if seeds.len() > 1 { seeds } else { &[] };
    let mut settings = cluster.settings(id, seeds);
    let mut bucket = bucket.clone();
    bucket.settings.at_step = Some(trap.of(id));
    settings.bucket = Some(bucket);
    settings.maintenance_interval = Duration::from_millis(50);
    settings
}

fn keyed(key: &str, value: &str) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder
        .push(TimestampMs(1), Some(key.as_bytes()), Some(value.as_bytes()), &[])
        .expect("it fits");
    builder.build().expect("a batch")
}

fn deaths(nodes: u32, steps: impl IntoIterator<Item = TierStep>) {
    let mut world = World::new(nodes);
    for step in steps {
        world.die_at(step);
    }
    for _ in 0..3 {
        world.append();
    }
    world.check();
}

fn steps_of(bringing: Bringing) -> impl Iterator<Item = TierStep> {
    TierStep::all().filter(move |step| matches!(step, TierStep::Bundle(of, _) if *of == bringing))
}

#[test]
fn a_node_that_dies_at_any_step_of_a_round_goes_on_and_leaves_nothing() {
    deaths(1, steps_of(Bringing::Round));
}

#[test]
fn a_node_that_dies_at_any_step_of_a_merge_goes_on_and_leaves_nothing() {
    deaths(1, steps_of(Bringing::Merge));
}

#[test]
fn a_node_that_dies_at_any_step_of_a_compaction_goes_on_and_leaves_nothing() {
    deaths(1, steps_of(Bringing::Compaction));
}

#[test]
fn a_node_that_dies_while_it_writes_copies_or_deletes_goes_on_and_leaves_nothing() {
    deaths(
        1,
        TierStep::all().filter(|step| !matches!(step, TierStep::Bundle(..))),
    );
}

#[test]
fn leaders_that_die_in_the_middle_leave_their_work_to_another() {
    let steps = [
        TierStep::Bundle(Bringing::Round, BundleStage::Uploaded),
        TierStep::Bundle(Bringing::Round, BundleStage::Proposed),
        TierStep::Bundle(Bringing::Merge, BundleStage::Verified),
        TierStep::Bundle(Bringing::Compaction, BundleStage::Proposed),
        TierStep::ObjectDeleted,
        TierStep::OrphanDeleted,
    ];
    deaths(3, steps);
}
