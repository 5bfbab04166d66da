//! Brokers of one region in this process: each node with a runtime and a directory of its own, peers over a network in
//! memory, clients over loopback.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meridian_broker::{Broker, BrokerSettings, ListenerSettings};
use meridian_controller::HostPort as ClientAddress;
use meridian_journal::{Disk, Journal, JournalSettings, RealDisk};
use meridian_net::testing::MemoryNet;
use meridian_shard::{HostPort, PeerSettings, Region, RegionParts, RegionSettings};
use meridian_types::{NodeId, Partition, ShardId, TimestampMs, TopicId, Uuid};
use prometheus::Registry;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::harness::{Client, PATIENCE};

const SHARDS: u32 = 4;
/// What every node takes for the time.
pub(crate) const NOW_MS: i64 = 1_700_000_000_000;
const PEER_PORT: u16 = 9190;

/// A region, and its brokers by node id from 1 on. Node `n` is in rack `rack-n`.
pub(crate) struct Nodes {
    nodes: BTreeMap<u32, Node>,
}

struct Node {
    region: Region,
    address: SocketAddr,
    runtime: Runtime,
    journal: Journal,
    writer: std::thread::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Nodes {
    /// A region of `count` nodes that all know one another and every leader.
    pub(crate) async fn start(count: u32) -> Self {
        Self::with(count, |_| {}).await
    }

    pub(crate) async fn with(count: u32, change: impl Fn(&mut BrokerSettings)) -> Self {
        let net = MemoryNet::new();
        let random = Arc::new(AtomicU64::new(1));
        let mut starting = Vec::new();
        for id in 1..=count {
            net.host(&name(id));
        }
        for id in 1..=count {
            let mut settings = BrokerSettings::default();
            settings.kafka.group_initial_rebalance_delay = Duration::ZERO;
            change(&mut settings);
            starting.push((id, begin(id, count, &net, &random, settings)));
        }
        let mut nodes = BTreeMap::new();
        for (id, (node, started)) in starting {
            let (region, address) = started.await.unwrap();
            let (runtime, journal, writer, directory) = node;
            let node = Node {
                region,
                address,
                runtime,
                journal,
                writer,
                _directory: directory,
            };
            nodes.insert(id, node);
        }
        let nodes = Self { nodes };
        nodes
            .until("every node knows all leaders and all brokers", |nodes| {
                let shards = || (0..SHARDS).map(ShardId).chain([ShardId::CONTROLLER]);
                nodes.nodes.values().all(|node| {
                    let region = &node.region;
                    let known = {
                        let controller = region.controller();
                        controller
                            .nodes()
                            .filter(|it| it.registration.kafka.is_some())
                            .count()
                    };
                    known == count as usize
                        && region.alive_nodes().len() == count as usize
                        && shards().all(|shard| region.leader_of(shard).is_some())
                })
            })
            .await;
        nodes
    }

    pub(crate) fn ids(&self) -> Vec<u32> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn region(&self, id: u32) -> &Region {
        &self.nodes[&id].region
    }

    pub(crate) async fn client(&self, id: u32) -> Client {
        Client::connect(self.nodes[&id].address).await
    }

    pub(crate) fn port(&self, id: u32) -> i32 {
        self.nodes[&id].address.port().into()
    }

    /// Ends a node in the middle of whatever it does.
    pub(crate) fn kill(&mut self, id: u32) {
        let node = self.nodes.remove(&id).unwrap();
        node.runtime.shutdown_background();
        node.journal.shutdown();
        node.writer.join().unwrap();
    }

    /// The node that all nodes take for the leader of a partition's shard.
    pub(crate) async fn leader_of(&self, topic: Uuid, index: u32) -> u32 {
        let partition = Partition {
            topic: TopicId(topic),
            index,
        };
        let region = &self.nodes.values().next().unwrap().region;
        self.agreed_leader(region.shard_of(partition)).await
    }

    /// The node that all nodes take for the coordinator of a group.
    pub(crate) async fn coordinator_of(&self, group: &str) -> u32 {
        let region = &self.nodes.values().next().unwrap().region;
        self.agreed_leader(region.group_shard(group)).await
    }

    async fn agreed_leader(&self, shard: ShardId) -> u32 {
        let agreed = |nodes: &Self| {
            let leader = nodes.nodes.values().next().unwrap().region.leader_of(shard)?;
            let leads = nodes.nodes.get(&leader.0)?.region.leader_epoch(shard).is_some();
            let all = nodes
                .nodes
                .values()
                .all(|node| node.region.leader_of(shard) == Some(leader));
            (leads && all).then_some(leader.0)
        };
        let started = Instant::now();
        loop {
            if let Some(leader) = agreed(self) {
                return leader;
            }
            assert!(started.elapsed() < PATIENCE, "nobody leads shard {shard}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !is_so(self) {
            assert!(started.elapsed() < PATIENCE, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until every node has a topic.
    pub(crate) async fn until_known(&self, topic: Uuid) {
        self.until("every node knows the topic", |nodes| {
            let knows = |node: &Node| node.region.controller().topic_by_id(TopicId(topic)).is_some();
            nodes.nodes.values().all(knows)
        })
        .await;
    }

    pub(crate) fn stop(mut self) {
        for id in self.ids() {
            self.kill(id);
        }
    }
}

type Parts = (Runtime, Journal, std::thread::JoinHandle<()>, tempfile::TempDir);
type Started = tokio::task::JoinHandle<(Region, SocketAddr)>;

fn name(id: u32) -> String {
    format!("node-{id}")
}

fn begin(
    id: u32,
    count: u32,
    net: &MemoryNet,
    random: &Arc<AtomicU64>,
    settings: BrokerSettings,
) -> (Parts, Started) {
    let directory = tempfile::tempdir().unwrap();
    let open = |part: &str| RealDisk::open(directory.path().join(part)).unwrap();
    let journal = JournalSettings {
        file_bytes: 4 << 20,
        bytes_max: 32 << 20,
        ..JournalSettings::new(id.into())
    };
    let (journal, writer) = Journal::open(Arc::new(open("journal")), journal).unwrap();
    let writer = std::thread::Builder::new().spawn(move || writer.run()).unwrap();
    let checkpoints: Arc<dyn Disk> = Arc::new(open("checkpoints"));
    let random = Arc::clone(random);
    let parts = RegionParts {
        journal: journal.clone(),
        checkpoints,
        net: Arc::new(net.host(&name(id))),
        clock: Arc::new(|| TimestampMs(NOW_MS)),
        random: Arc::new(move || {
            let next = random.fetch_add(1, Ordering::Relaxed);
            u128::from(next.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(next)
        }),
    };
    let seeds = match count {
        1 => Vec::new(),
        _ => (1..=count).map(|id| HostPort::new(name(id), PEER_PORT)).collect(),
    };
    let region = RegionSettings {
        peer_listen: format!("0.0.0.0:{PEER_PORT}").parse().unwrap(),
        peer_advertise: Some(HostPort::new(name(id), PEER_PORT)),
        seeds,
        shards: SHARDS,
        rack: Some(format!("rack-{id}")),
        dead_after: Duration::from_secs(3600),
        start_timeout: PATIENCE,
        ..RegionSettings::new(PeerSettings::new(NodeId(id), Uuid::from_u128(id.into()), "test"))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let started = runtime.spawn(async move {
        let region = Region::start(region, parts).await.unwrap();
        let listener = ListenerSettings {
            name: "test".to_owned(),
            bind: "127.0.0.1:0".parse().unwrap(),
            advertised: None,
        };
        let (registry, shutdown) = (Registry::new(), CancellationToken::new());
        let broker = Broker::start(settings, region.clone(), vec![listener], &registry, shutdown)
            .await
            .unwrap();
        let address = broker.local_addresses()[0];
        let told = ClientAddress {
            host: address.ip().to_string(),
            port: address.port(),
        };
        region.register(told).await.unwrap();
        (region, address)
    });
    ((runtime, journal, writer, directory), started)
}
