//! The pacemaker: every input's way to the detector and to the groups, and what follows from it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use meridian_types::{NodeId, RaftIndex, ShardId, Uuid};

use super::action::{Action, View};
use super::beat::{Beat, NodePhase};
use super::clock::Clock;
use super::detector::{Detector, Heard, LinkState};
use super::group::{Effects, Group, Members, Role, Surroundings};
use super::leaders::{Leader, Leaders};
use super::pulse::Pulse;
use super::random::Jitter;
use super::settings::PacemakerSettings;

/// The timing of all groups of one node.
///
/// `now` is the time since any fixed moment by a clock that never steps back. After any call, take what
/// [`Self::poll_action`] gives until it gives nothing, and call [`Self::handle_tick`] at
/// [`Self::poll_timeout`], which is never more than a beat's interval away.
#[derive(Debug)]
pub(crate) struct Pacemaker {
    around: Surroundings,
    pulse: Pulse,
    groups: BTreeMap<ShardId, Group>,
    jitter: Jitter,
    view: View,
    actions: VecDeque<Action>,
    /// When to decide again, in lived time.
    deadline: Duration,
    /// Something has come in since the last decision.
    is_dirty: bool,
}

impl Pacemaker {
    /// A node without peers or groups yet.
    pub(crate) fn new(now: Duration, settings: PacemakerSettings) -> Self {
        let PacemakerSettings {
            node,
            incarnation,
            start_id,
            address,
            seed,
            timing,
        } = settings;
        Self {
            pulse: Pulse::new(now, incarnation, start_id, address),
            groups: BTreeMap::new(),
            jitter: Jitter::seeded(seed),
            view: View::default(),
            actions: VecDeque::new(),
            deadline: now,
            is_dirty: true,
            around: Surroundings {
                node,
                phase: NodePhase::Running,
                clock: Clock::new(now, timing.stall, timing.beat_interval),
                timing,
                detector: Detector::default(),
                leaders: Leaders::default(),
            },
        }
    }

    /// The other nodes of the region, with their incarnations where they are known. Only they are heard;
    /// who is not among them is forgotten.
    pub(crate) fn set_peers(&mut self, now: Duration, mut peers: BTreeMap<NodeId, Option<Uuid>>) {
        self.observe(now);
        peers.remove(&self.around.node);
        self.around.detector.set_peers(&self.around.clock, peers);
        self.is_dirty = true;
    }

    /// Whether this node means to stay. From [`NodePhase::Stopping`] on, it gives away what it leads and
    /// calls no election; [`Self::handovers_left`] tells when it is done.
    pub(crate) fn set_phase(&mut self, now: Duration, phase: NodePhase) {
        self.observe(now);
        if self.around.phase != phase {
            self.around.phase = phase;
            self.news();
        }
    }

    /// Where this node is reached, `HOST:PORT`, of at most 300 bytes.
    pub(crate) fn set_address(&mut self, now: Duration, address: String) {
        self.observe(now);
        if self.pulse.set_address(address) {
            self.news();
        }
    }

    /// The shard's group has started here. `replicas`: the nodes that should hold it, preferred leader
    /// first.
    pub(crate) fn add_group(&mut self, now: Duration, shard: ShardId, replicas: Vec<NodeId>) {
        self.observe(now);
        let group = Group::new(&self.around, shard, replicas);
        self.groups.insert(shard, group);
        self.is_dirty = true;
    }

    /// The shard's group does not run here any more: it was moved away, or has failed.
    pub(crate) fn remove_group(&mut self, now: Duration, shard: ShardId) {
        self.observe(now);
        self.groups.remove(&shard);
        self.is_dirty = true;
    }

    /// The shard's placement has changed.
    pub(crate) fn set_replicas(&mut self, now: Duration, shard: ShardId, replicas: Vec<NodeId>) {
        self.observe(now);
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        if group.replicas != replicas {
            group.replicas = replicas;
            group.placement_changed();
            self.is_dirty = true;
        }
    }

    /// The group's membership, when it starts and whenever it changes.
    pub(crate) fn handle_members(&mut self, now: Duration, shard: ShardId, members: Members) {
        self.observe(now);
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        if group.members != members {
            group.members = members;
            group.wake(&self.around);
            self.is_dirty = true;
        }
    }

    /// What the group does in openraft's eyes, when it starts and whenever it changes.
    pub(crate) fn handle_role(&mut self, now: Duration, shard: ShardId, role: Role) {
        self.observe(now);
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        if group.role != role {
            group.set_role(&self.around, role);
            if let Some(term) = role.term() {
                self.around.leaders.note_term(shard, term);
            }
            self.is_dirty = true;
        }
    }

    /// How far the group has applied its log. Once before each tick is often enough.
    pub(crate) fn handle_applied(&mut self, shard: ShardId, applied: RaftIndex) {
        if let Some(group) = self.groups.get_mut(&shard) {
            group.applied = applied;
        }
    }

    /// Something was proposed in a group that this node leads. Once in a beat's interval is often enough.
    pub(crate) fn handle_activity(&mut self, now: Duration, shard: ShardId) {
        self.observe(now);
        if let Some(group) = self.groups.get_mut(&shard) {
            group.wake(&self.around);
            self.is_dirty = true;
        }
    }

