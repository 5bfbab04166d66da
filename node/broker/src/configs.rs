//! The broker configs in force on this node.

use std::sync::Arc;
use std::time::Duration;

use meridian_controller::{
    BrokerSettings as Altered, ConfigSource, Controller, DescribedConfig, DescribedSynonym,
};
use meridian_types::NodeId;
use parking_lot::Mutex;

use crate::settings::BrokerSettings;

/// What a config is worth now: as altered through the protocol, else as the node was started with, else Kafka's
/// default.
#[derive(Clone, Debug)]
pub(crate) struct Configs {
    pub(crate) auto_create_topics: bool,
    pub(crate) delete_topics: bool,
    pub(crate) num_partitions: u32,
    pub(crate) group_initial_rebalance_delay_ms: i64,
    pub(crate) group_session_timeout_min_ms: i32,
    pub(crate) group_session_timeout_max_ms: i32,
    pub(crate) group_members_max: usize,
    pub(crate) offset_metadata_bytes_max: usize,
    pub(crate) offsets_retention_ms: i64,
    pub(crate) offsets_retention_check_interval: Duration,
    pub(crate) fetch_bytes_max: u32,
    pub(crate) fetch_sessions_max: usize,
    pub(crate) idle_timeout: Duration,
    pub(crate) connections_max: usize,
    pub(crate) connections_per_ip_max: usize,
    /// What the node was started with, as text, for those that it can be told.
    started_with: Vec<(&'static str, String)>,
}

impl Configs {
    /// Corrects what the region says of a config of this node where the node was started with another value.
    pub(crate) fn show_in(&self, config: &mut DescribedConfig) {
        let Some((_, value)) = self.started_with.iter().find(|(name, _)| *name == config.name) else {
            return;
        };
        if config.source != ConfigSource::Default || config.value.as_ref() == Some(value) {
            return;
        }
        config.value = Some(value.clone());
        config.source = ConfigSource::StaticBroker;
        let synonym = DescribedSynonym {
            name: config.name,
            value: Some(value.clone()),
            source: config.source,
        };
        config.synonyms.insert(0, synonym);
    }
}

/// Resolves configs once per change of the region's.
#[derive(Debug, Default)]
pub(crate) struct ConfigCache {
    resolved: Mutex<Option<(Arc<Altered>, Arc<Configs>)>>,
}

impl ConfigCache {
    pub(crate) fn get(
        &self,
        controller: &Controller,
        node: NodeId,
        settings: &BrokerSettings,
    ) -> Arc<Configs> {
        let altered = controller.broker_settings(node);
        let mut resolved = self.resolved.lock();
        if let Some((known, configs)) = &*resolved
            && Arc::ptr_eq(known, altered)
        {
            return configs.clone();
        }
        let configs = Arc::new(resolve(controller, node, altered, settings));
        *resolved = Some((altered.clone(), configs.clone()));
        configs
    }
}

fn resolve(controller: &Controller, node: NodeId, altered: &Altered, settings: &BrokerSettings) -> Configs {
    let described = controller.describe_broker(node);
    let is_altered = |name: &str| {
        described.iter().any(|config| {
            let is_dynamic = matches!(
                config.source,
                ConfigSource::DynamicBroker | ConfigSource::DynamicDefaultBroker
            );
            config.name == name && is_dynamic
        })
    };
    let BrokerSettings {
        limits,
        kafka,
        groups,
    } = settings;
    let signed = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    Configs {
        auto_create_topics: match is_altered("auto.create.topics.enable") {
            true => altered.auto_create_topics,
            false => kafka.auto_create_topics,
        },
        delete_topics: altered.delete_topics,
        num_partitions: match is_altered("num.partitions") {
            true => altered.num_partitions,
            false => kafka.partitions_default,
        },
        group_initial_rebalance_delay_ms: match is_altered("group.initial.rebalance.delay.ms") {
            true => altered.group_initial_rebalance_delay_ms.into(),
            false => millis(kafka.group_initial_rebalance_delay),
        },
        group_session_timeout_min_ms: signed(altered.group_min_session_timeout_ms),
        group_session_timeout_max_ms: signed(altered.group_max_session_timeout_ms),
        group_members_max: groups.group_size_max.min(altered.group_max_size as usize),
        offset_metadata_bytes_max: altered.offset_metadata_bytes_max as usize,
        offsets_retention_ms: match is_altered("offsets.retention.minutes") {
            true => i64::try_from(altered.offsets_retention_ms).unwrap_or(i64::MAX),
            false => millis(kafka.offsets_retention),
        },
        offsets_retention_check_interval: Duration::from_millis(altered.offsets_retention_check_interval_ms),
        fetch_bytes_max: altered.fetch_bytes_max,
        fetch_sessions_max: altered.fetch_sessions_max as usize,
        idle_timeout: limits
            .idle_timeout
            .min(Duration::from_millis(altered.connections_max_idle_ms)),
        connections_max: limits.connections_max.min(altered.connections_max as usize),
        connections_per_ip_max: limits
            .connections_per_ip_max
            .min(altered.connections_per_ip_max as usize),
        started_with: started_with(settings),
    }
}

fn started_with(settings: &BrokerSettings) -> Vec<(&'static str, String)> {
    let BrokerSettings { limits, kafka, .. } = settings;
    vec![
        ("auto.create.topics.enable", kafka.auto_create_topics.to_string()),
        ("num.partitions", kafka.partitions_default.to_string()),
        (
            "group.initial.rebalance.delay.ms",
            millis(kafka.group_initial_rebalance_delay).to_string(),
        ),
        (
            "offsets.retention.minutes",
            (kafka.offsets_retention.as_secs() / 60).to_string(),
        ),
        ("connections.max.idle.ms", millis(limits.idle_timeout).to_string()),
        ("max.connections", limits.connections_max.to_string()),
        (
            "max.connections.per.ip",
            limits.connections_per_ip_max.to_string(),
        ),
    ]
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
