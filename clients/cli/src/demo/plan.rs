//! What a demo consists of: regions, nodes, where they listen, and how each is started.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::action::NodeName;
use super::distance::REGION_NAMES;
use crate::cert::files::NodeFiles;
use crate::cert::node::NODES_PER_REGION;

/// Settings that keep a node of a demo small, quick to start, and its tier visible within seconds.
const SETTINGS: &[&str] = &[
    "journal.file_bytes=8MiB",
    "journal.bytes_max=128MiB",
    "journal.cache_bytes=16MiB",
    "journal.queue_bytes_max=16MiB",
    "kafka.in_flight_bytes_max=64MiB",
    "kafka.response_bytes_max=64MiB",
    "group.initial_rebalance_delay_ms=0",
    "shard.maintenance_interval_ms=1000",
    "shard.queue_bytes_max=16MiB",
    "tier.round_bytes=1MiB",
    "tier.round_interval_ms=3000",
    "tier.bundle_bytes=8MiB",
    "tier.copy_interval_ms=5000",
    "tier.cache_memory_bytes=16MiB",
    "tier.read_in_flight_bytes_max=16MiB",
];

/// Data shards: enough to spread over the nodes, few enough for a laptop.
const SHARDS: u32 = 4;

/// A whole demo.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) regions: Vec<RegionPlan>,
}

/// One region.
#[derive(Clone, Debug)]
pub(super) struct RegionPlan {
    pub(super) name: &'static str,
    pub(super) number: u16,
    /// Its bucket: a directory.
    pub(super) bucket: PathBuf,
    pub(super) nodes: Vec<NodePlan>,
}

/// One node.
#[derive(Clone, Debug)]
pub(super) struct NodePlan {
    pub(super) name: NodeName,
    pub(super) kafka: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) peer: SocketAddr,
    /// Where it listens for other regions; nobody but the relay dials that.
    pub(super) geo: SocketAddr,
    /// Where the relay listens for it.
    pub(super) geo_advertise: SocketAddr,
    pub(super) data: PathBuf,
    pub(super) certificates: PathBuf,
    pub(super) log: PathBuf,
}

/// Where a node listens, apart from the address that the relay takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) kafka: u16,
    pub(super) admin: u16,
    pub(super) peer: u16,
    pub(super) geo: u16,
    pub(super) geo_advertise: u16,
}

/// The address from which a region's nodes dial other regions: by it the relay knows how far they are.
pub(super) fn region_ip(number: u16) -> IpAddr {
    // 127.0.0.1 is everybody's.
    let last = u8::try_from(number + 2).expect("a demo has few regions");
    Ipv4Addr::new(127, 0, 0, last).into()
}

impl Plan {
    /// Regions of equal size below `directory`. `ports` gives those of a node, by region and place.
    pub(super) fn new(
        regions: u16,
        nodes: u32,
        directory: &Path,
        mut ports: impl FnMut(u16, u32) -> std::io::Result<Ports>,
    ) -> std::io::Result<Self> {
        let mut plan = Self { regions: Vec::new() };
        for number in 0..regions {
            let name = REGION_NAMES[usize::from(number)];
            let directory = directory.join(name);
            let mut region = RegionPlan {
                name,
                number,
                bucket: directory.join("bucket"),
                nodes: Vec::new(),
            };
            for place in 1..=nodes {
                let ports = ports(number, place)?;
                let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
                region.nodes.push(NodePlan {
                    name: NodeName {
                        region: name.to_owned(),
                        number: place,
                    },
                    kafka: local(ports.kafka),
                    admin: local(ports.admin),
                    peer: local(ports.peer),
                    geo: SocketAddr::new(region_ip(number), ports.geo),
                    geo_advertise: local(ports.geo_advertise),
                    data: directory.join(format!("node-{place}")),
                    certificates: directory.join(format!("node-{place}-certificates")),
                    log: directory.join(format!("node-{place}.log")),
                });
            }
            plan.regions.push(region);
        }
        Ok(plan)
    }

