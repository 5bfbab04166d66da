//! A node in this process, over a real journal, and a bucket with what goes wrong in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meridian_journal::{Disk, Journal, JournalSettings};
use meridian_net::testing::MemoryNet;
use meridian_shard::{
    Bucket, OffsetSpec, PeerSettings, ReadError, ReadFrom, Region, RegionParts, RegionSettings,
    ShardSettings, TierSettings,
};
use meridian_tiered_storage::cold::{CacheSettings, ColdReader};
use meridian_tiered_storage::merge::MergeSettings;
use meridian_tiered_storage::store::{Store, StoreLimits};
use meridian_tiered_storage::testing::{Faults, FaultyStore};
use meridian_types::{NodeId, Offset, Partition, ShardId, TimestampMs, TopicId, Uuid};
use meridian_wire::batch::{BatchBuilder, BatchHeader, Compression, Record, records};
use object_store::local::LocalFileSystem;
use tokio::time::Instant;

use crate::disk::open_disk;
use crate::support;

pub(crate) const SHARDS: u32 = 4;
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The bucket, with what goes wrong in it.
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
    pub(crate) faulty: Arc<FaultyStore>,
    pub(crate) faults: Faults,
}

impl Place {
    pub(crate) fn new(directory: &Path) -> Self {
        let directory = directory.join("bucket");
        std::fs::create_dir_all(&directory).expect("a directory");
        let inner = LocalFileSystem::new_with_prefix(&directory).expect("a store");
        let (faulty, faults) = FaultyStore::new(Arc::new(inner));
        Self {
            directory,
            faulty,
            faults,
        }
    }

    pub(crate) fn store(&self) -> Store {
        let limits = StoreLimits {
            request_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(1),
            backoff_max: Duration::from_millis(5),
            ..StoreLimits::default()
        };
        Store::with_limits(self.faulty.clone(), "", limits)
    }

    /// Keys of all objects that end so.
    pub(crate) fn keys(&self, ending: &str) -> Vec<String> {
        let mut keys = Vec::new();
        let mut open = vec![self.directory.clone()];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(&directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    open.push(path);
                } else if path.to_string_lossy().ends_with(ending) {
                    let key = path.strip_prefix(&self.directory).expect("below it");
                    keys.push(key.to_string_lossy().into_owned());
                }
            }
        }
        keys.sort_unstable();
        keys
    }
}

pub(crate) fn tier_settings() -> TierSettings {
    TierSettings {
        round_bytes: 256 << 10,
        round_interval: Duration::from_millis(100),
        bundle_bytes: 1 << 20,
        retry_pause: Duration::from_millis(10),
        copy_interval: Duration::from_millis(100),
        delete_grace: Duration::from_millis(300),
        sweep_interval: Duration::from_millis(200),
        // Tests of merges and compaction say what they want.
        merge: MergeSettings {
            extents_min: 0,
            ..MergeSettings::default()
        },
        compaction_interval: Duration::from_millis(50),
        ..TierSettings::default()
    }
}

pub(crate) struct Node {
    pub(crate) region: Region,
    pub(crate) writer: std::thread::JoinHandle<()>,
    pub(crate) now: Arc<AtomicI64>,
}

impl Node {
    pub(crate) async fn start(directory: &Path, place: &Place) -> Self {
        Self::with(directory, place, |_| {}).await
    }

    pub(crate) async fn with(
        directory: &Path,
        place: &Place,
        change: impl FnOnce(&mut RegionSettings),
    ) -> Self {
        let disk = Arc::new(open_disk(&directory.join("journal")).await);
        let journal = JournalSettings {
            file_bytes: 1 << 20,
            bytes_max: 2 << 20,
            cache_bytes: 256 << 10,
            ..JournalSettings::new(7)
        };
        let (journal, writer) = Journal::open(disk, journal).expect("a journal");
        let writer = std::thread::Builder::new()
            .spawn(move || writer.run())
            .expect("a thread");
        let checkpoints = open_disk(&directory.join("checkpoints")).await;
        let checkpoints: Arc<dyn Disk> = Arc::new(checkpoints);
        let now = Arc::new(AtomicI64::new(1_000_000));
        let clock = Arc::clone(&now);
        // Another start draws other ids.
        let started = std::fs::read_dir(directory).expect("a directory").count() as u64;
        let files = std::fs::read_dir(directory.join("checkpoints"))
            .expect("a directory")
            .count() as u64;
        let random = AtomicU64::new(started << 40 | files << 20);
        let store = place.store();
        let reader = ColdReader::open(store.clone(), &CacheSettings::default())
            .await
            .expect("a cache");
        let mut settings = RegionSettings {
            shards: SHARDS,
            cluster_id: Some("cluster".to_owned()),
            maintenance_interval: Duration::from_millis(50),
            journal_bytes_max: 2 << 20,
            start_timeout: Duration::from_secs(60),
            bucket: Some(Bucket {
                store,
                reader,
                settings: tier_settings(),
            }),
            shard: ShardSettings {
                checkpoint_entries: 20,
                ..ShardSettings::default()
            },
            ..RegionSettings::new(PeerSettings::new(NodeId(1), Uuid::from_u128(1), "test"))
        };
        change(&mut settings);
        let parts = RegionParts {
            journal,
            checkpoints,
            net: Arc::new(MemoryNet::new().host("alone")),
            clock: Arc::new(move || TimestampMs(clock.load(Ordering::Relaxed))),
            random: Arc::new(move || u128::from(random.fetch_add(1, Ordering::Relaxed)) << 64 | 0xabcd),
        };
        let region = Region::start(settings, parts).await.expect("the region starts");
        let kafka = meridian_controller::HostPort {
            host: "localhost".into(),
            port: 9092,
        };
        region.register(kafka).await.expect("registered");
        Self { region, writer, now }
    }

