//! A region that carries plans out, step by step, and holds each command against what must never happen.

use super::*;

pub(super) struct World {
    pub(super) controller: Controller,
    pub(super) settings: PlanSettings,
    /// Who votes in truth.
    votes: BTreeMap<ShardId, BTreeSet<NodeId>>,
    silent: BTreeMap<NodeId, Duration>,
    /// Shards whose leader is not heard.
    pub(super) unheard: BTreeSet<ShardId>,
    /// Shards that Raft is changing just now.
    pub(super) joint: BTreeSet<ShardId>,
    /// Replicas that began to vote where they had not.
    pub(super) copies_made: usize,
    /// Commands that named another leader.
    pub(super) leads_moved: usize,
    nodes_made: u32,
}

impl World {
    pub(super) fn founded(racks: &[&str], copies: usize) -> Self {
        Self::with_shards(racks, copies, 16)
    }

    pub(super) fn with_shards(racks: &[&str], copies: usize, shards: u32) -> Self {
        let nodes = (1..).zip(racks).map(|(node, rack)| node_in(node, rack)).collect();
        let configs = BTreeMap::from([("default.replication.factor".to_owned(), copies.to_string())]);
        let mut world = Self {
            controller: Controller::new(),
            settings: PlanSettings::default(),
            votes: BTreeMap::new(),
            silent: BTreeMap::new(),
            unheard: BTreeSet::new(),
            joint: BTreeSet::new(),
            copies_made: 0,
            leads_moved: 0,
            nodes_made: u32::try_from(racks.len()).unwrap(),
        };
        let founding = crate::Founding { shards, ..founding() };
        let outcome = world.apply(&Command::found(founding, nodes, configs));
        assert_eq!(outcome, Outcome::Founded(Ok(())));
        let placements = world.controller.placements();
        world.votes = placements
            .map(|(shard, placement)| (shard, placement.founders.iter().copied().collect()))
            .collect();
        world
    }

    pub(super) fn apply(&mut self, command: &Command) -> Outcome {
        let index = RaftIndex(self.controller.applied().index.0 + 1);
        let outcome = self
            .controller
            .apply(LogPosition { term: Term(1), index }, command);
        self.controller.check().unwrap();
        outcome
    }

    pub(super) fn join(&mut self, rack: &str) {
        self.nodes_made += 1;
        let node = node_in(self.nodes_made, rack);
        let outcome = self.apply(&Command::RegisterNode { node, now: NOW });
        assert!(matches!(outcome, Outcome::NodeRegistered(Ok(_))));
    }

    pub(super) fn drain(&mut self, node: u32, draining: bool) {
        let node = NodeId(node);
        let outcome = self.apply(&Command::DrainNode { node, draining });
        assert_eq!(outcome, Outcome::NodeDrained(Ok(())));
    }

    pub(super) fn remove(&mut self, node: u32, force: bool) {
        let outcome = self.apply(&crate::testing::remove(node, force));
        assert_eq!(outcome, Outcome::NodeRemoved(Ok(())));
    }

    pub(super) fn set_copies(&mut self, copies: usize) {
        let change = ConfigChange {
            resource: ConfigResource::Cluster,
            replace_all: true,
            ops: vec![ConfigOp::Set {
                name: "default.replication.factor".into(),
                value: copies.to_string(),
            }],
        };
        let changes = vec![change];
        assert_eq!(
            self.apply(&Command::AlterConfigs { changes }),
            Outcome::ConfigsAltered(vec![Ok(())])
        );
    }

    pub(super) fn silence(&mut self, node: u32, silent: Duration) {
        self.silent.insert(NodeId(node), silent);
    }

    pub(super) fn revive(&mut self, node: u32) {
        self.silent.remove(&NodeId(node));
    }

    /// A voter that should not be one.
    pub(super) fn join_votes(&mut self, shard: ShardId, node: u32) {
        self.votes.get_mut(&shard).unwrap().insert(NodeId(node));
    }

    pub(super) fn is_alive(&self, node: NodeId) -> bool {
        !self.silent.contains_key(&node)
    }

    pub(super) fn has_quorum(&self, shard: ShardId) -> bool {
        let voters = &self.votes[&shard];
        let alive = voters.iter().filter(|node| self.is_alive(**node)).count();
        alive > voters.len() / 2
    }

    pub(super) fn sight(&self) -> Sight {
        let heard = |shard: &ShardId| self.has_quorum(*shard) && !self.unheard.contains(shard);
        let member = |(shard, voters): (&ShardId, &BTreeSet<NodeId>)| {
            let placed = self.replicas(*shard).into_iter();
            let mut could_lead = placed.chain(voters.iter().copied());
            let members = Members {
                leader: could_lead
                    .find(|node| voters.contains(node) && self.is_alive(*node))
                    .unwrap(),
                voters: voters.clone(),
                settled: !self.joint.contains(shard),
            };
            (*shard, members)
        };
        Sight {
            silent: self.silent.clone(),
            members: self
                .votes
                .iter()
                .filter(|(shard, _)| heard(shard))
                .map(member)
                .collect(),
        }
    }

