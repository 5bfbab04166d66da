//! The running demo: its nodes, its load, its relay, and what is done to them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use meridian_client::Endpoint;
use meridian_wan_relay::{Conditions, Direction, Link, Port, Relay, Route};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::action::{Action, LinkName, NodeName};
use super::distance::Latency;
use super::load::Load;
use super::node::{Launch, Node};
use super::picture::{LinkPicture, NodePicture, Picture, RegionPicture};
use super::plan::{Plan, RegionPlan, region_ip};
use crate::cert::files::write_node;
use crate::cert::make::{NodeNames, authority, node};
use crate::cert::node::local_hosts;
use crate::cert::{NODE_DAYS, moment};
use crate::error::CliError;

/// News that are remembered.
const NEWS_MAX: usize = 100;

/// The running demo. Dropping it ends its processes.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) started: Instant,
    pub(super) regions: Vec<RegionStage>,
    pub(super) links: Vec<LinkStage>,
    pub(super) picture: Mutex<Picture>,
    relay: Option<Arc<Relay>>,
    _ports: Vec<Port>,
    news: mpsc::Sender<String>,
}

/// A region.
#[derive(Debug)]
pub(super) struct RegionStage {
    pub(super) plan: RegionPlan,
    pub(super) nodes: Vec<Node>,
    pub(super) load: Arc<Load>,
}

/// A link between two regions.
#[derive(Debug)]
pub(super) struct LinkStage {
    pub(super) name: LinkName,
    pub(super) link: Link,
}

impl Stage {
    /// Makes certificates, opens the relay, and starts every node. Returns before they are ready. What happens is told to
    /// `news` too.
    pub(super) fn set(
        plan: &Plan,
        latency: Latency,
        directory: &Path,
        started: Instant,
        news: mpsc::Sender<String>,
    ) -> Result<Self, CliError> {
        certify(plan)?;
        let relay = (plan.regions.len() > 1).then(Relay::start).transpose();
        let relay = relay.map_err(|error| no_relay(&error))?;
        let links = relay
            .as_ref()
            .map_or_else(Vec::new, |relay| links(plan, latency, relay));
        let ports = match &relay {
            Some(relay) => open_ports(plan, relay, &links).map_err(|error| no_relay(&error))?,
            None => Vec::new(),
        };
        let regions: Vec<RegionStage> = plan
            .regions
            .iter()
            .map(|region| RegionStage {
                plan: region.clone(),
                nodes: region
                    .nodes
                    .iter()
                    .map(|node| {
                        Node::launch(Launch {
                            arguments: plan.arguments(node),
                            log: node.log.clone(),
                        })
                    })
                    .collect(),
                load: Arc::default(),
            })
            .collect();
        let picture = Picture {
            directory: directory.to_owned(),
            regions: regions
                .iter()
                .map(|region| RegionPicture {
                    // One region alone owns.
                    is_owner: (plan.regions.len() == 1).then_some(true),
                    ..region_picture(region)
                })
                .collect(),
            links: links.iter().map(link_picture).collect(),
            ..Picture::default()
        };
        Ok(Self {
            started,
            regions,
            links,
            picture: Mutex::new(picture),
            relay: relay.map(Arc::new),
            _ports: ports,
            news,
        })
    }

    /// Tells what happened.
    pub(super) fn tell(&self, what: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        let line = format!("{seconds:>6.1} s  {what}");
        let mut picture = self.picture.lock();
        if picture.news.len() == NEWS_MAX {
            picture.news.remove(0);
        }
        picture.news.push(line);
        drop(picture);
        // Nobody listens where the screen shows it, and whoever does not keep up misses some.
        let _ = self.news.try_send(what.to_owned());
    }

    /// Every node with its name.
    pub(super) fn named_nodes(&self) -> impl Iterator<Item = (String, &Node)> {
        let regions = self.regions.iter();
        let nodes = regions.flat_map(|region| region.plan.nodes.iter().zip(&region.nodes));
        nodes.map(|(plan, node)| (plan.name.to_string(), node))
    }

