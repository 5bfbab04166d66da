//! Which copy lies where, and the one change that helps most.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use meridian_types::{NodeId, ShardId, ShardMap};

use super::{PlanSettings, Sight};
use crate::controller::Controller;
use crate::node::{Node, NodeRegistration};

/// How far a planner goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Most replicas on their way to one node.
    pub(super) arriving_max: usize,
    /// Whether racks and numbers may wait until every node is either alive or dead.
    pub(super) waits_for_calm: bool,
}

impl Rules {
    /// All that is to be done by itself.
    pub(super) const SETTLE: Self = Self {
        arriving_max: usize::MAX,
        waits_for_calm: true,
    };
    /// All that can be done now.
    pub(super) const AT_ONCE: Self = Self {
        waits_for_calm: false,
        ..Self::SETTLE
    };
}

/// What becomes of a node's replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stance {
    /// Alive: it keeps and takes replicas.
    Stays,
    /// Silent, but not for long: it keeps what it has.
    Waits,
    /// Drained or dead: it gives its replicas up.
    Leaves,
}

/// Place of a node in [`Layout::nodes`].
type At = usize;

#[derive(Clone, Debug)]
struct Slot {
    id: NodeId,
    /// Equal for nodes of one rack. Nodes without a rack share one.
    rack: usize,
    stance: Stance,
    /// Data shards placed here.
    load: usize,
    /// Data shards that this node should lead.
    leads: usize,
    /// Replicas of any shard that are on their way here.
    arriving: usize,
}

#[derive(Clone, Debug)]
struct Row {
    shard: ShardId,
    /// The preferred leader first.
    replicas: Vec<At>,
    motion: Motion,
}

/// What may be done to a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Motion {
    /// Its members are where they should be.
    None,
    /// Its members are on their way; who votes now, unless Raft is amid a change.
    Moving(Option<BTreeSet<At>>),
    /// Nobody has told.
    Unknown,
    /// It has got its change of this round.
    Changed,
}

/// The region as it would be once all commands given so far are carried out.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    nodes: Vec<Slot>,
    rows: Vec<Row>,
    copies: usize,
}

impl Layout {
    /// A region to be founded.
    pub(super) fn empty(nodes: &[NodeRegistration], shards: u32, copies: usize) -> Self {
        let nodes: BTreeMap<NodeId, &NodeRegistration> = nodes.iter().map(|node| (node.node, node)).collect();
        let row = |shard| Row {
            shard,
            replicas: Vec::new(),
            motion: Motion::None,
        };
        let shards = ShardMap::shared(shards).all().chain([ShardId::CONTROLLER]);
        let rows = shards.map(row).filter(|_| !nodes.is_empty()).collect();
        Self {
            nodes: slots(nodes.into_values().map(|node| (node, Stance::Stays))),
            rows,
            copies,
        }
    }

    /// The region as it is.
    pub(super) fn new(controller: &Controller, sight: &Sight, settings: &PlanSettings) -> Self {
        let stance = |node: &Node| match sight.silent.get(&node.registration.node) {
            _ if node.draining => Stance::Leaves,
            None => Stance::Stays,
            Some(silent) if *silent >= settings.dead_after => Stance::Leaves,
            Some(_) => Stance::Waits,
        };
        let nodes = slots(controller.nodes().map(|node| (&node.registration, stance(node))));
        let at: BTreeMap<NodeId, At> = nodes.iter().enumerate().map(|(at, slot)| (slot.id, at)).collect();
        let mut layout = Self {
            nodes,
            rows: Vec::new(),
            copies: controller.copies_wanted(),
        };
        for (shard, placement) in controller.placements() {
            let replicas: Vec<At> = placement.replicas.iter().map(|node| at[node]).collect();
            let motion = match sight.members.get(&shard) {
                None => Motion::Unknown,
                Some(members) => {
                    // A voter that is no longer registered has no place; it is on its way out.
                    let voters: BTreeSet<At> = (members.voters.iter())
                        .filter_map(|node| at.get(node).copied())
                        .collect();
                    let is_there = voters.len() == members.voters.len()
                        && voters.len() == replicas.len()
                        && replicas.iter().all(|replica| voters.contains(replica));
                    for replica in replicas.iter().filter(|replica| !voters.contains(replica)) {
                        layout.nodes[*replica].arriving += 1;
                    }
                    match (members.settled, is_there) {
                        (true, true) => Motion::None,
                        (true, false) => Motion::Moving(Some(voters)),
                        (false, _) => Motion::Moving(None),
                    }
                }
            };
            layout.count(shard, &replicas, true);
            layout.rows.push(Row {
                shard,
                replicas,
                motion,
            });
        }
        layout
    }

