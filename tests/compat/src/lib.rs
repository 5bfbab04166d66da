//! Real Kafka clients against a real process.
//!
//! - [`Server`]: a broker under test, ours or a real Apache Kafka 4.3, as a process that is always killed by its pid.
//!   The crash, cluster, hostile and bench crates use it too.
//! - [`Relay`]: a TCP relay that loses the response of a request the broker has applied.
//! - [`s3`]: a real S3 server, one that lies about conditional puts, and a proxy that fails as networks and clouds do.
//! - [`suite`]: what the clients must find, at a [`Site`]: one server, or the nodes of a cluster.
//! - [`Program`]: a client program with its checks, run in bounded time.
//! - [`Load`]: producers and consumers that write down what they know, for the checker.
//! - [`Image`]: a file system whose power can be cut, that can be full, and below which the block layer can fail.
//!
//! `tests/clients.rs` runs the suite against one server, `tests/cluster` against three nodes. It is proved on real Kafka
//! first: `MERIDIAN_TEST_SERVER=kafka cargo test -p meridian-compat`.
#![expect(
    clippy::disallowed_methods,
    reason = "a test harness drives real processes, sockets and clocks"
)]

pub mod console;
pub mod image;
pub mod kafka;
pub mod kcat;
pub mod load;
pub mod process;
pub mod program;
pub mod random;
pub mod raw;
pub mod relay;
pub mod s3;
pub mod server;
pub mod site;
pub mod suite;
pub mod workspace;

pub use image::Image;
pub use load::{Load, LoadOptions};
pub use process::Process;
pub use program::Program;
pub use random::Random;
pub use relay::{Fault, Relay};
pub use server::{Server, ServerOptions};
pub use site::Site;