    /// Brings the nodes' states into the picture.
    pub(super) fn refresh(&self) {
        let mut picture = self.picture.lock();
        picture.running_for = self.started.elapsed();
        for (shown, region) in picture.regions.iter_mut().zip(&self.regions) {
            for (shown, node) in shown.nodes.iter_mut().zip(&region.nodes) {
                shown.state = node.state();
            }
        }
    }

    /// Measures how far the regions really are from one another. Takes some round trips.
    pub(super) async fn measure(&self) {
        let Some(relay) = &self.relay else { return };
        let measured = self.links.iter().map(|link| {
            let (relay, measured) = (relay.clone(), link.link.clone());
            tokio::task::spawn_blocking(move || relay.measure(&measured))
        });
        let measured = futures::future::join_all(measured).await;
        for (index, (link, measured)) in self.links.iter().zip(measured).enumerate() {
            if let Ok(Ok(measured)) = measured {
                self.picture.lock().links[index].measured = Some(measured);
                let ms = measured.as_secs_f64() * 1e3;
                self.tell(&format!(
                    "{}: a round trip is to take {:?}, and takes {ms:.1} ms",
                    link.name,
                    link.link.round_trip()
                ));
            }
        }
    }

    /// Does what can be done at once. Gives what was done, for people. Errors: why not.
    pub(super) fn act(&self, action: &Action) -> Result<String, String> {
        let said = match action {
            Action::Kill(name) => {
                let node = self.node(name)?;
                if node.state().pid().is_none() {
                    return Err(format!("{name} does not run"));
                }
                node.kill();
                format!("kill -9 of {name}")
            }
            Action::Start(name) => {
                let node = self.node(name)?;
                if node.state().pid().is_some() {
                    return Err(format!("{name} runs already"));
                }
                node.start();
                format!("{name} is started")
            }
            Action::Cut(name) => {
                let link = self.link(name)?;
                link.link.cut();
                format!("{} is cut: nothing passes in either direction", link.name)
            }
            Action::Heal(Some(name)) => {
                let link = self.link(name)?;
                link.link.heal();
                format!("{} is whole again", link.name)
            }
            Action::Heal(None) => {
                self.links.iter().for_each(|link| link.link.heal());
                "every link is whole".to_owned()
            }
            Action::SwitchOver(_) => {
                return Err("ownership is moved elsewhere, because that takes time".to_owned());
            }
            Action::Stop => "the demo ends".to_owned(),
        };
        self.tell(&said);
        Ok(said)
    }

    fn node(&self, name: &NodeName) -> Result<&Node, String> {
        let regions = self.regions.iter();
        let nodes = regions.flat_map(|region| region.plan.nodes.iter().zip(&region.nodes));
        let mut found = nodes.filter(|(plan, _)| plan.name == *name);
        found.next().map(|(_, node)| node).ok_or_else(|| {
            let names: Vec<String> = self
                .regions
                .iter()
                .flat_map(|region| &region.plan.nodes)
                .map(|node| node.name.to_string())
                .collect();
            format!("there is no node {name}: expected one of {}", names.join(", "))
        })
    }

    fn link(&self, name: &LinkName) -> Result<&LinkStage, String> {
        let mut links = self.links.iter();
        links
            .find(|link| link.name.joins(&name.one, &name.other))
            .ok_or_else(|| {
                let names: Vec<String> = self.links.iter().map(|link| link.name.to_string()).collect();
                match names.is_empty() {
                    true => "one region has no links: start the demo with --regions 2 or more".to_owned(),
                    false => format!("there is no link {name}: expected one of {}", names.join(", ")),
                }
            })
    }

