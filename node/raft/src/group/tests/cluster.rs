//! Several nodes in one process: real groups, journals on disks in memory, a network in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use meridian_journal::{FaultyDisk, Journal, JournalSettings};
use meridian_net::testing::MemoryNet;
use meridian_peer::{HostPort, PeerAddress, PeerIdentity, PeerSettings, Peers, Refusal, Service};
use meridian_types::{NodeId, RaftIndex, ShardId, Term, Uuid};
use tokio::time::Instant;

use super::machine::{Sum, command};
use crate::rpc::kind;
use crate::{CheckpointStore, Group, GroupSettings, Leadership, NetworkSettings, ProposeError};

pub(super) const SHARD: ShardId = ShardId(5);
const PORT: u16 = 9190;
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Cluster {
    pub(super) net: MemoryNet,
    pub(super) settings: GroupSettings,
    pub(super) ballast_bytes: usize,
    nodes: BTreeMap<u32, Node>,
    disks: BTreeMap<u32, Disks>,
}

/// What outlives a node's process.
#[derive(Clone)]
pub(super) struct Disks {
    pub(super) journal: FaultyDisk,
    pub(super) checkpoints: FaultyDisk,
}

pub(super) struct Node {
    pub(super) group: Group,
    pub(super) machine: Arc<Sum>,
    pub(super) journal: Journal,
    pub(super) service: Arc<Route>,
    peers: Peers,
    writer: std::thread::JoinHandle<()>,
}

/// Hands calls to the group, and harms some of them when told.
#[derive(Default)]
pub(super) struct Route {
    group: OnceLock<Group>,
    /// The byte of a checkpoint that arrives flipped, once; 0: none.
    pub(super) flip: AtomicU64,
    pub(super) chunks: AtomicU64,
}

impl Service for Route {
    fn call(
        &self,
        _: &PeerIdentity,
        kind: u16,
        shard: ShardId,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Vec<Bytes>, Refusal>> {
        assert_eq!(shard, SHARD);
        let mut body = body;
        if kind == kind::SNAPSHOT {
            self.chunks.fetch_add(1, Ordering::Relaxed);
            let flip = usize::try_from(self.flip.swap(0, Ordering::Relaxed)).expect("small");
            let mut harmed = body.to_vec();
            if flip > 0 {
                let last = harmed.len() - 1;
                harmed[last.min(flip)] ^= 1;
                body = harmed.into();
            }
        }
        match self.group.get() {
            Some(group) => group.call(kind, body),
            None => futures::future::ready(Err(Refusal::new("not started"))).boxed(),
        }
    }

    fn notice(&self, _: &PeerIdentity, _: u16, _: ShardId, _: Bytes) {}
}

impl Cluster {
    pub(super) fn new() -> Self {
        Self {
            net: MemoryNet::new(),
            settings: GroupSettings {
                shard: SHARD,
                node: NodeId(0),
                founders: BTreeSet::new(),
                heartbeat_interval: Duration::from_secs(1),
                election_timeout: Duration::from_secs(3),
                network: NetworkSettings::default(),
            },
            ballast_bytes: 0,
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
        }
    }

    /// Three nodes that founded a group, led by the first.
    pub(super) async fn founded() -> (Self, Term) {
        let mut cluster = Self::new();
        let term = cluster.found().await;
        (cluster, term)
    }

    pub(super) async fn found(&mut self) -> Term {
        for id in 1..=3 {
            self.start(id, &[1, 2, 3]).await;
        }
        self.node(1).group.elect();
        self.led_by(1).await
    }

    pub(super) fn node(&self, id: u32) -> &Node {
        &self.nodes[&id]
    }

    pub(super) fn disks(&mut self, id: u32) -> Disks {
        let disks = self.disks.entry(id).or_insert_with(|| Disks {
            journal: FaultyDisk::seeded(id.into()),
            checkpoints: FaultyDisk::seeded(id.into()),
        });
        disks.clone()
    }