    /// The arguments of `meridian` for a node.
    pub(super) fn arguments(&self, node: &NodePlan) -> Vec<String> {
        let region = self
            .regions
            .iter()
            .find(|region| region.name == node.name.region)
            .expect("a node of this plan");
        let mut arguments: Vec<String> = ["serve", "--end-with-stdin", "--output", "json"]
            .map(str::to_owned)
            .to_vec();
        let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        option("--region", region.name.to_owned());
        option("--node-id", node.name.number.to_string());
        option("--rack", region.name.to_owned());
        option("--data", node.data.display().to_string());
        option("--bucket", region.bucket.display().to_string());
        option("--kafka", node.kafka.to_string());
        option("--admin", node.admin.to_string());
        option("--peer", node.peer.to_string());
        if region.nodes.len() > 1 {
            option("--seeds", addresses(region.nodes.iter().map(|node| node.peer)));
        }
        let files = NodeFiles::of(&node.certificates);
        let tls = |section: &str| {
            [
                format!("{section}.tls_cert={}", files.certificate.display()),
                format!("{section}.tls_key={}", files.key.display()),
                format!("{section}.tls_ca={}", files.ca.display()),
            ]
        };
        let mut settings: Vec<String> = SETTINGS.iter().map(|setting| (*setting).to_owned()).collect();
        settings.extend(tls("peer"));
        settings.push(format!("region.replicas={}", region.nodes.len().min(3)));
        if region.number == 0 {
            settings.push(format!("region.shards={SHARDS}"));
        }
        if self.regions.len() > 1 {
            option("--region-number", region.number.to_string());
            option("--geo", node.geo.to_string());
            settings.push(format!("geo.advertise={}", node.geo_advertise));
            settings.extend(tls("geo"));
            let others = self.regions.iter().filter(|other| other.number != region.number);
            let founder = others.filter(|other| other.number == 0);
            let seeds =
                addresses(founder.flat_map(|other| other.nodes.iter().map(|node| node.geo_advertise)));
            if !seeds.is_empty() {
                settings.push(format!("geo.seeds={seeds}"));
            }
        }
        for setting in settings {
            option("--set", setting);
        }
        arguments
    }
}

impl RegionPlan {
    /// The id under which a node of the region is known everywhere.
    pub(super) fn broker(&self, node: &NodePlan) -> u32 {
        u32::from(self.number) * NODES_PER_REGION + node.name.number
    }
}

fn addresses(addresses: impl Iterator<Item = SocketAddr>) -> String {
    addresses.map(|at| at.to_string()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(regions: u16, nodes: u32) -> Plan {
        let mut next = 40_000;
        let mut port = || {
            next += 1;
            next
        };
        Plan::new(regions, nodes, Path::new("/demo"), |_, _| {
            Ok(Ports {
                kafka: port(),
                admin: port(),
                peer: port(),
                geo: port(),
                geo_advertise: port(),
            })
        })
        .expect("a plan")
    }

    fn nodes(plan: &Plan) -> impl Iterator<Item = &NodePlan> {
        plan.regions.iter().flat_map(|region| &region.nodes)
    }

    fn value<'a>(arguments: &'a [String], option: &str) -> Option<&'a str> {
        let at = arguments.iter().position(|argument| argument == option)?;
        arguments.get(at + 1).map(String::as_str)
    }

    #[test]
    fn one_region_knows_nothing_of_others() {
        let plan = plan(1, 3);
        for node in nodes(&plan) {
            let arguments = plan.arguments(node);
            assert!(arguments.iter().all(|it| !it.contains("geo")), "{arguments:?}");
            assert_eq!(value(&arguments, "--region"), Some("us"));
            assert_eq!(
                value(&arguments, "--seeds").map(|it| it.split(',').count()),
                Some(3)
            );
        }
    }

    #[test]
    fn later_regions_find_the_first_through_the_relay() {
        let plan = plan(3, 2);
        let first = &plan.regions[0];
        let relayed = addresses(first.nodes.iter().map(|node| node.geo_advertise));
        for region in &plan.regions {
            for node in &region.nodes {
                let arguments = plan.arguments(node);
                let seeds = format!("geo.seeds={relayed}");
                assert_eq!(arguments.contains(&seeds), region.number != 0, "{arguments:?}");
                assert_eq!(
                    value(&arguments, "--region-number"),
                    Some(region.number.to_string().as_str())
                );
                assert_eq!(node.geo.ip(), region_ip(region.number));
            }
        }
        let ips: std::collections::BTreeSet<_> = nodes(&plan).map(|node| node.geo.ip()).collect();
        assert_eq!(ips.len(), 3);
        let last = &plan.regions[2];
        assert_eq!(last.broker(&last.nodes[1]), 200_002);
    }
}
