//! Changes that come to a mirror: of configs, and topics that are made on demand. Stock clients bring them to any broker, not to
//! the controller, and take a refusal as final: so they are carried to the owner.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_controller::{Command, ConfigChange, ConfigResource, CreateTopicError, NewTopic, Outcome};
use meridian_geo_mirror::Refusal;
use meridian_types::ShardId;

use super::question::{Altered, Question};
use crate::errors::ControlError;
use crate::region::{Inner, Region};

/// How long the owner may take, and how long this region to have what it did.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const APPLIED_TIMEOUT: Duration = Duration::from_secs(5);

/// So many fit a question, however long their names are.
const TOPICS_PER_QUESTION: usize = 8;

impl Region {
    /// Has the region that owns the cluster change configs of topics or of the cluster, and waits a while until this
    /// region has them too. Each change is answered, in order: why not, in the owner's words.
    pub async fn alter_configs_at_owner(
        &self,
        changes: Vec<ConfigChange>,
    ) -> Result<Vec<Result<(), String>>, ControlError> {
        self.at_owner(changes.len(), &Command::AlterConfigs { changes })
            .await
    }

    /// Has the region that owns the cluster create topics, and waits a while until this region has them too. Each is answered,
    /// in order: why not, in the owner's words. One that is there already is as good.
    pub async fn create_topics_at_owner(
        &self,
        mut topics: Vec<NewTopic>,
    ) -> Result<Vec<Result<(), String>>, ControlError> {
        let now = self.now();
        let mut outcomes = Vec::with_capacity(topics.len());
        while !topics.is_empty() {
            let rest = topics.split_off(topics.len().min(TOPICS_PER_QUESTION));
            let topics = std::mem::replace(&mut topics, rest);
            let count = topics.len();
            outcomes.extend(
                self.at_owner(count, &Command::CreateTopics { topics, now })
                    .await?,
            );
        }
        Ok(outcomes)
    }

    /// Has the owner carry out a command of `count` changes.
    async fn at_owner(
        &self,
        count: usize,
        command: &Command,
    ) -> Result<Vec<Result<(), String>>, ControlError> {
        let inner = &self.inner;
        let unknown = |reason: String| ControlError::Unknown { reason };
        let Some(links) = inner.mirror().and_then(super::Mirror::links) else {
            return Err(ControlError::NotLeader { leader: None });
        };
        let owner = super::ownership::believed(inner).owner;
        let command = command.encode().concat().into();
        let question = Question::Alter { command }.encode();
        if question.len() > meridian_geo_mirror::QUESTION_BYTES_MAX {
            return Err(unknown(format!(
                "a change of {} bytes is too long to be carried to region {owner}: ask a broker there",
                question.len()
            )));
        }
        let asked = links.ask_region(owner, ShardId::CONTROLLER, question);
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, asked)
            .await
            .map_err(|_| unknown(format!("region {owner}, which owns, does not answer")))?
            .map_err(|error| unknown(format!("region {owner}, which owns: {error}")))?;
        let altered = Altered::decode(&answer).map_err(|error| unknown(error.to_string()))?;
        if altered.outcomes.len() != count {
            return Err(unknown("the owner answered something else".to_owned()));
        }
        let mut applied = inner.control_group.applied();
        let is_here = async {
            while inner.control.controller().standing().sequence() < altered.sequence {
                if applied.changed().await.is_err() {
                    return;
                }
            }
        };
        // It comes, sooner or later.
        let _ = tokio::time::timeout(APPLIED_TIMEOUT, is_here).await;
        Ok(altered.outcomes)
    }
}

/// Does for another region what only the owner may.
pub(super) async fn carry_out(inner: &Arc<Inner>, command: &Bytes) -> Result<Bytes, Refusal> {
    let unknown = |reason: String| Refusal::Unknown { reason };
    let command =
        Command::decode(std::slice::from_ref(command)).map_err(|error| unknown(error.to_string()))?;
    let is_shared = |change: &ConfigChange| !matches!(change.resource, ConfigResource::Node(_));
    let command = match command {
        Command::AlterConfigs { changes } if changes.iter().all(is_shared) => {
            Command::AlterConfigs { changes }
        }
        Command::AlterConfigs { .. } => {
            return Err(unknown(
                "configs of nodes are their region's own matter".to_owned(),
            ));
        }
        Command::CreateTopics { topics, .. } => Command::CreateTopics {
            topics,
            now: (inner.clock)(),
        },
        other => {
            return Err(unknown(format!("{} is not done for other regions", other.name())));
        }
    };
    let outcome = inner
        .control(&command)
        .await
        .map_err(|error| unknown(error.to_string()))?;
    let outcomes = match outcome {
        Outcome::ConfigsAltered(results) => {
            let told = results.into_iter();
            told.map(|result| result.map_err(|error| error.to_string()))
                .collect()
        }
        Outcome::TopicsCreated(results) => {
            let told = results.into_iter();
            told.map(|result| match result {
                Ok(_) | Err(CreateTopicError::Exists { .. }) => Ok(()),
                Err(error) => Err(error.to_string()),
            })
            .collect()
        }
        other => return Err(unknown(format!("the owner's controller answered {other:?}"))),
    };
    let altered = Altered {
        outcomes,
        sequence: inner.control.controller().standing().sequence(),
    };
    Ok(altered.encode())
}
