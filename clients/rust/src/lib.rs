//! Producer, consumer and admin client for Meridian and any Kafka-protocol server.

#![forbid(unsafe_code)]

pub mod admin;
mod backoff;
pub mod cluster;
pub mod connection;
pub mod consumer;
pub mod driver;
pub mod endpoint;
pub mod error;
pub mod group;
pub mod metadata;
pub mod network;
pub mod producer;
pub mod versions;

pub use admin::{Admin, AdminError};
pub use backoff::Backoff;
pub use cluster::{Cluster, ClusterSettings, Lane};
pub use connection::{Connection, ConnectionSettings};
pub use consumer::{ConsumeError, Consumer, ConsumerSettings, Fetched, StartAt};
pub use endpoint::Endpoint;
pub use error::{Phase, Refusal, RequestCause, RequestError};
pub use metadata::Metadata;
pub use producer::{Acks, Delivery, NewRecord, ProduceError, Producer, ProducerSettings};
