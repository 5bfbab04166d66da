//! After the last fault: everything is whole again, and the replicas of a region hold the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meridian_types::RegionNumber;
use tokio::time::sleep;

use crate::regions;
use crate::workload::{self, Memory};
use crate::world::World;

/// After the last fault the region has so long to be whole again.
pub(crate) const HEAL_TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until all replicas hold the same, and compares them.
pub(crate) async fn settle(world: &World) {
    let mut unlike = "nothing was compared".to_owned();
    for _ in 0..HEAL_TIMEOUT.as_millis() / 100 {
        match compare(world) {
            Ok(()) => return,
            Err(difference) => unlike = difference,
        }
        sleep(Duration::from_millis(100)).await;
    }
    world.complain(format!(
        "replicas differ {HEAL_TIMEOUT:?} after the last fault: {unlike}"
    ));
}

/// Bits may have rotted under records that nobody had read since. Whoever reads them now is told, and the replica is
/// made anew from the others, which are whole.
pub(crate) async fn read_until_whole(world: &World, node: u32, partition: u32) {
    let is_whole = || {
        let usage = world.region(node).map(|region| region.usage());
        usage.is_some_and(|usage| {
            let mut shards = usage.shards.iter();
            shards.all(|shard| !shard.damaged && shard.stopped.is_none())
        })
    };
    for _ in 0..HEAL_TIMEOUT.as_secs() {
        let scratch = Memory::default();
        let read = workload::read_all(world, node, partition, &scratch).await;
        if read.is_ok() && is_whole() {
            // One that was just made anew may be empty yet.
            return settle(world).await;
        }
        tracing::info!(node, partition, ?read, "not whole yet");
        sleep(Duration::from_secs(1)).await;
    }
}

fn compare(world: &World) -> Result<(), String> {
    let nodes = world.regions()?;
    for shard in nodes[0].shard_map().all() {
        let mut digests: BTreeMap<RegionNumber, BTreeSet<_>> = BTreeMap::new();
        for (node, region) in world.nodes.iter().zip(&nodes) {
            let of_region = digests.entry(node.place.region).or_default();
            of_region.insert(region.applied_state(shard).digest());
        }
        if digests.values().any(|digests| digests.len() != 1) {
            return Err(format!("shard {shard}: {digests:?}"));
        }
    }
    match world.region_count() {
        1 => Ok(()),
        _ => regions::compare(world),
    }
}
