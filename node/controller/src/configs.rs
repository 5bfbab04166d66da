//! Changing configs: sets, resets and list edits (KIP-339).

use std::collections::BTreeMap;

use meridian_types::{NodeId, TopicId};
use thiserror::Error;

use crate::settings::topic::{self, TopicSettings};
use crate::settings::{Scope, Setting, SettingKind, broker, find, suggest};

/// Configs that are set on a resource, each value in canonical form.
pub type Configs = BTreeMap<String, String>;

/// What a config belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigResource {
    /// A topic.
    Topic(TopicId),
    /// Every broker of the cluster: Kafka's broker resource with an empty name.
    Cluster,
    /// One broker.
    Node(NodeId),
}

/// A change of one resource's configs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigChange {
    /// Whose configs.
    pub resource: ConfigResource,
    /// Whether whatever `ops` do not set goes back to its default: AlterConfigs does, IncrementalAlterConfigs
    /// does not.
    pub replace_all: bool,
    /// What to do, in order. All or nothing.
    pub ops: Vec<ConfigOp>,
}

/// One step of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigOp {
    /// Gives a config a value.
    Set {
        /// The config.
        name: String,
        /// Its value.
        value: String,
    },
    /// Gives a config its default back.
    Delete {
        /// The config.
        name: String,
    },
    /// Adds to a list what it does not hold yet.
    Append {
        /// The config, a list.
        name: String,
        /// Items to add, parted by commas.
        value: String,
    },
    /// Takes items out of a list.
    Subtract {
        /// The config, a list.
        name: String,
        /// Items to take out, parted by commas.
        value: String,
    },
}

/// Why configs were not changed. Kafka's 40, INVALID_CONFIG, unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Nobody knows this config here.
    #[error("unknown {what} config '{name}'{}", suggestion.map(|s| format!("; did you mean '{s}'?")).unwrap_or_default())]
    Unknown {
        /// Topic or broker.
        what: &'static str,
        /// The name asked for.
        name: String,
        /// The known name that is nearest to it.
        suggestion: Option<&'static str>,
    },
    /// The value is not possible.
    #[error("invalid value '{value}' for config '{name}': {reason}")]
    Invalid {
        /// The config.
        name: String,
        /// The value.
        value: String,
        /// What would be possible.
        reason: String,
    },
    /// The config tells a fact.
    #[error("config '{name}' cannot be changed")]
    ReadOnly {
        /// The config.
        name: String,
    },
    /// All brokers must agree on it.
    #[error(
        "config '{name}' holds for the whole cluster: alter it on the broker resource with an empty name"
    )]
    ClusterOnly {
        /// The config.
        name: String,
    },
    /// Only lists can be added to and taken from.
    #[error("cannot append to or subtract from config '{name}': it is not a list")]
    NotAList {
        /// The config.
        name: String,
    },
    /// Two values do not go together.
    #[error("{what}")]
    Conflict {
        /// What stands against what.
        what: String,
    },
    /// Kafka's 3, UNKNOWN_TOPIC_OR_PARTITION.
    #[error("there is no topic with id {topic}")]
    TopicNotFound {
        /// The id.
        topic: TopicId,
    },
    /// Kafka's 42, INVALID_REQUEST.
    #[error("node {node} is not registered")]
    NodeNotFound {
        /// The node.
        node: NodeId,
    },
}

/// The configs of a new topic in canonical form.
pub(crate) fn canonical_topic_configs(
    configs: &BTreeMap<String, String>,
    cluster: &Configs,
) -> Result<Configs, ConfigError> {
    let mut canonical = Configs::new();
    for (name, value) in configs {
        let setting = known("topic", topic::SETTINGS, name)?;
        canonical.insert(name.clone(), setting.canonical(value)?);
    }
    TopicSettings::check(&canonical, cluster)?;
    Ok(canonical)
}

/// The configs of a new cluster in canonical form.
pub(crate) fn canonical_cluster_configs(configs: &Configs) -> Result<Configs, ConfigError> {
    let set = |(name, value): (&String, &String)| ConfigOp::Set {
        name: name.clone(),
        value: value.clone(),
    };
    let change = ConfigChange {
        resource: ConfigResource::Cluster,
        replace_all: true,
        ops: configs.iter().map(set).collect(),
    };
    alter_cluster(&change, &Configs::new())
}

