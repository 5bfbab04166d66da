//! This region's card, and those of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meridian_controller::{Command, GeoRegion, HostPort as FactHostPort, Outcome};
use meridian_types::{NodeId, RegionNumber, ShardId, ShardMap};
use tokio::time::Instant;

use super::card::{Card, CardNode, CardShard};
use super::nodes::MirrorAnswer;
use super::ownership::{self, Believed};
use crate::region::Inner;

/// What this region tells of itself now. `answers`: what its nodes told last.
pub(super) fn compose(inner: &Inner, answers: &BTreeMap<NodeId, MirrorAnswer>) -> Card {
    let believed = {
        let controller = inner.control.controller();
        let standing = controller.standing();
        (standing.region_epoch(), standing.owner())
    };
    let view = inner.pacing.view();
    let here = inner.node();
    let is_alive = |node: &NodeId| *node == here || view.alive.contains(node);
    let geo = |node: NodeId| match node == here {
        true => inner.mirror().and_then(|mirror| mirror.address()),
        false => answers.get(&node).and_then(|answer| answer.geo.clone()),
    };
    let controller = inner.control.controller();
    let nodes = controller
        .nodes()
        .filter(|node| is_alive(&node.registration.node))
        .map(|node| {
            let registration = &node.registration;
            let kafka = registration.kafka.as_ref();
            CardNode {
                id: registration.node,
                kafka: kafka.map(|at| (at.host.clone(), at.port)),
                rack: registration.rack.clone(),
                geo: geo(registration.node),
            }
        });
    let shard = |id: ShardId| {
        let leader = view
            .leaders
            .get(&id)
            .map(|leader| (leader.node, inner.epoch_of(id, leader.term)));
        let placed = controller.replicas_of(id).iter().copied();
        CardShard {
            leader,
            replicas: placed.filter(is_alive).collect(),
        }
    };
    Card {
        number: inner.number(),
        name: controller
            .founding()
            .map(|founding| founding.region.clone())
            .unwrap_or_default(),
        region_epoch: believed.0,
        owner: believed.1,
        controller: view.leaders.get(&ShardId::CONTROLLER).map(|leader| leader.node),
        nodes: nodes.collect(),
        shards: inner.shard_map().all().map(shard).collect(),
        diverged: diverged(answers),
    }
}

/// Logs of this region that are not what their source has, as their leaders say.
fn diverged(answers: &BTreeMap<NodeId, MirrorAnswer>) -> Vec<ShardId> {
    let led = answers.values().flat_map(|answer| &answer.led);
    let diverged: BTreeSet<ShardId> = led.filter(|led| led.is_diverged).map(|led| led.shard).collect();
    diverged.into_iter().collect()
}

/// A card has come.
pub(super) fn take(inner: &Inner, from: RegionNumber, body: &[u8]) {
    let Some(mirror) = inner.mirror() else { return };
    let card = match Card::decode(body) {
        Ok(card) if card.number == from && from != inner.number() => card,
        Ok(card) => {
            tracing::warn!(%from, told = %card.number, "a region's card is of another region");
            return;
        }
        Err(error) => {
            tracing::warn!(%from, %error, "a region's card cannot be read");
            return;
        }
    };
    let shared = inner.shard_map().shared_count();
    let count = u32::try_from(card.shards.len()).unwrap_or(u32::MAX);
    if ShardMap::new(from, shared, count).is_none() {
        tracing::warn!(%from, shards = count, shared, "a region's card has another number of shards");
        return;
    }
    let heard = Instant::now();
    mirror
        .remote
        .rcu(|remote| Arc::new(remote.with(card.clone(), heard)));
    follow_owner(inner);
    mirror.wake.notify_one();
}

/// Who owns may have changed, or its leaders.
pub(super) fn follow_owner(inner: &Inner) {
    let Some(mirror) = inner.mirror() else { return };
    let Believed { owner, region_epoch } = ownership::believed(inner);
    if mirror.remote.load().believed() != (owner, region_epoch) {
        mirror
            .remote
            .rcu(|remote| Arc::new(remote.with_owner(owner, region_epoch)));
    }
    let remote = mirror.remote.load();
    for shard in inner.shared_shards() {
        if let Some((_, epoch)) = remote.leader_of(shard.id()) {
            shard.machine().writing.set_owner_epoch(epoch);
        }
    }
}

/// Regions that are heard, and that the owner does not know yet, or not so. On the controller's leader of the owner.
pub(super) async fn register(inner: &Inner) {
    if inner.led_group(ShardId::CONTROLLER).is_none() || !inner.control.controller().is_owner() {
        return;
    }
    let Some(mirror) = inner.mirror() else { return };
    let mut wanted = Vec::new();
    let own = own_region(inner, &mirror.answers.lock());
    {
        let controller = inner.control.controller();
        let remote = mirror.remote.load();
        let heard = remote
            .regions()
            .filter(|region| region.heard.elapsed() < super::HEARD_WITHIN);
        let others = heard.map(|region| GeoRegion {
            number: region.number,
            name: region.name.clone(),
            geo: region.geo.values().filter_map(|at| address(at)).collect(),
        });
        for region in others.chain(own) {
            let is_known = match controller.region(region.number) {
                // A node that is away for a moment is not struck off.
                Some(known) => {
                    known.name == region.name && region.geo.iter().all(|at| known.geo.contains(at))
                }
                None => false,
            };
            if !is_known && !region.geo.is_empty() {
                wanted.push(region);
            }
        }
    }
    for region in wanted {
        let (number, name) = (region.number, region.name.clone());
        match inner.control(&Command::SetRegion(region)).await {
            Ok(Outcome::RegionSet(Ok(()))) => tracing::info!(%number, name, "a region is registered"),
            Ok(Outcome::RegionSet(Err(error))) => {
                tracing::warn!(%number, name, %error, "a region is not registered");
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%number, %error, "a region is registered later"),
        }
    }
}

fn own_region(inner: &Inner, answers: &BTreeMap<NodeId, MirrorAnswer>) -> Option<GeoRegion> {
    let controller = inner.control.controller();
    let own = inner.mirror().and_then(|mirror| mirror.address());
    let others = answers.values().filter_map(|answer| answer.geo.clone());
    let mut geo: Vec<_> = own
        .into_iter()
        .chain(others)
        .filter_map(|at| address(&at))
        .collect();
    geo.sort();
    geo.dedup();
    Some(GeoRegion {
        number: inner.number(),
        name: controller.founding()?.region.clone(),
        geo,
    })
}

/// Splits HOST:PORT.
pub(super) fn address(text: &str) -> Option<FactHostPort> {
    let (host, port) = text.rsplit_once(':')?;
    Some(FactHostPort {
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: port.parse().ok()?,
    })
}

/// Joins them again; an IPv6 host stands in brackets.
pub(super) fn text(at: &FactHostPort) -> String {
    match at.host.contains(':') {
        true => format!("[{}]:{}", at.host, at.port),
        false => format!("{}:{}", at.host, at.port),
    }
}