    /// All rows by node id.
    pub(super) fn placements(&self) -> Vec<(ShardId, Vec<NodeId>)> {
        self.rows.iter().map(|row| (row.shard, self.ids(row))).collect()
    }

    /// The rows that [`Layout::step`] changed.
    pub(super) fn changed(&self) -> Vec<(ShardId, Vec<NodeId>)> {
        let changed = self.rows.iter().filter(|row| row.motion == Motion::Changed);
        changed.map(|row| (row.shard, self.ids(row))).collect()
    }

    /// How many shards are on their way, and of how many nothing is known.
    pub(super) fn motions(&self) -> (usize, usize) {
        let moving = self
            .rows
            .iter()
            .filter(|row| matches!(row.motion, Motion::Moving(_)));
        let unknown = self.rows.iter().filter(|row| row.motion == Motion::Unknown);
        (moving.count(), unknown.count())
    }

    /// Goes on until nothing is left to do, as if every change were carried out at once.
    pub(super) fn settle(&mut self, rules: Rules) {
        while self.turn_back() {}
        // Each step lowers (copies missing, copies on leaving nodes, rack pairs, unevenness), so this ends by
        // itself; the bound makes a mistake about that harmless.
        for _ in 0..16 * (self.rows.len() + 1) {
            for row in &mut self.rows {
                row.motion = Motion::None;
            }
            self.nodes.iter_mut().for_each(|slot| slot.arriving = 0);
            if !self.step(rules) {
                return;
            }
        }
    }

    /// Does the one change that helps most. `false` if there is none.
    pub(super) fn step(&mut self, rules: Rules) -> bool {
        if self.turn_back() || self.hand_leads_over() || self.repair(rules) {
            return true;
        }
        let is_calm = !self.nodes.iter().any(|slot| slot.stance == Stance::Waits);
        if rules.waits_for_calm && !is_calm {
            return false;
        }
        if self.spread(rules) || self.even_copies(rules) {
            return true;
        }
        // Leaders would only be moved again while copies are still on their way.
        let is_moving = self.nodes.iter().any(|slot| slot.arriving > 0);
        if rules.waits_for_calm && is_moving {
            return false;
        }
        self.even_leads()
    }

    /// A replica on its way to a node that has begun to leave meanwhile goes elsewhere: if no node can take it,
    /// back to one that was to give it up.
    fn turn_back(&mut self) -> bool {
        for n in 0..self.rows.len() {
            let Motion::Moving(Some(voters)) = &self.rows[n].motion else {
                continue;
            };
            let replicas = &self.rows[n].replicas;
            let is_lost = |at: &At| self.nodes[*at].stance == Stance::Leaves && !voters.contains(at);
            let Some(lost) = replicas.iter().copied().find(is_lost) else {
                continue;
            };
            let kept = without(replicas, lost);
            let spare = || voters.iter().copied().filter(|at| !replicas.contains(at));
            let cost = |at: &At| self.cost(&kept, *at);
            let candidate = self
                .candidate(&kept, replicas)
                .or_else(|| spare().min_by_key(cost));
            let mut replicas = match candidate {
                Some(candidate) => replaced(replicas, lost, candidate),
                None => kept,
            };
            // The change may have been to take copies away, too; those that are still there are not given up.
            let mut others: Vec<At> = voters
                .iter()
                .copied()
                .filter(|at| !replicas.contains(at))
                .collect();
            others.sort_by_key(|at| !self.stays(*at));
            others.truncate(self.copies.saturating_sub(replicas.len()));
            replicas.extend(others);
            if !replicas.is_empty() {
                self.change(n, replicas);
                return true;
            }
        }
        false
    }

