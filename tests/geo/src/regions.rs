//! The regions: started, told to move ownership, cut off, and brought back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use meridian_cluster::{Cluster, ClusterOptions, Places, RegionOptions, System};
use meridian_compat::{program, workspace};
use meridian_wan_relay::{Conditions, Direction, Link, Port, Relay, Route};
use serde_json::Value;

/// What the regions are called.
const NAMES: [&str; 5] = ["east", "west", "south", "north", "center"];

/// What to start.
#[derive(Clone, Debug)]
pub struct RegionsOptions {
    /// How many regions.
    pub regions: usize,
    /// How many nodes each has.
    pub nodes: usize,
    /// The time for a packet there and back, for each pair in the order 0-1, 0-2, 1-2, 0-3, ..; the last one counts for
    /// all further pairs.
    pub round_trips: Vec<Duration>,
    /// What else befalls packets between regions.
    pub weather: Conditions,
    /// Settings of all nodes, `SECTION.KEY=VALUE`.
    pub settings: Vec<String>,
    /// Whether each region has a bucket of its own, a directory.
    pub have_buckets: bool,
    /// Whether each region, with its clients, has a network namespace, so that all their packets to other regions pass
    /// the WAN, TCP's too; needs root. Otherwise only what the mirrors send does.
    pub have_places: bool,
}

/// What lies between the regions.
enum Wan {
    /// A port for each node, for the mirrors.
    Ports(Relay, Vec<Port>),
    /// Networks.
    Places(Places),
}

/// Directories that are gone with it.
struct Buckets(PathBuf);

