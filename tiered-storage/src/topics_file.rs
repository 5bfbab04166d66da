//! The names of the topics, as a JSON document in the bucket: bundles and manifests know topics by id only. Pure.
//!
//! Described in `docs/formats/manifest-file.md`. Written by the controller's leader beside each copy of its state.

use std::collections::BTreeMap;

use meridian_types::{RaftIndex, RegionNumber, ShardMap, TimestampMs, TopicId, Uuid};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The schema of the document.
const SCHEMA: &str = "meridian.topics.v1";

/// The topics of a region, as of one place of the controller's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicsFile {
    /// The cluster's id, as Kafka's clients see it.
    pub cluster: String,
    /// Name of the region.
    pub region: String,
    /// How partitions are dealt to the region's shards.
    pub shards: ShardMap,
    /// Last entry of the controller's log that it knows.
    pub index: RaftIndex,
    /// When it was written, by its writer's clock.
    pub written_at: TimestampMs,
    /// The topics.
    pub topics: Vec<NamedTopic>,
}

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTopic {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// The settings that were made for it.
    pub configs: BTreeMap<String, String>,
}

/// A topics file cannot be read: another object was taken for one, or it is of a newer version.
#[derive(Debug, Error)]
pub enum TopicsFileError {
    /// Not the JSON that is expected.
    #[error("it is not a document of the schema {SCHEMA}: {0}")]
    Json(#[from] serde_json::Error),
    /// JSON of another schema.
    #[error(
        "its schema is {found:?}, expected {SCHEMA:?}: a newer version wrote it, or it is something else"
    )]
    Schema {
        /// The schema it names.
        found: String,
    },
    /// Data that cannot be.
    #[error("{0}")]
    Value(String),
}

#[derive(Serialize, Deserialize)]
struct Document {
    schema: String,
    cluster: String,
    region: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    region_number: u16,
    shards: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    home_shards: u32,
    index: u64,
    written_at: i64,
    topics: Vec<DocumentTopic>,
}

/// What a region that is alone leaves out.
fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

#[derive(Serialize, Deserialize)]
struct DocumentTopic {
    id: String,
    name: String,
    partitions: u32,
    configs: BTreeMap<String, String>,
}

impl TopicsFile {
    /// Key of a new file: `<cluster>/topics/<index, 20 digits>-<id>.json`, below the bucket's prefix.
    pub fn key(cluster: &str, index: RaftIndex, id: Uuid) -> String {
        format!("{}{:020}-{id}.json", Self::prefix(cluster), index.0)
    }

    /// What the keys of all topics files begin with.
    pub fn prefix(cluster: &str) -> String {
        format!("{cluster}/topics/")
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let document = Document {
            schema: SCHEMA.to_owned(),
            cluster: self.cluster.clone(),
            region: self.region.clone(),
            region_number: self.shards.region().0,
            shards: self.shards.shared_count(),
            home_shards: self.shards.home_count(),
            index: self.index.0,
            written_at: self.written_at.0,
            topics: self
                .topics
                .iter()
                .map(|topic| DocumentTopic {
                    id: topic.id.to_string(),
                    name: topic.name.clone(),
                    partitions: topic.partitions,
                    configs: topic.configs.clone(),
                })
                .collect(),
        };
        serde_json::to_vec_pretty(&document).expect("text and numbers make JSON")
    }

    /// Reads a file.
    pub fn decode(bytes: &[u8]) -> Result<Self, TopicsFileError> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
        }
        let head: Head = serde_json::from_slice(bytes)?;
        if head.schema != SCHEMA {
            return Err(TopicsFileError::Schema { found: head.schema });
        }
        let document: Document = serde_json::from_slice(bytes)?;
        let (shared, home) = (document.shards, document.home_shards);
        let shards = shared
            .checked_add(home)
            .and_then(|count| ShardMap::new(RegionNumber(document.region_number), shared, count))
            .ok_or_else(|| {
                let found = format!("it names {shared} shards and {home} of its region alone");
                TopicsFileError::Value(format!(
                    "{found}, expected a power of two of each, or none of the latter"
                ))
            })?;
        let topics = document
            .topics
            .into_iter()
            .map(|topic| {
                let id = topic.id.parse().map_err(|_| {
                    TopicsFileError::Value(format!(
                        "topic {:?} has the id {:?}, expected a UUID",
                        topic.name, topic.id
                    ))
                })?;
                Ok(NamedTopic {
                    id: TopicId(id),
                    name: topic.name,
                    partitions: topic.partitions,
                    configs: topic.configs,
                })
            })
            .collect::<Result<_, TopicsFileError>>()?;
        Ok(Self {
            cluster: document.cluster,
            region: document.region,
            shards,
            index: RaftIndex(document.index),
            written_at: TimestampMs(document.written_at),
            topics,
        })
    }

    /// The topic of a name.
    pub fn topic(&self, name: &str) -> Option<&NamedTopic> {
        self.topics.iter().find(|topic| topic.name == name)
    }

    /// The topic of an id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&NamedTopic> {
        self.topics.iter().find(|topic| topic.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> TopicsFile {
        TopicsFile {
            cluster: "c".to_owned(),
            region: "west".to_owned(),
            shards: ShardMap::shared(16),
            index: RaftIndex(12),
            written_at: TimestampMs(1000),
            topics: vec![NamedTopic {
                id: TopicId(Uuid::from_u128(7)),
                name: "orders".to_owned(),
                partitions: 3,
                configs: BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())]),
            }],
        }
    }

    #[test]
    fn version_1_is_what_was_stored() {
        crate::fixture::assert("topics-v1.json", &file().encode());
    }

    #[test]
    fn a_file_comes_back() {
        let read = TopicsFile::decode(&file().encode()).unwrap();
        assert_eq!(read, file());
        assert_eq!(
            read.topic("orders"),
            read.topic_by_id(TopicId(Uuid::from_u128(7)))
        );
        assert!(read.topic("payments").is_none());
    }

    #[test]
    fn shards_of_topics_that_stay_in_the_region_come_back() {
        let shards = ShardMap::new(RegionNumber(7), 16, 20).unwrap();
        let file = TopicsFile { shards, ..file() };
        assert_eq!(TopicsFile::decode(&file.encode()).unwrap(), file);
        let text = String::from_utf8(file.encode()).unwrap();
        let wrong = text.replace("\"home_shards\": 4", "\"home_shards\": 3");
        assert!(TopicsFile::decode(wrong.as_bytes()).is_err());
    }

    #[test]
    fn other_documents_are_refused_with_what_was_expected() {
        let error = |text: &str| TopicsFile::decode(text.as_bytes()).unwrap_err().to_string();
        assert!(error("{").contains("meridian.topics.v1"));
        assert!(error(r#"{"schema":"meridian.topics.v2"}"#).contains("newer version"));
        let text = String::from_utf8(file().encode()).unwrap();
        assert!(error(&text.replace("\"shards\": 16", "\"shards\": 12")).contains("power of two"));
        let id = Uuid::from_u128(7).to_string();
        assert!(error(&text.replace(&id, "seven")).contains("expected a UUID"));
    }
}