    /// A node that leaves gives its leads up before its copies.
    fn hand_leads_over(&mut self) -> bool {
        for n in 0..self.rows.len() {
            let row = &self.rows[n];
            if row.motion != Motion::None {
                continue;
            }
            let leaves = row
                .replicas
                .first()
                .is_some_and(|at| self.nodes[*at].stance == Stance::Leaves);
            let heirs = row.replicas.iter().copied().filter(|at| self.stays(*at));
            if let Some(heir) = heirs.min_by_key(|at| self.nodes[*at].leads)
                && leaves
            {
                self.change(n, led_by(&row.replicas, heir));
                return true;
            }
        }
        false
    }

    /// Brings a shard to the copies wanted, on nodes that stay: the shard with the fewest of them first.
    fn repair(&mut self, rules: Rules) -> bool {
        let staying = |row: &Row| row.replicas.iter().filter(|at| self.stays(**at)).count();
        let idle = self
            .rows
            .iter()
            .enumerate()
            .filter(|(_, row)| row.motion == Motion::None);
        let mut order: Vec<(usize, usize)> = idle.map(|(n, row)| (staying(row), n)).collect();
        order.sort_unstable();
        for (_, n) in order {
            if let Some(replicas) = self.repaired(n, rules) {
                self.change(n, replicas);
                return true;
            }
        }
        false
    }

    fn repaired(&self, n: usize, rules: Rules) -> Option<Vec<At>> {
        let replicas = &self.rows[n].replicas;
        if replicas.len() > self.copies {
            let mut replicas = replicas.clone();
            while replicas.len() > self.copies {
                let surplus = self.surplus(&replicas);
                replicas.retain(|at| *at != surplus);
            }
            return Some(replicas);
        }
        let leaving = (replicas.iter().copied()).rfind(|at| self.nodes[*at].stance == Stance::Leaves);
        if let Some(leaving) = leaving
            && let Some(candidate) = self.candidate(&without(replicas, leaving), replicas)
        {
            let replicas = replaced(replicas, leaving, candidate);
            return self.has_room(candidate, rules).then_some(replicas);
        }
        let mut grown = replicas.clone();
        while grown.len() < self.copies
            && let Some(candidate) = self.candidate(&grown, &grown)
            && self.has_room(candidate, rules)
        {
            grown.push(candidate);
        }
        if replicas.is_empty() {
            // A new shard: nobody leads it yet.
            let leader = grown.iter().copied().min_by_key(|at| self.nodes[*at].leads)?;
            grown = led_by(&grown, leader);
        }
        (grown.len() > replicas.len()).then_some(grown)
    }

    /// The replica to drop first when there are more than wanted.
    fn surplus(&self, replicas: &[At]) -> At {
        let worth = |at: &At| {
            let slot = &self.nodes[*at];
            let stance = match slot.stance {
                Stance::Leaves => 0,
                Stance::Waits => 1,
                Stance::Stays => 2,
            };
            let is_leader = *at == replicas[0];
            (
                stance,
                Reverse(self.rack_mates(replicas, *at, *at)),
                is_leader,
                Reverse(slot.load),
            )
        };
        let least = replicas.iter().copied().min_by_key(worth);
        least.expect("there are more than the copies wanted")
    }

    /// Moves a copy out of a rack that has several to one that has fewer.
    fn spread(&mut self, rules: Rules) -> bool {
        let moves = self.moves(rules, |_, _, pairs| pairs > 0);
        let better = moves.filter(|found| found.pairs_after < found.pairs);
        let best = better.min_by_key(|found| {
            let won = found.pairs - found.pairs_after;
            let (from, to) = (&self.nodes[found.from], &self.nodes[found.to]);
            (Reverse(won), to.load, Reverse(from.load), found.row)
        });
        self.carry_out(best)
    }

