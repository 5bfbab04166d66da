//! Several regions: which of them owns moves, at any moment; in the end all hold the same.

use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use meridian_controller::OwnershipState;
use meridian_shard::Region;
use meridian_types::{RegionEpoch, RegionNumber, ShardId};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::{sleep, timeout};

use crate::node::{Node, Place};
use crate::workload::PATIENCE;
use crate::world::World;

/// The last switchover, with nothing in its way, is over within this time.
const LAST_SWITCHOVER: Duration = Duration::from_secs(60);

/// What came of several regions.
#[derive(Clone, Copy, Debug)]
pub struct RegionsVerdict {
    /// Switchovers that were begun.
    pub switchovers: u64,
    /// Region epochs that came of them; one that was taken back has one as well.
    pub region_epoch: u32,
}

impl fmt::Display for RegionsVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            switchovers,
            region_epoch,
        } = self;
        write!(f, "{switchovers} switchovers begun, {region_epoch} region epochs")
    }
}

/// Pairs of nodes of different regions.
pub(crate) fn pairs(regions: u16, nodes: u32) -> Vec<(u32, u32)> {
    let of = |region| Place::nodes_of(RegionNumber(region), nodes);
    let mut pairs = Vec::new();
    for here in 0..regions {
        for there in here + 1..regions {
            pairs.extend(of(here).flat_map(|from| of(there).map(move |to| (from, to))));
        }
    }
    pairs
}

/// Who owns, and since which region epoch, as a node has heard.
fn ownership(region: &Region) -> (RegionEpoch, RegionNumber, bool) {
    let controller = region.controller();
    let present = controller.ownership();
    (
        present.region_epoch,
        present.owner,
        present.state == OwnershipState::Held,
    )
}

fn number(region: &Region) -> RegionNumber {
    region.controller().region_number()
}

/// A node at random, if it takes its own region for the owner.
fn owner<'a>(world: &'a World, random: &mut StdRng) -> Option<&'a Node> {
    let node = world.nodes.get(world.any(random)? as usize - 1)?;
    let region = node.region()?;
    (ownership(&region).1 == number(&region)).then(|| node.as_ref())
}

/// An operator who moves ownership about, without looking what state the regions are in.
pub(crate) async fn switch_over(world: Rc<World>, mut random: StdRng) {
    while world.producing.get() {
        sleep(world.pause(random.random_range(1_000..8_000))).await;
        let Some(owner) = owner(&world, &mut random) else {
            continue;
        };
        let to = RegionNumber(random.random_range(0..world.region_count()));
        let limit = world.pause(random.random_range(200..10_000));
        let asked = timeout(PATIENCE, owner.switch_over(to, limit)).await;
        if let Ok(Some(Ok(_))) = asked {
            world.switchovers.set(world.switchovers.get() + 1);
        }
        tracing::info!(%to, ?limit, ?asked, "asked for a switchover");
    }
}

/// After the last fault: ownership moves once more, and everybody hears of it.
pub(crate) async fn switch_over_at_last(world: &World, random: &mut StdRng) {
    let to = RegionNumber(random.random_range(0..world.region_count()));
    let everywhere = || {
        let nodes = world.regions().ok()?;
        let said: BTreeSet<_> = nodes.iter().map(ownership).collect();
        let is_led = |region: &Region| number(region) != to || leads_all(region);
        let agreed = said.len() == 1 && said.iter().all(|(_, owner, is_held)| *owner == to && *is_held);
        (agreed && nodes.iter().any(is_led)).then_some(())
    };
    let mut last = String::new();
    for _ in 0..LAST_SWITCHOVER.as_millis() / 100 {
        if everywhere().is_some() {
            return;
        }
        if let Some(owner) = owner(world, random) {
            let asked = timeout(PATIENCE, owner.switch_over(to, Duration::from_secs(20))).await;
            last = format!("{asked:?}");
        }
        sleep(Duration::from_millis(100)).await;
    }
    let said: Vec<_> = world.regions().iter().flatten().map(ownership).collect();
    world.complain(format!(
        "region {to} does not own {LAST_SWITCHOVER:?} after the last fault: the nodes say {said:?}, the last answer was \
         {last}"
    ));
}

/// Every shard of the region has a leader, as this node knows.
fn leads_all(region: &Region) -> bool {
    (0..region.shards()).all(|shard| region.leader_of(ShardId(shard)).is_some())
}

/// Every log holds the same content in all regions. A mirror learns of a region epoch with its first content.
pub(crate) fn compare(world: &World) -> Result<(), String> {
    let nodes = world.regions()?;
    let shards = nodes.first().map_or(0, Region::shards);
    for shard in (0..shards).map(ShardId).chain([ShardId::CONTROLLER]) {
        let places: BTreeSet<_> = nodes
            .iter()
            .map(|region| {
                let progress = match shard {
                    ShardId::CONTROLLER => *region.controller().standing().progress(),
                    shard => *region.applied_state(shard).standing().progress(),
                };
                (progress.sequence, progress.digest.0)
            })
            .collect();
        if places.len() != 1 {
            return Err(format!("log {shard} over the regions: {places:?}"));
        }
    }
    Ok(())
}

/// The region epoch in force, as the first node knows.
pub(crate) fn region_epoch(world: &World) -> u32 {
    world.region(1).map_or(0, |region| ownership(&region).0.0)
}

/// Nobody has found that its copy differs.
pub(crate) fn check_divergence(world: &World) {
    for region in world.regions().into_iter().flatten() {
        for shard in (0..region.shards()).map(ShardId) {
            let diverged = region.applied_state(shard).standing().diverged_at();
            if let Some(at) = diverged {
                world.complain(format!(
                    "region {}: shard {shard} differs from its source at {at}",
                    number(&region)
                ));
            }
        }
    }
}
