//! Nodes that have a network of their own: one namespace each, veth pairs, and a bridge that the clients use too.
//!
//! A partition is made by what a node believes to be another node's hardware address: with a wrong one, packets in that
//! direction vanish without a trace, as they do when a switch fails; the sender gets no error, open connections stay open.
//! This needs no packet filter, works one way as well as both, and is undone by the right address.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use meridian_compat::process::output_within;
use meridian_compat::workspace;

/// Begins the names of everything that is made here: `mdnPIDxCOUNT..`, so that leftovers of a killed test are known.
const PREFIX: &str = "mdn";

/// The host's number in the subnet: the clients'.
const HOST: u8 = 254;

/// How long `ip` may take.
const TOOL_TIMEOUT: Duration = Duration::from_secs(30);

/// Who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A node, by its place, from 0.
    Node(usize),
    /// Every client.
    Clients,
}

/// Namespaces with a bridge between them. Dropping it removes all of it.
pub struct Network {
    name: String,
    subnet: u8,
    nodes: usize,
    cuts: BTreeSet<(End, End)>,
}

/// Why namespaces cannot be made here; `None` when they can.
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    ["ip", "nsenter"]
        .into_iter()
        .find(|tool| workspace::on_path(tool).is_none())
        .map(|tool| format!("{tool} is not installed"))
}

impl Network {
    /// Makes `nodes` namespaces. Those that a killed process has left behind are removed.
    ///
    /// Errors: what the failing tool printed.
    pub fn create(nodes: usize) -> Result<Self, String> {
        let (name, seed) = new_name();
        let network = Self {
            name,
            subnet: free_subnet(seed)?,
            nodes,
            cuts: BTreeSet::new(),
        };
        let bridge = network.bridge();
        ip(&["link", "add", &bridge, "address", &mac(HOST), "type", "bridge"])?;
        let host = format!("{}/24", network.address_of(HOST));
        ip(&["addr", "add", &host, "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for node in 0..nodes {
            network.add_namespace(node, &bridge)?;
        }
        for (from, to) in network.all_pairs() {
            network.set_neighbour(from, to, true)?;
        }
        Ok(network)
    }

    fn add_namespace(&self, node: usize, bridge: &str) -> Result<(), String> {
        let (namespace, veth) = (self.namespace(node), format!("{}v{node}", self.name));
        ip(&["netns", "add", &namespace])?;
        ip(&[
            "link",
            "add",
            &veth,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "address",
            &mac(number(node)),
            "netns",
            &namespace,
        ])?;
        ip(&["link", "set", &veth, "master", bridge, "up"])?;
        let address = format!("{}/24", self.address(node));
        ip(&["-n", &namespace, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])
    }

    /// The address of a node.
    pub fn address(&self, node: usize) -> IpAddr {
        self.address_of(number(node))
    }

    /// The words before a command that is to run at a node's place.
    pub fn enter(&self, node: usize) -> [String; 3] {
        enter(&self.namespace(node))
    }

    /// Packets of `from` no longer reach `to`. The other way is not touched.
    pub fn cut(&mut self, from: End, to: End) -> Result<(), String> {
        self.set_neighbour(from, to, false)?;
        self.cuts.insert((from, to));
        Ok(())
    }

    /// Packets flow again, everywhere.
    pub fn heal(&mut self) -> Result<(), String> {
        for (from, to) in std::mem::take(&mut self.cuts) {
            self.set_neighbour(from, to, true)?;
        }
        Ok(())
    }

    fn set_neighbour(&self, from: End, to: End, is_right: bool) -> Result<(), String> {
        let of = |end: End| match end {
            End::Node(node) => number(node),
            End::Clients => HOST,
        };
        let address = self.address_of(of(to)).to_string();
        // No interface has this one: the bridge floods the frame, and nobody takes it.
        let address_of_nobody = mac(0);
        let hardware = if is_right { mac(of(to)) } else { address_of_nobody };
        let entry = [
            "neigh",
            "replace",
            &address,
            "lladdr",
            &hardware,
            "nud",
            "permanent",
            "dev",
        ];
        match from {
            End::Node(node) => {
                let namespace = self.namespace(node);
                ip(&[&["-n", &namespace][..], &entry, &["eth0"]].concat())
            }
            End::Clients => ip(&[&entry[..], &[&self.bridge()]].concat()),
        }
    }

    fn all_pairs(&self) -> Vec<(End, End)> {
        let ends: Vec<End> = (0..self.nodes).map(End::Node).chain([End::Clients]).collect();
        let pairs = ends
            .iter()
            .flat_map(|from| ends.iter().map(move |to| (*from, *to)));
        pairs.filter(|(from, to)| from != to).collect()
    }

    fn bridge(&self) -> String {
        format!("{}b", self.name)
    }

    fn namespace(&self, node: usize) -> String {
        format!("{}n{node}", self.name)
    }

    fn address_of(&self, number: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, self.subnet, number))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Removing a namespace removes the veth in it, and with that the other end.
        for node in 0..self.nodes {
            drop(ip(&["netns", "del", &self.namespace(node)]));
        }
        drop(ip(&["link", "del", &self.bridge()]));
    }
}

