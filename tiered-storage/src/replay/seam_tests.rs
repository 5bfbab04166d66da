//! Replay across the end of the bucket.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use meridian_types::{Offset, Partition, TimestampMs, TopicId};
use meridian_wire::batch::{BatchHeader, Compression, records};
use object_store::memory::InMemory;
use parking_lot::Mutex;

use super::*;
use crate::bundle::BundleLimits;
use crate::cold::{CacheSettings, ColdReader};
use crate::sample::SampleBucket;
use crate::store::Store;
use crate::topics_file::NamedTopic;

/// Records of a batch.
const COUNT: u64 = 10;

/// Brokers in memory, with everything that was ever written.
#[derive(Clone, Default)]
struct Brokers(Arc<Mutex<BrokersInner>>);

#[derive(Default)]
struct BrokersInner {
    cluster: String,
    topics: Vec<NamedTopic>,
    batches: BTreeMap<Partition, Vec<Bytes>>,
    starts: BTreeMap<Partition, Offset>,
    /// Batches of an answer.
    at_once: usize,
    /// Answers left until they are away.
    left: Option<u32>,
    /// Bytes that came from here.
    fetched: usize,
}

fn header(batch: &Bytes) -> BatchHeader {
    BatchHeader::parse(batch).unwrap()
}

impl BrokersInner {
    fn start(&self, partition: Partition) -> Offset {
        self.starts.get(&partition).copied().unwrap_or_default()
    }

    fn end(&self, partition: Partition) -> Offset {
        let last = self.batches.get(&partition).and_then(|batches| batches.last());
        last.map_or(Offset(0), |batch| header(batch).next_offset())
    }

    fn fetch(&mut self, partition: Partition, from: Offset) -> Result<Vec<Bytes>, TailError> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1).ok_or_else(|| TailError::Unavailable {
                reason: "gone".to_owned(),
            })?;
        }
        let (start, end) = (self.start(partition), self.end(partition));
        if from < start || from > end {
            return Err(TailError::OutOfRange { start, end });
        }
        let found: Vec<Bytes> = self.batches[&partition]
            .iter()
            .filter(|batch| header(batch).next_offset() > from)
            .take(self.at_once)
            .cloned()
            .collect();
        self.fetched += found.iter().map(Bytes::len).sum::<usize>();
        Ok(found)
    }
}

impl TailSource for Brokers {
    fn describe(&self) -> TailFuture<'_, TailCluster> {
        let inner = self.0.lock();
        let cluster = TailCluster {
            id: inner.cluster.clone(),
            topics: inner.topics.clone(),
        };
        async { Ok(cluster) }.boxed()
    }

    fn offsets<'a>(
        &'a self,
        partitions: &'a [TailPartition],
        position: TailPosition,
    ) -> TailFuture<'a, Vec<Option<Offset>>> {
        let inner = self.0.lock();
        let of = |it: &TailPartition| match position {
            TailPosition::Start => Some(inner.start(it.partition)),
            TailPosition::End => Some(inner.end(it.partition)),
            // Record n has the time n.
            TailPosition::Time(time) => {
                let offset = Offset(time.0.unsigned_abs()).max(inner.start(it.partition));
                Some(offset).filter(|offset| *offset < inner.end(it.partition))
            }
        };
        let found = partitions.iter().map(of).collect();
        async { Ok(found) }.boxed()
    }

    fn read(&self, partition: &TailPartition, from: Offset) -> Box<dyn TailReader> {
        Box::new(BrokersReader {
            brokers: self.clone(),
            partition: partition.partition,
            next: from,
        })
    }
}

struct BrokersReader {
    brokers: Brokers,
    partition: Partition,
    next: Offset,
}

impl TailReader for BrokersReader {
    fn next(&mut self) -> TailFuture<'_, Vec<Bytes>> {
        let fetched = self.brokers.0.lock().fetch(self.partition, self.next);
        if let Some(last) = fetched.as_ref().ok().and_then(|batches| batches.last()) {
            self.next = header(last).next_offset();
        }
        async { fetched }.boxed()
    }
}

struct World {
    store: Store,
    objects: Arc<InMemory>,
    bucket: SampleBucket,
    brokers: Brokers,
    topic: TopicId,
}

