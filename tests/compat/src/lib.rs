//! Real Kafka clients against a real process.
//!
//! - [`Server`]: a broker under test, ours or a real Apache Kafka 4.3, as a process that is always killed by its pid.
//!   The crash, hostile and bench crates use it too.
//! - [`Relay`]: a TCP relay that loses the response of a request the broker has applied.
//! - [`Program`]: a client program with its checks, run in bounded time.
//!
//! The tests are in `tests/clients.rs`. They are proved on real Kafka first:
//! `MERIDIAN_TEST_SERVER=kafka cargo test -p meridian-compat`.
#![expect(
    clippy::disallowed_methods,
    reason = "a test harness drives real processes, sockets and clocks"
)]

pub mod console;
pub mod kafka;
pub mod kcat;
pub mod process;
pub mod program;
pub mod raw;
pub mod relay;
pub mod server;
pub mod workspace;

pub use process::Process;
pub use program::Program;
pub use relay::{Fault, Relay};
pub use server::{Server, ServerOptions};
