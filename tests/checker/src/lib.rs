//! Whether what clients saw is something that a durable log of idempotent producers may show them.
//!
//! In the manner of Jepsen's Kafka workload (`jepsen.tests.kafka`), for a log without transactions. A [`History`] goes in,
//! a [`Report`] of [`Finding`]s comes out: no clock, no file, no randomness. The same checker judges real processes
//! (`tests/crash`, `tests/cluster`) and simulated ones.
//!
//! A history is what each client tells in its own order. Clients share no clock, and none is needed: the offsets of the
//! log put the records of all of them in one order.

pub mod checker;
pub mod finding;
pub mod history;
pub mod lines;

pub use checker::{Report, check};
pub use finding::{Finding, Kind};
pub use history::{Client, Event, History, Placed, Value};
pub use lines::LineError;
