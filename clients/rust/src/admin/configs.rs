//! Settings of topics and brokers.

use meridian_types::NodeId;
use meridian_wire::messages::describe_configs::DescribeConfigsResource;
use meridian_wire::messages::incremental_alter_configs::{AlterConfigsResource, AlterableConfig};
use meridian_wire::{ApiKey, DescribeConfigsRequest, IncrementalAlterConfigsRequest};

use super::{Admin, AdminError, refused};
use crate::cluster::Lane;
use crate::error::Refusal;

/// What has settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigResource {
    /// A topic.
    Topic(String),
    /// One broker.
    Broker(NodeId),
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// Its value; `None` if it is not shown or not set.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Whether it cannot be changed.
    pub is_read_only: bool,
    /// Whether the value is a secret.
    pub is_sensitive: bool,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// Set on the topic.
    Topic,
    /// Set on the broker while it runs.
    DynamicBroker,
    /// Set for all brokers while they run.
    DynamicDefault,
    /// The broker's file or command line.
    StaticBroker,
    /// Built in.
    Default,
    /// Another one.
    Other,
}

/// A change of one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// Gives it this value.
    Set(String, String),
    /// Takes it back to its default.
    Reset(String),
}

impl ConfigSource {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::DynamicBroker => "dynamic broker",
            Self::DynamicDefault => "dynamic default",
            Self::StaticBroker => "static broker",
            Self::Default => "default",
            Self::Other => "other",
        }
    }

    fn from_code(code: i8) -> Self {
        match code {
            1 => Self::Topic,
            2 => Self::DynamicBroker,
            3 => Self::DynamicDefault,
            4 => Self::StaticBroker,
            5 => Self::Default,
            _ => Self::Other,
        }
    }
}

impl ConfigResource {
    fn type_code(&self) -> i8 {
        match self {
            Self::Topic(_) => 2,
            Self::Broker(_) => 4,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Topic(name) => name.clone(),
            Self::Broker(id) => id.to_string(),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Topic(name) => format!("topic '{name}'"),
            Self::Broker(id) => format!("broker {id}"),
        }
    }
}

impl Admin {
    /// The settings of a topic or broker, by name.
    pub async fn describe_configs(&self, resource: &ConfigResource) -> Result<Vec<ConfigEntry>, AdminError> {
        let request = DescribeConfigsRequest {
            resources: vec![DescribeConfigsResource {
                resource_type: resource.type_code(),
                resource_name: resource.name().into(),
                configuration_keys: None,
            }],
            ..DescribeConfigsRequest::default()
        };
        let response = match resource {
            ConfigResource::Topic(_) => self.cluster.send_any(&request).await?,
            ConfigResource::Broker(id) => self.cluster.send_to(Lane::SHARED, *id, &request).await?,
        };
        let what = resource.describe();
        let Some(result) = response.results.first() else {
            return Err(AdminError::Unanswered {
                api: ApiKey::DescribeConfigs,
                what,
            });
        };
        refused(
            what,
            Refusal::check(result.error_code, result.error_message.as_deref()),
        )?;
        let mut entries: Vec<ConfigEntry> = result
            .configs
            .iter()
            .map(|config| ConfigEntry {
                name: config.name.as_str().to_owned(),
                value: config.value.as_ref().map(|value| value.as_str().to_owned()),
                source: ConfigSource::from_code(config.config_source),
                is_read_only: config.read_only,
                is_sensitive: config.is_sensitive,
            })
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Changes settings, all of them or none.
    pub async fn alter_configs(
        &self,
        resource: &ConfigResource,
        changes: &[ConfigChange],
        validate_only: bool,
    ) -> Result<(), AdminError> {
        let request = IncrementalAlterConfigsRequest {
            resources: vec![AlterConfigsResource {
                resource_type: resource.type_code(),
                resource_name: resource.name().into(),
                configs: changes
                    .iter()
                    .map(|change| match change {
                        ConfigChange::Set(name, value) => AlterableConfig {
                            name: name.into(),
                            config_operation: 0,
                            value: Some(value.into()),
                        },
                        ConfigChange::Reset(name) => AlterableConfig {
                            name: name.into(),
                            config_operation: 1,
                            value: None,
                        },
                    })
                    .collect(),
            }],
            validate_only,
        };
        let response = match resource {
            ConfigResource::Topic(_) => self.cluster.send_controller(&request).await?,
            ConfigResource::Broker(id) => self.cluster.send_to(Lane::SHARED, *id, &request).await?,
        };
        let what = resource.describe();
        let Some(result) = response.responses.first() else {
            return Err(AdminError::Unanswered {
                api: ApiKey::IncrementalAlterConfigs,
                what,
            });
        };
        refused(
            what,
            Refusal::check(result.error_code, result.error_message.as_deref()),
        )
    }
}
