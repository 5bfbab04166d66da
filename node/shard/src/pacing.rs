//! The driver around the [`Pacemaker`]: its clock, its messages, and the groups that it decides about.
//!
//! It runs where the urgent lane runs, so that a node busy with records still beats in time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use meridian_peer::{HostPort, Lane, PeerAddress, PeerIdentity, Peers};
use meridian_raft::{Group, Leadership, TransferError};
use meridian_types::{NodeId, RaftIndex, ShardId, Uuid};
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::message::kind;
use crate::pacemaker::{self, Action, Beat, Members, NodePhase, Pacemaker, PacemakerSettings, Role, View};

/// How often [`Pacing::hand_over`] looks whether it is done.
const HAND_OVER_STEP: Duration = Duration::from_millis(20);

/// The pacemaker of a node, at work. Clones share it.
#[derive(Clone)]
pub(crate) struct Pacing {
    inner: Arc<Inner>,
}

/// Whether the journal has room for the commands of a leader.
pub(crate) type HasRoom = Box<dyn Fn() -> bool + Send + Sync>;

struct Inner {
    core: Mutex<Pacemaker>,
    has_room: HasRoom,
    started: Instant,
    runtime: Handle,
    peers: Peers,
    groups: RwLock<BTreeMap<ShardId, Arc<Paced>>>,
    nodes: Mutex<Nodes>,
    /// Nodes with which there was a connection when it was last looked.
    connected: Mutex<BTreeSet<NodeId>>,
    is_draining: AtomicBool,
    is_stopping: AtomicBool,
    view: ArcSwap<View>,
    changes: watch::Sender<u64>,
    /// The time at which the core wants to be called again may have become an earlier one.
    poked: Notify,
}

/// A group, as the pacemaker acts on it.
struct Paced {
    group: Group,
    /// Something was proposed since the last tick.
    is_active: AtomicBool,
    stop: CancellationToken,
}

/// The other nodes.
#[derive(Default)]
struct Nodes {
    /// As they were last told.
    told: BTreeMap<NodeId, Known>,
    /// Where they are really reached: beats may be newer than what was told.
    addresses: BTreeMap<NodeId, HostPort>,
}

/// What is known of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its data directory; none while only its address is known.
    pub(crate) incarnation: Option<Uuid>,
    /// Where it is reached.
    pub(crate) address: HostPort,
}

impl Pacing {
    /// Starts to beat, on `runtime`, until `stop`.
    pub(crate) fn start(
        settings: PacemakerSettings,
        peers: Peers,
        has_room: HasRoom,
        runtime: &Handle,
        stop: CancellationToken,
    ) -> Self {
        let inner = Arc::new(Inner {
            core: Mutex::new(Pacemaker::new(Duration::ZERO, settings)),
            has_room,
            started: Instant::now(),
            runtime: runtime.clone(),
            peers,
            groups: RwLock::default(),
            nodes: Mutex::default(),
            connected: Mutex::default(),
            is_draining: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            view: ArcSwap::default(),
            changes: watch::channel(0).0,
            poked: Notify::new(),
        });
        let pacing = Self { inner };
        runtime.spawn(pacing.clone().run(stop));
        pacing
    }

    /// What the region looks like from here.
    pub(crate) fn view(&self) -> Arc<View> {
        self.inner.view.load_full()
    }

    /// Changes whenever the view does.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// The suspected nodes, and how long each has been silent.
    pub(crate) fn silent(&self) -> BTreeMap<NodeId, Duration> {
        self.inner.core.lock().dead_for()
    }

    /// Where this node is reached.
    pub(crate) fn set_address(&self, address: &HostPort) {
        self.with(|core, now| core.set_address(now, address.to_string()));
    }

    /// Says who the other nodes are. A newer address in a node's own beats wins until the next call that names
    /// another one.
    pub(crate) fn set_nodes(&self, nodes: &BTreeMap<NodeId, Known>) {
        let mut present = self.inner.nodes.lock();
        if present.told == *nodes {
            return;
        }
        for node in present.told.keys().filter(|node| !nodes.contains_key(node)) {
            self.inner.peers.set_address(*node, None);
        }
        present.addresses.retain(|node, _| nodes.contains_key(node));
        for (node, known) in nodes {
            if present.told.get(node) != Some(known) {
                present.addresses.insert(*node, known.address.clone());
                self.inner.peers.set_address(*node, Some(known.as_peer()));
            }
        }
        present.told.clone_from(nodes);
        drop(present);
        let peers = nodes
            .iter()
            .map(|(node, known)| (*node, known.incarnation))
            .collect();
        self.with(|core, now| core.set_peers(now, peers));
        self.follow_addresses();
    }

    /// A shard's group runs here from now on, until [`Self::remove`].
    pub(crate) fn add(&self, group: Group, replicas: Vec<NodeId>) {
        let shard = group.shard();
        let paced = Arc::new(Paced {
            group,
            is_active: AtomicBool::new(true),
            stop: CancellationToken::new(),
        });
        if let Some(before) = self.inner.groups.write().insert(shard, Arc::clone(&paced)) {
            before.stop.cancel();
        }
        self.with(|core, now| core.add_group(now, shard, replicas));
        self.inner.runtime.spawn(self.clone().follow(paced));
    }

