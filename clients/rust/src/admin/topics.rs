//! Creating, listing, growing and deleting topics.

use std::sync::Arc;

use meridian_types::TopicId;
use meridian_wire::messages::create_partitions::CreatePartitionsTopic;
use meridian_wire::messages::create_topics::{CreatableTopic, CreatableTopicConfig};
use meridian_wire::messages::delete_topics::DeleteTopicState;
use meridian_wire::{ApiKey, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, Str};

use super::{Admin, AdminError, partition_id, refused};
use crate::error::Refusal;
use crate::metadata::TopicMetadata;

/// A topic to create.
#[derive(Clone, Debug, Default)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; `None` for the server's default.
    pub partitions: Option<u32>,
    /// How many replicas of each; `None` for the server's default.
    pub replicas: Option<u16>,
    /// Its settings that differ from the defaults.
    pub configs: Vec<(String, String)>,
}

/// A topic that was created.
#[derive(Clone, Debug)]
pub struct CreatedTopic {
    /// Its name.
    pub name: String,
    /// Its id, from servers that give one.
    pub id: Option<TopicId>,
    /// Its partitions, if the server tells.
    pub partitions: Option<u32>,
    /// Its replicas, if the server tells.
    pub replicas: Option<u16>,
}

impl Admin {
    /// Creates a topic; with `validate_only` only checks whether it could be.
    pub async fn create_topic(
        &self,
        topic: &NewTopic,
        validate_only: bool,
    ) -> Result<CreatedTopic, AdminError> {
        let count = |count: Option<i32>| count.unwrap_or(-1);
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: topic.name.clone().into(),
                num_partitions: count(topic.partitions.map(partition_id)),
                replication_factor: topic
                    .replicas
                    .map_or(-1, |replicas| i16::try_from(replicas).unwrap_or(i16::MAX)),
                configs: topic
                    .configs
                    .iter()
                    .map(|(name, value)| CreatableTopicConfig {
                        name: name.into(),
                        value: Some(value.into()),
                    })
                    .collect(),
                ..CreatableTopic::default()
            }],
            timeout_ms: self.server_timeout_ms(),
            validate_only,
        };
        let response = self.cluster.send_controller(&request).await?;
        let what = format!("topic '{}'", topic.name);
        let Some(created) = response.topics.iter().find(|it| it.name == *topic.name) else {
            return Err(AdminError::Unanswered {
                api: ApiKey::CreateTopics,
                what,
            });
        };
        refused(
            what,
            Refusal::check(created.error_code, created.error_message.as_deref()),
        )?;
        Ok(CreatedTopic {
            name: topic.name.clone(),
            id: Some(TopicId(created.topic_id)).filter(|id| *id != TopicId::NIL),
            partitions: u32::try_from(created.num_partitions).ok(),
            replicas: u16::try_from(created.replication_factor).ok(),
        })
    }

    /// Deletes a topic and all its records.
    pub async fn delete_topic(&self, name: &str) -> Result<(), AdminError> {
        let text = Str::from(name.to_owned());
        let request = DeleteTopicsRequest {
            topics: vec![DeleteTopicState {
                name: Some(text.clone()),
                ..DeleteTopicState::default()
            }],
            topic_names: vec![text],
            timeout_ms: self.server_timeout_ms(),
        };
        // One list or the other, by version: the newer one cannot be sent to an old server.
        let request = match self.controller_version(ApiKey::DeleteTopics).await? {
            Some(version) if version < 6 => DeleteTopicsRequest {
                topics: Vec::new(),
                ..request
            },
            _ => request,
        };
        let response = self.cluster.send_controller(&request).await?;
        let what = format!("topic '{name}'");
        let Some(deleted) = response.responses.first() else {
            return Err(AdminError::Unanswered {
                api: ApiKey::DeleteTopics,
                what,
            });
        };
        refused(
            what,
            Refusal::check(deleted.error_code, deleted.error_message.as_deref()),
        )
    }

    /// Raises the number of a topic's partitions to `count`.
    pub async fn create_partitions(
        &self,
        topic: &str,
        count: u32,
        validate_only: bool,
    ) -> Result<(), AdminError> {
        let request = CreatePartitionsRequest {
            topics: vec![CreatePartitionsTopic {
                name: topic.to_owned().into(),
                count: partition_id(count),
                assignments: None,
            }],
            timeout_ms: self.server_timeout_ms(),
            validate_only,
        };
        let response = self.cluster.send_controller(&request).await?;
        let what = format!("topic '{topic}'");
        let Some(result) = response.results.first() else {
            return Err(AdminError::Unanswered {
                api: ApiKey::CreatePartitions,
                what,
            });
        };
        refused(
            what,
            Refusal::check(result.error_code, result.error_message.as_deref()),
        )
    }

    /// Every topic, by name.
    pub async fn list_topics(&self) -> Result<Vec<Arc<TopicMetadata>>, AdminError> {
        let update = self.cluster.refresh(None).await?;
        Ok(update.metadata.topics.into_values().collect())
    }

    /// One topic, as the server knows it now.
    pub async fn describe_topic(&self, name: &str) -> Result<Arc<TopicMetadata>, AdminError> {
        let update = self.cluster.refresh(Some(&[name])).await?;
        if let Some(topic) = update.metadata.topics.get(name) {
            return Ok(Arc::clone(topic));
        }
        let what = format!("topic '{name}'");
        match update.errors.get(name) {
            Some(code) => Err(AdminError::Refused {
                what,
                refusal: (*code).into(),
            }),
            None => Err(AdminError::Unanswered {
                api: ApiKey::Metadata,
                what,
            }),
        }
    }

    /// The version that the controller will be asked in.
    async fn controller_version(&self, api: ApiKey) -> Result<Option<i16>, AdminError> {
        let metadata = self.cluster.metadata();
        let Some(controller) = metadata.controller else {
            return Ok(None);
        };
        let connection = self
            .cluster
            .connection(crate::cluster::Lane::SHARED, controller)
            .await?;
        Ok(connection.versions().common(api))
    }
}
