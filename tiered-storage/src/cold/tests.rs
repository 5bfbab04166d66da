//! The reader over a store in memory that fails on demand, on paused time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_types::{Offset, Partition, TimestampMs};
use meridian_wire::batch::{BatchHeader, Compression};
use object_store::memory::InMemory;
use tokio::time::{Instant, timeout};

use super::*;
use crate::bundle::BundleLimits;
use crate::sample::SampleBucket;
use crate::store::{Operation, Store, StoreLimits};
use crate::testing::{Fault, Faults, FaultyStore};

/// Records of a batch.
const COUNT: u64 = 20;

/// Bytes of a frame: four batches, about.
const FRAME_BYTES: u32 = 16 << 10;

struct World {
    bucket: SampleBucket,
    store: Store,
    faults: Faults,
    partition: Partition,
    batches: Vec<Bytes>,
}

impl World {
    /// A partition of `bundles` extents with `batches` each, beside another one in the same bundles.
    async fn new(bundles: u64, batches: u64, codec: Compression) -> Self {
        let (objects, faults) = FaultyStore::new(Arc::new(InMemory::new()));
        let limits = StoreLimits {
            attempts_max: 1,
            ..StoreLimits::default()
        };
        let store = Store::with_limits(objects, "below", limits);
        let limits = BundleLimits {
            frame_bytes: FRAME_BYTES,
            ..BundleLimits::default()
        };
        let mut bucket = SampleBucket::new(store.clone(), "c", 1, limits);
        let topic = bucket.topic("t", 2);
        let mut written = Vec::new();
        for bundle in 0..bundles {
            for batch in 0..batches {
                let time = TimestampMs(((bundle * batches + batch) * 1000) as i64);
                written.push(bucket.append(topic, 0, COUNT, 200, time, codec));
                bucket.append(topic, 1, 1, 100, time, codec);
            }
            bucket.tier().await;
        }
        Self {
            bucket,
            store,
            faults,
            partition: Partition { topic, index: 0 },
            batches: written,
        }
    }

    async fn reader(&self, settings: &CacheSettings) -> ColdReader {
        ColdReader::open(self.store.clone(), settings).await.unwrap()
    }

    fn runs(&self, from: u64) -> Vec<ColdRun> {
        let (shard, manifest) = self.bucket.manifest(self.partition);
        cold_runs(
            manifest,
            self.bucket.cluster(),
            shard,
            self.partition,
            Offset(from),
            COLD_READAHEAD_BYTES,
        )
    }

    fn end(&self) -> u64 {
        self.batches.len() as u64 * COUNT
    }

    async fn read(&self, reader: &ColdReader, from: u64, bytes_max: usize) -> Result<Vec<Bytes>, ColdError> {
        reader
            .read(self.partition, self.runs(from), Offset(from), bytes_max)
            .await
    }

