//! Configs as DescribeConfigs shows them: every value with where it comes from.

use meridian_types::NodeId;

use crate::configs::Configs;
use crate::controller::Controller;
use crate::settings::{Origin, Scope, Setting, SettingKind, broker, find, topic};
use crate::topic::Topic;

/// One config of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedConfig {
    /// Its name.
    pub name: &'static str,
    /// The value in force; `None` is Kafka's null.
    pub value: Option<String>,
    /// The type of its value.
    pub kind: SettingKind,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Whether it can only be read.
    pub is_read_only: bool,
    /// Whether it is a secret; then the value is `None`.
    pub is_sensitive: bool,
    /// Everything that gives it a value, the strongest first.
    pub synonyms: Vec<DescribedSynonym>,
    /// What it does.
    pub documentation: &'static str,
}

/// One of the values that a config could have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedSynonym {
    /// The config that gives it.
    pub name: &'static str,
    /// The value it gives.
    pub value: Option<String>,
    /// Where it is set.
    pub source: ConfigSource,
}

/// Where a value comes from, by the number it has in DescribeConfigs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigSource {
    /// Set on the topic.
    DynamicTopic = 1,
    /// Set on the broker.
    DynamicBroker = 2,
    /// Set for every broker.
    DynamicDefaultBroker = 3,
    /// From how the broker was started.
    StaticBroker = 4,
    /// Built in.
    Default = 5,
}

impl ConfigSource {
    /// Its number in DescribeConfigs.
    pub fn number(self) -> i8 {
        self as i8
    }
}

impl Controller {
    /// Every config of a topic, by name.
    pub fn describe_topic(&self, topic: &Topic) -> Vec<DescribedConfig> {
        let describe = |setting| {
            describe(
                setting,
                &topic.configs,
                ConfigSource::DynamicTopic,
                &self.cluster_configs,
            )
        };
        topic::SETTINGS.iter().map(describe).collect()
    }

    /// Every config of a registered node, by name; empty if there is no such node.
    pub fn describe_broker(&self, node: NodeId) -> Vec<DescribedConfig> {
        let none = Configs::new();
        let Some(known) = self.node(node) else {
            return Vec::new();
        };
        let own = self.node_configs.get(&node).unwrap_or(&none);
        let fact = |name| match name {
            "broker.id" | "node.id" => Some(node.to_string()),
            "broker.rack" => known.registration.rack.clone(),
            _ => None,
        };
        let describe = |setting: &'static Setting| {
            let mut described = describe(setting, own, ConfigSource::DynamicBroker, &self.cluster_configs);
            if setting.scope == Scope::ReadOnly
                && let Some(value) = fact(setting.name)
            {
                let (name, source) = (setting.name, ConfigSource::StaticBroker);
                described.synonyms.insert(
                    0,
                    DescribedSynonym {
                        name,
                        value: Some(value.clone()),
                        source,
                    },
                );
                (described.value, described.source) = (Some(value), source);
            }
            described
        };
        broker::SETTINGS.iter().map(describe).collect()
    }

    /// The configs that are set for the whole cluster, by name.
    pub fn describe_cluster_configs(&self) -> Vec<DescribedConfig> {
        let set = self
            .cluster_configs
            .keys()
            .filter_map(|name| find(broker::SETTINGS, name));
        let none = Configs::new();
        set.map(|setting| describe(setting, &none, ConfigSource::DynamicBroker, &self.cluster_configs))
            .collect()
    }
}

fn describe(
    setting: &'static Setting,
    own: &Configs,
    own_source: ConfigSource,
    cluster: &Configs,
) -> DescribedConfig {
    let resolved = setting.resolve(&[own], cluster);
    let is_sensitive = setting.kind == SettingKind::Password;
    let shown = |value: &str| (!is_sensitive).then(|| value.to_owned());
    let mut synonyms = Vec::new();
    if let Some(value) = own.get(setting.name) {
        synonyms.push(DescribedSynonym {
            name: setting.name,
            value: shown(value),
            source: own_source,
        });
    }
    for (name, value) in setting.cluster_values(cluster) {
        let source = ConfigSource::DynamicDefaultBroker;
        synonyms.push(DescribedSynonym {
            name,
            value: shown(&value),
            source,
        });
    }
    if let Some(default) = setting.default {
        let name = setting.synonyms.first().map_or(setting.name, |(name, _)| name);
        synonyms.push(DescribedSynonym {
            name,
            value: shown(default),
            source: ConfigSource::Default,
        });
    }
    let (value, source) = match resolved.origin {
        Origin::Own => (shown(&resolved.value), own_source),
        Origin::Cluster(_) => (shown(&resolved.value), ConfigSource::DynamicDefaultBroker),
        Origin::Default => (setting.default.and_then(shown), ConfigSource::Default),
    };
    DescribedConfig {
        name: setting.name,
        value,
        kind: setting.kind,
        source,
        is_read_only: setting.scope == Scope::ReadOnly,
        is_sensitive,
        synonyms,
        documentation: setting.doc,
    }
}