fn number(node: usize) -> u8 {
    u8::try_from(node + 1).expect("fewer nodes than addresses")
}

/// A locally administered hardware address.
fn mac(number: u8) -> String {
    format!("02:4d:45:52:00:{number:02x}")
}

/// Begins the names of all that belongs to one network; and where to begin to look for subnets. What a killed process has left
/// behind is removed.
pub(crate) fn new_name() -> (String, u32) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    remove_leftovers();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    (format!("{PREFIX}{pid}x{count}"), pid.wrapping_add(count))
}

/// The words before a command that is to run in a namespace.
pub(crate) fn enter(namespace: &str) -> [String; 3] {
    let network = format!("--net=/run/netns/{namespace}");
    ["nsenter".to_owned(), network, "--".to_owned()]
}

/// A subnet 10.77.N.0/24 that no interface has, from `seed` on.
pub(crate) fn free_subnet(seed: u32) -> Result<u8, String> {
    let output = Command::new("ip")
        .args(["-o", "addr"])
        .output()
        .map_err(|e| format!("cannot run ip: {e}"))?;
    let taken = String::from_utf8_lossy(&output.stdout).into_owned();
    (0..250_u32)
        .map(|step| u8::try_from((seed + step) % 250).expect("below 250"))
        .find(|subnet| !taken.contains(&format!("10.77.{subnet}.")))
        .ok_or_else(|| "every subnet of 10.77.0.0/16 is taken".to_owned())
}

/// Removes the namespaces and bridges of processes that no longer run, and ends what still runs in them.
fn remove_leftovers() {
    let list = |path: &str| -> Vec<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| is_leftover(name))
            .collect()
    };
    for namespace in list("/run/netns") {
        if let Ok(output) = Command::new("ip").args(["netns", "pids", &namespace]).output() {
            for pid in String::from_utf8_lossy(&output.stdout).lines() {
                drop(Command::new("kill").args(["-9", pid]).status());
            }
        }
        drop(ip(&["netns", "del", &namespace]));
    }
    for link in list("/sys/class/net") {
        drop(ip(&["link", "del", &link]));
    }
}

/// Whether a name begins with [`PREFIX`] and the id of a process that does not run.
fn is_leftover(name: &str) -> bool {
    let owner = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('x'))
        .and_then(|(pid, _)| pid.parse::<u32>().ok());
    owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

pub(crate) fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = output_within(Command::new("ip").args(arguments), TOOL_TIMEOUT)?;
    if output.status.success() {
        return Ok(());
    }
    let printed = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {}: {}", arguments.join(" "), printed.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_ended_process_has_left_is_removed() {
        assert!(!is_leftover(&format!("mdn{}x0n1", std::process::id())));
        // Above the largest process id that Linux gives.
        assert!(is_leftover("mdn4194999x0n1"));
        for other in ["mdn", "eth0", "mdnx1", "mdnabcx0b", "docker0"] {
            assert!(!is_leftover(other), "{other}");
        }
    }
}