impl Drop for Buckets {
    fn drop(&mut self) {
        // The next run of the name does it otherwise.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Two regions, and the WAN between them.
struct Between {
    regions: [usize; 2],
    link: Link,
    measured: Duration,
}

/// Regions that act as one cluster. Dropping it ends all nodes by their pids.
pub struct Regions {
    /// By number. The first one is founded first, and owns at the start.
    pub clusters: Vec<Cluster>,
    betweens: Vec<Between>,
    directory: PathBuf,
    // After the nodes: these write to them.
    _buckets: Buckets,
    // After the nodes: these find their connections alive as long as they run.
    wan: Wan,
}

impl Regions {
    /// Starts all nodes, and waits until all are ready. `name` is that of the run directories.
    ///
    /// Errors: what went wrong, with the end of the log.
    pub fn start(name: &str, options: &RegionsOptions) -> Result<Self, String> {
        assert!(
            (1..=NAMES.len()).contains(&options.regions) && (1..=15).contains(&options.nodes),
            "expected 1 to {} regions of 1 to 15 nodes",
            NAMES.len()
        );
        let directory = workspace::run_directory(&format!("{name}-regions"));
        let buckets = Buckets(workspace::run_directory(&format!("{name}-buckets")));
        let mut wan = match options.have_places {
            true => Wan::Places(Places::create(options.regions)?),
            false => {
                let relay = Relay::start().map_err(|e| format!("the relay does not start: {e}"))?;
                Wan::Ports(relay, Vec::new())
            }
        };
        let host = |region, node| match &wan {
            Wan::Places(places) => places.address(region, node),
            Wan::Ports(..) => host(region, node),
        };
        let hosts: Vec<Vec<IpAddr>> = (0..options.regions)
            .map(|region| (0..options.nodes).map(|node| host(region, node)).collect())
            .collect();
        let betweens = betweens(options, &wan)?;
        let advertised = wan.open(&hosts, &betweens)?;
        let cluster = |region: usize| {
            let mut settings = options.settings.clone();
            if options.have_buckets {
                settings.push(format!("tier.url={}", buckets.0.join(NAMES[region]).display()));
            }
            let own = ClusterOptions {
                system: System::Meridian,
                settings,
                region: Some(RegionOptions {
                    number: u16::try_from(region).expect("few regions"),
                    name: NAMES[region].to_owned(),
                    hosts: hosts[region].clone(),
                    advertised: advertised[region].clone(),
                    seeds: match region {
                        0 => Vec::new(),
                        _ => advertised[0].clone(),
                    },
                    enter: wan.enter(region),
                }),
                ..ClusterOptions::plain(options.nodes)
            };
            Cluster::start(&format!("{name}-{}", NAMES[region]), &own)
        };
        // Side by side: later ones wait for the first.
        let clusters = thread::scope(|scope| {
            let starts: Vec<_> = (0..options.regions)
                .map(|region| scope.spawn(move || cluster(region)))
                .collect();
            let ended = starts.into_iter().map(|start| {
                start
                    .join()
                    .unwrap_or_else(|_| Err("starting a region panicked".to_owned()))
            });
            ended.collect::<Result<Vec<_>, _>>()
        })?;
        Ok(Self {
            clusters,
            betweens,
            directory,
            _buckets: buckets,
            wan,
        })
    }

    /// How many regions there are.
    pub fn len(&self) -> usize {
        self.clusters.len()
    }

    /// Whether there are none; there always are.
    pub fn is_empty(&self) -> bool {
        self.clusters.is_empty()
    }

    /// Where tools and clients write.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The words before a command that is to run where a region is; none for the host.
    pub fn enter(&self, region: usize) -> Vec<String> {
        self.wan.enter(region)
    }

    /// The name of a region, which is the rack of its nodes.
    pub fn name(&self, region: usize) -> &'static str {
        NAMES[region]
    }

    /// The addresses for clients of all nodes of all regions.
    pub fn kafka_addresses(&self) -> Vec<SocketAddr> {
        self.clusters.iter().flat_map(Cluster::kafka_addresses).collect()
    }

    /// The time for a packet there and back between each two regions, as measured over the relay.
    pub fn measured(&self) -> Vec<(&'static str, &'static str, Duration)> {
        let told = |it: &Between| (NAMES[it.regions[0]], NAMES[it.regions[1]], it.measured);
        self.betweens.iter().map(told).collect()
    }

    /// The time for a packet there and back between two of them.
    pub fn round_trip(&self, one: usize, other: usize) -> Duration {
        let found = self
            .betweens
            .iter()
            .find(|it| it.regions.contains(&one) && it.regions.contains(&other));
        found.map_or(Duration::ZERO, |it| it.measured)
    }

    /// Nothing passes between two regions, or between one and all others.
    pub fn cut(&self, one: usize, other: Option<usize>) {
        let is_meant = |it: &&Between| {
            it.regions.contains(&one) && other.is_none_or(|other| it.regions.contains(&other))
        };
        self.betweens.iter().filter(is_meant).for_each(|it| it.link.cut());
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.betweens.iter().for_each(|it| it.link.heal());
    }

    /// Runs `meridian ARGUMENTS`, told of every node of the regions `asked`, and gives the JSON that it prints. `name` is
    /// that of its log.
    ///
    /// Errors: it does not end well.
    pub fn tool(&self, name: &str, asked: &[usize], arguments: &[&str]) -> Result<Value, String> {
        let servers: Vec<String> = asked
            .iter()
            .map(|region| self.clusters[*region].bootstrap())
            .collect();
        tool(&self.directory, name, &servers.join(","), arguments)
    }

    /// The logs of a region, by shard or `"controller"`, each with the id of the node that leads it there.
    ///
    /// Errors: nobody answers.
    pub fn leaders(&self, region: usize) -> Result<Vec<(Value, u64)>, String> {
        let status = self.tool("leaders", &[region], &["mirror", "status", "--shards"])?;
        let logs = status["shards"]
            .as_array()
            .ok_or_else(|| format!("no shards: {status}"))?;
        let is_there = |log: &&Value| log["region"].as_u64() == u64::try_from(region).ok();
        let leaders = logs.iter().filter(is_there);
        Ok(leaders
            .filter_map(|log| Some((log["shard"].clone(), log["node"].as_u64()?)))
            .collect())
    }

    /// How many lines of the logs of a region's nodes hold a text.
    pub fn count_logged(&self, region: usize, text: &str) -> usize {
        let logs = self.clusters[region].log_tails(usize::MAX);
        logs.lines().filter(|line| line.contains(text)).count()
    }

    /// The ends of all logs.
    pub fn log_tails(&self, lines: usize) -> String {
        self.clusters
            .iter()
            .map(|cluster| cluster.log_tails(lines))
            .collect()
    }

    /// Copies logs and histories to where the next run does not remove them; says where.
    pub fn keep_evidence(&self, name: &str) -> String {
        let kept: Vec<String> = self
            .clusters
            .iter()
            .enumerate()
            .map(|(region, cluster)| cluster.keep_evidence(&format!("{name}-{}", NAMES[region])))
            .collect();
        kept.join("; ")
    }
}

/// As [`Regions::tool`], for a thread of its own.
pub fn tool(directory: &Path, name: &str, servers: &str, arguments: &[&str]) -> Result<Value, String> {
    let mut command = Command::new(workspace::meridian_binary()?);
    command
        .args(arguments)
        .args(["--server", servers, "--output", "json", "--yes"]);
    let report = program::run(name, command, directory, None, Duration::from_secs(120))?;
    let text = report.lines.join("\n");
    serde_json::from_str(&text).map_err(|e| format!("meridian {arguments:?} printed no JSON: {e}\n{text}"))
}

/// An address on loopback that no other process of this machine uses: of this process, region and node.
fn host(region: usize, node: usize) -> IpAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    let last = u8::try_from(region * 16 + node + 1).expect("few regions of few nodes");
    IpAddr::V4(Ipv4Addr::new(127, 64 + high % 128, low, last))
}

