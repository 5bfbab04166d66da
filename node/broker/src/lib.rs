//! Kafka in, Kafka out: listener, handlers, coordinators, waiting fetches.
//!
//! ```text
//! listener ─> connection ─> frame_reader ─> dispatch::begin ──> queue ──> dispatch::finish ─> response_writer
//!                                               │ Produce: batches to the shards, at once
//!                                               └ all others wait for their turn
//! ```
//!
//! Handlers are one file per API under `handlers/`. Errors of the crates below become Kafka's codes in `errors.rs`
//! and nowhere else. Whatever a client sends costs a bounded amount of memory, and costs other clients nothing.

mod broker;
mod budget;
mod catalog;
mod cluster_view;
mod configs;
mod connection;
mod context;
pub mod coordinator;
mod dispatch;
mod errors;
mod fetch_session;
mod frame_reader;
mod groups;
mod handlers;
mod listener;
mod log_limit;
mod metrics;
mod producer_ids;
mod read_replicas;
mod response_writer;
mod settings;
mod topic_creation;

pub use broker::{Broker, BrokerHandle};
pub use listener::ListenError;
pub use settings::{BrokerSettings, HostPort, KafkaSettings, Limits, ListenerSettings};