/// A topic's configs after a change.
pub(crate) fn alter_topic(
    change: &ConfigChange,
    present: &Configs,
    cluster: &Configs,
) -> Result<Configs, ConfigError> {
    let setting = |name: &str| known("topic", topic::SETTINGS, name);
    let in_force = |setting: &Setting| setting.resolve(&[], cluster).value;
    let mut altered = alter(change, present, setting, in_force)?;
    let is_named = |op: &ConfigOp| matches!(op, ConfigOp::Set { name, .. } if name == topic::HOME);
    if change.replace_all && !change.ops.iter().any(is_named) {
        // What is not named goes back to its default; this cannot.
        altered.extend(
            present
                .get_key_value(topic::HOME)
                .map(|(name, value)| (name.clone(), value.clone())),
        );
    }
    if topic::home(&altered) != topic::home(present) {
        let what =
            "geo.home is decided when a topic is made: make another topic, and copy the records".to_owned();
        return Err(ConfigError::Conflict { what });
    }
    TopicSettings::check(&altered, cluster)?;
    Ok(altered)
}

/// The cluster's configs after a change.
pub(crate) fn alter_cluster(change: &ConfigChange, present: &Configs) -> Result<Configs, ConfigError> {
    let setting = |name: &str| match known("broker", broker::SETTINGS, name)? {
        setting if setting.scope == Scope::ReadOnly => Err(ConfigError::ReadOnly { name: name.into() }),
        setting => Ok(setting),
    };
    let in_force = |setting: &Setting| setting.default.unwrap_or_default().to_owned();
    let altered = alter(change, present, setting, in_force)?;
    TopicSettings::check(&Configs::new(), &altered)?;
    Ok(altered)
}

/// A node's configs after a change.
pub(crate) fn alter_node(
    change: &ConfigChange,
    present: &Configs,
    cluster: &Configs,
) -> Result<Configs, ConfigError> {
    let setting = |name: &str| match known("broker", broker::SETTINGS, name)? {
        setting if setting.scope == Scope::Node => Ok(setting),
        setting if setting.scope == Scope::ReadOnly => Err(ConfigError::ReadOnly { name: name.into() }),
        _ => Err(ConfigError::ClusterOnly { name: name.into() }),
    };
    let in_force = |setting: &Setting| setting.resolve(&[], cluster).value;
    alter(change, present, setting, in_force)
}

fn known(what: &'static str, table: &'static [Setting], name: &str) -> Result<&'static Setting, ConfigError> {
    find(table, name).ok_or_else(|| ConfigError::Unknown {
        what,
        name: name.to_owned(),
        suggestion: suggest(table, name),
    })
}

/// `in_force` gives the value that a list has while it is not set here.
fn alter(
    change: &ConfigChange,
    present: &Configs,
    setting: impl Fn(&str) -> Result<&'static Setting, ConfigError>,
    in_force: impl Fn(&Setting) -> String,
) -> Result<Configs, ConfigError> {
    let mut configs = if change.replace_all {
        Configs::new()
    } else {
        present.clone()
    };
    for op in &change.ops {
        match op {
            ConfigOp::Set { name, value } => {
                configs.insert(name.clone(), setting(name)?.canonical(value)?);
            }
            ConfigOp::Delete { name } => {
                setting(name)?;
                configs.remove(name);
            }
            ConfigOp::Append { name, value } | ConfigOp::Subtract { name, value } => {
                let setting = setting(name)?;
                if setting.kind != SettingKind::List {
                    return Err(ConfigError::NotAList { name: name.clone() });
                }
                let list = configs.get(name).cloned().unwrap_or_else(|| in_force(setting));
                let mut items: Vec<&str> = items(&list).collect();
                match op {
                    ConfigOp::Append { .. } => items.extend(self::items(value)),
                    _ => items.retain(|item| !self::items(value).any(|gone| gone == *item)),
                }
                configs.insert(name.clone(), setting.canonical(&items.join(","))?);
            }
        }
    }
    Ok(configs)
}

/// The items of a list, without blanks around them.
pub(crate) fn items(list: &str) -> impl Iterator<Item = &str> {
    let list = list.trim();
    list.split(',').map(str::trim).filter(move |_| !list.is_empty())
}