    pub(super) async fn start(&mut self, id: u32, founders: &[u32]) {
        let disks = self.disks(id);
        let journal_settings = JournalSettings {
            file_bytes: 1 << 20,
            ..JournalSettings::new(id.into())
        };
        let (journal, writer) = Journal::open(disks.journal.mount(), journal_settings).expect("a journal");
        let writer = std::thread::Builder::new()
            .spawn(move || writer.run())
            .expect("a thread");

        let host = self.net.host(&name(id));
        let at = SocketAddr::new(host.ip(), PORT);
        let settings = PeerSettings {
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(50),
            dial_timeout: Duration::from_millis(200),
            ..PeerSettings::new(NodeId(id), Uuid::from_u128(id.into()), "test")
        };
        let peers = Peers::new(settings, Arc::new(host));
        let service = Arc::new(Route::default());
        peers.listen(at, service.clone()).await.expect("listens");
        for other in 1..=5 {
            peers.set_address(
                NodeId(other),
                Some(PeerAddress {
                    at: HostPort::new(name(other), PORT),
                    incarnation: None,
                }),
            );
        }

        let machine = Arc::new(Sum::new(journal.clone(), self.ballast_bytes));
        let settings = GroupSettings {
            node: NodeId(id),
            founders: ids(founders),
            ..self.settings.clone()
        };
        let checkpoints = CheckpointStore::new(disks.checkpoints.mount(), SHARD);
        let group = Group::start(
            settings,
            journal.clone(),
            checkpoints,
            machine.clone(),
            Some(peers.clone()),
        )
        .await
        .expect("a group");
        assert!(service.group.set(group.clone()).is_ok());
        let node = Node {
            group,
            machine,
            journal,
            service,
            peers,
            writer,
        };
        assert!(self.nodes.insert(id, node).is_none(), "it runs already");
    }

    /// Ends a node's process: nobody hears it any more, and what it did not sync is not synced any more.
    pub(super) async fn kill(&mut self, id: u32) {
        let node = self.nodes.remove(&id).expect("it runs");
        self.disks(id).journal.kill();
        node.peers.shutdown();
        node.peers.stopped().await;
        node.group.shutdown().await;
        node.journal.shutdown();
        node.writer.join().expect("the writer ends well");
    }

    pub(super) async fn stop(mut self) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.kill(id).await;
        }
    }

    /// Waits until this node leads; returns its term.
    pub(super) async fn led_by(&self, id: u32) -> Term {
        let mut leadership = self.node(id).group.leadership();
        let leads = leadership.wait_for(|now| matches!(now, Leadership::Leading { .. }));
        let leads = tokio::time::timeout(PATIENCE, leads).await.expect("in time");
        match *leads.expect("the group runs") {
            Leadership::Leading { term } => term,
            other => unreachable!("waited for it: {other:?}"),
        }
    }

    /// What the pacemakers of `survivors` do about a dead leader of `term`: end its lease, then call elections by turns
    /// until one of them leads. Returns which, and its term.
    pub(super) async fn replace(&self, dead: u32, term: Term, survivors: &[u32]) -> (u32, Term) {
        let leading = || {
            let leads = |id: &u32| match *self.node(*id).group.leadership().borrow() {
                Leadership::Leading { term } => Some((*id, term)),
                _ => None,
            };
            survivors.iter().find_map(leads)
        };
        for turn in 0..1200 {
            // Repeated: a last message of the leader may arrive after the first.
            for survivor in survivors {
                self.node(*survivor).group.end_lease(NodeId(dead), term);
            }
            self.node(survivors[turn % survivors.len()]).group.elect();
            let pause = Instant::now() + Duration::from_millis(50);
            while Instant::now() < pause {
                if let Some(leader) = leading() {
                    return leader;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        panic!("nobody was elected");
    }

    pub(super) async fn add(&self, id: u32, term: Term, number: u64) -> Result<u64, ProposeError> {
        let pending = self.node(id).group.propose(term, command(number)).await?;
        let (_, reply) = tokio::time::timeout(PATIENCE, pending).await.expect("in time")?;
        Ok(reply.into::<u64>().expect("a sum"))
    }

    /// Waits until the machines of these nodes hold this total.
    pub(super) async fn agree(&self, nodes: &[u32], total: u64) {
        until("all machines hold the total", || {
            nodes.iter().all(|id| self.node(*id).machine.total() == total)
        })
        .await;
    }

    /// Waits until a node that was started again holds this total. Its leader is told more than once that it is back:
    /// the first time may be before the connection is.
    pub(super) async fn catch_up(&self, leader: u32, id: u32, total: u64) {
        for _ in 0..1200 {
            self.node(leader).group.reconnected(NodeId(id));
            for _ in 0..25 {
                if self.node(id).machine.total() == total {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        panic!("node {id} does not catch up");
    }

    pub(super) fn purged(&self, id: u32) -> Option<RaftIndex> {
        self.node(id).journal.log(SHARD).purged.map(|purged| purged.index)
    }
}

/// Waits for something that nothing announces.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(super) fn name(id: u32) -> String {
    format!("node-{id}")
}

pub(super) fn ids(ids: &[u32]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}