    /// The shard's group does not run here any more.
    pub(crate) fn remove(&self, shard: ShardId) {
        if let Some(before) = self.inner.groups.write().remove(&shard) {
            before.stop.cancel();
        }
        self.with(|core, now| core.remove_group(now, shard));
    }

    /// The shard's placement has changed.
    pub(crate) fn set_replicas(&self, shard: ShardId, replicas: &[NodeId]) {
        self.with(|core, now| core.set_replicas(now, shard, replicas.to_vec()));
    }

    /// The group that runs here.
    pub(crate) fn group(&self, shard: ShardId) -> Option<Group> {
        Some(self.inner.groups.read().get(&shard)?.group.clone())
    }

    /// How far another node said to have applied a shard's log; `None` while it is not heard, or has no replica.
    pub(crate) fn applied(&self, node: NodeId, shard: ShardId) -> Option<RaftIndex> {
        self.inner.core.lock().applied(node, shard)
    }

    /// Something was proposed in a group that this node leads: it stays awake for a while.
    pub(crate) fn note_activity(&self, shard: ShardId) {
        if let Some(paced) = self.inner.groups.read().get(&shard) {
            paced.is_active.store(true, Ordering::Relaxed);
        }
    }

    /// A beat has come from a node.
    pub(crate) fn handle_beat(&self, from: &PeerIdentity, body: &[u8]) {
        match Beat::decode(body) {
            Ok(beat) if beat.node == from.node && beat.incarnation == from.incarnation => {
                self.with(|core, now| core.handle_beat(now, beat));
            }
            Ok(beat) => {
                tracing::warn!(from = %from.node, of = %beat.node, "a beat in the name of another node");
            }
            Err(error) => tracing::warn!(from = %from.node, %error, "an unreadable beat"),
        }
    }

    /// Whether this node's replicas are being moved away.
    pub(crate) fn set_draining(&self, is_draining: bool) {
        self.inner.is_draining.store(is_draining, Ordering::Relaxed);
        let phase = self.phase();
        self.with(|core, now| core.set_phase(now, phase));
    }

    fn phase(&self) -> NodePhase {
        if self.inner.is_stopping.load(Ordering::Relaxed) {
            NodePhase::Stopping
        } else if !(self.inner.has_room)() {
            NodePhase::Full
        } else if self.inner.is_draining.load(Ordering::Relaxed) {
            NodePhase::Draining
        } else {
            NodePhase::Running
        }
    }

    /// Gives away every leadership that another live voter can take, and takes none any more. Returns how many
    /// are left when all are gone or `timeout` is over.
    pub(crate) async fn hand_over(&self, timeout: Duration) -> usize {
        let deadline = Instant::now() + timeout;
        self.inner.is_stopping.store(true, Ordering::Relaxed);
        self.with(|core, now| core.set_phase(now, NodePhase::Stopping));
        loop {
            let left = self.inner.core.lock().handovers_left();
            if left == 0 || Instant::now() >= deadline {
                return left;
            }
            tokio::time::sleep(HAND_OVER_STEP).await;
        }
    }

    /// Tells the core something and does what it wants done.
    fn with(&self, tell: impl FnOnce(&mut Pacemaker, Duration)) {
        let mut actions = Vec::new();
        let view = {
            let mut core = self.inner.core.lock();
            tell(&mut core, self.inner.started.elapsed());
            while let Some(action) = core.poll_action() {
                actions.push(action);
            }
            let changed = actions.contains(&Action::ViewChanged);
            if changed {
                self.inner.view.store(Arc::new(core.view().clone()));
            }
            changed
        };
        for action in actions {
            self.act(action);
        }
        if view {
            self.follow_addresses();
            self.inner
                .changes
                .send_modify(|count| *count = count.wrapping_add(1));
        }
        self.inner.poked.notify_one();
    }

    fn act(&self, action: Action) {
        let group = |shard| self.group(shard);
        match action {
            Action::SendBeat(beat) => {
                let body = beat.encode();
                let nodes: Vec<_> = self.inner.nodes.lock().told.keys().copied().collect();
                for node in nodes {
                    let body = vec![body.clone()];
                    self.inner
                        .peers
                        .notify(node, Lane::Urgent, kind::BEAT, ShardId::CONTROLLER, body);
                }
            }
            Action::Heartbeat { shard } => group(shard).iter().for_each(Group::beat),
            Action::EndLease { shard, leader, term } => {
                group(shard)
                    .iter()
                    .for_each(|group| group.end_lease(leader, term));
            }
            Action::Elect { shard } => group(shard).iter().for_each(Group::elect),
            Action::Transfer { shard, to } => {
                let Some(group) = group(shard) else { return };
                let pacing = self.clone();
                self.inner.runtime.spawn(async move {
                    let Err(error) = group.transfer(to).await else {
                        return;
                    };
                    tracing::info!(%shard, %to, %error, "the leadership is not handed over");
                    if matches!(error, TransferError::NotReady { .. }) {
                        pacing.with(|core, now| core.handle_transfer_refused(now, shard));
                    }
                });
            }
            Action::ViewChanged => {}
        }
    }