    /// A transfer was refused. Where the group still leads, Raft has not begun with it; where it is told as
    /// [`Role::Elected`] by now, only the repetition was refused.
    pub(crate) fn handle_transfer_refused(&mut self, now: Duration, shard: ShardId) {
        self.observe(now);
        let Some(group) = self.groups.get_mut(&shard) else {
            return;
        };
        if let (Role::Leading { .. }, Some(leading)) = (group.role, &mut group.leading) {
            leading.handover_refused(self.around.clock.lived() + self.around.timing.handover_retry);
            self.is_dirty = true;
        }
    }

    /// A beat has come. The caller has checked that it came from the node that it names.
    pub(crate) fn handle_beat(&mut self, now: Duration, beat: Beat) {
        self.observe(now);
        let node = beat.node;
        match self.around.detector.handle_beat(&self.around.clock, beat) {
            Heard::Nothing | Heard::Same => {}
            Heard::News => self.is_dirty = true,
            Heard::Appeared => {
                let is_in = |group: &&mut Group| group.members.all().any(|member| member == node);
                let groups = self.groups.values_mut().filter(is_in);
                groups.for_each(|group| group.wake(&self.around));
                // It learns at once how things stand.
                self.news();
            }
        }
    }

    /// The state of our connection to a node has changed.
    pub(crate) fn handle_link(&mut self, now: Duration, node: NodeId, link: LinkState) {
        self.observe(now);
        let Surroundings {
            clock,
            timing,
            detector,
            ..
        } = &mut self.around;
        self.is_dirty |= detector.handle_link(clock, timing, node, link);
    }

    /// Time has passed.
    pub(crate) fn handle_tick(&mut self, now: Duration) {
        self.observe(now);
        self.is_dirty = true;
    }

    /// What is to be done next.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.settle();
        self.actions.pop_front()
    }

    /// When to call [`Self::handle_tick`], at the latest.
    pub(crate) fn poll_timeout(&mut self) -> Duration {
        self.settle();
        self.around.clock.to_real(self.deadline)
    }

    /// What the region looks like now.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// The suspected nodes, and how long each has been silent.
    pub(crate) fn dead_for(&self) -> BTreeMap<NodeId, Duration> {
        self.around.detector.dead_for(&self.around.clock)
    }

    /// How far a live peer had applied the shard's log in its last beat; `None` where it does not host it.
    pub(crate) fn applied(&self, node: NodeId, shard: ShardId) -> Option<RaftIndex> {
        let hosted = self.around.detector.hosted(node, shard);
        hosted.map(|hosted| hosted.applied)
    }

    /// Groups that this node leads and could still give to a live voter.
    pub(crate) fn handovers_left(&self) -> usize {
        let led = self.groups.values().filter(|group| group.leading.is_some());
        led.filter(|group| group.best_successor(&self.around).is_some())
            .count()
    }

    fn observe(&mut self, now: Duration) {
        if self.around.clock.advance(now) {
            self.around.detector.handle_stall();
            self.groups.values_mut().for_each(Group::handle_stall);
            self.is_dirty = true;
        }
    }

    /// The others should hear of this before the next regular beat.
    fn news(&mut self) {
        self.is_dirty = true;
        self.pulse.hurry(&self.around);
    }

    /// Decides what follows from all that has come in.
    fn settle(&mut self) {
        if !std::mem::take(&mut self.is_dirty) {
            return;
        }
        self.around.look_around();
        let mut effects = Effects {
            jitter: &mut self.jitter,
            actions: &mut self.actions,
            deadline: self.around.next_look(),
        };
        for group in self.groups.values_mut() {
            group.decide(&self.around, &mut effects);
        }
        let deadline = effects.deadline;
        self.refresh_view();
        let hosted = self
            .groups
            .values()
            .map(|group| group.hosted(&self.around.leaders));
        let beat = self.pulse.beat(&self.around, hosted);
        self.actions.extend(beat.map(Action::SendBeat));
        self.deadline = deadline.min(self.pulse.next());
    }

    fn refresh_view(&mut self) {
        let Surroundings {
            node,
            phase,
            detector,
            leaders,
            ..
        } = &self.around;
        let mut view = View {
            alive: detector.alive(),
            leaders: leaders.claims().collect(),
            led: BTreeMap::new(),
            full: detector
                .beats()
                .filter(|beat| beat.phase == NodePhase::Full)
                .map(|beat| beat.node)
                .collect(),
            addresses: detector
                .beats()
                .map(|beat| (beat.node, beat.address.clone()))
                .collect(),
        };
        view.alive.insert(*node);
        if *phase == NodePhase::Full {
            view.full.insert(*node);
        }
        for group in self.groups.values().filter(|group| group.is_claimed()) {
            let Some(term) = group.role.term() else { continue };
            view.leaders.insert(group.shard, Leader { node: *node, term });
            if matches!(group.role, Role::Leading { .. }) {
                view.led.insert(group.shard, term);
            }
        }
        if view != self.view {
            self.view = view;
            self.actions.push_back(Action::ViewChanged);
        }
    }
}
