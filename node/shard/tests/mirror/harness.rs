//! Regions of one node each: real journals, real links.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meridian_controller::HostPort as FactHostPort;
use meridian_journal::{Disk, FaultyDisk, Journal, JournalSettings, RealDisk};
use meridian_net::testing::MemoryNet;
use meridian_shard::{
    AppendError, Appended, Bucket, GeoSettings, GeoTls, LinkSettings, OsNetwork, PeerSettings, ReadError,
    ReadFrom, Region, RegionParts, RegionSettings, ShardSettings, TierSettings,
};
use meridian_tiered_storage::cold::{CacheSettings, ColdReader};
use meridian_tiered_storage::merge::MergeSettings;
use meridian_tiered_storage::store::Store;
use meridian_types::{NodeId, Partition, ProducerId, RegionNumber, ShardId, TimestampMs, TopicId, Uuid};
use meridian_wire::batch::{BatchBuilder, BatchHeader, Compression};
use object_store::local::LocalFileSystem;
use tokio::time::Instant;

/// Shards of every region here.
pub(crate) const SHARDS: u32 = 4;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A region that runs.
pub(crate) struct Running {
    pub(crate) region: Region,
    writer: std::thread::JoinHandle<()>,
}

/// All regions, and where their data lies.
pub(crate) struct World {
    directories: BTreeMap<u16, tempfile::TempDir>,
    running: BTreeMap<u16, Running>,
    /// Tells the addresses of this world from those of others in this process: nobody takes a port while a region is away.
    place: u8,
    /// Where each region listens; kept over restarts, as others know it.
    addresses: BTreeMap<u16, String>,
    random: Arc<AtomicU64>,
    /// Regions with a bucket.
    buckets: BTreeSet<u16>,
    /// Buckets that regions started from now on may read, although they are others'.
    pub(crate) readable_buckets: Vec<Store>,
    /// Journals give up what is beyond so many bytes.
    journal_bytes: u64,
    /// Of single regions.
    journal_bytes_of: BTreeMap<u16, u64>,
    /// Files of their journals are of this size.
    file_bytes_of: BTreeMap<u16, u64>,
    /// Journals that lie on such a disk, and not on a real one.
    disks: BTreeMap<u16, FaultyDisk>,
    /// When small extents in buckets are merged.
    pub(crate) merge: MergeSettings,
    /// Pause between rounds of maintenance, whose commands are content.
    pub(crate) maintenance_interval: Duration,
    /// Most bytes per second that a region sends to another.
    pub(crate) send_bytes_per_second_max: Option<u64>,
}

/// Worlds so far.
static WORLDS: AtomicU8 = AtomicU8::new(0);

