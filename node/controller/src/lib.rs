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
pub mod geo;
mod install;
pub mod node;
pub mod outcome;
mod pattern;
pub mod placement;
pub mod plan;
pub mod restore;
pub mod settings;
pub mod snapshot;
pub mod topic;

#[cfg(test)]
mod testing;

pub use command::{Command, CommandError};
pub use configs::{ConfigChange, ConfigError, ConfigOp, ConfigResource};
pub use controller::{Controller, Founding};
pub use describe::{ConfigSource, DescribedConfig, DescribedSynonym};
pub use geo::{GeoFounding, GeoRegion, Ownership, OwnershipState, RegionError};
pub use meridian_lineage::{NotOwner, Role};
pub use node::{
    FEATURE_LEVEL_MAX, HostPort, Node, NodeNotFound, NodeRegistration, RegisterNodeError, RemoveNodeError,
};
pub use outcome::{AllocateError, CreatePartitionsError, FoundingError, Outcome, ProducerIds, TopicNotFound};
pub use placement::{Placement, SetPlacementError};
pub use plan::{Members, PlanSettings, Sight};
pub use restore::{Mended, RestoreError, Successor};
pub use settings::broker::BrokerSettings;
pub use settings::topic::HOME as HOME_CONFIG;
pub use settings::topic::{MessageTimestampType, TopicCompression, TopicSettings};
pub use settings::{Setting, SettingKind};
pub use snapshot::SnapshotError;
pub use topic::{CreateTopicError, DeletedTopic, NewTopic, Topic};
