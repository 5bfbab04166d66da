//! Nodes of one region in this process: each with a runtime and a directory of its own, over a network in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meridian_controller::HostPort as FactHostPort;
use meridian_journal::{Disk, FaultyDisk, Journal, JournalSettings, RealDisk};
use meridian_net::testing::MemoryNet;
use meridian_shard::{
    AppendError, HostPort, PeerSettings, ReadError, ReadFrom, Region, RegionParts, RegionSettings,
    RegionStartError,
};
use meridian_types::{NodeId, Offset, Partition, ProducerId, ShardId, TimestampMs, TopicId, Uuid};
use meridian_wire::batch::{BatchBuilder, BatchHeader, Compression};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::support;

/// Shards of every region here.
pub(crate) const SHARDS: u32 = 4;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The port that every node listens on.
const PORT: u16 = 9190;

pub(crate) struct Node {
    pub(crate) region: Region,
    runtime: Runtime,
    journal: Journal,
    writer: std::thread::JoinHandle<()>,
}

pub(crate) struct Cluster {
    pub(crate) net: MemoryNet,
    pub(crate) nodes: BTreeMap<u32, Node>,
    directories: BTreeMap<u32, tempfile::TempDir>,
    incarnations: BTreeMap<u32, u128>,
    /// Journals that are kept in memory, on disks that can be full.
    pub(crate) disks: BTreeMap<u32, FaultyDisk>,
    /// What tests wait in.
    runtime: Runtime,
    random: Arc<AtomicU64>,
}