impl World {
    fn new() -> Self {
        let objects = Arc::new(InMemory::new());
        let store = Store::over(Arc::clone(&objects) as Arc<_>, "");
        let limits = BundleLimits {
            frame_bytes: 2 << 10,
            ..BundleLimits::default()
        };
        let mut bucket = SampleBucket::new(store.clone(), "c", 2, limits);
        let topic = bucket.topic("orders", 2);
        let brokers = Brokers::default();
        *brokers.0.lock() = BrokersInner {
            cluster: "c".to_owned(),
            topics: vec![NamedTopic {
                id: topic,
                name: "orders".to_owned(),
                partitions: 2,
                configs: BTreeMap::new(),
            }],
            at_once: 2,
            ..BrokersInner::default()
        };
        Self {
            store,
            objects,
            bucket,
            brokers,
            topic,
        }
    }

    fn partition(&self, index: u32) -> Partition {
        Partition {
            topic: self.topic,
            index,
        }
    }

    /// Appends batches to both partitions; the bucket has them once they are tiered.
    fn append(&mut self, batches: u64) {
        for index in 0..2 {
            let partition = self.partition(index);
            for _ in 0..batches {
                let time = TimestampMs(self.brokers.0.lock().end(partition).0.cast_signed());
                let batch = self
                    .bucket
                    .append(self.topic, index, COUNT, 50, time, Compression::None);
                self.brokers
                    .0
                    .lock()
                    .batches
                    .entry(partition)
                    .or_default()
                    .push(batch);
            }
        }
    }

    async fn tier(&mut self) {
        self.bucket.tier().await;
        self.bucket.publish().await;
    }

    async fn source(&self) -> Source {
        let cold = ColdReader::open(self.store.clone(), &CacheSettings::default())
            .await
            .unwrap();
        Source {
            cold,
            tail: Some(Arc::new(self.brokers.clone())),
        }
    }

    async fn plan(&self, selection: &Selection) -> (Source, Result<Plan, PlanError>) {
        let source = self.source().await;
        let catalog = Catalog::open(&self.store, None).await.unwrap();
        let plan = Plan::new(&source, &catalog, selection).await;
        (source, plan)
    }
}

fn offsets_of(chunk: &Chunk) -> Vec<u64> {
    let mut offsets = Vec::new();
    for batch in &chunk.batches {
        for record in records(batch, 1 << 20).unwrap() {
            let offset = record.unwrap().offset;
            offsets.extend(chunk.offsets.contains(&offset).then_some(offset.0));
        }
    }
    offsets
}

/// Reads a partition; `before` is called before each chunk.
async fn read(
    source: &Source,
    plan: &PartitionPlan,
    before: impl AsyncFn(u32),
) -> (Vec<u64>, Result<u64, ReplayError>) {
    let mut reader = PartitionReader::new(source.clone(), plan.clone(), 1000);
    let (mut offsets, mut chunks) = (Vec::new(), 0);
    loop {
        before(chunks).await;
        chunks += 1;
        match reader.next().await {
            Ok(Some(chunk)) => offsets.extend(offsets_of(&chunk)),
            Ok(None) => return (offsets, Ok(reader.deleted_offsets())),
            Err(error) => return (offsets, Err(error)),
        }
    }
}

fn everything(until: u64) -> Vec<u64> {
    (0..until).collect()
}

#[tokio::test]
async fn wherever_the_bucket_ends_every_record_comes_once_and_in_order() {
    for tiered in 0..=6 {
        for at_once in [1, 2, 100] {
            let mut world = World::new();
            world.brokers.0.lock().at_once = at_once;
            world.append(tiered);
            world.tier().await;
            world.append(6 - tiered);
            let (source, plan) = world.plan(&Selection::default()).await;
            let plan = plan.unwrap();
            assert_eq!((plan.partitions.len(), plan.offsets()), (2, 12 * COUNT));
            for partition in &plan.partitions {
                let (offsets, deleted) = read(&source, partition, async |_| ()).await;
                assert_eq!((offsets, deleted.unwrap()), (everything(6 * COUNT), 0));
            }
            let untiered: usize = (0..2)
                .flat_map(|index| {
                    let inner = world.brokers.0.lock();
                    let batches = inner.batches[&world.partition(index)].clone();
                    batches.into_iter().skip(tiered as usize)
                })
                .map(|batch| batch.len())
                .sum();
            assert_eq!(
                world.brokers.0.lock().fetched,
                untiered,
                "what the bucket has is not asked of brokers"
            );
        }
    }
}

