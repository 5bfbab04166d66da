//! Configuration, wiring and admin endpoint: the only place that knows every concrete type.
//!
//! [`Config`] says where each setting comes from; [`Server::start`] builds a node from settings and
//! runs it until [`Server::stop`].

mod admin;
mod bucket;
mod config;
mod disk;
mod driver;
mod geo;
mod identity;
mod logging;
mod metrics;
mod restore;
mod server;
mod settings;

pub use config::{Config, ConfigError, Explained, variable};
pub use identity::IdentityError;
pub use logging::{LoggingError, start_logging};
pub use meridian_shard::restore::{CopyUsed, RestoreError, RestoreProgress, RestoreReport, ShardRestored};
pub use restore::{HalfRestored, RestoreDirectoryError, RestoreOptions, restore};
pub use server::{Server, ServerError};
pub use settings::{
    AdminSection, ByteCount, Congestion, Durability, GeoCompression, GeoSection, GeoTransport, GroupSection,
    JournalSection, KafkaSection, LogFormat, LogSection, NodeSection, RaftSection, RegionSection, SETTINGS,
    SettingDoc, Settings, ShardSection, Text,
};
