//! What a node does by itself for the mirror: tells its links whom to follow and where others are, brings its logs in
//! line with the ownership, and tells others of its region.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meridian_geo_mirror::PeerRegion;
use meridian_lineage::Role;
use meridian_types::{RegionNumber, ShardId};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::follows::{At, Change};
use super::stream::Stream;
use super::weights::Weights;
use super::{cards, nodes, ownership, switchover};
use crate::region::Inner;

/// Pause between looks while nothing wakes them.
const TICK: Duration = Duration::from_millis(100);

/// How often the nodes of the region tell one another how they stand.
const ANSWERS_INTERVAL: Duration = Duration::from_secs(1);

/// Pause between looks at a switchover, and at regions that are new.
const DECISION_INTERVAL: Duration = Duration::from_millis(100);

/// Runs until the region stops.
pub(crate) async fn run(inner: Arc<Inner>) {
    tokio::join!(follow(&inner), gather(&inner), decide(&inner));
}

/// Brings logs in line and keeps the links told.
async fn follow(inner: &Arc<Inner>) {
    let Some(mirror) = inner.mirror() else { return };
    let mut applied = inner.control_group.applied();
    let busy: Arc<Mutex<BTreeSet<ShardId>>> = Arc::default();
    let mut told_peers: Vec<PeerRegion> = Vec::new();
    let mut weights = Weights::default();
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = mirror.wake.notified() => {}
            changed = applied.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(TICK) => {}
        }
        inner.apply_rule();
        cards::follow_owner(inner);
        bring_in_line(inner, &busy);
        let Some(links) = mirror.links() else { continue };
        let peers = peers(inner);
        if peers != told_peers {
            links.set_peers(peers.clone());
            limit_new(inner, &told_peers, &peers);
            told_peers = peers;
        }
        weights.look(Instant::now(), &inner.control.controller(), inner.shard_map());
        for stream in Stream::all(inner) {
            let shard = stream.id();
            match mirror.follows.set(shard, source_of(inner, &stream, &weights)) {
                Some(Change::Follow(shard, at)) => {
                    let At {
                        region,
                        address,
                        weight,
                    } = at;
                    tracing::debug!(%shard, %region, address, weight, "following");
                    links.follow(shard, region, &address, weight);
                }
                Some(Change::Unfollow(shard)) => links.unfollow(shard),
                None => {}
            }
        }
        mirror.follows.note_round_trips(links.round_trips());
        super::install::tend(inner, mirror.follows.purged());
        note_in_step(inner);
        let card = cards::compose(inner, &mirror.answers.lock()).encode();
        mirror.card.send_if_modified(|present| {
            let is_new = *present != card;
            *present = card;
            is_new
        });
    }
}

/// A region that lacks no more content commands than this is in step: those are on their way to it.
const IN_STEP_SEQUENCES: u64 = 1024;

/// Which regions have nearly everything of the shards that are led here.
fn note_in_step(inner: &Inner) {
    let Some(mirror) = inner.mirror() else { return };
    let now = Instant::now();
    let led = inner
        .shared_shards()
        .iter()
        .filter(|shard| shard.leading().is_some());
    let in_step = led.map(|shard| {
        let sequence = shard.applied_state().standing().sequence();
        mirror.acks.sample(now, shard.id(), sequence);
        let acks = mirror.acks.of(shard.id()).into_iter();
        let near = acks.filter(|(_, held)| held.saturating_add(IN_STEP_SEQUENCES) >= sequence);
        (shard.id(), near.map(|(region, _)| region).collect::<Vec<_>>())
    });
    let in_step: BTreeMap<_, _> = in_step.filter(|(_, regions)| !regions.is_empty()).collect();
    if mirror.remote.load().with_in_step(in_step.clone()).is_some() {
        mirror
            .remote
            .rcu(|remote| match remote.with_in_step(in_step.clone()) {
                Some(next) => Arc::new(next),
                None => Arc::clone(remote),
            });
    }
}

/// Regions that are met for the first time get the limit of the settings; later the operator's word counts.
fn limit_new(inner: &Inner, before: &[PeerRegion], now: &[PeerRegion]) {
    let limit = inner
        .settings
        .geo
        .as_ref()
        .and_then(|geo| geo.send_bytes_per_second_max);
    let listener = inner.mirror().and_then(super::Mirror::listener);
    let (Some(limit), Some(listener)) = (limit, listener) else {
        return;
    };
    for region in now
        .iter()
        .filter(|it| before.iter().all(|known| known.number != it.number))
    {
        listener.throttle(region.number, Some(limit));
    }
}

