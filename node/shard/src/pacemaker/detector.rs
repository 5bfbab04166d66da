//! Who is alive.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meridian_types::{NodeId, ShardId, Uuid};

use super::beat::{Beat, HostedShard, NodePhase};
use super::clock::Clock;
use super::settings::Timing;

/// How our connection to a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// It is there.
    Connected,
    /// Nobody listens at the node's address: its process is gone.
    Refused,
    /// It is not there, and nothing says why.
    Down,
}

/// What a beat changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Not from a peer, or overtaken by a later one: nothing.
    Nothing,
    /// The node lives on, and says what it said before.
    Same,
    /// The node lives on; what it says of its shards or of itself is new.
    News,
    /// The node is there again: it was suspected, or never heard of, or it has restarted.
    Appeared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Never heard of yet, and not for long enough to be suspected.
    New,
    Alive,
    Dead,
}

#[derive(Debug)]
struct Peer {
    /// Beats of another data directory are not this node's. `None` takes any.
    incarnation: Option<Uuid>,
    life: Life,
    /// Since when, in lived time: of `Dead` when it was last heard.
    since: Duration,
    /// Last heard, in lived time.
    heard: Duration,
    /// Last heard, on the node's clock.
    heard_real: Option<Duration>,
    beat: Option<Beat>,
    /// Whether `beat` came after our last stall.
    is_current: bool,
    /// A process that has ended; its beats may still be on their way.
    ended_start_id: Option<u64>,
    was_connected: bool,
    /// Until then beats of the present process do not count: it was refused a moment ago.
    hold_until: Duration,
}

/// The failure detector of a node, for all its groups.
#[derive(Debug, Default)]
pub(super) struct Detector {
    peers: BTreeMap<NodeId, Peer>,
}

impl Detector {
    /// The other nodes, with their incarnations where they are known. Who is not among them is forgotten.
    pub(super) fn set_peers(&mut self, clock: &Clock, peers: BTreeMap<NodeId, Option<Uuid>>) {
        self.peers.retain(|node, _| peers.contains_key(node));
        for (node, incarnation) in peers {
            let peer = self.peers.entry(node).or_insert_with(|| Peer::new(clock.lived()));
            peer.incarnation = incarnation;
            let is_other = |beat: &Beat| incarnation.is_some_and(|wanted| wanted != beat.incarnation);
            if peer.beat.as_ref().is_some_and(is_other) {
                *peer = Peer {
                    incarnation,
                    ..Peer::new(clock.lived())
                };
            }
        }
    }

    /// A beat has come.
    pub(super) fn handle_beat(&mut self, clock: &Clock, beat: Beat) -> Heard {
        let Some(peer) = self.peers.get_mut(&beat.node) else {
            return Heard::Nothing;
        };
        if peer.incarnation.is_some_and(|known| known != beat.incarnation)
            || peer.ended_start_id == Some(beat.start_id)
        {
            return Heard::Nothing;
        }
        let before = peer.beat.as_ref();
        let has_restarted = before.is_some_and(|before| before.start_id != beat.start_id);
        if !has_restarted {
            let is_overtaken = before.is_some_and(|before| beat.sequence <= before.sequence);
            if is_overtaken || clock.lived() < peer.hold_until {
                return Heard::Nothing;
            }
        }
        let heard = if has_restarted || peer.life != Life::Alive {
            Heard::Appeared
        } else if !peer.is_current || before.is_none_or(|before| says_news(before, &beat)) {
            Heard::News
        } else {
            Heard::Same
        };
        if has_restarted {
            peer.ended_start_id = before.map(|before| before.start_id);
            peer.hold_until = Duration::ZERO;
        }
        if heard == Heard::Appeared {
            peer.life = Life::Alive;
            peer.since = clock.lived();
        }
        peer.heard = clock.lived();
        peer.heard_real = Some(clock.real());
        peer.is_current = true;
        peer.beat = Some(beat);
        heard
    }

    /// The state of our connection to `node` has changed. Returns whether the node is suspected by it.
    pub(super) fn handle_link(
        &mut self,
        clock: &Clock,
        timing: &Timing,
        node: NodeId,
        link: LinkState,
    ) -> bool {
        let Some(peer) = self.peers.get_mut(&node) else {
            return false;
        };
        match link {
            LinkState::Connected => peer.was_connected = true,
            LinkState::Down => {}
            // Only the end of a connection that was there tells of a death; before it, the node may just
            // not have come up yet.
            LinkState::Refused if std::mem::take(&mut peer.was_connected) => {
                peer.hold_until = clock.lived() + timing.refused_hold;
                if peer.life != Life::Dead {
                    peer.life = Life::Dead;
                    peer.since = clock.lived();
                    return true;
                }
            }
            LinkState::Refused => {}
        }
        false
    }