    /// Moves a copy from the fullest node to the emptiest, unless racks stand against it.
    fn even_copies(&mut self, rules: Rules) -> bool {
        let staying = self.nodes.iter().filter(|slot| slot.stance == Stance::Stays);
        let Some(emptiest) = staying.map(|slot| slot.load).min() else {
            return false;
        };
        let moves = self.moves(rules, |row, from, _| {
            row.shard != ShardId::CONTROLLER && self.nodes[from].load >= emptiest + 2
        });
        let better = moves.filter(|found| {
            let is_fuller = self.nodes[found.from].load >= self.nodes[found.to].load + 2;
            is_fuller && found.pairs_after <= found.pairs
        });
        let best = better.min_by_key(|found| {
            let (from, to) = (&self.nodes[found.from], &self.nodes[found.to]);
            let leads = self.rows[found.row].replicas[0] == found.from;
            let takes_lead = from.leads >= to.leads + 2;
            (
                Reverse(from.load - to.load),
                leads != takes_lead,
                found.row,
                found.to,
            )
        });
        self.carry_out(best)
    }

    /// Makes nodes lead equally many shards, moving no copy: a lead goes from a node to another replica of
    /// the shard, directly or by way of others.
    fn even_leads(&mut self) -> bool {
        let mut order: Vec<At> = (0..self.nodes.len()).filter(|at| self.stays(*at)).collect();
        order.sort_by_key(|at| Reverse(self.nodes[*at].leads));
        for from in order {
            if let Some(path) = self.path_of_leads(from) {
                for (row, heir) in path {
                    let replicas = led_by(&self.rows[row].replicas, heir);
                    self.change(row, replicas);
                }
                return true;
            }
        }
        false
    }

    /// The shortest chain of shards along which one lead gets from `from` to a node with at least two fewer.
    fn path_of_leads(&self, from: At) -> Option<Vec<(usize, At)>> {
        let mut came: BTreeMap<At, (usize, At)> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(at) = queue.pop_front() {
            if self.nodes[at].leads + 2 <= self.nodes[from].leads {
                let mut path = Vec::new();
                let mut at = at;
                while at != from {
                    let (row, before) = came[&at];
                    path.push((row, at));
                    at = before;
                }
                return Some(path);
            }
            for (n, row) in self.rows.iter().enumerate() {
                let is_led = row.motion == Motion::None && row.replicas.first() == Some(&at);
                if !is_led || row.shard == ShardId::CONTROLLER {
                    continue;
                }
                for heir in row.replicas[1..].iter().copied() {
                    if self.stays(heir) && heir != from && !came.contains_key(&heir) {
                        came.insert(heir, (n, at));
                        queue.push_back(heir);
                    }
                }
            }
        }
        None
    }

