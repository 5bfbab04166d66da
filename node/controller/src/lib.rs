//! The region's facts: topics, settings, nodes, placement. Pure.
//!
//! They live in one Raft group of their own, next to the data shards. Its log is a list of [`Command`]s;
//! [`Controller::apply`] turns one after the other into the same facts on every node (invariant 4). A topic is
//! one row however many partitions it has: where a partition lives is arithmetic
//! ([`meridian_types::shard_of`]).

mod codec;

pub mod command;
pub mod configs;
pub mod controller;
pub mod describe;
pub mod node;
pub mod outcome;
pub mod placement;
pub mod settings;
pub mod snapshot;
pub mod topic;

#[cfg(test)]
mod testing;

pub use command::{Command, CommandError};
pub use configs::{ConfigChange, ConfigError, ConfigOp, ConfigResource};
pub use controller::{Controller, Founding};
pub use describe::{ConfigSource, DescribedConfig, DescribedSynonym};
pub use node::{Node, NodeNotFound, NodeRegistration, RegisterNodeError};
pub use outcome::{AllocateError, CreatePartitionsError, FoundingError, Outcome, ProducerIds, TopicNotFound};
pub use settings::broker::BrokerSettings;
pub use settings::topic::{MessageTimestampType, TopicCompression, TopicSettings};
pub use settings::{Setting, SettingKind};
pub use snapshot::SnapshotError;
pub use topic::{CreateTopicError, DeletedTopic, NewTopic, Topic};
