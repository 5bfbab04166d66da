//! Topics: names, partitions, configs.

use std::collections::BTreeMap;
use std::sync::Arc;

use meridian_types::{TimestampMs, TopicId};
use thiserror::Error;

use crate::configs::{ConfigError, Configs};
use crate::settings::topic::TopicSettings;

/// Longest name of a topic, in characters.
pub const TOPIC_NAME_MAX: usize = 249;

/// Most partitions that one topic may have.
pub const PARTITIONS_MAX: u32 = 1 << 20;

/// How long a deleted topic is remembered, for shards that have to drop it still.
pub const DELETED_TOPIC_MEMORY_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// A topic. Its partitions are `0..partitions`.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Its id, never used again.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: u32,
    /// The configs set on the topic itself, in canonical form.
    pub configs: Configs,
    /// When it was created, by the proposer's clock.
    pub created_at: TimestampMs,
    /// The settings in force: its own configs, then the cluster's, then the defaults.
    pub settings: Arc<TopicSettings>,
}

/// A topic to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// A fresh random id.
    pub id: TopicId,
    /// How many partitions; the proposer fills in the default.
    pub partitions: u32,
    /// Configs to set on it.
    pub configs: BTreeMap<String, String>,
}

/// A topic that is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedTopic {
    /// The name it had.
    pub name: Arc<str>,
    /// When it was deleted, by the proposer's clock.
    pub deleted_at: TimestampMs,
}

/// Why a topic was not created.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CreateTopicError {
    /// Kafka's 36, TOPIC_ALREADY_EXISTS.
    #[error("topic '{name}' already exists")]
    Exists {
        /// The name.
        name: String,
    },
    /// Kafka's 17, INVALID_TOPIC_EXCEPTION.
    #[error("topic name is invalid: {0}")]
    Name(#[from] NameError),
    /// Kafka's 17, INVALID_TOPIC_EXCEPTION.
    #[error(
        "topic '{name}' collides with existing topic '{other}': '.' and '_' are the same in metric names"
    )]
    Collision {
        /// The name.
        name: String,
        /// The topic that stands in its way.
        other: String,
    },
    /// Kafka's 37, INVALID_PARTITIONS.
    #[error("number of partitions is {partitions}; it must be from 1 to {PARTITIONS_MAX}")]
    Partitions {
        /// The number asked for.
        partitions: u32,
    },
    /// Kafka's 40, INVALID_CONFIG.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Kafka's 40, INVALID_CONFIG: it is to stay in a region that the cluster does not have, or its id says another one.
    #[error(
        "topic '{name}' is to stay in region '{home}' (geo.home), which the cluster does not have; see 'meridian region list'"
    )]
    Home {
        /// The topic's name.
        name: String,
        /// The region.
        home: String,
    },
    /// The proposer's id is nil or taken: propose again with a fresh one.
    #[error("topic id {id} is nil or taken already")]
    IdTaken {
        /// The id.
        id: TopicId,
    },
}

/// What is wrong with a name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// It has no characters.
    #[error("it is empty")]
    Empty,
    /// It stands for a directory.
    #[error("it cannot be \".\" or \"..\"")]
    Dots,
    /// It is too long.
    #[error("it has {characters} characters; at most {TOPIC_NAME_MAX} are allowed")]
    TooLong {
        /// Its length.
        characters: usize,
    },
    /// It has a character that is not allowed.
    #[error("it has {character:?}; allowed are ASCII letters, digits, '.', '_' and '-'")]
    Character {
        /// The first such character.
        character: char,
    },
}

/// Holds a name against Kafka's rules.
pub fn check_topic_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name == "." || name == ".." {
        return Err(NameError::Dots);
    }
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if let Some(character) = name.chars().find(|c| !is_allowed(*c)) {
        return Err(NameError::Character { character });
    }
    if name.len() > TOPIC_NAME_MAX {
        return Err(NameError::TooLong {
            characters: name.len(),
        });
    }
    Ok(())
}

/// Every topic, by name and by id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topics {
    by_name: BTreeMap<Arc<str>, Arc<Topic>>,
    by_id: BTreeMap<TopicId, Arc<Topic>>,
    /// Names with a '.' or '_', by what they collide on.
    collisions: BTreeMap<String, Arc<str>>,
    partitions: u64,
    pub(crate) deleted: BTreeMap<TopicId, DeletedTopic>,
}