    /// Lets connections follow where nodes say that they are reached now.
    fn follow_addresses(&self) {
        let view = self.view();
        let mut nodes = self.inner.nodes.lock();
        for (node, address) in &view.addresses {
            let (Some(told), Ok(address)) = (nodes.told.get(node), address.parse::<HostPort>()) else {
                continue;
            };
            if nodes.addresses.get(node) != Some(&address) {
                let known = Known {
                    incarnation: told.incarnation,
                    address,
                };
                self.inner.peers.set_address(*node, Some(known.as_peer()));
                nodes.addresses.insert(*node, known.address);
            }
        }
    }

    async fn run(self, stop: CancellationToken) {
        let mut links = self.inner.peers.links();
        loop {
            let due = self.inner.started + self.inner.core.lock().poll_timeout();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(due) => self.tick(),
                () = self.inner.poked.notified() => {}
                changed = links.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow_links();
                }
            }
        }
    }

    fn tick(&self) {
        let groups = self.inner.groups.read().clone();
        let phase = self.phase();
        self.with(|core, now| {
            core.set_phase(now, phase);
            for (shard, paced) in groups {
                core.handle_applied(shard, paced.group.applied().borrow().index);
                // An election is won before the leadership is public: nothing else tells.
                if *paced.group.leadership().borrow() == Leadership::Unknown {
                    core.handle_role(now, shard, role(&paced.group));
                }
                if paced.is_active.swap(false, Ordering::Relaxed) {
                    core.handle_activity(now, shard);
                }
            }
            core.handle_tick(now);
        });
    }

    fn follow_links(&self) {
        let nodes: Vec<_> = self.inner.nodes.lock().told.keys().copied().collect();
        let links: Vec<_> = nodes
            .into_iter()
            .map(|node| (node, self.inner.peers.link(node)))
            .collect();
        self.retry_reconnected(&links);
        self.with(|core, now| {
            for (node, link) in links {
                let link = match link {
                    meridian_peer::LinkState::Connected { .. } => pacemaker::LinkState::Connected,
                    meridian_peer::LinkState::Refused => pacemaker::LinkState::Refused,
                    meridian_peer::LinkState::Down => pacemaker::LinkState::Down,
                };
                core.handle_link(now, node, link);
            }
        });
    }

    /// What waited for a node to be there again goes on at once.
    fn retry_reconnected(&self, links: &[(NodeId, meridian_peer::LinkState)]) {
        let now: BTreeSet<_> = links
            .iter()
            .filter(|(_, link)| link.is_connected())
            .map(|(node, _)| *node)
            .collect();
        let before = std::mem::replace(&mut *self.inner.connected.lock(), now.clone());
        let groups = self.inner.groups.read().clone();
        for node in now.difference(&before) {
            let with_it = groups.values().filter(|paced| {
                let is_led = matches!(*paced.group.leadership().borrow(), Leadership::Leading { .. });
                is_led && paced.group.members().borrow().all().any(|member| member == *node)
            });
            with_it.for_each(|paced| paced.group.reconnected(*node));
        }
    }

    /// Tells the core what a group does, until it ends.
    async fn follow(self, paced: Arc<Paced>) {
        let shard = paced.group.shard();
        let (mut leadership, mut members) = (paced.group.leadership(), paced.group.members());
        loop {
            leadership.mark_unchanged();
            let role = role(&paced.group);
            let now_members = members_of(&members.borrow_and_update());
            self.with(|core, now| {
                core.handle_members(now, shard, now_members);
                core.handle_role(now, shard, role);
            });
            let changed = tokio::select! {
                () = paced.stop.cancelled() => return,
                changed = leadership.changed() => changed,
                changed = members.changed() => changed,
            };
            if changed.is_err() {
                // The group has ended by itself: a failed disk, or an entry that it cannot read.
                self.with(|core, now| core.remove_group(now, shard));
                return;
            }
        }
    }
}

fn role(group: &Group) -> Role {
    let leadership = *group.leadership().borrow();
    match leadership {
        Leadership::Leading { term } => Role::Leading { term },
        Leadership::Following { leader, term } => Role::Following { leader, term },
        Leadership::Unknown => match group.progress() {
            Some(progress) => Role::Elected { term: progress.term },
            None => Role::Seeking,
        },
    }
}

fn members_of(members: &meridian_raft::Members) -> Members {
    let (outgoing, voters) = match &members.joint {
        Some(joint) => (joint.from.clone(), joint.to.clone()),
        None => (BTreeSet::new(), members.voters.clone()),
    };
    Members {
        voters,
        outgoing,
        learners: members.learners.clone(),
    }
}

impl Known {
    fn as_peer(&self) -> PeerAddress {
        PeerAddress {
            at: self.address.clone(),
            incarnation: self.incarnation,
        }
    }
}
