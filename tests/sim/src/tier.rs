//! What must hold of the bucket once everything is calm again.

use std::collections::BTreeSet;
use std::time::Duration;

use meridian_checker::Event;
use meridian_shard::Region;
use meridian_tiered_storage::Manifest;
use meridian_tiered_storage::bundle::{FooterPlace, check_bundle};
use meridian_tiered_storage::relocate::ExtentReader;
use meridian_tiered_storage::store::Store;
use meridian_types::{Offset, ShardId};
use tokio::time::sleep;

use crate::bucket::{GRACE, SimBucket};
use crate::workload::{Memory, note_records};
use crate::world::World;

/// How long the bucket may take to catch up after the last fault: a failed round pauses for up to 3 s.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);

/// How long objects that nobody needs may stay: found by one search, deleted after the grace period by a later one, and
/// anew under every leader.
const CLEAN_TIMEOUT: Duration = Duration::from_secs(4 * GRACE.as_secs() + 30);

/// Waits until the bucket has every record, on every node's word, and no lag is shown.
pub async fn until_tiered(world: &World) {
    let started = tokio::time::Instant::now();
    loop {
        let Err(waiting) = is_tiered(world) else { return };
        if started.elapsed() > CATCH_UP_TIMEOUT {
            world.complain(format!(
                "the bucket lags {CATCH_UP_TIMEOUT:?} after the last fault: {waiting}"
            ));
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn is_tiered(world: &World) -> Result<(), String> {
    for region in world.regions()? {
        let node = region.node_id();
        for shard in (0..region.shards()).map(ShardId) {
            let bytes = region.applied_state(shard).untiered_bytes();
            if bytes > 0 {
                return Err(format!("node {node}, shard {shard}: {bytes} bytes wait"));
            }
        }
        let usage = region
            .tier_usage()
            .ok_or_else(|| format!("node {node} has no bucket"))?;
        if let Some(shard) = usage.shards.iter().find(|shard| shard.waiting_bytes > 0) {
            return Err(format!(
                "node {node} shows {} waiting bytes of shard {} for {:?}; {} rounds failed",
                shard.waiting_bytes, shard.shard, shard.waiting_for, usage.rounds_failed
            ));
        }
    }
    Ok(())
}

/// Bytes that wait for the bucket, as the leaders say.
pub fn waiting_bytes(world: &World) -> u64 {
    let regions = (1..=world.nodes()).filter_map(|node| world.region(node));
    let usages = regions.filter_map(|region| region.tier_usage());
    usages
        .flat_map(|usage| usage.shards)
        .map(|shard| shard.waiting_bytes)
        .sum()
}

/// Frames that reads had to fetch from the bucket, in the present processes.
pub fn cold_reads(world: &World) -> u64 {
    let regions = (1..=world.nodes()).filter_map(|node| world.region(node));
    let usages = regions.filter_map(|region| region.tier_usage());
    usages.map(|usage| usage.cold.misses).sum()
}

/// Holds the bucket against what is committed: every object named is there and whole, every record in it is the one that
/// was sent, and nothing else is left (invariants 6 and 7). All replicas are alike when this is called.
pub async fn check(world: &World, bucket: &SimBucket, memory: &Memory) {
    let Some(region) = world.region(1) else {
        return world.complain("node 1 does not serve".to_owned());
    };
    let started = tokio::time::Instant::now();
    loop {
        let (named, there) = (named(&region), bucket.ledger.bundles());
        if named == there {
            break;
        }
        if started.elapsed() > CLEAN_TIMEOUT {
            let missing: Vec<_> = named.difference(&there).collect();
            let too_many: Vec<_> = there.difference(&named).collect();
            world.complain(format!(
                "the bucket lacks {missing:?}, and has {too_many:?}, which nothing names, {CLEAN_TIMEOUT:?} after the \
                 last fault"
            ));
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let store = bucket.plain();
    let cluster = region.cluster_id();
    for shard in (0..region.shards()).map(ShardId) {
        let manifest = region.applied_state(shard).manifest().clone();
        if let Err(broken) = manifest.check() {
            world.complain(format!("the manifest of shard {shard}: {broken}"));
        }
        let of_shard = Checked {
            store: &store,
            cluster: &cluster,
            shard,
            manifest: &manifest,
        };
        if let Err(damage) = of_shard.objects().await {
            world.complain(format!("the bucket is damaged: {damage}"));
        }
        for partition in 0..world.partitions {
            let target = world.partition(partition);
            if region.shard_of(target) != shard {
                continue;
            }
            let log_start = region
                .applied_state(shard)
                .partition(target)
                .map(|held| held.log_start_offset());
            if let Err(damage) = of_shard
                .records(world, partition, log_start.unwrap_or_default(), memory)
                .await
            {
                world.complain(format!("partition {partition} in the bucket: {damage}"));
            }
        }
    }
    if bucket.ledger.figures().bundles == 0 {
        world.complain("nothing came into the bucket in the whole run".to_owned());
    }
}

/// Keys of the objects that the manifests name.
fn named(region: &Region) -> BTreeSet<String> {
    let cluster = region.cluster_id();
    let of_shard = |shard| {
        let state = region.applied_state(shard);
        let objects = state.manifest().objects();
        objects
            .map(|(_, object)| object.name.key(&cluster, shard))
            .collect::<Vec<_>>()
    };
    (0..region.shards()).map(ShardId).flat_map(of_shard).collect()
}

/// One shard's part of the bucket.
struct Checked<'a> {
    store: &'a Store,
    cluster: &'a str,
    shard: ShardId,
    manifest: &'a Manifest,
}

impl Checked<'_> {
    async fn objects(&self) -> Result<(), String> {
        for (_, object) in self.manifest.objects() {
            let key = object.name.key(self.cluster, self.shard);
            let named = |error: &dyn std::fmt::Display| format!("{key}: {error}");
            let bytes = self.store.get(&key).await.map_err(|error| named(&error))?;
            check_bundle(&bytes).map_err(|error| named(&error))?;
            let place = FooterPlace::of_object(&bytes).map_err(|error| named(&error))?;
            let told = (object.bytes, object.footer_at, object.footer_crc);
            let found = (bytes.len() as u64, place.footer_at, place.footer_crc);
            if told != found {
                return Err(named(&format!("the manifest says {told:?}, it has {found:?}")));
            }
        }
        Ok(())
    }

    /// Reads what the bucket has of a partition as one more reader, whom the checker holds against the others.
    async fn records(
        &self,
        world: &World,
        partition: u32,
        log_start: Offset,
        memory: &Memory,
    ) -> Result<(), String> {
        let target = world.partition(partition);
        let extents = self.manifest.extents(target);
        let (Some(first), Some(last)) = (extents.first(), extents.last()) else {
            return Ok(());
        };
        let start = first.base_offset.max(log_start);
        let end = last.end_offset;
        let mut position = start;
        memory.note(Event::Position {
            partition,
            offset: start.0,
        });
        let mut reader = ExtentReader::new(self.store, self.cluster, self.shard, self.manifest);
        for extent in extents {
            let frames = reader.read(target, extent).await;
            for frame in frames.map_err(|error| error.to_string())? {
                note_records(world, memory, partition, &frame, &mut position);
            }
        }
        if position != end.max(start) {
            return Err(format!("it ends at {position}, and its manifest at {end}"));
        }
        memory.note(Event::Complete {
            partition,
            start: start.0,
            end: end.0,
        });
        Ok(())
    }
}