    pub(super) fn plan(&self) -> Vec<Command> {
        next_steps(&self.controller, &self.sight(), &self.settings)
    }

    pub(super) fn progress(&self) -> Progress {
        progress(&self.controller, &self.sight(), &self.settings)
    }

    pub(super) fn check_remove(&self, node: u32, force: bool) -> Result<(), RemoveNodeError> {
        check_remove(&self.controller, &self.sight(), NodeId(node), force)
    }

    /// The replicas before and after a command.
    pub(super) fn effect(&self, command: &Command) -> (Vec<NodeId>, Vec<NodeId>) {
        let Command::SetPlacement { shard, replicas, .. } = command else {
            panic!("{command:?}")
        };
        (self.replicas(*shard), replicas.clone())
    }

    /// Plans once and proposes it.
    pub(super) fn propose(&mut self) -> usize {
        let commands = self.plan();
        self.propose_all(&commands);
        commands.len()
    }

    /// Holds commands against what must never happen, and proposes them.
    pub(super) fn propose_all(&mut self, commands: &[Command]) {
        let mut shards = BTreeSet::new();
        for command in commands {
            let Command::SetPlacement { shard, replicas, .. } = command else {
                panic!("{command:?}")
            };
            assert!(shards.insert(*shard), "shard {shard} is changed twice");
            self.assert_harmless(*shard, replicas);
            self.leads_moved += usize::from(self.replicas(*shard)[0] != replicas[0]);
            let outcome = self.apply(command);
            assert!(matches!(outcome, Outcome::PlacementSet(Ok(_))), "{outcome:?}");
        }
    }

    fn assert_harmless(&self, shard: ShardId, new: &[NodeId]) {
        let old = self.replicas(shard);
        let votes = &self.votes[&shard];
        let context = format!("shard {shard} from {old:?} to {new:?}, voters {votes:?}");
        assert!(
            !self.unheard.contains(&shard) && self.has_quorum(shard),
            "{context}"
        );
        assert!(!self.joint.contains(&shard), "{context}");
        let is_done = votes.iter().eq(old.iter().collect::<BTreeSet<_>>());
        let is_lost = |node: &&NodeId| !votes.contains(node) && self.is_leaving(**node);
        assert!(
            is_done || old.iter().any(|node| is_lost(&node)),
            "a second change: {context}"
        );
        // A node that was removed by force has taken its copies with it.
        let present = votes.iter().filter(|node| self.controller.node(**node).is_some());
        let present = present.count().min(self.controller.copies_wanted());
        assert!(new.len() >= present, "fewer copies: {context}");
        for node in new
            .iter()
            .filter(|node| !old.contains(node) && !votes.contains(node))
        {
            assert!(
                self.is_alive(*node) && !self.is_leaving(*node),
                "a copy for {node}: {context}"
            );
        }
        // Whoever goes although it is well makes room for another, or there are more than wanted.
        let is_well = |node: &&NodeId| self.is_alive(**node) && !self.is_leaving(**node);
        let well_before = votes.iter().filter(is_well).count();
        let well_after = new.iter().filter(is_well).count();
        assert!(
            well_after >= well_before.min(self.controller.copies_wanted()),
            "{context}"
        );
    }

    pub(super) fn is_leaving(&self, node: NodeId) -> bool {
        let is_dead = self.silent.get(&node).is_some_and(|silent| *silent >= DEAD);
        is_dead || self.controller.node(node).is_none_or(|node| node.draining)
    }

    /// Shards whose voters are not the placed ones.
    pub(super) fn moving(&self) -> Vec<ShardId> {
        let is_moving = |shard: &ShardId| {
            let placed: BTreeSet<_> = self.replicas(*shard).into_iter().collect();
            self.votes[shard] != placed
        };
        self.votes.keys().copied().filter(is_moving).collect()
    }

    /// Lets a shard's leader finish its change, if it can.
    pub(super) fn finish(&mut self, shard: ShardId) -> bool {
        let placed: BTreeSet<_> = self.replicas(shard).into_iter().collect();
        let votes = &self.votes[&shard];
        let new: Vec<_> = placed.difference(votes).copied().collect();
        if !self.has_quorum(shard) || !new.iter().all(|node| self.is_alive(*node)) || *votes == placed {
            return false;
        }
        self.copies_made += new.len();
        self.votes.insert(shard, placed);
        self.joint.remove(&shard);
        true
    }

    pub(super) fn finish_all(&mut self) {
        for shard in self.moving() {
            self.finish(shard);
        }
    }

    /// Plans and carries out until nothing moves.
    pub(super) fn run(&mut self) {
        for _ in 0..500 {
            let proposed = self.propose();
            let moving = self.moving().len();
            self.finish_all();
            if proposed == 0 && self.moving().len() == moving {
                return;
            }
        }
        panic!("no end: {:?}", self.plan());
    }

