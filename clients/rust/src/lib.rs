//! Producer, consumer and admin client for Meridian and any Kafka-protocol server.
//!
//! Everything begins with a [`Cluster`]: it finds the brokers and keeps connections and metadata. On it work an
//! [`Admin`], a [`Producer`] (idempotent unless told otherwise), a [`Consumer`] of given partitions and a
//! [`GroupConsumer`], which shares partitions with others.
//!
//! ```no_run
//! use meridian_client::{
//!     Cluster, ClusterSettings, Consumer, ConsumerSettings, Endpoint, NewRecord, Producer, ProducerSettings, StartAt,
//! };
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = ClusterSettings::new(vec![Endpoint::new("127.0.0.1", 9092)]);
//! let cluster = Cluster::connect(settings).await?;
//!
//! let producer = Producer::start(&cluster, ProducerSettings::default()).await?;
//! let delivery = producer.send(&NewRecord::new("greetings", b"hello").with_key(b"en")).await?;
//! println!("written at {:?}", delivery.wait().await?.offset);
//!
//! let mut consumer = Consumer::start(&cluster, ConsumerSettings::default());
//! consumer.assign(&[("greetings".to_owned(), 0, StartAt::Earliest)]).await?;
//! for record in consumer.next().await?.records() {
//!     println!("{:?}", record?.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Decisions are made by cores without clock or socket (batching and numbering in `producer`, fetching in `consumer`,
//! assignors in [`group`]); files named `driver.rs`, and `network.rs`, act. An error of a request says where it
//! happened, in which phase, and whether the server may have executed it ([`RequestError`]).

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
pub mod token;
pub mod versions;

pub use admin::{Admin, AdminError};
pub use backoff::Backoff;
pub use cluster::{Cluster, ClusterSettings, Lane};
pub use connection::{Connection, ConnectionSettings};
pub use consumer::{ConsumeError, Consumer, ConsumerSettings, Fetched, StartAt};
pub use endpoint::Endpoint;
pub use error::{Phase, Refusal, RequestCause, RequestError};
pub use group::{GroupConsumer, GroupEvent, GroupSettings};
pub use metadata::Metadata;
pub use producer::{Acks, Delivery, NewRecord, ProduceError, Producer, ProducerSettings};
pub use token::{Token, TokenError};