fn random_bits(from: &AtomicU64) -> u128 {
    let next = || {
        from.fetch_add(1, Ordering::Relaxed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    u128::from(next()) << 64 | u128::from(next())
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            directories: BTreeMap::new(),
            running: BTreeMap::new(),
            place: WORLDS.fetch_add(1, Ordering::Relaxed),
            addresses: BTreeMap::new(),
            random: Arc::new(AtomicU64::new(1)),
            buckets: BTreeSet::new(),
            readable_buckets: Vec::new(),
            journal_bytes: 64 << 20,
            journal_bytes_of: BTreeMap::new(),
            file_bytes_of: BTreeMap::new(),
            disks: BTreeMap::new(),
            merge: MergeSettings::default(),
            maintenance_interval: Duration::from_millis(100),
            send_bytes_per_second_max: None,
        }
    }

    /// These regions have a bucket each, and journals are as small as they can be.
    pub(crate) fn small(buckets: impl IntoIterator<Item = u16>) -> Self {
        Self {
            buckets: buckets.into_iter().collect(),
            journal_bytes: 2 << 20,
            ..Self::new()
        }
    }

    /// A region's journal is of another size.
    pub(crate) fn journal_bytes_of(&mut self, number: u16, bytes: u64) {
        self.journal_bytes_of.insert(number, bytes);
    }

    /// A region's journal writes files of another size from its next start on.
    pub(crate) fn file_bytes_of(&mut self, number: u16, bytes: u64) {
        self.file_bytes_of.insert(number, bytes);
    }

    /// A region's journal lies on a disk of its own from its first start on.
    pub(crate) fn disk_of(&mut self, number: u16, disk: FaultyDisk) {
        self.disks.insert(number, disk);
    }

    /// The bucket of a region that was started, as somebody else opens it.
    pub(crate) fn bucket_of(&self, number: u16) -> Store {
        let path = self.directories[&number].path().join("bucket");
        let objects = LocalFileSystem::new_with_prefix(path).expect("a store");
        Store::over(Arc::new(objects), "")
    }

    /// Names of the bundles in a region's bucket.
    pub(crate) fn bundles(&self, number: u16) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut open = vec![self.directories[&number].path().join("bucket")];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(&directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                match path.is_dir() {
                    true => open.push(path),
                    false if path.extension().is_some_and(|it| it == "bundle") => {
                        let name = path.file_name().expect("a name").to_string_lossy();
                        names.insert(name.into_owned());
                    }
                    false => {}
                }
            }
        }
        names
    }

    /// Region 0, which owns, and region 1, which mirrors it.
    pub(crate) async fn of_two() -> Self {
        let mut world = Self::new();
        world.start(0, &[]).await;
        world.start(1, &[0]).await;
        world
    }

    /// Starts a region, as a new one or on what it had. `seeds`: the regions that it is told of.
    pub(crate) async fn start(&mut self, number: u16, seeds: &[u16]) {
        let directory = self
            .directories
            .entry(number)
            .or_insert_with(|| tempfile::tempdir().expect("a directory"));
        let path = directory.path().to_owned();
        let journal_bytes = self.journal_bytes_of.get(&number).copied();
        let journal_bytes = journal_bytes.unwrap_or(self.journal_bytes);
        let disk = match self.disks.get(&number) {
            Some(disk) => disk.mount(),
            None => open_disk(path.join("journal")).await,
        };
        let journal = JournalSettings {
            file_bytes: self
                .file_bytes_of
                .get(&number)
                .copied()
                .unwrap_or((journal_bytes / 2).min(4 << 20)),
            bytes_max: journal_bytes,
            cache_bytes: 256 << 10,
            ..JournalSettings::new(number.into())
        };
        let (journal, writer) = Journal::open(disk, journal).expect("a journal");
        let writer = std::thread::Builder::new()
            .spawn(move || writer.run())
            .expect("a thread");
        let checkpoints = open_disk(path.join("checkpoints")).await;
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(&random_bits(&self.random).to_le_bytes());
        let host = u8::try_from(number + 1).expect("a small number");
        let loopback = std::net::Ipv4Addr::new(127, 1, self.place, host);
        let known = self
            .addresses
            .get(&number)
            .and_then(|address| address.parse().ok());
        let geo = GeoSettings {
            number: RegionNumber(number),
            listen: known.unwrap_or_else(|| (loopback, 0).into()),
            advertise: None,
            seeds: seeds.iter().map(|seed| self.addresses[seed].clone()).collect(),
            buckets: self.readable_buckets.clone(),
            send_bytes_per_second_max: self.send_bytes_per_second_max,
            transport: LinkSettings {
                bind: loopback.into(),
                connections: 2,
                ..LinkSettings::new(seed)
            },
            tls: GeoTls::ephemeral().expect("a certificate"),
            network: Arc::new(OsNetwork),
        };
        let node = RegionNumber(number).node(1).expect("a small number");
        let incarnation = Uuid::from_u128(u128::from(number) << 64 | 1);
        let bucket = match self.buckets.contains(&number) {
            true => Some(bucket(&path.join("bucket"), self.merge).await),
            false => None,
        };
        let settings = RegionSettings {
            shards: SHARDS,
            maintenance_interval: self.maintenance_interval,
            start_timeout: Duration::from_secs(60),
            geo: Some(geo),
            journal_bytes_max: journal_bytes,
            bucket,
            shard: ShardSettings {
                checkpoint_entries: 20,
                ..ShardSettings::default()
            },
            ..RegionSettings::new(PeerSettings::new(node, incarnation, format!("region-{number}")))
        };
        let random = Arc::clone(&self.random);
        let parts = RegionParts {
            journal,
            checkpoints,
            net: Arc::new(MemoryNet::new().host("alone")),
            clock: wall_clock(),
            random: Arc::new(move || random_bits(&random)),
        };
        let region = Region::start(settings, parts).await.expect("the region starts");
        let kafka = FactHostPort {
            host: format!("region-{number}"),
            port: 9092,
        };
        region.register(kafka).await.expect("it is registered");
        let address = region.geo_address().expect("it listens for others");
        self.addresses.insert(number, address);
        self.running.insert(number, Running { region, writer });
    }

    /// Ends a region as planned.
    pub(crate) async fn stop(&mut self, number: u16) {
        let Running { region, writer } = self.running.remove(&number).expect("it runs");
        region.shutdown().await;
        drop(region);
        tokio::task::spawn_blocking(move || writer.join().expect("the writer ends well"))
            .await
            .expect("it is waited for");
    }

    pub(crate) fn region(&self, number: u16) -> &Region {
        &self.running[&number].region
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !is_so(self) {
            if started.elapsed() >= PATIENCE {
                for (number, running) in &self.running {
                    let status = running.region.mirror_status();
                    eprintln!("region {number}: {status:#?}");
                }
                panic!("{what} is not so after {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until `mirror` holds everything that `owner` does.
    pub(crate) async fn until_equal(&self, owner: u16, mirror: u16) {
        self.until("the mirror is equal", |world| {
            logs().all(|shard| world.place(owner, shard) == world.place(mirror, shard))
        })
        .await;
    }

    /// How far a log is: content commands, and their digest.
    pub(crate) fn place(&self, region: u16, shard: ShardId) -> (u64, u64) {
        let region = self.region(region);
        let progress = match shard {
            ShardId::CONTROLLER => *region.controller().standing().progress(),
            shard => *region.applied_state(shard).standing().progress(),
        };
        (progress.sequence, progress.digest.0)
    }

    pub(crate) async fn topic(&self, region: u16, name: &str) -> TopicId {
        crate::support::create_topic(self.region(region), name, &[]).await
    }

    /// Appends at the owner, wherever it is now.
    pub(crate) async fn append(
        &self,
        region: u16,
        partition: Partition,
        batch: &Bytes,
    ) -> Result<Appended, AppendError> {
        let header = BatchHeader::parse(batch).expect("a batch");
        self.region(region)
            .append(partition, BytesMut::from(&batch[..]), header)
            .await
    }

    /// Appends what a producer numbered, again and again until it is taken, as the producer would.
    pub(crate) async fn append_until_taken(
        &self,
        region: u16,
        partition: Partition,
        batch: &Bytes,
    ) -> Appended {
        let started = Instant::now();
        loop {
            match self.append(region, partition, batch).await {
                Ok(appended) => return appended,
                Err(
                    error @ (AppendError::NotLeader { .. }
                    | AppendError::Unknown { .. }
                    | AppendError::Busy { .. }),
                ) => assert!(started.elapsed() < PATIENCE, "{error}"),
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Every batch of a partition, as it is stored. Begins anew where what was given up moved on meanwhile, or the bucket
    /// did not answer in time.
    pub(crate) async fn batches(&self, region: u16, partition: Partition) -> Vec<Bytes> {
        let started = Instant::now();
        loop {
            match self.try_batches(region, partition).await {
                Ok(batches) => return batches,
                Err(
                    error @ (ReadError::NotHeld { .. }
                    | ReadError::OffsetOutOfRange { .. }
                    | ReadError::Unavailable { .. }),
                ) => assert!(started.elapsed() < PATIENCE, "{partition}: {error}"),
                Err(error) => panic!("{partition}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Every batch of a partition in two regions that are equal, and stayed so while they were read.
    pub(crate) async fn batches_of_both(
        &self,
        owner: u16,
        mirror: u16,
        partition: Partition,
    ) -> (Vec<Bytes>, Vec<Bytes>) {
        let shard = self.region(owner).shard_of(partition);
        let started = Instant::now();
        loop {
            self.until_equal(owner, mirror).await;
            let before = self.place(owner, shard);
            let both = (
                self.batches(owner, partition).await,
                self.batches(mirror, partition).await,
            );
            if self.place(owner, shard) == before && self.place(mirror, shard) == before {
                return both;
            }
            assert!(started.elapsed() < PATIENCE, "{partition} does not come to rest");
        }
    }

    async fn try_batches(&self, region: u16, partition: Partition) -> Result<Vec<Bytes>, ReadError> {
        let region = self.region(region);
        let held = region.positions(partition, ReadFrom::Any)?;
        let (mut from, end) = (held.log_start_offset, held.high_watermark);
        let mut batches = Vec::new();
        while from < end {
            let read = region.read(partition, from, 1 << 20, ReadFrom::Any).await?;
            for piece in read.records {
                let mut rest = piece;
                while !rest.is_empty() {
                    let header = BatchHeader::parse(&rest).expect("a batch");
                    from = header.next_offset();
                    batches.push(rest.split_to(header.size()));
                }
            }
        }
        Ok(batches)
    }
}

/// The controller's log, then every shard's.
pub(crate) fn logs() -> impl Iterator<Item = ShardId> {
    std::iter::once(ShardId::CONTROLLER).chain((0..SHARDS).map(ShardId))
}

/// A directory that a region may still hold which was stopped a moment ago.
async fn open_disk(path: std::path::PathBuf) -> Arc<dyn Disk> {
    let started = Instant::now();
    loop {
        match RealDisk::open(&path) {
            Ok(disk) => return Arc::new(disk),
            Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn bucket(path: &std::path::Path, merge: MergeSettings) -> Bucket {
    std::fs::create_dir_all(path).expect("a directory");
    let objects = LocalFileSystem::new_with_prefix(path).expect("a store");
    let store = Store::over(Arc::new(objects), "");
    let reader = ColdReader::open(store.clone(), &CacheSettings::default())
        .await
        .expect("a cache");
    let settings = TierSettings {
        round_bytes: 128 << 10,
        round_interval: Duration::from_millis(100),
        bundle_bytes: 512 << 10,
        retry_pause: Duration::from_millis(10),
        copy_interval: Duration::from_millis(100),
        // What is copied for a checkpoint must not be taken for an orphan.
        delete_grace: Duration::from_millis(300),
        sweep_interval: Duration::from_millis(200),
        merge,
        ..TierSettings::default()
    };
    Bucket {
        store,
        reader,
        settings,
    }
}

/// Time that goes on, from a fixed beginning.
fn wall_clock() -> meridian_shard::Clock {
    let started = Instant::now();
    Arc::new(move || {
        TimestampMs(1_000_000 + i64::try_from(started.elapsed().as_millis()).expect("a short test"))
    })
}

pub(crate) fn batch(values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        builder
            .push(TimestampMs(10), None, Some(value.as_bytes()), &[])
            .expect("it fits");
    }
    builder.build().expect("a batch")
}

pub(crate) fn idempotent(producer: u64, sequence: i32, value: &str) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None).with_producer(ProducerId(producer), 0, sequence);
    builder
        .push(TimestampMs(10), None, Some(value.as_bytes()), &[])
        .expect("it fits");
    builder.build().expect("a batch")
}

/// The values of all records, with their offsets.
pub(crate) fn values(batches: &[Bytes]) -> Vec<(u64, String)> {
    let mut values = Vec::new();
    for bytes in batches {
        for record in meridian_wire::batch::records(bytes, 1 << 20).expect("records") {
            let record = record.expect("a record");
            let value = record.value.expect("a value");
            values.push((record.offset.0, String::from_utf8(value.to_vec()).expect("text")));
        }
    }
    values
}

pub(crate) fn node_of(region: u16) -> NodeId {
    RegionNumber(region).node(1).expect("a small number")
}