impl Topics {
    pub(crate) fn by_name(&self, name: &str) -> Option<&Arc<Topic>> {
        self.by_name.get(name)
    }

    pub(crate) fn by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.by_id.get(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(crate) fn partitions(&self) -> u64 {
        self.partitions
    }

    /// Every topic, by name.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Topic>> {
        self.by_name.values()
    }

    /// The topics whose name is `name` or comes after it.
    pub(crate) fn iter_from(&self, name: &str) -> impl Iterator<Item = &Arc<Topic>> {
        let from = (std::ops::Bound::Included(name), std::ops::Bound::Unbounded);
        self.by_name.range::<str, _>(from).map(|(_, topic)| topic)
    }

    /// Everything but the configs of a new topic.
    pub(crate) fn check_new(&self, new: &NewTopic) -> Result<(), CreateTopicError> {
        if self.by_name.contains_key(new.name.as_str()) {
            return Err(CreateTopicError::Exists {
                name: new.name.clone(),
            });
        }
        check_topic_name(&new.name)?;
        if let Some(other) = collision_key(&new.name).and_then(|key| self.collisions.get(&key)) {
            return Err(CreateTopicError::Collision {
                name: new.name.clone(),
                other: other.to_string(),
            });
        }
        if !(1..=PARTITIONS_MAX).contains(&new.partitions) {
            return Err(CreateTopicError::Partitions {
                partitions: new.partitions,
            });
        }
        let is_taken = self.by_id.contains_key(&new.id) || self.deleted.contains_key(&new.id);
        if new.id == TopicId::NIL || is_taken {
            return Err(CreateTopicError::IdTaken { id: new.id });
        }
        Ok(())
    }

    /// Puts a topic in, over the one with the same name and id if there is one.
    pub(crate) fn put(&mut self, topic: Arc<Topic>) {
        if let Some(key) = collision_key(&topic.name) {
            self.collisions.insert(key, topic.name.clone());
        }
        self.partitions += u64::from(topic.partitions);
        if let Some(old) = self.by_name.insert(topic.name.clone(), topic.clone()) {
            self.partitions -= u64::from(old.partitions);
        }
        self.by_id.insert(topic.id, topic);
    }

    pub(crate) fn delete(&mut self, id: TopicId, now: TimestampMs) -> Option<Arc<Topic>> {
        let topic = self.by_id.remove(&id)?;
        self.by_name.remove(&topic.name);
        self.partitions -= u64::from(topic.partitions);
        if let Some(key) = collision_key(&topic.name) {
            self.collisions.remove(&key);
        }
        self.deleted.insert(
            id,
            DeletedTopic {
                name: topic.name.clone(),
                deleted_at: now,
            },
        );
        Some(topic)
    }

    pub(crate) fn forget_deleted(&mut self, now: TimestampMs) {
        let before = now.0.saturating_sub(DELETED_TOPIC_MEMORY_MS);
        self.deleted.retain(|_, topic| topic.deleted_at.0 >= before);
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let mut partitions = 0;
        for (name, topic) in &self.by_name {
            partitions += u64::from(topic.partitions);
            if *name != topic.name
                || !self
                    .by_id
                    .get(&topic.id)
                    .is_some_and(|same| Arc::ptr_eq(same, topic))
            {
                return Err(format!("topic {name:?} is filed under another name or id"));
            }
            if !(1..=PARTITIONS_MAX).contains(&topic.partitions) {
                return Err(format!("topic {name:?} has {} partitions", topic.partitions));
            }
            if self.deleted.contains_key(&topic.id) {
                return Err(format!("topic {name:?} has the id of a deleted one"));
            }
        }
        let colliding = self
            .by_name
            .keys()
            .filter_map(|name| Some((collision_key(name)?, name.clone())));
        if self.by_id.len() != self.by_name.len()
            || !colliding.collect::<BTreeMap<_, _>>().eq(&self.collisions)
        {
            return Err("the indexes of the topics differ".into());
        }
        if partitions != self.partitions {
            return Err(format!(
                "topics have {partitions} partitions, counted were {}",
                self.partitions
            ));
        }
        Ok(())
    }
}

/// What a name collides on, if it has a '.' or '_' at all (Kafka's metric names cannot tell the two apart).
fn collision_key(name: &str) -> Option<String> {
    name.contains(['.', '_']).then(|| name.replace('.', "_"))
}
