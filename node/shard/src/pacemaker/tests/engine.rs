//! What happens in a [`World`]: messages arrive, timers fire, pacemakers act.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_types::{NodeId, RaftIndex, ShardId, Uuid};

use super::raft::{Raft, Rpc};
use super::world::{Network, World, ms};
use crate::pacemaker::{Action, Beat, LinkState, Members, Pacemaker, PacemakerSettings, Role, Timing};

#[derive(Clone, Debug)]
pub(super) enum Message {
    Beat(Beat),
    Raft(ShardId, Rpc),
}

#[derive(Debug)]
pub(super) enum Event {
    Deliver {
        from: NodeId,
        to: NodeId,
        /// Connections end with the process.
        start_id: u64,
        message: Message,
    },
    Wake {
        node: NodeId,
    },
    Link {
        node: NodeId,
        peer: NodeId,
        link: LinkState,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    Running,
    Paused,
    Ended,
}

pub(super) struct Node {
    pub(super) process: Process,
    pub(super) start_id: u64,
    pub(super) pacemaker: Pacemaker,
    pub(super) groups: BTreeMap<ShardId, Raft>,
    /// What has come while it was paused.
    pub(super) inbox: Vec<(NodeId, Message)>,
    pub(super) wake: Duration,
}

impl Node {
    pub(super) fn raft(&mut self, shard: ShardId) -> &mut Raft {
        self.groups.get_mut(&shard).expect("it hosts the shard")
    }
}

impl World {
    pub(super) fn schedule(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + after, self.sequence), event);
    }

    pub(super) fn create(&mut self, node: NodeId, all: &[NodeId]) {
        let start_id = self.random.bits();
        let settings = PacemakerSettings {
            node,
            incarnation: Uuid::from_u128(node.0.into()),
            start_id,
            address: format!("node-{node}:9190"),
            seed: self.random.bits(),
            timing: Timing::default(),
        };
        let mut pacemaker = Pacemaker::new(self.now, settings);
        let known = |node: &NodeId| (*node, Some(Uuid::from_u128(node.0.into())));
        pacemaker.set_peers(self.now, all.iter().map(known).collect());
        let mut groups = BTreeMap::new();
        for (shard, replicas) in &self.placement {
            if replicas.contains(&node) {
                let members = Members {
                    voters: replicas.iter().copied().collect(),
                    ..Members::default()
                };
                pacemaker.add_group(self.now, *shard, replicas.clone());
                pacemaker.handle_members(self.now, *shard, members.clone());
                let durable = self.disks.get(&(node, *shard)).cloned().unwrap_or_default();
                groups.insert(*shard, Raft::start(node, members, durable));
            }
        }
        self.nodes.insert(
            node,
            Node {
                process: Process::Running,
                start_id,
                pacemaker,
                groups,
                inbox: Vec::new(),
                wake: self.now,
            },
        );
    }

    pub(super) fn start(&mut self, node: NodeId) {
        for peer in self.node_ids() {
            if peer != node {
                let link = LinkState::Connected;
                self.schedule(ms(10), Event::Link { node, peer, link });
                self.schedule(
                    ms(10),
                    Event::Link {
                        node: peer,
                        peer: node,
                        link,
                    },
                );
            }
        }
        self.tick(node);
    }

    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver {
                from,
                to,
                start_id,
                message,
            } => {
                if self.nodes[&to].start_id == start_id && !self.is_cut(from, to) {
                    self.deliver(from, to, message);
                }
            }
            Event::Wake { node } => {
                let process = &self.nodes[&node];
                if process.process == Process::Running && process.wake <= self.now {
                    self.tick(node);
                }
            }
            Event::Link { node, peer, link } => {
                let is_true = match link {
                    LinkState::Connected => self.nodes[&peer].process != Process::Ended,
                    LinkState::Refused | LinkState::Down => self.nodes[&peer].process == Process::Ended,
                };
                if is_true && self.nodes[&node].process == Process::Running {
                    let now = self.now;
                    self.with(node, |node| node.pacemaker.handle_link(now, peer, link));
                }
            }
        }
    }

    pub(super) fn deliver(&mut self, from: NodeId, to: NodeId, message: Message) {
        let now = self.now;
        match self.nodes[&to].process {
            Process::Ended => {}
            Process::Paused => {
                let node = self.nodes.get_mut(&to).expect("just looked up");
                node.inbox.push((from, message));
            }
            Process::Running => self.with(to, |node| match message {
                Message::Beat(beat) => {
                    let beat = Beat::decode(&beat.encode()).expect("a beat survives its encoding");
                    node.pacemaker.handle_beat(now, beat);
                }
                Message::Raft(shard, rpc) => {
                    if let Some(raft) = node.groups.get_mut(&shard) {
                        raft.handle(now, from, rpc);
                    }
                }
            }),
        }
    }

    pub(super) fn tick(&mut self, node: NodeId) {
        let now = self.now;
        self.with(node, |node| {
            let applied: Vec<(ShardId, RaftIndex)> = node
                .groups
                .iter()
                .map(|(shard, raft)| (*shard, raft.committed))
                .collect();
            for (shard, applied) in applied {
                node.pacemaker.handle_applied(shard, applied);
            }
            node.pacemaker.handle_tick(now);
        });
    }

    /// Changes a node, does what its pacemaker then wants, and tells it what became of that.
    pub(super) fn with<T>(&mut self, id: NodeId, change: impl FnOnce(&mut Node) -> T) -> T {
        let mut node = self.nodes.remove(&id).expect("it is one of the nodes");
        let led_before = node.pacemaker.view().led.clone();
        let result = change(&mut node);
        loop {
            for (shard, raft) in &mut node.groups {
                self.tell_role(id, *shard, raft, &mut node.pacemaker);
            }
            let Some(action) = node.pacemaker.poll_action() else {
                break;
            };
            self.perform(id, &mut node, action);
        }
        let led = &node.pacemaker.view().led;
        for shard in self.placement.keys() {
            if led_before.get(shard) != led.get(shard) {
                self.served.push((self.now, id, *shard, led.get(shard).copied()));
            }
        }
        // Timers are never quite in time.
        let wake = node.pacemaker.poll_timeout().max(self.now);
        if wake != node.wake {
            node.wake = wake;
            let after = wake - self.now + self.random.below(ms(2));
            self.schedule(after, Event::Wake { node: id });
        }
        self.nodes.insert(id, node);
        result
    }

    fn tell_role(&mut self, id: NodeId, shard: ShardId, raft: &mut Raft, pacemaker: &mut Pacemaker) {
        let role = raft.role();
        if let Role::Elected { term } | Role::Leading { term } = role {
            let first = *self.terms.entry((shard, term)).or_insert(id);
            assert_eq!(first, id, "two leaders of shard {shard} in term {term}");
        }
        pacemaker.handle_role(self.now, shard, role);
        for (to, rpc) in std::mem::take(&mut raft.out) {
            self.counts.raft_messages += 1;
            self.send(id, to, Message::Raft(shard, rpc));
        }
    }

    fn perform(&mut self, id: NodeId, node: &mut Node, action: Action) {
        let now = self.now;
        match action {
            Action::SendBeat(beat) => {
                // Without this node itself: it is taken out while it acts.
                for to in self.node_ids() {
                    self.counts.beats += 1;
                    self.send(id, to, Message::Beat(beat.clone()));
                }
            }
            Action::Heartbeat { shard } => {
                self.counts.heartbeats += 1;
                node.raft(shard).heartbeat(now);
            }
            Action::EndLease { shard, leader, term } => node.raft(shard).end_lease(leader, term),
            Action::Elect { shard } => {
                self.counts.elections += 1;
                node.raft(shard).elect(now);
            }
            Action::Transfer { shard, to } => {
                self.counts.transfers += 1;
                if self.refusing.contains(&id) {
                    node.pacemaker.handle_transfer_refused(now, shard);
                } else {
                    node.raft(shard).transfer(to);
                }
            }
            Action::ViewChanged => {}
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        let Network {
            loss_percent,
            delay_min,
            delay_max,
        } = self.network;
        let is_dropped = match &message {
            Message::Beat(_) => false,
            Message::Raft(_, Rpc::RequestVote { .. }) if self.votes_dropped.contains(&from) => true,
            Message::Raft(..) => self.raft_dropped.contains(&from) || self.raft_deaf.contains(&to),
        };
        let is_lost = is_dropped || self.random.bits() % 100 < loss_percent;
        let start_id = self.nodes.get(&to).map(|node| node.start_id);
        let Some(start_id) = start_id.filter(|_| !is_lost) else {
            return;
        };
        let delay = delay_min + self.random.below(delay_max - delay_min);
        let deliver = Event::Deliver {
            from,
            to,
            start_id,
            message,
        };
        self.schedule(delay, deliver);
    }
}
