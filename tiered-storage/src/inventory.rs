//! What lies in a bucket, and what it costs. Pure, over a catalog and a listing.

use std::collections::BTreeMap;

use meridian_types::{Offset, Partition, ShardId, TimestampMs};

use crate::manifest::{Extent, ObjectName};
use crate::replay::Catalog;
use crate::store::Listed;

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// Bytes of a request that reads history: frames in a row.
const READ_BYTES: u64 = 8 << 20;

/// A partition in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionUsage {
    /// Name of the topic, or its id where the list of topics does not name it.
    pub topic: String,
    /// The partition.
    pub partition: Partition,
    /// Its shard.
    pub shard: ShardId,
    /// First offset that can be read.
    pub start: Offset,
    /// Offset behind the last.
    pub end: Offset,
    /// Records.
    pub records: u64,
    /// Bytes of its batches.
    pub raw_bytes: u64,
    /// Bytes of its frames.
    pub stored_bytes: u64,
    /// Extents.
    pub extents: u64,
    /// Greatest timestamp.
    pub max_timestamp: TimestampMs,
}

/// Every partition in the bucket, by topic and partition.
pub fn partitions(catalog: &Catalog) -> Vec<PartitionUsage> {
    let mut all = Vec::new();
    for (shard, newest) in &catalog.shards {
        let file = &newest.file;
        for (partition, extents) in file.manifest.partitions() {
            let (Some(first), Some(last)) = (extents.first(), extents.last()) else {
                continue;
            };
            let sum = |of: fn(&Extent) -> u64| extents.iter().map(of).sum();
            all.push(PartitionUsage {
                topic: catalog.topic_name(partition.topic),
                partition,
                shard: *shard,
                start: first.base_offset.max(file.log_start(partition)),
                end: last.end_offset,
                records: sum(|extent| extent.records),
                raw_bytes: sum(|extent| extent.raw_bytes),
                stored_bytes: sum(|extent| extent.stored_bytes),
                extents: extents.len() as u64,
                max_timestamp: extents
                    .iter()
                    .map(|extent| extent.max_timestamp)
                    .max()
                    .unwrap_or_default(),
            });
        }
    }
    all.sort_by(|a, b| (&a.topic, a.partition.index).cmp(&(&b.topic, b.partition.index)));
    all
}

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A bundle of a manifest.
    Bundle,
    /// A bundle that a manifest has unlinked: it is deleted after the grace period.
    Unlinked,
    /// A bundle that no manifest names: under way, or left by an upload that failed.
    Orphan,
    /// A copy of a shard's or the controller's state.
    State,
    /// A copy of a manifest.
    Manifest,
    /// A list of topics.
    Topics,
    /// Anything else.
    Other,
}

impl Kind {
    /// Its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bundle => "bundle",
            Self::Unlinked => "unlinked",
            Self::Orphan => "orphan",
            Self::State => "state",
            Self::Manifest => "manifest",
            Self::Topics => "topics",
            Self::Other => "other",
        }
    }

    fn of(key: &str, names: &BTreeMap<ObjectName, Self>) -> Self {
        let mut parts = key.rsplit('/');
        let name = parts.next().unwrap_or_default();
        if let Some(name) = ObjectName::parse(name) {
            return names.get(&name).copied().unwrap_or(Self::Orphan);
        }
        match parts.next() {
            Some("state") => Self::State,
            Some("manifest") => Self::Manifest,
            Some("topics") => Self::Topics,
            _ => Self::Other,
        }
    }
}

/// Objects of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindUsage {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those written in the last 24 hours.
    pub objects_of_day: u64,
    /// Their bytes.
    pub bytes_of_day: u64,
}

/// What requests and storage cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// Of a TiB for a month.
    pub tib_month: f64,
    /// Of a thousand PUT, LIST or DELETE requests; deletes are free in most stores.
    pub thousand_puts: f64,
    /// Of a thousand GET or HEAD requests.
    pub thousand_gets: f64,
}

impl Default for Prices {
    /// In US dollars, as Amazon S3 Standard has asked for them in its cheapest regions for years.
    fn default() -> Self {
        Self {
            tib_month: 23.0 * 1.024,
            thousand_puts: 0.005,
            thousand_gets: 0.0004,
        }
    }
}

/// What a bucket costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// What lies there, by kind.
    pub kinds: BTreeMap<Kind, KindUsage>,
    /// Bytes of bundles that no extent needs any more.
    pub dead_bytes: u64,
    /// Bytes of all batches in extents.
    pub raw_bytes: u64,
    /// Requests that write, of the last 24 hours: one for every object, and the read back that proves it.
    pub puts_of_day: u64,
    /// Requests that read what was written, of the last 24 hours.
    pub gets_of_day: u64,
    /// Requests to read everything once.
    pub gets_to_read_all: u64,
    /// Price of a month of storage at today's size.
    pub storage_month: f64,
    /// Price of a day of requests like the last.
    pub requests_day: f64,
    /// Price of the requests to read everything once; what the store asks for traffic comes on top.
    pub read_all: f64,
}

/// What `listing`, everything below the cluster's prefix, costs at `prices`. `now` is by the clock that the listing's
/// times are by.
///
/// Objects that were deleted again within the day are not seen: merges and copies of state make it more.
pub fn cost(catalog: &Catalog, listing: &[Listed], prices: &Prices, now: TimestampMs) -> Cost {
    let mut names = BTreeMap::new();
    let (mut dead_bytes, mut raw_bytes, mut gets_to_read_all) = (0, 0, 0);
    for newest in catalog.shards.values() {
        let manifest = &newest.file.manifest;
        for (_, object) in manifest.objects() {
            names.insert(object.name, Kind::Bundle);
            dead_bytes += object.footer_at.saturating_sub(object.live_bytes);
            // Its directory, and each of its extents in requests of some MiB.
            gets_to_read_all += 1;
        }
        for (_, object) in manifest.unlinked() {
            names.insert(object.name, Kind::Unlinked);
        }
        for (_, extents) in manifest.partitions() {
            for extent in extents {
                raw_bytes += extent.raw_bytes;
                gets_to_read_all += extent.stored_bytes.div_ceil(READ_BYTES);
            }
        }
    }
    let mut kinds: BTreeMap<Kind, KindUsage> = BTreeMap::new();
    for listed in listing {
        let usage = kinds.entry(Kind::of(&listed.key, &names)).or_default();
        usage.objects += 1;
        usage.bytes += listed.bytes;
        if listed.modified.0 > now.0 - DAY_MS {
            usage.objects_of_day += 1;
            usage.bytes_of_day += listed.bytes;
        }
    }
    let puts_of_day = kinds.values().map(|usage| usage.objects_of_day).sum();
    let bundles_of_day: u64 = [Kind::Bundle, Kind::Unlinked, Kind::Orphan]
        .iter()
        .filter_map(|kind| kinds.get(kind))
        .map(|usage| usage.objects_of_day)
        .sum();
    // A bundle's length is asked for and its directory read back before it counts.
    let gets_of_day = 2 * bundles_of_day;
    let bytes: u64 = kinds.values().map(|usage| usage.bytes).sum();
    let thousands = |count: u64| count as f64 / 1000.0;
    Cost {
        dead_bytes,
        raw_bytes,
        puts_of_day,
        gets_of_day,
        gets_to_read_all,
        storage_month: bytes as f64 / (1_u64 << 40) as f64 * prices.tib_month,
        requests_day: thousands(puts_of_day) * prices.thousand_puts
            + thousands(gets_of_day) * prices.thousand_gets,
        read_all: thousands(gets_to_read_all) * prices.thousand_gets,
        kinds,
    }
}
