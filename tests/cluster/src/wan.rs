//! Another place, far away: a network namespace behind a WAN that the kernel's own TCP and UDP pass packet by packet.
//!
//! The host is the near place. A veth pair leads to the far one too, without the WAN: whoever measures looks by it.

use std::net::{IpAddr, Ipv4Addr};

use meridian_wan_relay::{Conditions, Link, Relay, Tunnel};

use crate::network::{self, ip};

/// The host's number in both subnets.
const NEAR: u8 = 1;

/// The far place's number in both.
const FAR: u8 = 2;

/// A far place and the way there. Dropping it removes both.
pub struct Wan {
    name: String,
    /// Over the WAN, and beside it.
    subnets: [u8; 2],
    link: Link,
    _tunnel: Tunnel,
    _relay: Relay,
}

impl Wan {
    /// Makes it, without delay or loss: [`Wan::link`] changes that, in the direction there and in the one back.
    ///
    /// Errors: what the failing tool printed; see [`network::unavailable`].
    pub fn create() -> Result<Self, String> {
        let (name, seed) = network::new_name();
        let relay = Relay::start().map_err(|e| format!("the relay does not start: {e}"))?;
        let link = relay.link(1, Conditions::default());
        let ends = [format!("{name}t"), format!("{name}f")];
        let tunnel = relay
            .tunnel([&ends[0], &ends[1]], &link)
            .map_err(|e| format!("no network interface can be made: {e}"))?;
        let over = network::free_subnet(seed)?;
        let mut wan = Self {
            name,
            subnets: [over, over],
            link,
            _tunnel: tunnel,
            _relay: relay,
        };
        wan.set_up(&ends)?;
        Ok(wan)
    }

    fn set_up(&mut self, [near, far]: &[String; 2]) -> Result<(), String> {
        let namespace = self.namespace();
        ip(&["netns", "add", &namespace])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        ip(&["link", "set", far, "netns", &namespace])?;
        self.give_address(near, far, self.subnets[0])?;

        self.subnets[1] = network::free_subnet(u32::from(self.subnets[0]) + 1)?;
        let veth = self.veth();
        ip(&[
            "link", "add", &veth, "type", "veth", "peer", "name", "eth0", "netns", &namespace,
        ])?;
        self.give_address(&veth, "eth0", self.subnets[1])
    }

    fn give_address(&self, near: &str, far: &str, subnet: u8) -> Result<(), String> {
        let namespace = self.namespace();
        let of = |number| format!("{}/24", address(subnet, number));
        ip(&["addr", "add", &of(NEAR), "dev", near])?;
        ip(&["link", "set", near, "up"])?;
        ip(&["-n", &namespace, "addr", "add", &of(FAR), "dev", far])?;
        ip(&["-n", &namespace, "link", "set", far, "up"])
    }

    /// What joins the two places; forward leads to the far one.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The host's address over the WAN.
    pub fn near(&self) -> IpAddr {
        address(self.subnets[0], NEAR)
    }

    /// The far place's address over the WAN.
    pub fn far(&self) -> IpAddr {
        address(self.subnets[0], FAR)
    }

    /// The far place's address for those on the host who watch.
    pub fn far_watched(&self) -> IpAddr {
        address(self.subnets[1], FAR)
    }

    /// The words before a command that is to run at the far place.
    pub fn enter(&self) -> [String; 3] {
        network::enter(&self.namespace())
    }

    fn namespace(&self) -> String {
        format!("{}w", self.name)
    }

    fn veth(&self) -> String {
        format!("{}v", self.name)
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        // The far ends go with the namespace; the tunnel's near end with the tunnel.
        drop(ip(&["netns", "del", &self.namespace()]));
        drop(ip(&["link", "del", &self.veth()]));
    }
}

fn address(subnet: u8, number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, subnet, number))
}