    /// Every way to move one copy between nodes that stay, where `may_go` lets the copy of a row go from a
    /// node; it is told how many others of the row are in that node's rack.
    fn moves<'a>(
        &'a self,
        rules: Rules,
        may_go: impl Fn(&Row, At, usize) -> bool + 'a,
    ) -> impl Iterator<Item = Move> + 'a {
        let idle = self
            .rows
            .iter()
            .enumerate()
            .filter(|(_, row)| row.motion == Motion::None);
        let copies = idle.flat_map(|(n, row)| row.replicas.iter().map(move |from| (n, row, *from)));
        let going = copies.filter_map(move |(n, row, from)| {
            let pairs = self.rack_mates(&row.replicas, from, from);
            (self.stays(from) && may_go(row, from, pairs)).then_some((n, row, from, pairs))
        });
        going.flat_map(move |(n, row, from, pairs)| {
            let to = (0..self.nodes.len())
                .filter(move |to| self.stays(*to) && self.has_room(*to, rules) && !row.replicas.contains(to));
            to.map(move |to| Move {
                row: n,
                from,
                to,
                pairs,
                pairs_after: self.rack_mates(&row.replicas, from, to),
            })
        })
    }

    fn carry_out(&mut self, found: Option<Move>) -> bool {
        let Some(Move { row, from, to, .. }) = found else {
            return false;
        };
        self.change(row, replaced(&self.rows[row].replicas, from, to));
        true
    }

    /// The best node for another copy next to `kept`, other than those in `taken`.
    fn candidate(&self, kept: &[At], taken: &[At]) -> Option<At> {
        let free = (0..self.nodes.len()).filter(|at| self.stays(*at) && !taken.contains(at));
        free.min_by_key(|at| self.cost(kept, *at))
    }

    /// What a copy on `at` next to `kept` would cost, the least being the best.
    fn cost(&self, kept: &[At], at: At) -> (usize, usize, usize, NodeId) {
        let slot = &self.nodes[at];
        (self.rack_mates(kept, at, at), slot.load, slot.leads, slot.id)
    }

    /// How many of `replicas` are in the rack of `at`, `gone` left out.
    fn rack_mates(&self, replicas: &[At], gone: At, at: At) -> usize {
        let rack = self.nodes[at].rack;
        let mates = replicas
            .iter()
            .filter(|other| **other != gone && self.nodes[**other].rack == rack);
        mates.count()
    }

    fn stays(&self, at: At) -> bool {
        self.nodes[at].stance == Stance::Stays
    }

    fn has_room(&self, at: At, rules: Rules) -> bool {
        self.nodes[at].arriving < rules.arriving_max
    }

    fn change(&mut self, n: usize, replicas: Vec<At>) {
        let shard = self.rows[n].shard;
        let before = std::mem::take(&mut self.rows[n].replicas);
        self.count(shard, &before, false);
        self.count(shard, &replicas, true);
        for at in replicas.iter().filter(|at| !before.contains(at)) {
            self.nodes[*at].arriving += 1;
        }
        let row = &mut self.rows[n];
        row.replicas = replicas;
        row.motion = Motion::Changed;
    }

    /// Adds a data shard to the figures of its nodes, or takes it out.
    fn count(&mut self, shard: ShardId, replicas: &[At], is_added: bool) {
        if shard == ShardId::CONTROLLER {
            return;
        }
        for (place, at) in replicas.iter().enumerate() {
            let slot = &mut self.nodes[*at];
            let lead = usize::from(place == 0);
            if is_added {
                slot.load += 1;
                slot.leads += lead;
            } else {
                slot.load -= 1;
                slot.leads -= lead;
            }
        }
    }

    fn ids(&self, row: &Row) -> Vec<NodeId> {
        row.replicas.iter().map(|at| self.nodes[*at].id).collect()
    }
}

/// One copy from one node to another.
#[derive(Clone, Copy, Debug)]
struct Move {
    row: usize,
    from: At,
    to: At,
    /// Other copies in the rack that the copy leaves.
    pairs: usize,
    /// Other copies in the rack that it goes to.
    pairs_after: usize,
}

/// The nodes with nothing on them yet.
fn slots<'a>(nodes: impl Iterator<Item = (&'a NodeRegistration, Stance)>) -> Vec<Slot> {
    let mut racks: BTreeMap<Option<&str>, usize> = BTreeMap::new();
    nodes
        .map(|(node, stance)| {
            let next = racks.len();
            Slot {
                id: node.node,
                rack: *racks.entry(node.rack.as_deref()).or_insert(next),
                stance,
                load: 0,
                leads: 0,
                arriving: 0,
            }
        })
        .collect()
}

/// `new` takes the place of `old`.
fn replaced(replicas: &[At], old: At, new: At) -> Vec<At> {
    let swap = |at: &At| if *at == old { new } else { *at };
    replicas.iter().map(swap).collect()
}

fn without(replicas: &[At], gone: At) -> Vec<At> {
    replicas.iter().copied().filter(|at| *at != gone).collect()
}

/// `leader` changes places with the first.
fn led_by(replicas: &[At], leader: At) -> Vec<At> {
    let mut replicas = replicas.to_vec();
    if let Some(at) = replicas.iter().position(|at| *at == leader) {
        replicas.swap(0, at);
    }
    replicas
}