#[tokio::test]
async fn bounds_cut_to_the_record_on_both_sides_of_the_seam() {
    let mut world = World::new();
    world.append(3);
    world.tier().await;
    world.append(3);
    let offset = |it| Bound::Offset(Offset(it));
    let time = |it| Bound::Time(TimestampMs(it));
    for (from, until, expected) in [
        (offset(5), offset(55), 5..55),
        (offset(25), offset(35), 25..35),
        (offset(30), Bound::Open, 30..60),
        (offset(42), offset(44), 42..44),
        (time(13), time(47), 13..47),
        (time(47), Bound::Open, 47..60),
        (time(5), time(9_999), 5..60),
        (time(60), Bound::Open, 0..0),
        (offset(60), Bound::Open, 0..0),
    ] {
        let selection = Selection {
            partitions: vec![1],
            from,
            until,
            ..Selection::default()
        };
        let (source, plan) = world.plan(&selection).await;
        let mut found = Vec::new();
        for partition in &plan.unwrap().partitions {
            found.extend(read(&source, partition, async |_| ()).await.0);
        }
        assert_eq!(found, expected.collect::<Vec<u64>>(), "{from:?} {until:?}");
    }
}

#[tokio::test]
async fn what_comes_after_the_plan_belongs_to_another_replay() {
    let mut world = World::new();
    world.append(2);
    world.tier().await;
    world.append(2);
    let (source, plan) = world.plan(&Selection::default()).await;
    let plan = plan.unwrap();
    world.append(3);
    for partition in &plan.partitions {
        let (offsets, _) = read(&source, partition, async |_| ()).await;
        assert_eq!(offsets, everything(4 * COUNT));
    }
}

#[tokio::test]
async fn records_that_retention_takes_before_they_are_read_are_counted_not_repeated() {
    let mut world = World::new();
    world.append(2);
    world.tier().await;
    world.append(6);
    let (source, plan) = world.plan(&Selection::default()).await;
    let plan = plan.unwrap();
    // The bucket's two batches are read whole; then the log begins at 47.
    let partition = plan.partitions[0].partition;
    let brokers = world.brokers.clone();
    let (offsets, deleted) = read(&source, &plan.partitions[0], async |chunks| {
        if chunks == 1 {
            brokers.0.lock().starts.insert(partition, Offset(47));
        }
    })
    .await;
    let expected: Vec<u64> = (0..20).chain(47..80).collect();
    assert_eq!((offsets, deleted.unwrap()), (expected, 27));
    // Everything is deleted before the end of what is wanted.
    world.brokers.0.lock().starts.insert(partition, Offset(80));
    let (offsets, deleted) = read(&source, &plan.partitions[0], async |_| ()).await;
    assert_eq!((offsets, deleted.unwrap()), (everything(20), 60));
}

#[tokio::test]
async fn an_object_that_is_gone_since_the_plan_was_made_is_read_from_brokers() {
    use object_store::ObjectStoreExt;
    let mut world = World::new();
    for _ in 0..3 {
        world.append(2);
        world.tier().await;
    }
    world.append(1);
    let (source, plan) = world.plan(&Selection::default()).await;
    let plan = plan.unwrap();
    let middle = plan.partitions[0].runs[1].key.as_str().into();
    world.objects.delete(&middle).await.unwrap();
    let (offsets, _) = read(&source, &plan.partitions[0], async |_| ()).await;
    assert_eq!(offsets, everything(7 * COUNT));
    let alone = Source::from(world.source().await.cold);
    let (offsets, error) = read(&alone, &plan.partitions[0], async |_| ()).await;
    assert_eq!(offsets, everything(2 * COUNT));
    assert!(error.unwrap_err().to_string().contains("is not in the bucket"));
}