    /// Reads everything from `from` on, a read after the other; checks every byte.
    async fn read_on(&self, reader: &ColdReader, mut from: u64, bytes_max: usize) -> u64 {
        let mut reads = 0;
        while from < self.end() {
            for batch in self.read(reader, from, bytes_max).await.unwrap() {
                assert_eq!(batch, self.batches[(from / COUNT) as usize], "at {from}");
                from = BatchHeader::parse(&batch).unwrap().next_offset().0;
            }
            reads += 1;
            // The consumer takes its time.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        reads
    }

    fn gets(&self) -> u64 {
        self.faults.count(Operation::Get)
    }
}

#[tokio::test(start_paused = true)]
async fn batches_come_back_bit_by_bit_from_every_offset() {
    for codec in [Compression::None, Compression::Lz4] {
        let world = World::new(3, 7, codec).await;
        let reader = world.reader(&CacheSettings::default()).await;
        for from in (0..world.end()).step_by(7) {
            let read = world.read(&reader, from, 1).await.unwrap();
            assert_eq!(
                read,
                [world.batches[(from / COUNT) as usize].clone()],
                "from {from}"
            );
        }
        let all = world.read(&reader, 0, usize::MAX).await.unwrap();
        assert_eq!(all, world.batches);
        let some = world.read(&reader, 3 * COUNT, 10_000).await.unwrap();
        let bytes: usize = some.iter().map(Bytes::len).sum();
        assert!(
            bytes <= 10_000 && some.len() > 1,
            "{bytes} bytes in {} batches",
            some.len()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn one_request_serves_all_who_ask_at_the_same_time() {
    let world = World::new(1, 2, Compression::Lz4).await;
    let reader = world.reader(&CacheSettings::default()).await;
    world
        .faults
        .next(Operation::Get, Fault::Delay(Duration::from_secs(1)));
    world
        .faults
        .next(Operation::Get, Fault::Delay(Duration::from_secs(1)));
    let reads = (0..50).map(|_| world.read(&reader, 0, 1));
    for read in futures::future::join_all(reads).await {
        assert_eq!(read.unwrap().len(), 1);
    }
    // The footer and one frame.
    assert_eq!(world.gets(), 2);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let stats = reader.stats();
    assert_eq!((stats.misses, stats.joined, stats.in_flight_bytes), (1, 49, 0));
}

#[tokio::test(start_paused = true)]
async fn a_fill_goes_on_when_its_caller_gives_up() {
    let world = World::new(1, 2, Compression::Lz4).await;
    let reader = world.reader(&CacheSettings::default()).await;
    world
        .faults
        .next(Operation::Get, Fault::Delay(Duration::from_secs(3)));
    world
        .faults
        .next(Operation::Get, Fault::Delay(Duration::from_secs(5)));
    let mut gave_up = 0;
    let began = Instant::now();
    loop {
        match timeout(Duration::from_millis(500), world.read(&reader, 0, 1)).await {
            Err(_) => gave_up += 1,
            Ok(read) => {
                assert_eq!(read.unwrap().len(), 1);
                break;
            }
        }
    }
    assert!(gave_up >= 15, "{gave_up} callers gave up");
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert_eq!(world.gets(), 2, "nobody began anew");
}

#[tokio::test(start_paused = true)]
async fn who_reads_on_finds_the_next_objects_in_memory() {
    // 60 objects of about 20 frames: some 18 MiB.
    let world = World::new(60, 70, Compression::Lz4).await;
    let reader = world.reader(&CacheSettings::default()).await;
    let reads = world.read_on(&reader, 0, 64 << 10).await;
    let stats = reader.stats();
    assert!(reads > 200, "{reads}");
    assert!(stats.misses <= 4, "the reader waited {} times", stats.misses);
    // A footer and a run of frames for each object, at best.
    assert!(world.gets() <= 60 * 3 + 10, "{} requests", world.gets());
}

#[tokio::test(start_paused = true)]
async fn bytes_on_their_way_are_bounded_and_reading_goes_on() {
    let world = World::new(8, 100, Compression::Lz4).await;
    let settings = CacheSettings {
        in_flight_bytes_max: 100 << 10,
        ..CacheSettings::default()
    };
    let reader = world.reader(&settings).await;
    for _ in 0..2000 {
        world
            .faults
            .next(Operation::Get, Fault::Delay(Duration::from_millis(30)));
    }
    let watch = {
        let reader = reader.clone();
        tokio::spawn(async move {
            let mut most = 0;
            loop {
                let bytes = reader.stats().in_flight_bytes;
                assert!(bytes <= 100 << 10, "{bytes} bytes are on their way");
                most = most.max(bytes);
                if bytes == 0 && most > 0 {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    if reader.stats().in_flight_bytes == 0 {
                        return most;
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    };
    let readers = (0..4).map(|part| world.read_on(&reader, part * COUNT * 150, 40 << 10));
    futures::future::join_all(readers).await;
    assert!(watch.await.unwrap() > 50 << 10, "the bound was reached");
    assert!(reader.stats().readahead_skipped > 0);
}

#[tokio::test(start_paused = true)]
async fn a_bit_flipped_on_the_way_is_healed_and_one_at_rest_is_damage() {
    let world = World::new(1, 20, Compression::Lz4).await;
    // First the footer is spoilt, then the frame behind it.
    for good in 0..2 {
        let reader = world.reader(&CacheSettings::default()).await;
        for _ in 0..good {
            world.faults.next(Operation::Get, Fault::Delay(Duration::ZERO));
        }
        world.faults.next(Operation::Get, Fault::FlipBit);
        assert_eq!(world.read(&reader, 0, 1).await.unwrap()[0], world.batches[0]);
        assert_eq!(reader.stats().damaged, 1);
        // What is read ahead is over.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    let run = &world.runs(0)[0];
    let mut bytes = world.store.get(&run.key).await.unwrap().to_vec();
    bytes[100] ^= 1;
    world.store.put(&run.key, vec![bytes.into()]).await.unwrap();
    let reader = world.reader(&CacheSettings::default()).await;
    let error = world.read(&reader, 0, 1).await.unwrap_err();
    assert!(
        matches!(&error, ColdError::Damaged { .. }) && !error.is_retriable(),
        "{error}"
    );
    let behind = world.read(&reader, 19 * COUNT, 1).await.unwrap();
    assert_eq!(behind[0], world.batches[19], "the rest of the object is served");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_retriable_and_a_missing_object_is_damage() {
    let world = World::new(2, 2, Compression::Lz4).await;
    let reader = world.reader(&CacheSettings::default()).await;
    world.faults.outage(true);
    let error = world.read(&reader, 0, 1).await.unwrap_err();
    assert!(
        matches!(error, ColdError::Unavailable { .. }) && error.is_retriable(),
        "{error}"
    );
    world.faults.outage(false);
    world.faults.next(Operation::Get, Fault::Hang);
    let error = world.read(&reader, 0, 1).await.unwrap_err();
    assert!(error.is_retriable(), "{error}");
    world.read(&reader, 0, 1).await.unwrap();

    world.store.delete(&world.runs(3 * COUNT)[0].key).await.unwrap();
    let error = world.read(&reader, 3 * COUNT, 1).await.unwrap_err();
    assert!(
        matches!(error, ColdError::Missing { .. }) && !error.is_retriable(),
        "{error}"
    );
    // What can be read is served; the error comes to who begins there.
    assert_eq!(
        world.read(&reader, 0, usize::MAX).await.unwrap(),
        world.batches[..2]
    );
    let error = world.read(&reader, world.end(), 1).await.unwrap_err();
    assert!(matches!(error, ColdError::NotCovered { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_small_memory_only_costs_requests() {
    let world = World::new(4, 100, Compression::Lz4).await;
    let settings = CacheSettings {
        memory_bytes: 1 << 20,
        ..CacheSettings::default()
    };
    let reader = world.reader(&settings).await;
    world.read_on(&reader, 0, 64 << 10).await;
    let gets = world.gets();
    world.read_on(&reader, 0, 64 << 10).await;
    assert!(world.gets() > gets, "1 MiB cannot hold what was read");
}

#[tokio::test(start_paused = true)]
async fn the_first_record_of_a_time_is_found() {
    let world = World::new(3, 10, Compression::Lz4).await;
    let reader = world.reader(&CacheSettings::default()).await;
    let find = async |from: u64, time: i64| {
        reader
            .find_timestamp(
                world.partition,
                &world.runs(from),
                Offset(from),
                TimestampMs(time),
            )
            .await
            .unwrap()
            .map(|found| (found.offset.0, found.timestamp.0))
    };
    // Batch n has the times n * 1000 and on, a record per millisecond.
    assert_eq!(find(0, 0).await, Some((0, 0)));
    assert_eq!(find(0, 13_005).await, Some((13 * COUNT + 5, 13_005)));
    assert_eq!(find(0, 13_999).await, Some((14 * COUNT, 14_000)));
    assert_eq!(find(20 * COUNT + 3, 1).await, Some((20 * COUNT + 3, 20_003)));
    assert_eq!(find(0, 29_020).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_serves_what_memory_has_no_room_for_even_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(4, 100, Compression::Lz4).await;
    let settings = CacheSettings {
        memory_bytes: 1 << 20,
        disk: Some(DiskCache {
            directory: directory.path().join("cold"),
            bytes: 128 << 20,
        }),
        ..CacheSettings::default()
    };
    let reader = world.reader(&settings).await;
    world.read_on(&reader, 0, 256 << 10).await;
    reader.close().await;
    drop(reader);
    let reader = world.reader(&settings).await;
    let fills = reader.stats().fills;
    assert_eq!(fills, 0);
    world.read_on(&reader, 0, 256 << 10).await;
    let stats = reader.stats();
    assert!(stats.disk_hits > 20, "{stats:?}");
    assert!(stats.fills <= 4, "{stats:?}");
    reader.close().await;
}

#[tokio::test]
async fn a_disk_that_is_too_small_is_refused() {
    let world = World::new(1, 1, Compression::Lz4).await;
    let settings = CacheSettings {
        disk: Some(DiskCache {
            directory: "unused".into(),
            bytes: 1 << 20,
        }),
        ..CacheSettings::default()
    };
    let error = ColdReader::open(world.store.clone(), &settings)
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("at least 134217728"), "{error}");
}