    /// Ends every node. `is_kept`: in order, so that they need not recover; otherwise at once.
    pub(super) async fn end(&self, is_kept: bool) {
        let nodes = || self.regions.iter().flat_map(|region| &region.nodes);
        for node in nodes() {
            if is_kept {
                node.stop();
            } else {
                node.kill();
            }
        }
        for node in nodes() {
            node.down().await;
        }
    }
}

impl RegionStage {
    /// Where clients of the region begin.
    pub(super) fn servers(&self) -> Vec<Endpoint> {
        let nodes = self.plan.nodes.iter();
        nodes
            .map(|node| Endpoint::new(node.kafka.ip().to_string(), node.kafka.port()))
            .collect()
    }
}

fn no_relay(error: &io::Error) -> CliError {
    CliError::failed(format!("the relay between the regions cannot be opened: {error}"))
        .advise("it needs the addresses 127.0.0.1 and up, which every Linux has")
}

/// One authority, and a certificate for every node.
fn certify(plan: &Plan) -> Result<(), CliError> {
    let authority = authority("Meridian demo", NODE_DAYS, moment())?;
    for region in &plan.regions {
        for planned in &region.nodes {
            let mut hosts = local_hosts();
            hosts.push(planned.geo.ip().to_string());
            let names = NodeNames {
                region: region.name.to_owned(),
                broker: region.broker(planned),
                hosts,
            };
            let pair = node(&authority, &names, NODE_DAYS, moment())?;
            write_node(&planned.certificates, &pair, &authority.certificate)?;
        }
    }
    Ok(())
}

/// One link for every two regions; forward from the lower number to the higher.
fn links(plan: &Plan, latency: Latency, relay: &Relay) -> Vec<LinkStage> {
    let mut links = Vec::new();
    for (one, first) in plan.regions.iter().enumerate() {
        for (other, second) in plan.regions.iter().enumerate().skip(one + 1) {
            let round_trip = latency.round_trip(one, other);
            let seed = (one * 100 + other) as u64;
            links.push(LinkStage {
                name: LinkName {
                    one: first.name.to_owned(),
                    other: second.name.to_owned(),
                },
                link: relay.link(seed, Conditions::delayed(round_trip / 2)),
            });
        }
    }
    links
}

/// A port for every node, which knows by who dials which link to take.
fn open_ports(plan: &Plan, relay: &Relay, links: &[LinkStage]) -> io::Result<Vec<Port>> {
    let mut ports = Vec::new();
    for region in &plan.regions {
        let from_others = plan.regions.iter().filter_map(|other| {
            let found = links
                .iter()
                .find(|link| link.name.joins(region.name, other.name))?;
            let is_forward = found.name.one == other.name;
            Some(Route {
                from: Some(region_ip(other.number)),
                link: found.link.clone(),
                toward: if is_forward {
                    Direction::Forward
                } else {
                    Direction::Backward
                },
            })
        });
        let routes: Vec<Route> = from_others.collect();
        for node in &region.nodes {
            ports.push(relay.open_routed(node.geo_advertise, node.geo, routes.clone())?);
        }
    }
    Ok(ports)
}

fn region_picture(region: &RegionStage) -> RegionPicture {
    let plan = &region.plan;
    let nodes = plan.nodes.iter().zip(&region.nodes);
    RegionPicture {
        name: plan.name.to_owned(),
        bucket: plan.bucket.clone(),
        nodes: nodes
            .map(|(node, process)| NodePicture {
                name: node.name.clone(),
                broker: plan.broker(node),
                kafka: node.kafka,
                admin: node.admin,
                data: node.data.clone(),
                state: process.state(),
                leads: None,
            })
            .collect(),
        ..RegionPicture::default()
    }
}

fn link_picture(link: &LinkStage) -> LinkPicture {
    LinkPicture {
        name: link.name.clone(),
        round_trip: link.link.round_trip(),
        measured: None,
        is_cut: false,
        bytes: 0,
        bytes_per_second: 0.0,
        staleness: None,
    }
}
