//! What a node of each system is started with.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use meridian_compat::ServerOptions;
use meridian_compat::kafka::KafkaOptions;

use crate::network::Network;

/// What runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// `meridian serve`.
    Meridian,
    /// Apache Kafka 4.3 in KRaft mode, every node broker and controller: the harness is proved on it.
    Kafka,
}

impl System {
    /// What `MERIDIAN_TEST_SERVER` asks for.
    ///
    /// # Panics
    /// When it is neither `meridian` nor `kafka`.
    pub fn from_environment() -> Self {
        match std::env::var("MERIDIAN_TEST_SERVER").as_deref() {
            Ok("kafka") => Self::Kafka,
            Ok("meridian") | Err(_) => Self::Meridian,
            Ok(other) => panic!("MERIDIAN_TEST_SERVER is '{other}': expected 'meridian' or 'kafka'"),
        }
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// What runs.
    pub system: System,
    /// Nodes.
    pub nodes: usize,
    /// How many of them found the cluster; the others are started later ([`crate::Cluster::launch`]) and join.
    pub founders: usize,
    /// Whether each node has a network namespace: partitions need that, and root.
    pub has_network: bool,
    /// Whether each node has a disk of this many MiB in a file: power cuts and full disks need that, and root.
    pub disk_mib: Option<u32>,
    /// Settings of Meridian, `SECTION.KEY=VALUE`.
    pub settings: Vec<String>,
    /// The JVM of each Kafka broker, and properties above those that make the brokers a cluster.
    pub kafka: KafkaOptions,
    /// What makes it a region of several that are one cluster; of Meridian alone.
    pub region: Option<RegionOptions>,
}

/// A region of several.
#[derive(Clone, Debug)]
pub struct RegionOptions {
    /// Its number.
    pub number: u16,
    /// Its name, which is the rack of all its nodes too.
    pub name: String,
    /// The address of each node, which nobody else uses: by it a relay knows from which region something comes.
    pub hosts: Vec<IpAddr>,
    /// Where the other regions reach each node.
    pub advertised: Vec<SocketAddr>,
    /// Where a region founded before is reached.
    pub seeds: Vec<SocketAddr>,
    /// The words before each node's command, which bring it to a place of its own ([`crate::Places`]); none for the host.
    pub enter: Vec<String>,
}

/// The node ids of a region begin at its number times this.
const REGION_IDS: usize = 100_000;

impl RegionOptions {
    /// Where the node at a place listens for other regions.
    pub fn geo(hosts: &[IpAddr], place: usize) -> SocketAddr {
        SocketAddr::new(hosts[place], 9290)
    }
}

/// Where a node listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) kafka: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) peer: SocketAddr,
}

impl Addresses {
    pub(crate) fn of(node: usize, network: Option<&Network>, region: Option<&RegionOptions>) -> Self {
        let own = network.map(|network| network.address(node));
        match own.or_else(|| Some(region?.hosts[node])) {
            Some(ip) => Self {
                kafka: SocketAddr::new(ip, 9092),
                admin: SocketAddr::new(ip, 9644),
                peer: SocketAddr::new(ip, 9190),
            },
            None => {
                let local = || SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), own_port());
                Self {
                    kafka: local(),
                    admin: local(),
                    peer: local(),
                }
            }
        }
    }
}

/// Ports below those that Linux gives to whoever asks for any.
const OWN_PORTS: Range<u32> = 10_000..32_000;

/// A port of loopback that stays free while its node does not run, which may be most of the time: one that the system
/// chooses is soon given to somebody else, to another node of the same cluster even. Never the same twice.
fn own_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let count = OWN_PORTS.end - OWN_PORTS.start;
    // Far from those of other processes of the time.
    let first = std::process::id().wrapping_mul(101);
    loop {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        assert!(given < count, "loopback has no free port");
        let port = OWN_PORTS.start + first.wrapping_add(given) % count;
        let port = u16::try_from(port).expect("below 2^16");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// What differs from node to node.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// The places of the nodes that it is told of. Nobody, for one that founds a cluster alone.
    pub seeds: Vec<usize>,
    /// Settings of Meridian beside those of the cluster, `SECTION.KEY=VALUE`.
    pub settings: Vec<String>,
}

impl ClusterOptions {
    /// On the host's network and disk, all of them founders, with the defaults.
    pub fn plain(nodes: usize) -> Self {
        Self {
            system: System::from_environment(),
            nodes,
            founders: nodes,
            has_network: false,
            disk_mib: None,
            settings: Vec::new(),
            kafka: KafkaOptions::default(),
            region: None,
        }
    }

    /// The rack of the node at a place.
    pub(crate) fn rack(&self, place: usize) -> String {
        match &self.region {
            Some(region) => region.name.clone(),
            None => rack(place),
        }
    }

