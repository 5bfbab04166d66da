//! A deterministic region: pacemakers, toy Raft groups, and a network that loses, delays and cuts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meridian_types::{NodeId, ShardId, Term};

use super::engine::{Event, Node, Process};
use super::raft::{Durable, Raft};
use crate::pacemaker::random::Jitter;
use crate::pacemaker::{LinkState, Members, NodePhase, Pacemaker};

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// What every connection does to what is sent over it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network {
    pub(super) loss_percent: u64,
    pub(super) delay_min: Duration,
    pub(super) delay_max: Duration,
}

pub(super) const GOOD: Network = Network {
    loss_percent: 0,
    delay_min: Duration::from_micros(200),
    delay_max: Duration::from_millis(2),
};

/// What has been counted since the last [`World::reset_counts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) beats: usize,
    pub(super) heartbeats: usize,
    pub(super) raft_messages: usize,
    /// Elections that pacemakers called.
    pub(super) elections: usize,
    pub(super) transfers: usize,
}

pub(super) struct World {
    pub(super) now: Duration,
    pub(super) network: Network,
    /// Nothing gets from the first to the second.
    pub(super) cuts: BTreeSet<(NodeId, NodeId)>,
    /// Of what these send, only beats arrive.
    pub(super) raft_dropped: BTreeSet<NodeId>,
    /// Of what is sent to these, only beats arrive.
    pub(super) raft_deaf: BTreeSet<NodeId>,
    /// What these ask of voters gets lost.
    pub(super) votes_dropped: BTreeSet<NodeId>,
    /// Their groups refuse to begin with a transfer.
    pub(super) refusing: BTreeSet<NodeId>,
    pub(super) random: Jitter,
    pub(super) events: BTreeMap<(Duration, u64), Event>,
    pub(super) sequence: u64,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) placement: BTreeMap<ShardId, Vec<NodeId>>,
    pub(super) disks: BTreeMap<(NodeId, ShardId), Durable>,
    /// Every leader that was ever elected.
    pub(super) terms: BTreeMap<(ShardId, Term), NodeId>,
    pub(super) counts: Counts,
    /// Times at which a node's view began or ceased to show the node as a serving leader.
    pub(super) served: Vec<(Duration, NodeId, ShardId, Option<Term>)>,
}

impl World {
    /// Nodes 1 to `nodes`, each shard on the `copies` nodes from its own number on; all started.
    pub(super) fn new(seed: u64, nodes: u32, shards: u32, copies: u32) -> Self {
        let placed = |shard: u32| {
            (0..copies)
                .map(|copy| NodeId(1 + (shard + copy) % nodes))
                .collect()
        };
        let placement = (0..shards).map(|shard| (ShardId(shard), placed(shard))).collect();
        let mut world = Self {
            now: s(1000),
            network: GOOD,
            cuts: BTreeSet::new(),
            raft_dropped: BTreeSet::new(),
            raft_deaf: BTreeSet::new(),
            votes_dropped: BTreeSet::new(),
            refusing: BTreeSet::new(),
            random: Jitter::seeded(seed),
            events: BTreeMap::new(),
            sequence: 0,
            nodes: BTreeMap::new(),
            placement,
            disks: BTreeMap::new(),
            terms: BTreeMap::new(),
            counts: Counts::default(),
            served: Vec::new(),
        };
        let all: Vec<_> = (1..=nodes).map(NodeId).collect();
        all.iter().for_each(|node| world.create(*node, &all));
        all.iter().for_each(|node| world.start(*node));
        world
    }

    /// A world whose groups have all found leaders and gone to sleep, led by their preferred leaders.
    pub(super) fn settled(seed: u64, nodes: u32, shards: u32, copies: u32) -> Self {
        let mut world = Self::new(seed, nodes, shards, copies);
        world.run(s(15));
        for (shard, replicas) in world.placement.clone() {
            assert_eq!(
                world.leader(shard),
                replicas.first().copied(),
                "{shard} after its start"
            );
        }
        world.reset_counts();
        world
    }

    pub(super) fn reset_counts(&mut self) {
        self.counts = Counts::default();
        self.served.clear();
    }

    pub(super) fn shards(&self) -> Vec<ShardId> {
        self.placement.keys().copied().collect()
    }

    pub(super) fn replicas(&self, shard: ShardId) -> Vec<NodeId> {
        self.placement[&shard].clone()
    }

    pub(super) fn node_ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub(super) fn pacemaker(&self, node: NodeId) -> &Pacemaker {
        &self.nodes[&node].pacemaker
    }

    pub(super) fn raft(&mut self, node: NodeId, shard: ShardId) -> &mut Raft {
        let node = self.nodes.get_mut(&node).expect("it is one of the nodes");
        node.raft(shard)
    }

    pub(super) fn is_running(&self, node: NodeId) -> bool {
        self.nodes[&node].process == Process::Running
    }

    /// The one running node that serves the shard as its leader.
    pub(super) fn leader(&self, shard: ShardId) -> Option<NodeId> {
        let mut serving = self.nodes.iter().filter(|(_, node)| {
            node.process == Process::Running && node.pacemaker.view().led.contains_key(&shard)
        });
        let first = serving.next().map(|(node, _)| *node);
        first.filter(|_| serving.next().is_none())
    }

    pub(super) fn random_below(&mut self, bound: u64) -> u64 {
        self.random.bits() % bound
    }

