//! Buckets as a region would have written them, for tests of what reads them.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_types::{
    LeaderEpoch, Offset, Partition, RaftIndex, ShardId, ShardMap, Term, TimestampMs, TopicId, Uuid,
};
use meridian_wire::batch::{BatchBuilder, BatchHeader, Compression};

use crate::bundle::{BundleLimits, BundleWriter};
use crate::manifest::{Manifest, ObjectName};
use crate::manifest_file::ManifestFile;
use crate::store::Store;
use crate::topics_file::{NamedTopic, TopicsFile};

/// Writes a bucket: batches are appended, tiered to a bundle per shard, and published in manifest files.
pub struct SampleBucket {
    store: Store,
    cluster: String,
    shards: ShardMap,
    limits: BundleLimits,
    topics: Vec<NamedTopic>,
    log_starts: BTreeMap<Partition, Offset>,
    ends: BTreeMap<Partition, Offset>,
    waiting: BTreeMap<ShardId, BTreeMap<Partition, Vec<Bytes>>>,
    manifests: BTreeMap<ShardId, Manifest>,
    drawn: u128,
}

impl SampleBucket {
    /// An empty bucket of the cluster `cluster`.
    pub fn new(store: Store, cluster: &str, shards: u32, limits: BundleLimits) -> Self {
        Self {
            store,
            cluster: cluster.to_owned(),
            shards: ShardMap::shared(shards),
            limits,
            topics: Vec::new(),
            log_starts: BTreeMap::new(),
            ends: BTreeMap::new(),
            waiting: BTreeMap::new(),
            manifests: BTreeMap::new(),
            drawn: 0,
        }
    }

    fn draw(&mut self) -> Uuid {
        self.drawn += 1;
        Uuid::from_u128(self.drawn)
    }

    /// Makes a topic.
    pub fn topic(&mut self, name: &str, partitions: u32) -> TopicId {
        let id = TopicId(self.draw());
        self.topics.push(NamedTopic {
            id,
            name: name.to_owned(),
            partitions,
            configs: BTreeMap::new(),
        });
        id
    }

    /// Appends a batch of `count` records of `value_bytes` each, with keys and headers, one per millisecond from `time`
    /// on. Record `n` of a partition has the key `key-n`, the header `number` with `n`, and a value that begins with
    /// `n`; every seventh has no value.
    pub fn append(
        &mut self,
        topic: TopicId,
        index: u32,
        count: u64,
        value_bytes: usize,
        time: TimestampMs,
        codec: Compression,
    ) -> Bytes {
        let partition = Partition { topic, index };
        let base = self.ends.get(&partition).copied().unwrap_or_default();
        let batch = sample_batch(base, count, value_bytes, time, codec);
        self.append_batch(partition, batch.clone());
        batch
    }

    /// Appends a batch that was made elsewhere; it must follow.
    pub fn append_batch(&mut self, partition: Partition, batch: Bytes) {
        let header = BatchHeader::parse(&batch).expect("a batch");
        self.ends.insert(partition, header.next_offset());
        self.waiting
            .entry(self.shards.of(partition))
            .or_default()
            .entry(partition)
            .or_default()
            .push(batch);
    }

    /// Uploads what was appended since, and commits it.
    pub async fn tier(&mut self) {
        for (shard, partitions) in std::mem::take(&mut self.waiting) {
            let mut writer = BundleWriter::new(self.limits);
            for (partition, batches) in partitions {
                writer.push(partition, &batches).expect("batches follow");
            }
            let bundle = writer.finish().expect("there are batches");
            let name = ObjectName {
                term: Term(1),
                id: self.draw(),
            };
            let key = name.key(&self.cluster, shard);
            self.store
                .put(&key, bundle.parts.clone())
                .await
                .expect("the store takes it");
            let manifest = self.manifests.entry(shard).or_default();
            let through = RaftIndex(manifest.through().0 + 1);
            manifest
                .add_bundle(
                    manifest.sequence(),
                    through,
                    bundle.object(name),
                    &bundle.extents,
                    |_| Some(Offset(0)),
                    TimestampMs(0),
                )
                .expect("the bundle follows");
        }
    }

    /// Deletes records below `offset`; what of the manifest lies wholly below goes.
    pub fn trim(&mut self, partition: Partition, offset: Offset) {
        self.log_starts.insert(partition, offset);
        if let Some(manifest) = self.manifests.get_mut(&self.shards.of(partition)) {
            manifest.trim(partition, offset, TimestampMs(0));
        }
    }

    /// Writes manifest files and the list of topics, as of now.
    pub async fn publish(&mut self) {
        let manifests: Vec<_> = self
            .manifests
            .iter()
            .map(|(shard, manifest)| (*shard, manifest.clone()))
            .collect();
        for (shard, manifest) in manifests {
            let log_starts = manifest
                .partitions()
                .map(|(partition, _)| {
                    (
                        partition,
                        self.log_starts.get(&partition).copied().unwrap_or_default(),
                    )
                })
                .collect();
            let id = self.draw();
            let index = RaftIndex(self.drawn as u64);
            let key = ManifestFile::key(&self.cluster, shard, index.0, id);
            let file = ManifestFile {
                shard,
                term: Term(1),
                index,
                written_at: TimestampMs(0),
                log_starts,
                manifest,
            };
            self.put(&key, file.encode()).await;
            let key = format!("{}/{shard}/state/{}.state", self.cluster, self.drawn);
            self.put(&key, b"a copy of the state".to_vec()).await;
        }
        let file = TopicsFile {
            cluster: self.cluster.clone(),
            region: "sample".to_owned(),
            shards: self.shards,
            index: RaftIndex(self.drawn as u64),
            written_at: TimestampMs(0),
            topics: self.topics.clone(),
        };
        let id = self.draw();
        let key = TopicsFile::key(&self.cluster, file.index, id);
        self.put(&key, file.encode()).await;
    }

    async fn put(&self, key: &str, bytes: Vec<u8>) {
        self.store
            .put(key, vec![bytes.into()])
            .await
            .expect("the store takes it");
    }

    /// The manifest of the shard that holds `partition`.
    pub fn manifest(&self, partition: Partition) -> (ShardId, &Manifest) {
        let shard = self.shards.of(partition);
        (shard, &self.manifests[&shard])
    }

    /// The cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }
}

/// A batch as [`SampleBucket::append`] makes them.
pub fn sample_batch(
    base: Offset,
    count: u64,
    value_bytes: usize,
    time: TimestampMs,
    codec: Compression,
) -> Bytes {
    let mut builder = BatchBuilder::new(codec).stored_at(base, LeaderEpoch(1));
    for number in base.0..base.0 + count {
        let key = format!("key-{number}");
        let value = sample_value(number, value_bytes);
        let text = number.to_string();
        let headers: [(&[u8], Option<&[u8]>); 2] = [(b"number", Some(text.as_bytes())), (b"empty", None)];
        let timestamp = TimestampMs(time.0 + (number - base.0) as i64);
        builder
            .push(timestamp, Some(key.as_bytes()), value.as_deref(), &headers)
            .expect("it fits");
    }
    builder.build().expect("it fits")
}

/// The value of record `number`.
pub fn sample_value(number: u64, value_bytes: usize) -> Option<Vec<u8>> {
    if number % 7 == 6 {
        return None;
    }
    let mut value = format!("{number} ").into_bytes();
    // Hexadecimal noise: compresses by half.
    let mut state = number;
    while value.len() < value_bytes {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        value.extend_from_slice(format!("{:016x}", state ^ state >> 29).as_bytes());
    }
    value.truncate(value_bytes.max(2));
    Some(value)
}