    pub(crate) async fn topic(&self, name: &str, configs: &[(&str, &str)]) -> TopicId {
        support::create_topic(&self.region, name, configs).await
    }

    /// Appends a batch and returns it as it lies in the log.
    pub(crate) async fn append(&self, partition: Partition, batch: &Bytes) -> Bytes {
        let header = BatchHeader::parse(batch).expect("a batch");
        let appended = self
            .region
            .append(partition, BytesMut::from(&batch[..]), header)
            .await;
        let at = appended.expect("appended").base_offset;
        let started = Instant::now();
        let stored = loop {
            match self.read(partition, at, 1).await {
                // On a machine that stood still it may be hot no more.
                Err(ReadError::Unavailable { .. }) if started.elapsed() < PATIENCE => {}
                stored => break stored.expect("readable"),
            }
        };
        assert_eq!(stored.len(), 1);
        stored[0].clone()
    }

    pub(crate) async fn read(
        &self,
        partition: Partition,
        from: Offset,
        bytes_max: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        let read = self
            .region
            .read(partition, from, bytes_max, ReadFrom::Leader)
            .await?;
        let mut batches = Vec::new();
        for mut piece in read.records {
            while !piece.is_empty() {
                let size = BatchHeader::parse(&piece).expect("a batch").size();
                batches.push(piece.split_to(size));
            }
        }
        Ok(batches)
    }

    /// Everything from `from` on, as a consumer reads it: again when the bucket does not answer.
    pub(crate) async fn read_all(&self, partition: Partition, from: Offset) -> Vec<Bytes> {
        let mut next = from;
        let mut batches: Vec<Bytes> = Vec::new();
        loop {
            match self.read(partition, next, 300_000).await {
                Ok(read) if read.is_empty() => return batches,
                Ok(read) => {
                    let last = BatchHeader::parse(&read[read.len() - 1]).expect("a batch");
                    next = last.next_offset();
                    batches.extend(read);
                }
                Err(ReadError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("at {next}: {error}"),
            }
        }
    }

    pub(crate) async fn find(&self, partition: Partition, spec: OffsetSpec) -> Option<(u64, Option<i64>)> {
        let found = self.region.offset_for(partition, spec).await.expect("led here")?;
        Some((found.offset.0, found.timestamp.map(|time| time.0)))
    }

    pub(crate) fn oldest_file(&self) -> u64 {
        self.region.usage().journal.oldest_file
    }

    pub(crate) fn objects(&self) -> u64 {
        let usage = self.region.tier_usage().expect("it has a bucket");
        usage.shards.iter().map(|shard| shard.totals.objects).sum()
    }

    pub(crate) fn waiting_bytes(&self) -> u64 {
        let usage = self.region.tier_usage().expect("it has a bucket");
        usage.shards.iter().map(|shard| shard.waiting_bytes).sum()
    }

    pub(crate) fn is_tiered(&self) -> bool {
        (0..SHARDS).all(|shard| {
            let state = self.region.applied_state(ShardId(shard));
            state.untiered_bytes() == 0
        })
    }

    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let waited = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waited).await;
        assert!(
            waited.is_ok(),
            "not in time: {what}\n{:#?}\n{:?}",
            self.region.tier_usage(),
            self.region.usage().journal
        );
    }

    /// Waits until the journal has given up the files before this one. Entries go on, so that checkpoints do.
    pub(crate) async fn tick_until_file(&self, partition: Partition, number: u64) {
        let ticks = async {
            while self.oldest_file() < number {
                self.append(partition, &batch("tick", 5000)).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, ticks).await;
        assert!(
            waited.is_ok(),
            "the oldest files stay: {:?}",
            self.region.usage().journal
        );
    }

    pub(crate) async fn stop(self) {
        self.region.shutdown().await;
        self.writer.join().expect("the writer ends well");
    }
}

pub(crate) fn batch(value: &str, timestamp: i64) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for part in [value, "second"] {
        builder
            .push(TimestampMs(timestamp), None, Some(part.as_bytes()), &[])
            .expect("it fits");
    }
    builder.build().expect("a batch")
}

/// A value that does not compress to nothing.
pub(crate) fn value(n: u64, bytes: usize) -> String {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(&format!("{state:016x}"));
    }
    text
}

pub(crate) const FOREVER: &[(&str, &str)] = &[("retention.ms", "-1")];

/// A batch of records with keys; without a value they are tombstones.
pub(crate) fn keyed(timestamp: i64, records: &[(&str, Option<&str>)]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for (key, value) in records {
        let value = value.map(str::as_bytes);
        builder
            .push(TimestampMs(timestamp), Some(key.as_bytes()), value, &[])
            .expect("it fits");
    }
    builder.build().expect("a batch")
}

/// The records of some batches.
pub(crate) fn all_records(batches: &[Bytes]) -> Vec<Record> {
    let records = batches
        .iter()
        .flat_map(|batch| records(batch, 1 << 20).expect("records"));
    records.map(|record| record.expect("a record")).collect()
}
