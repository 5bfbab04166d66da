//! Configuration, wiring and admin endpoint: the only place that knows every concrete type.
//!
//! [`Config`] says where each setting comes from; [`Server::start`] builds a node from settings and
//! runs it until [`Server::stop`].

mod admin;
mod config;
mod disk;
mod driver;
mod identity;
mod logging;
mod metrics;
mod server;
mod settings;

pub use config::{Config, ConfigError, Explained, variable};
pub use identity::IdentityError;
pub use logging::{LoggingError, start_logging};
pub use server::{Server, ServerError};
pub use settings::{
    AdminSection, ByteCount, Durability, GroupSection, JournalSection, KafkaSection, LogFormat, LogSection,
    NodeSection, RaftSection, RegionSection, SETTINGS, SettingDoc, Settings, ShardSection, Text,
};