/// The steps that are due, each in a task of its own.
fn bring_in_line(inner: &Arc<Inner>, busy: &Arc<Mutex<BTreeSet<ShardId>>>) {
    let control = {
        let controller = inner.control.controller();
        let standing = controller.standing();
        if !standing.is_counted() {
            return;
        }
        *standing.progress()
    };
    for stream in Stream::all(inner).filter(|stream| !stream.is_controller()) {
        let shard = stream.id();
        if busy.lock().contains(&shard) || stream.led().is_none() {
            continue;
        }
        let Some(step) = ownership::next_step(inner.number(), &control, &stream.stand()) else {
            continue;
        };
        busy.lock().insert(shard);
        let (inner, busy) = (Arc::clone(inner), Arc::clone(busy));
        tokio::spawn(async move {
            if let Some(stream) = Stream::new(&inner, shard) {
                ownership::carry_out(&inner, &stream, step).await;
            }
            busy.lock().remove(&shard);
            if let Some(mirror) = inner.mirror() {
                mirror.wake.notify_one();
            }
        });
    }
}

/// Where a log that this node leads comes from, if it is another region's.
fn source_of(inner: &Inner, stream: &Stream<'_>, weights: &Weights) -> Option<At> {
    stream.led()?;
    let stand = stream.stand();
    let follows = match stand.is_counted {
        true => stand.progress.role == Role::Mirror,
        false => ownership::may_follow(inner, &stand),
    };
    if !follows {
        return None;
    }
    let region = ownership::source(inner)?;
    let mirror = inner.mirror()?;
    let remote = mirror.remote.load();
    let address = remote.region(region)?.leader_address(stream.id())?.clone();
    Some(At {
        region,
        address,
        weight: weights.of(stream.id()),
    })
}

/// Where the other regions are: by their cards, by what the owner knows, and by the settings.
fn peers(inner: &Inner) -> Vec<PeerRegion> {
    let Some(mirror) = inner.mirror() else {
        return Vec::new();
    };
    let mut peers: BTreeMap<RegionNumber, PeerRegion> = BTreeMap::new();
    let mut add = |number, name: &str, addresses: Vec<String>| {
        let peer = peers.entry(number).or_insert_with(|| PeerRegion {
            number,
            name: None,
            addresses: Vec::new(),
        });
        peer.name = Some(name.to_owned()).filter(|name| !name.is_empty());
        for address in addresses {
            if !peer.addresses.contains(&address) {
                peer.addresses.push(address);
            }
        }
    };
    let own = inner.number();
    for region in mirror.remote.load().regions() {
        add(
            region.number,
            &region.name,
            region.geo.values().cloned().collect(),
        );
    }
    for region in inner
        .control
        .controller()
        .regions()
        .filter(|region| region.number != own)
    {
        add(
            region.number,
            &region.name,
            region.geo.iter().map(cards::text).collect(),
        );
    }
    for (number, name, address) in mirror.seeds.lock().iter().filter(|(number, ..)| *number != own) {
        add(*number, name, vec![address.clone()]);
    }
    peers.into_values().collect()
}

/// Keeps what the other nodes of the region tell, and asks seeds who they are.
async fn gather(inner: &Arc<Inner>) {
    let Some(mirror) = inner.mirror() else { return };
    loop {
        let answers = nodes::ask(inner, nodes::Acknowledged::ByAny).await;
        *mirror.answers.lock() = answers;
        super::seeds::ask(inner).await;
        mirror.wake.notify_one();
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = tokio::time::sleep(ANSWERS_INTERVAL) => {}
        }
    }
}

/// What only the controller's leader decides.
async fn decide(inner: &Arc<Inner>) {
    let mut registered: Option<Instant> = None;
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = tokio::time::sleep(DECISION_INTERVAL) => {}
        }
        switchover::look(inner).await;
        if registered.is_none_or(|at| at.elapsed() >= ANSWERS_INTERVAL) {
            registered = Some(Instant::now());
            cards::register(inner).await;
        }
    }
}