impl Wan {
    /// Where the nodes of other regions reach each node.
    fn open(&mut self, hosts: &[Vec<IpAddr>], betweens: &[Between]) -> Result<Vec<Vec<SocketAddr>>, String> {
        let mut advertised: Vec<Vec<SocketAddr>> = vec![Vec::new(); hosts.len()];
        for (region, nodes) in hosts.iter().enumerate() {
            for node in 0..nodes.len() {
                let own = RegionOptions::geo(nodes, node);
                let reached = match self {
                    Self::Places(_) => own,
                    Self::Ports(relay, ports) => {
                        let listen = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
                        let port = relay.open_routed(listen, own, routes(region, hosts, betweens));
                        let port = port.map_err(|e| format!("the relay cannot listen: {e}"))?;
                        let address = port.address();
                        ports.push(port);
                        address
                    }
                };
                advertised[region].push(reached);
            }
        }
        Ok(advertised)
    }

    fn enter(&self, region: usize) -> Vec<String> {
        match self {
            Self::Ports(..) => Vec::new(),
            Self::Places(places) => places.enter(region).to_vec(),
        }
    }
}

fn betweens(options: &RegionsOptions, wan: &Wan) -> Result<Vec<Between>, String> {
    let mut betweens = Vec::new();
    for second in 0..options.regions {
        for first in 0..second {
            let pair = betweens.len();
            let wanted = options.round_trips.get(pair).or(options.round_trips.last());
            let delay = wanted.copied().unwrap_or_default() / 2;
            let (relay, link) = match wan {
                Wan::Ports(relay, _) => (relay, relay.link(pair as u64 + 1, Conditions::default())),
                Wan::Places(places) => (places.relay(), places.link(first, second).clone()),
            };
            for direction in [Direction::Forward, Direction::Backward] {
                let conditions = Conditions {
                    delay,
                    ..options.weather
                };
                link.set(direction, conditions);
            }
            let measured = relay
                .measure(&link)
                .map_err(|e| format!("the relay is not passed: {e}"))?;
            betweens.push(Between {
                regions: [first, second],
                link,
                measured,
            });
        }
    }
    Ok(betweens)
}

/// How the nodes of all other regions come to one of `region`.
fn routes(region: usize, hosts: &[Vec<IpAddr>], betweens: &[Between]) -> Vec<Route> {
    let mut routes = Vec::new();
    for between in betweens.iter().filter(|it| it.regions.contains(&region)) {
        let [first, second] = between.regions;
        let (other, toward) = match region == second {
            true => (first, Direction::Forward),
            false => (second, Direction::Backward),
        };
        routes.extend(hosts[other].iter().map(|from| Route {
            from: Some(*from),
            link: between.link.clone(),
            toward,
        }));
    }
    routes
}
