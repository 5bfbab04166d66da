//! A WAN between two places, in user space and without root.
//!
//! A [`Pipe`] is one direction of a link: packets go in with the time, and come out later, twice, in another order
//! or not at all, as its [`Conditions`] say. It is pure and seeded: the same input gives the same output. A
//! [`Link`] is two pipes; a [`Relay`] drives links from a thread of its own, and opens [`Port`]s: addresses at which
//! whatever comes, datagrams and connections, is carried over a link to a target and back.
//!
//! ```no_run
//! use std::time::Duration;
//! use meridian_wan_relay::{Conditions, Relay};
//!
//! # fn example() -> std::io::Result<()> {
//! let relay = Relay::start()?;
//! let link = relay.link(7, Conditions::delayed(Duration::from_millis(40)));
//! let port = relay.open("127.0.0.1:0".parse().unwrap(), "127.0.0.1:9000".parse().unwrap(), &link)?;
//! println!("{} is 80 ms away from {}", port.address(), port.target());
//! link.cut();
//! # Ok(())
//! # }
//! ```
//!
//! Datagrams share the bottleneck of their link, with its queue, in each direction. Bytes of TCP share it too, but
//! are never lost or reordered: a TCP of the system does that work on either side of the relay. A link that is cut
//! stalls them; [`Link::reset_connections`] ends them. A sender may hand the kernel many datagrams at once (GSO):
//! they reach the relay one by one, each up to 64 KiB.
//!
//! With the feature `tunnel`, and root, a relay joins two network interfaces instead (`Relay::tunnel`): then TCP passes
//! packet by packet as well, and whatever the kernel does about loss is real.

#![forbid(unsafe_code)]

mod chance;
mod conditions;
mod counters;
mod driver;
mod link;
mod measure;
mod pipe;
mod route;
mod tcp;
#[cfg(feature = "tunnel")]
mod tunnel;
mod udp;

pub use chance::{Probability, ProbabilityError};
pub use conditions::{Conditions, Loss, Reorder};
pub use counters::Counters;
pub use driver::{Port, Relay};
pub use link::{Direction, Link};
pub use pipe::{Kind, Pipe};
pub use route::Route;
#[cfg(feature = "tunnel")]
pub use tunnel::Tunnel;