#[tokio::test]
async fn an_interrupted_export_goes_on_where_the_bucket_has_grown_and_records_were_deleted() {
    let mut world = World::new();
    world.append(2);
    world.tier().await;
    world.append(6);
    let directory = tempfile::tempdir().unwrap();
    let settings = ExportSettings {
        file_bytes: 1,
        chunk_bytes: 500,
        parallel: 1,
        ..ExportSettings::new(directory.path())
    };
    let path = directory.path().join(ReplayState::FILE_NAME);
    world.brokers.0.lock().left = Some(1);
    let (source, plan) = world.plan(&Selection::default()).await;
    let plan = plan.unwrap();
    let mut state = ReplayState::new(&plan, "jsonl");
    let error = export(&source, &plan, Format::JsonLines, &mut state, &settings, &|_| {})
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ReplayError::Tail { source, .. } if source.is_retriable()),
        "{error}"
    );
    // There was one answer, of two batches.
    let mut state = ReplayState::load(&path).unwrap().unwrap();
    assert_eq!(state.partitions[&world.partition(0)].next, Offset(40));

    // Meanwhile all of it is tiered, more is written, and the log of partition 1 begins at 33.
    world.tier().await;
    world.append(2);
    let second = world.partition(1);
    world.bucket.trim(second, Offset(33));
    world.bucket.publish().await;
    {
        let mut inner = world.brokers.0.lock();
        (inner.left, inner.fetched) = (None, 0);
        inner.starts.insert(second, Offset(33));
    }
    let (source, plan) = world.plan(&Selection::default()).await;
    let rest = state.rest_of(&plan.unwrap()).unwrap();
    assert_eq!(rest.deleted_offsets, 33);
    let summary = export(
        &source,
        &rest.plan,
        Format::JsonLines,
        &mut state,
        &settings,
        &|_| {},
    )
    .await
    .unwrap();
    assert_eq!((summary.records, summary.offsets), (40 + 47, 40 + 47));
    assert!(state.is_done());
    assert_eq!(world.brokers.0.lock().fetched, 0, "the bucket has it all now");
    for (index, expected) in [(0, 0..80), (1, 33..80)] {
        let mut found = Vec::new();
        for file in &state.partitions[&world.partition(index)].files {
            let text = std::fs::read_to_string(directory.path().join(&file.path)).unwrap();
            for line in text.lines() {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                found.push(line["offset"].as_u64().unwrap());
            }
        }
        assert_eq!(found, expected.collect::<Vec<u64>>());
    }
}

#[tokio::test]
async fn a_state_that_needs_brokers_is_not_taken_for_done_without_them() {
    let mut world = World::new();
    world.append(1);
    world.tier().await;
    world.append(1);
    let (source, plan) = world.plan(&Selection::default()).await;
    let mut state = ReplayState::new(&plan.unwrap(), "jsonl");
    let catalog = Catalog::open(&world.store, None).await.unwrap();
    let alone = Plan::new(&Source::from(source.cold), &catalog, &Selection::default())
        .await
        .unwrap();
    let error = state.rest_of(&alone).unwrap_err().to_string();
    assert!(
        error.contains("offsets 0 to 20") && error.contains("brokers"),
        "{error}"
    );
}

#[tokio::test]
async fn brokers_of_another_cluster_and_batches_out_of_order_are_refused() {
    let mut world = World::new();
    world.append(1);
    world.tier().await;
    world.append(3);
    let (source, plan) = world.plan(&Selection::default()).await;
    let plan = plan.unwrap();
    {
        let mut inner = world.brokers.0.lock();
        let partition = world.partition(0);
        let first_again = inner.batches[&partition][2].clone();
        let batches = inner.batches.get_mut(&partition).unwrap();
        batches[3] = Bytes::from([&first_again[..7], &[first_again[7] + 5], &first_again[8..]].concat());
        inner.at_once = 3;
    }
    let (_, error) = read(&source, &plan.partitions[0], async |_| ()).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("offset 25 comes behind one that ends at 30"),
        "{error}"
    );

    world.brokers.0.lock().cluster = "d".to_owned();
    let (_, refused) = world.plan(&Selection::default()).await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("cluster 'd'") && refused.contains("cluster 'c'"),
        "{refused}"
    );
    world.brokers.0.lock().cluster = "c".to_owned();
    let unknown = Selection {
        topics: vec!["Orders".to_owned()],
        ..Selection::default()
    };
    let (_, refused) = world.plan(&unknown).await;
    assert!(refused.unwrap_err().to_string().contains("there is 'orders'"));
}

#[tokio::test]
async fn a_topic_that_was_made_anew_is_read_from_brokers_alone() {
    let mut world = World::new();
    world.append(2);
    world.tier().await;
    let again = TopicId(meridian_types::Uuid::from_u128(77));
    {
        let mut inner = world.brokers.0.lock();
        inner.topics[0].id = again;
        let old = world.partition(0);
        let first = inner.batches[&old][0].clone();
        inner.batches = [(
            Partition {
                topic: again,
                index: 0,
            },
            vec![first],
        )]
        .into();
    }
    let (source, plan) = world.plan(&Selection::default()).await;
    let plan = plan.unwrap();
    assert_eq!((plan.partitions.len(), plan.offsets()), (1, COUNT));
    assert!(plan.partitions[0].runs.is_empty());
    let (offsets, _) = read(&source, &plan.partitions[0], async |_| ()).await;
    assert_eq!(offsets, everything(COUNT));
}
