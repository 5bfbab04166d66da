//! Places far from one another: a network namespace each, and a WAN between each two that the kernel's own TCP and UDP pass
//! packet by packet.
//!
//! Whoever runs at a place, node or client, reaches all other places over the WANs only. The host reaches every place
//! directly: what is measured and looked at from there is not delayed.

use std::net::{IpAddr, Ipv4Addr};

use meridian_wan_relay::{Conditions, Link, Relay, Tunnel};

use crate::network::{self, ip};

/// The host's number in every subnet.
const HOST: u8 = 254;

/// Nodes at one place.
const NODES_MAX: u8 = 15;

/// A WAN between two places.
struct Between {
    places: [usize; 2],
    link: Link,
    // Dropping it removes the interfaces.
    _tunnel: Tunnel,
}

/// The places. Dropping it removes them.
pub struct Places {
    name: String,
    /// One for each place.
    subnets: Vec<u8>,
    betweens: Vec<Between>,
    relay: Relay,
}

impl Places {
    /// Makes them, without delay or loss: [`Places::link`] changes that.
    ///
    /// Errors: what the failing tool printed; see [`network::unavailable`].
    pub fn create(count: usize) -> Result<Self, String> {
        let (name, seed) = network::new_name();
        let mut places = Self {
            name,
            subnets: Vec::new(),
            betweens: Vec::new(),
            relay: Relay::start().map_err(|e| format!("the relay does not start: {e}"))?,
        };
        for place in 0..count {
            let subnet = network::free_subnet(seed)?;
            places.subnets.push(subnet);
            places.add(place)?;
        }
        for second in 0..count {
            for first in 0..second {
                places.join([first, second])?;
            }
        }
        Ok(places)
    }

    fn add(&self, place: usize) -> Result<(), String> {
        let (namespace, veth) = (self.namespace(place), format!("{}v{place}", self.name));
        let within = |number: u8| format!("{}/24", self.numbered(place, number));
        ip(&["netns", "add", &namespace])?;
        ip(&[
            "link", "add", &veth, "type", "veth", "peer", "name", "eth0", "netns", &namespace,
        ])?;
        ip(&["addr", "add", &within(HOST), "dev", &veth])?;
        ip(&["link", "set", &veth, "up"])?;
        for node in 1..=NODES_MAX {
            ip(&["-n", &namespace, "addr", "add", &within(node), "dev", "eth0"])?;
        }
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])
    }

    fn join(&mut self, places: [usize; 2]) -> Result<(), String> {
        let number = self.betweens.len();
        let link = self.relay.link(number as u64 + 1, Conditions::default());
        let ends = ["a", "b"].map(|end| format!("{}{number}{end}", self.name));
        let tunnel = self
            .relay
            .tunnel([&ends[0], &ends[1]], &link)
            .map_err(|e| format!("no network interface can be made: {e}"))?;
        for (here, there, end) in [(places[0], places[1], &ends[0]), (places[1], places[0], &ends[1])] {
            let namespace = self.namespace(here);
            let (beyond, own) = (
                format!("{}/24", self.numbered(there, 0)),
                self.address(here, 0).to_string(),
            );
            ip(&["link", "set", end, "netns", &namespace])?;
            ip(&["-n", &namespace, "link", "set", end, "up"])?;
            ip(&["-n", &namespace, "route", "add", &beyond, "dev", end, "src", &own])?;
        }
        self.betweens.push(Between {
            places,
            link,
            _tunnel: tunnel,
        });
        Ok(())
    }

    /// What joins two places; forward leads to the one of the higher number.
    pub fn link(&self, one: usize, other: usize) -> &Link {
        let between = self
            .betweens
            .iter()
            .find(|it| it.places.contains(&one) && it.places.contains(&other));
        &between.expect("two of the places").link
    }

    /// The relay that carries the packets.
    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    /// The address of a node of a place, from everywhere. Nodes are counted from 0.
    pub fn address(&self, place: usize, node: usize) -> IpAddr {
        let number = u8::try_from(node + 1).expect("few nodes");
        assert!(number <= NODES_MAX, "at most {NODES_MAX} nodes are at one place");
        self.numbered(place, number)
    }

    /// The words before a command that is to run at a place.
    pub fn enter(&self, place: usize) -> [String; 3] {
        network::enter(&self.namespace(place))
    }

    fn numbered(&self, place: usize, number: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, self.subnets[place], number))
    }

    fn namespace(&self, place: usize) -> String {
        format!("{}p{place}", self.name)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        // With a namespace goes the veth in it, and with that the other end.
        for place in 0..self.subnets.len() {
            drop(ip(&["netns", "del", &self.namespace(place)]));
        }
    }
}