    pub(super) fn replicas(&self, shard: ShardId) -> Vec<NodeId> {
        self.controller.replicas_of(shard).to_vec()
    }

    pub(super) fn placements(&self) -> Vec<Vec<NodeId>> {
        self.votes.keys().map(|shard| self.replicas(*shard)).collect()
    }

    pub(super) fn racks(&self, shard: ShardId) -> Vec<Option<String>> {
        let rack = |node: &NodeId| self.controller.node(*node).unwrap().registration.rack.clone();
        self.replicas(shard).iter().map(rack).collect()
    }

    /// Data shards that each registered node votes for.
    pub(super) fn loads(&self) -> Vec<usize> {
        self.count(|shard, node| self.votes[&shard].contains(&node))
    }

    /// Data shards that each registered node should lead.
    pub(super) fn leads(&self) -> Vec<usize> {
        self.count(|shard, node| self.controller.replicas_of(shard)[0] == node)
    }

    fn count(&self, is_counted: impl Fn(ShardId, NodeId) -> bool) -> Vec<usize> {
        let shards: Vec<_> = self
            .votes
            .keys()
            .filter(|shard| **shard != ShardId::CONTROLLER)
            .collect();
        let count = |node: &crate::Node| {
            let node = node.registration.node;
            shards.iter().filter(|shard| is_counted(***shard, node)).count()
        };
        self.controller.nodes().map(count).collect()
    }

    /// What a region at rest must look like, told without the planner's own reckoning.
    pub(super) fn assert_goals(&self) {
        let staying: Vec<&crate::Node> = self
            .controller
            .nodes()
            .filter(|node| !self.is_leaving(node.registration.node))
            .collect();
        let wanted = self.controller.copies_wanted();
        let reachable = wanted.min(staying.len());
        let is_staying = |node: &NodeId| staying.iter().any(|other| other.registration.node == *node);
        for (shard, placement) in self.controller.placements() {
            let well = placement.replicas.iter().filter(|node| is_staying(node)).count();
            let context = format!("shard {shard} on {:?}", placement.replicas);
            assert_eq!(well, reachable, "{context}");
            assert!(placement.replicas.len() <= wanted, "{context}");
            assert!(well == wanted || self.has_quorum(shard), "{context}");
            let spread = rack_pairs(self.racks(shard));
            if well == placement.replicas.len() {
                let racks = staying.iter().map(|node| node.registration.rack.clone());
                assert_eq!(spread, fewest_rack_pairs(racks.collect(), well), "{context}");
            }
            let leader_leaves = !is_staying(&placement.preferred_leader());
            assert!(!leader_leaves || well == 0, "{context}");
        }
        let of_staying = |figures: Vec<usize>| -> Vec<usize> {
            let nodes = self.controller.nodes().map(|node| node.registration.node);
            nodes
                .zip(figures)
                .filter(|(node, _)| is_staying(node))
                .map(|(_, figure)| figure)
                .collect()
        };
        let range =
            |figures: &[usize]| figures.iter().max().unwrap_or(&0) - figures.iter().min().unwrap_or(&0);
        let (loads, leads) = (of_staying(self.loads()), of_staying(self.leads()));
        let racks: BTreeSet<_> = staying.iter().map(|node| &node.registration.rack).collect();
        if racks.len() == 1 || racks.len() == staying.len() {
            assert!(range(&loads) <= 1, "copies {loads:?}");
            assert!(range(&leads) <= 1, "leads {leads:?}");
        }
    }
}

fn node_in(node: u32, rack: &str) -> NodeRegistration {
    NodeRegistration {
        rack: (!rack.is_empty()).then(|| rack.to_owned()),
        ..registration(node, node.into())
    }
}

/// Pairs of copies that share a rack.
fn rack_pairs(racks: Vec<Option<String>>) -> usize {
    let mut counts = BTreeMap::new();
    racks
        .into_iter()
        .for_each(|rack| *counts.entry(rack).or_insert(0) += 1);
    counts
        .into_values()
        .map(|count: usize| count * (count - 1) / 2)
        .sum()
}

/// The fewest such pairs that `copies` on nodes of these racks can have.
fn fewest_rack_pairs(racks: Vec<Option<String>>, copies: usize) -> usize {
    let mut room = BTreeMap::new();
    racks
        .into_iter()
        .for_each(|rack| *room.entry(rack).or_insert(0) += 1);
    let mut taken: Vec<(usize, usize)> = room.into_values().map(|room: usize| (0, room)).collect();
    (0..copies)
        .map(|_| {
            let free = taken.iter_mut().filter(|(taken, room)| taken < room);
            let (taken, _) = free.min_by_key(|(taken, _)| *taken).unwrap();
            *taken += 1;
            *taken - 1
        })
        .sum()
}