    /// The place of the node that everybody knows by this id.
    pub(crate) fn place(&self, broker: u64) -> Option<usize> {
        let number = self.region.as_ref().map_or(0, |region| region.number);
        let first = usize::from(number) * REGION_IDS;
        let place = usize::try_from(broker).ok()?.checked_sub(first + id(0))?;
        (place < self.nodes).then_some(place)
    }

    /// Of a node that is started with the cluster: founders name one another, a later node all before it, and one that
    /// founds alone names nobody.
    pub(crate) fn node(&self, index: usize) -> NodeOptions {
        let named = if index < self.founders {
            self.founders
        } else {
            index
        };
        let names_nobody = named == 1 && index == 0;
        NodeOptions {
            seeds: if names_nobody {
                Vec::new()
            } else {
                (0..named).collect()
            },
            settings: Vec::new(),
        }
    }

    /// How the node at a place is started.
    pub(crate) fn server(&self, all: &[Addresses], index: usize, node: &NodeOptions) -> ServerOptions {
        let mut server = match self.system {
            System::Meridian => meridian(self, all, index, node),
            System::Kafka => ServerOptions::kafka(kafka(self, all, index)),
        };
        if let Some(region) = &self.region {
            let words: Vec<&str> = region.enter.iter().map(String::as_str).collect();
            server = server.wrapper(&words);
        }
        server
            .kafka_address(all[index].kafka)
            .admin_address(all[index].admin)
    }
}

fn meridian(options: &ClusterOptions, all: &[Addresses], index: usize, node: &NodeOptions) -> ServerOptions {
    let mut server = ServerOptions::meridian()
        .env("NO_COLOR", "1")
        .arg("--node-id")
        .arg(&id(index).to_string());
    // One node alone speaks to nobody, but listens.
    if options.nodes > 1 || options.region.is_some() {
        server = server
            .arg("--peer")
            .arg(&all[index].peer.to_string())
            .arg("--rack")
            .arg(&options.rack(index));
        let seeds: Vec<String> = node
            .seeds
            .iter()
            .map(|seed| all[*seed].peer.to_string())
            .collect();
        if !seeds.is_empty() {
            server = server.arg("--seeds").arg(&seeds.join(","));
        }
    }
    let has_place = |region: &RegionOptions| !region.enter.is_empty();
    if options.has_network || options.region.as_ref().is_some_and(has_place) {
        server = server.arg("--insecure");
    }
    if let Some(region) = &options.region {
        let seeds: Vec<String> = region.seeds.iter().map(SocketAddr::to_string).collect();
        server = server
            .args(&["--region", &region.name])
            .args(&["--region-number", &region.number.to_string()])
            .args(&["--geo", &RegionOptions::geo(&region.hosts, index).to_string()])
            .args(&["--set", &format!("geo.advertise={}", region.advertised[index])])
            .args(&["--set", &format!("geo.seeds={}", seeds.join(","))]);
    }
    for setting in options.settings.iter().chain(&node.settings) {
        server = server.arg("--set").arg(setting);
    }
    server
}

fn kafka(options: &ClusterOptions, all: &[Addresses], index: usize) -> KafkaOptions {
    let at = all[index];
    let voters: Vec<String> = all
        .iter()
        .enumerate()
        .map(|(index, at)| format!("{}@{}", id(index), at.peer))
        .collect();
    let copies = all.len().min(3);
    let enough = copies / 2 + 1;
    let properties = [
        ("node.id", id(index).to_string()),
        ("broker.rack", rack(index)),
        ("controller.quorum.voters", voters.join(",")),
        (
            "listeners",
            format!("PLAINTEXT://{},CONTROLLER://{}", at.kafka, at.peer),
        ),
        ("default.replication.factor", copies.to_string()),
        ("offsets.topic.replication.factor", copies.to_string()),
        ("transaction.state.log.replication.factor", copies.to_string()),
        (
            "share.coordinator.state.topic.replication.factor",
            copies.to_string(),
        ),
        ("min.insync.replicas", enough.to_string()),
        (
            "replica.selector.class",
            "org.apache.kafka.common.replica.RackAwareReplicaSelector".to_owned(),
        ),
    ];
    let mut properties = properties.map(|(key, value)| (key.to_owned(), value)).to_vec();
    properties.extend(options.kafka.properties.iter().cloned());
    KafkaOptions {
        jvm: options.kafka.jvm.clone(),
        properties,
    }
}

/// The node id at a place: from 1.
pub fn id(place: usize) -> usize {
    place + 1
}

pub(crate) fn rack(place: usize) -> String {
    format!("rack-{}", id(place))
}