fn name(id: u32) -> String {
    format!("node-{id}")
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let net = MemoryNet::new();
        // Addresses follow the order in which hosts are named.
        for id in 1..=5 {
            net.host(&name(id));
        }
        Self {
            net,
            nodes: BTreeMap::new(),
            directories: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            disks: BTreeMap::new(),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
            random: Arc::new(AtomicU64::new(1)),
        }
    }

    /// A region of `count` nodes that found it together.
    pub(crate) fn founded(count: u32) -> Self {
        let mut cluster = Self::new();
        let ids: Vec<_> = (1..=count).collect();
        cluster.start(&ids, &ids).expect("the region is founded");
        cluster
    }

    /// The same on disks in memory that fail and rot when they are told to.
    pub(crate) fn founded_on_faulty_disks(count: u32) -> Self {
        let mut cluster = Self::new();
        let ids: Vec<_> = (1..=count).collect();
        for id in &ids {
            cluster.disks.insert(*id, FaultyDisk::seeded(u64::from(*id)));
        }
        cluster.start(&ids, &ids).expect("the region is founded");
        cluster
    }

    pub(crate) fn settings(&self, id: u32, seeds: &[u32]) -> RegionSettings {
        let incarnation = Uuid::from_u128(u128::from(id) << 64 | self.incarnations.get(&id).unwrap_or(&1));
        RegionSettings {
            peer_listen: format!("0.0.0.0:{PORT}").parse().expect("an address"),
            peer_advertise: Some(HostPort::new(name(id), PORT)),
            seeds: seeds.iter().map(|id| HostPort::new(name(*id), PORT)).collect(),
            shards: SHARDS,
            maintenance_interval: Duration::from_millis(200),
            dead_after: Duration::from_secs(3600),
            start_timeout: Duration::from_secs(30),
            ..RegionSettings::new(PeerSettings::new(NodeId(id), incarnation, "test"))
        }
    }

    /// Starts nodes together, as new ones or on what they had.
    pub(crate) fn start(&mut self, ids: &[u32], seeds: &[u32]) -> Result<(), RegionStartError> {
        let settings: Vec<_> = ids.iter().map(|id| self.settings(*id, seeds)).collect();
        self.start_with(settings)
    }

    pub(crate) fn start_with(&mut self, settings: Vec<RegionSettings>) -> Result<(), RegionStartError> {
        let starting: Vec<_> = settings
            .into_iter()
            .map(|settings| self.begin(settings))
            .collect();
        let mut outcome = Ok(());
        for (id, node, region) in starting {
            match self.runtime.block_on(region).expect("the start does not panic") {
                Ok(region) => {
                    let kafka = FactHostPort {
                        host: name(id),
                        port: 9092,
                    };
                    let registered = self.runtime.block_on(region.register(kafka));
                    registered.expect("a node that was let in is registered");
                    let (runtime, journal, writer) = node;
                    let node = Node {
                        region,
                        runtime,
                        journal,
                        writer,
                    };
                    self.nodes.insert(id, node);
                }
                Err(error) => {
                    let (runtime, journal, writer) = node;
                    end(runtime, &journal, writer);
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    #[expect(clippy::type_complexity, reason = "used once, above")]
    fn begin(
        &mut self,
        settings: RegionSettings,
    ) -> (
        u32,
        (Runtime, Journal, std::thread::JoinHandle<()>),
        tokio::task::JoinHandle<Result<Region, RegionStartError>>,
    ) {
        let id = settings.peer.node.0;
        let directory = self
            .directories
            .entry(id)
            .or_insert_with(|| tempfile::tempdir().expect("a directory"))
            .path()
            .to_owned();
        let disk: Arc<dyn Disk> = match self.disks.get(&id) {
            Some(disk) => disk.mount(),
            None => Arc::new(open_disk(&directory.join("journal"))),
        };
        let journal = JournalSettings {
            file_bytes: 4 << 20,
            bytes_max: 16 << 20,
            cache_bytes: 1 << 20,
            ..JournalSettings::new(id.into())
        };
        let (journal, writer) = Journal::open(disk, journal).expect("a journal");
        let writer = std::thread::Builder::new()
            .spawn(move || writer.run())
            .expect("a thread");
        let checkpoints: Arc<dyn Disk> = Arc::new(open_disk(&directory.join("checkpoints")));
        let random = Arc::clone(&self.random);
        let parts = RegionParts {
            journal: journal.clone(),
            checkpoints,
            net: Arc::new(self.net.host(&name(id))),
            clock: Arc::new(|| TimestampMs(1_000_000)),
            random: Arc::new(move || {
                u128::from(
                    random
                        .fetch_add(1, Ordering::Relaxed)
                        .wrapping_mul(0x9e37_79b9_7f4a_7c15),
                ) << 32
            }),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let region = runtime.spawn(Region::start(settings, parts));
        (id, (runtime, journal, writer), region)
    }

    /// Ends a node in the middle of whatever it does.
    pub(crate) fn kill(&mut self, id: u32) {
        let Node {
            region,
            runtime,
            journal,
            writer,
        } = self.nodes.remove(&id).expect("it runs");
        end(runtime, &journal, writer);
        drop(region);
    }

    /// Ends a node as planned.
    pub(crate) fn stop(&mut self, id: u32) {
        let node = self.nodes.remove(&id).expect("it runs");
        self.runtime.block_on(async {
            node.region.hand_over(Duration::from_secs(30)).await;
            node.region.shutdown().await;
        });
        end(node.runtime, &node.journal, node.writer);
    }

    /// A node that lost its data directory.
    pub(crate) fn wipe(&mut self, id: u32) {
        assert!(!self.nodes.contains_key(&id));
        self.directories.remove(&id);
        *self.incarnations.entry(id).or_insert(1) += 1;
    }

    /// Where a node that does not run keeps its data.
    pub(crate) fn directory(&self, id: u32) -> &Path {
        self.directories[&id].path()
    }

    /// Bytes of the files of a node's journal.
    pub(crate) fn journal_bytes(&self, id: u32) -> u64 {
        self.nodes[&id].journal.usage().disk_bytes
    }

    pub(crate) fn region(&self, id: u32) -> &Region {
        &self.nodes[&id].region
    }

    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub(crate) fn pause(&self, time: Duration) {
        self.wait(async { tokio::time::sleep(time).await });
    }

    /// Waits until something is so, and says how long that took.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) -> Duration {
        let started = Instant::now();
        while !is_so(self) {
            assert!(
                started.elapsed() < PATIENCE,
                "not in time: {what}\n{}",
                self.describe()
            );
            self.pause(Duration::from_millis(5));
        }
        started.elapsed()
    }

    fn describe(&self) -> String {
        let nodes = self.nodes.iter();
        nodes
            .map(|(id, node)| format!("node {id}: {:#?}\n", node.region.status()))
            .collect()
    }

    /// Creates a topic, asking `node`; afterwards the node itself knows it.
    pub(crate) fn create_topic(&self, node: u32, name: &str) -> TopicId {
        self.create_topic_with(node, name, &[])
    }

    pub(crate) fn create_topic_with(&self, node: u32, name: &str, configs: &[(&str, &str)]) -> TopicId {
        let region = self.region(node);
        let id = self.wait(support::create_topic(region, name, configs));
        assert!(
            region.controller().topic_by_id(id).is_some(),
            "it sees what it did"
        );
        id
    }

    /// Waits until another one of three nodes leads a shard than `left`, which may not have noticed; says which.
    pub(crate) fn until_another_leads(&self, shard: ShardId, left: u32) -> u32 {
        let next = std::cell::Cell::new(None);
        self.until("the others elect another", |cluster| {
            let mut others = (1..=3).filter(|id| *id != left);
            next.set(others.find(|id| cluster.region(*id).leader_epoch(shard).is_some()));
            next.get().is_some()
        });
        next.get().expect("just seen")
    }

    /// The node that all running nodes take for the leader of a shard, which agrees.
    pub(crate) fn leader_of(&self, shard: ShardId) -> Option<u32> {
        let leaders: BTreeSet<_> = self
            .nodes
            .values()
            .map(|node| node.region.leader_of(shard))
            .collect();
        let leader = leaders
            .first()
            .copied()
            .flatten()
            .filter(|_| leaders.len() == 1)?;
        let region = &self.nodes.get(&leader.0)?.region;
        (shard == ShardId::CONTROLLER || region.leader_epoch(shard).is_some()).then_some(leader.0)
    }

    /// Waits until all running nodes agree on the leader of a shard: on a busy machine leaders step aside at any time.
    pub(crate) fn until_leader(&self, shard: ShardId) -> u32 {
        let leader = std::cell::Cell::new(None);
        self.until("all agree on a leader", |cluster| {
            leader.set(cluster.leader_of(shard));
            leader.get().is_some()
        });
        leader.get().expect("just seen")
    }

    pub(crate) fn until_led(&self) -> Duration {
        let all: Vec<_> = (0..SHARDS).map(ShardId).chain([ShardId::CONTROLLER]).collect();
        self.until("every shard has one leader that all know", |cluster| {
            all.iter().all(|shard| cluster.leader_of(*shard).is_some())
        })
    }

    /// Appends one record at whoever leads, again and again until it is taken, as a client would. Returns its
    /// offset. Each record is of a producer of its own, so that one of unknown fate leaves no copy.
    pub(crate) fn append(&self, partition: Partition, value: &str) -> Offset {
        let producer = ProducerId(1_000_000 + self.random.fetch_add(1, Ordering::Relaxed));
        let mut builder = BatchBuilder::new(Compression::None).with_producer(producer, 0, 0);
        builder
            .push(TimestampMs(1), None, Some(value.as_bytes()), &[])
            .expect("it fits");
        self.append_batch(partition, &builder.build().expect("a batch"))
    }

    /// The same with any batch; without a producer unknown fates may leave copies.
    pub(crate) fn append_batch(&self, partition: Partition, batch: &Bytes) -> Offset {
        let started = Instant::now();
        loop {
            let leader = self.nodes.values().find(|node| {
                let shard = node.region.shard_of(partition);
                node.region.leader_epoch(shard).is_some()
            });
            if let Some(node) = leader {
                match self.wait(append_batch(&node.region, partition, batch)) {
                    Ok(offset) => return offset,
                    Err(AppendError::Rejected(reason)) => assert!(
                        started.elapsed() < PATIENCE,
                        "rejected: {reason}\n{}",
                        self.describe()
                    ),
                    Err(_) => {}
                }
            }
            assert!(
                started.elapsed() < PATIENCE,
                "nobody takes it\n{}",
                self.describe()
            );
            self.pause(Duration::from_millis(5));
        }
    }

    /// The values of a partition, as one node has them.
    pub(crate) fn values(&self, node: u32, partition: Partition, from: ReadFrom) -> Vec<(u64, String)> {
        self.wait(values(self.region(node), partition, from))
    }

    /// Waits until every replica of every shard holds the same, and compares.
    pub(crate) fn until_equal(&self) {
        for shard in (0..SHARDS).map(ShardId) {
            self.until("replicas are equally far and equal", |cluster| {
                let replicas: BTreeSet<_> = cluster
                    .nodes
                    .values()
                    .filter(|node| {
                        node.region
                            .usage()
                            .shards
                            .iter()
                            .any(|usage| usage.shard == shard)
                    })
                    .map(|node| {
                        let state = node.region.applied_state(shard);
                        (state.applied().index, state.digest())
                    })
                    .collect();
                let indexes: BTreeSet<_> = replicas.iter().map(|(index, _)| *index).collect();
                assert_eq!(indexes.len(), replicas.len(), "equally far and not equal");
                replicas.len() <= 1
            });
        }
    }
}

/// Opens a directory that a node may still hold which was killed a moment ago.
fn open_disk(directory: &Path) -> RealDisk {
    let started = Instant::now();
    loop {
        match RealDisk::open(directory) {
            Ok(disk) => return disk,
            Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::yield_now();
    }
}

fn end(runtime: Runtime, journal: &Journal, writer: std::thread::JoinHandle<()>) {
    runtime.shutdown_background();
    journal.shutdown();
    writer.join().expect("the writer ends well");
}

pub(crate) fn batch(value: &str) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder
        .push(TimestampMs(1), None, Some(value.as_bytes()), &[])
        .expect("it fits");
    builder.build().expect("a batch")
}

pub(crate) async fn append(
    region: &Region,
    partition: Partition,
    value: &str,
) -> Result<Offset, AppendError> {
    append_batch(region, partition, &batch(value)).await
}

/// Appends one record as an idempotent producer does.
pub(crate) async fn append_as(
    region: &Region,
    partition: Partition,
    producer: u64,
    sequence: i32,
) -> Result<Offset, AppendError> {
    let mut builder = BatchBuilder::new(Compression::None).with_producer(ProducerId(producer), 0, sequence);
    let value = format!("{producer}: {sequence}");
    builder
        .push(TimestampMs(1), None, Some(value.as_bytes()), &[])
        .expect("it fits");
    append_batch(region, partition, &builder.build().expect("a batch")).await
}

async fn append_batch(region: &Region, partition: Partition, batch: &Bytes) -> Result<Offset, AppendError> {
    let header = BatchHeader::parse(batch).expect("a batch");
    let appended = region.append(partition, BytesMut::from(&batch[..]), header);
    Ok(appended.await?.base_offset)
}

/// Everything of a partition. Begins anew where retention has moved on meanwhile, or the bucket did not answer in time.
pub(crate) async fn values(region: &Region, partition: Partition, from: ReadFrom) -> Vec<(u64, String)> {
    let started = Instant::now();
    loop {
        match try_values(region, partition, from).await {
            Ok(values) => return values,
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

async fn try_values(
    region: &Region,
    partition: Partition,
    from: ReadFrom,
) -> Result<Vec<(u64, String)>, ReadError> {
    let mut values = Vec::new();
    let mut next = region.positions(partition, from)?.log_start_offset;
    loop {
        let read = region.read(partition, next, 1 << 20, from).await?;
        if read.bytes == 0 {
            return Ok(values);
        }
        for mut piece in read.records {
            while !piece.is_empty() {
                let header = BatchHeader::parse(&piece).expect("a batch");
                let batch = piece.split_to(header.size());
                for record in meridian_wire::batch::records(&batch, 1 << 20).expect("records") {
                    let record = record.expect("a record");
                    let value = record
                        .value
                        .map(|value| String::from_utf8_lossy(&value).into_owned());
                    values.push((record.offset.0, value.unwrap_or_default()));
                }
                next = header.next_offset();
            }
        }
    }
}