    /// The process ends; its kernel closes its connections and refuses new ones.
    pub(super) fn kill(&mut self, node: NodeId) {
        self.power_off(node);
        for peer in self.node_ids() {
            if peer != node && !self.is_cut(node, peer) {
                self.schedule(
                    ms(1),
                    Event::Link {
                        node: peer,
                        peer: node,
                        link: LinkState::Down,
                    },
                );
                self.schedule(
                    ms(3),
                    Event::Link {
                        node: peer,
                        peer: node,
                        link: LinkState::Refused,
                    },
                );
            }
        }
    }

    /// The machine is gone, and nothing tells of it.
    pub(super) fn power_off(&mut self, node: NodeId) {
        let process = self.nodes.get_mut(&node).expect("it is one of the nodes");
        process.process = Process::Ended;
        process.inbox.clear();
        let disks: Vec<_> = process
            .groups
            .iter()
            .map(|(shard, raft)| (*shard, raft.durable.clone()))
            .collect();
        process.groups.clear();
        for (shard, durable) in disks {
            self.disks.insert((node, shard), durable);
        }
    }

    /// A new process of the node.
    pub(super) fn restart(&mut self, node: NodeId) {
        let all = self.node_ids();
        if self.nodes[&node].process != Process::Ended {
            self.power_off(node);
        }
        self.create(node, &all);
        self.start(node);
    }

    pub(super) fn pause(&mut self, node: NodeId) {
        let node = self.nodes.get_mut(&node).expect("it is one of the nodes");
        if node.process == Process::Running {
            node.process = Process::Paused;
        }
    }

    pub(super) fn resume(&mut self, node: NodeId) {
        let process = self.nodes.get_mut(&node).expect("it is one of the nodes");
        if process.process != Process::Paused {
            return;
        }
        process.process = Process::Running;
        let inbox = std::mem::take(&mut process.inbox);
        // Whatever its runtime happens to take up first: its timer or its sockets.
        if self.random_below(2) == 0 {
            self.tick(node);
        }
        for (from, message) in inbox {
            self.deliver(from, node, message);
        }
        self.tick(node);
    }

    pub(super) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
    }

    pub(super) fn cut_both(&mut self, a: NodeId, b: NodeId) {
        self.cut(a, b);
        self.cut(b, a);
    }

    pub(super) fn isolate(&mut self, node: NodeId) {
        for other in self.node_ids() {
            self.cut_both(node, other);
        }
    }

    /// Of what `node` sends, only beats arrive.
    pub(super) fn drop_raft(&mut self, node: NodeId) {
        self.raft_dropped.insert(node);
    }

    /// Of what is sent to `node`, only beats arrive.
    pub(super) fn deafen(&mut self, node: NodeId) {
        self.raft_deaf.insert(node);
    }

    /// `node` cannot win an election.
    pub(super) fn drop_votes(&mut self, node: NodeId) {
        self.votes_dropped.insert(node);
    }

    /// `node`'s groups refuse to begin with a transfer.
    pub(super) fn refuse_transfers(&mut self, node: NodeId) {
        self.refusing.insert(node);
    }

    pub(super) fn heal(&mut self) {
        self.raft_dropped.clear();
        self.raft_deaf.clear();
        self.votes_dropped.clear();
        self.refusing.clear();
        self.cuts.clear();
    }

    pub(super) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// An empty replica of the shard starts on `node`.
    pub(super) fn host(&mut self, node: NodeId, shard: ShardId) {
        let (now, replicas) = (self.now, self.replicas(shard));
        self.with(node, |host| {
            let raft = Raft::start(node, Members::default(), Durable::default());
            host.groups.insert(shard, raft);
            host.pacemaker.add_group(now, shard, replicas);
        });
    }

    /// The shard's membership, on whoever hosts it.
    pub(super) fn set_members(&mut self, shard: ShardId, members: &Members) {
        let now = self.now;
        for node in self.node_ids() {
            self.with(node, |host| {
                if let Some(raft) = host.groups.get_mut(&shard) {
                    raft.members = members.clone();
                    host.pacemaker.handle_members(now, shard, members.clone());
                }
            });
        }
    }

    pub(super) fn set_phase(&mut self, node: NodeId, phase: NodePhase) {
        let now = self.now;
        self.with(node, |node| node.pacemaker.set_phase(now, phase));
    }

    /// Proposes at `node` as the shard's driver does: a proposal refused for the lease wakes the group and is
    /// tried again. Returns whether it was taken in time.
    pub(super) fn propose(&mut self, node: NodeId, shard: ShardId) -> bool {
        let deadline = self.now + s(2);
        while self.now < deadline {
            let now = self.now;
            let taken = self.with(node, |node| {
                let raft = node.raft(shard);
                let taken = raft.propose(now);
                if taken {
                    node.pacemaker.handle_activity(now, shard);
                } else {
                    raft.heartbeat(now);
                }
                taken
            });
            if taken {
                return true;
            }
            self.run(ms(20));
        }
        false
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            self.handle(event);
        }
        self.now = end;
    }

    /// Lets time pass until `is_so`, in steps of 5 ms. Returns how long it took, `None` after `time`.
    pub(super) fn run_until(&mut self, time: Duration, is_so: impl Fn(&Self) -> bool) -> Option<Duration> {
        let start = self.now;
        while !is_so(self) {
            if self.now >= start + time {
                return None;
            }
            self.run(ms(5));
        }
        Some(self.now - start)
    }

    /// Whether all running nodes agree on a live leader for every shard, and it serves.
    pub(super) fn is_settled(&self) -> bool {
        self.placement.keys().all(|shard| {
            let leader = self.leader(*shard);
            leader.is_some()
                && self
                    .nodes
                    .values()
                    .filter(|node| node.process == Process::Running)
                    .all(|node| {
                        let seen = node.pacemaker.view().leaders.get(shard);
                        seen.map(|leader| leader.node) == leader
                    })
        })
    }
}