    /// This process stood still: what others said before it may be long past.
    pub(super) fn handle_stall(&mut self) {
        for peer in self.peers.values_mut() {
            peer.is_current = false;
        }
    }

    /// Suspects who was silent for too long. Returns whether there is a new suspect.
    pub(super) fn check(&mut self, clock: &Clock, timing: &Timing) -> bool {
        let mut is_new = false;
        for peer in self.peers.values_mut() {
            if peer.life != Life::Dead && clock.lived() >= peer.heard + timing.suspect_after {
                peer.life = Life::Dead;
                peer.since = peer.heard;
                is_new = true;
            }
        }
        is_new
    }

    /// When [`Self::check`] may suspect somebody next, in lived time.
    pub(super) fn next_check(&self, timing: &Timing) -> Option<Duration> {
        let watched = self.peers.values().filter(|peer| peer.life != Life::Dead);
        watched.map(|peer| peer.heard + timing.suspect_after).min()
    }

    pub(super) fn is_alive(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.life == Life::Alive)
    }

    /// Suspected. A node that is not a peer (any more) is as good as dead.
    pub(super) fn is_dead(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_none_or(|peer| peer.life == Life::Dead)
    }

    pub(super) fn alive(&self) -> BTreeSet<NodeId> {
        let alive = self.peers.iter().filter(|(_, peer)| peer.life == Life::Alive);
        alive.map(|(node, _)| *node).collect()
    }

    /// How long the suspected nodes have been silent.
    pub(super) fn dead_for(&self, clock: &Clock) -> BTreeMap<NodeId, Duration> {
        let dead = self.peers.iter().filter(|(_, peer)| peer.life == Life::Dead);
        dead.map(|(node, peer)| (*node, clock.lived().saturating_sub(peer.since)))
            .collect()
    }

    /// Whether `node` was heard less than `age` ago on the node's clock, stalls of ours included.
    pub(super) fn is_heard_within(&self, clock: &Clock, node: NodeId, age: Duration) -> bool {
        let heard = self.peers.get(&node).and_then(|peer| peer.heard_real);
        heard.is_some_and(|heard| clock.real() < heard + age)
    }

    pub(super) fn phase(&self, node: NodeId) -> NodePhase {
        let beat = self.peers.get(&node).and_then(|peer| peer.beat.as_ref());
        beat.map_or(NodePhase::Running, |beat| beat.phase)
    }

    /// The last beat of each live node.
    pub(super) fn beats(&self) -> impl Iterator<Item = &Beat> {
        let alive = self.peers.values().filter(|peer| peer.life == Life::Alive);
        alive.filter_map(|peer| peer.beat.as_ref())
    }

    /// How `node` saw the shard in its last beat; `None` where it is not alive or does not host it.
    pub(super) fn hosted(&self, node: NodeId, shard: ShardId) -> Option<&HostedShard> {
        let peer = self.peers.get(&node).filter(|peer| peer.life == Life::Alive)?;
        peer.beat.as_ref()?.shard(shard)
    }

    /// Whether `node` lives, hosts the shard and sees no leader of it.
    pub(super) fn is_ready_for_election(&self, node: NodeId, shard: ShardId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.is_current)
            && self.hosted(node, shard).is_some_and(|hosted| !hosted.leader_seen)
    }
}

impl Peer {
    fn new(now: Duration) -> Self {
        Self {
            incarnation: None,
            life: Life::New,
            since: now,
            heard: now,
            heard_real: None,
            beat: None,
            is_current: false,
            ended_start_id: None,
            was_connected: false,
            hold_until: Duration::ZERO,
        }
    }
}

/// Whether anything changed but how far the shards are.
fn says_news(before: &Beat, now: &Beat) -> bool {
    before.phase != now.phase
        || before.address != now.address
        || !before
            .shards
            .iter()
            .map(HostedShard::gist)
            .eq(now.shards.iter().map(HostedShard::gist))
}

#[cfg(test)]
mod tests;
