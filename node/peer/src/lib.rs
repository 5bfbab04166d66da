//! Calls and notices between the nodes of a region.
//!
//! [`Peers`] is a node's hold on all others: it keeps a connection per node and [`Lane`] open, sends calls and
//! notices in order, and serves those of others through a [`Service`]. What a kind of message means is for
//! the crates above: kinds `0x0100..=0x01ff` belong to Raft, `0x0200..=0x02ff` to the region.
//!
//! A connection carries the calls of the node that opened it, and their answers. So a pair of nodes has up to
//! four connections: two lanes, opened from either side. Bytes are laid out in `docs/formats/peer.md`.

mod call;
mod identity;
mod lane;
mod link_state;
mod peers;
mod service;
mod settings;
mod stats;

mod budget;
mod calls_under_way;
mod link;
mod outbox;
mod progress;
mod serve;
mod shared;

mod dial_error;
mod disk;
mod frame;
mod frame_reader;
mod frame_writer;
mod greeting;
mod hello;
mod named_node;
mod stream;
mod tls;

pub use call::{Call, CallError};
pub use dial_error::{AddressError, DialError};
pub use identity::{PeerAddress, PeerIdentity};
pub use lane::{Lane, URGENT_FRAME_BYTES_MAX};
pub use link_state::LinkState;
pub use meridian_net::HostPort;
pub use peers::Peers;
pub use service::{Refusal, Service};
pub use settings::PeerSettings;
pub use stats::PeerStats;
pub use tls::{PeerTls, TlsError};

/// The frame versions this build speaks, lowest and highest.
pub const FRAME_VERSIONS: std::ops::RangeInclusive<u16> = 1..=1;
