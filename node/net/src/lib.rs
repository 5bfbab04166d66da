//! The seam between a node and the network: everything that nodes send one another goes through [`Net`].
//!
//! [`TcpNet`] is the real one. Tests use `testing::MemoryNet`, whose links can be cut, and the simulation
//! brings its own. Whoever holds a `dyn Net` cannot tell them apart; `testing::conformance` is what all of
//! them keep.

mod connection;
mod host_port;
mod net;
mod network;

#[cfg(feature = "testing")]
pub mod testing;

pub use connection::{Connection, ReadHalf, Rehome, WriteHalf};
pub use host_port::{HostPort, HostPortError};
pub use net::{Acceptor, Net};
pub use network::TcpNet;
