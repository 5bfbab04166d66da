//! What a bucket says of itself.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use meridian_types::{Partition, ShardId, TopicId};
use thiserror::Error;

use crate::manifest_file::ManifestFile;
use crate::store::{Store, StoreError};
use crate::topics_file::{NamedTopic, TopicsFile};

/// The topics and manifests of one cluster in a bucket, the newest of each that can be read.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// The cluster's id: the first part of all its keys.
    pub cluster: String,
    /// The topics.
    pub topics: NewestFile<TopicsFile>,
    /// The manifest of each shard that has written one.
    pub shards: BTreeMap<ShardId, NewestFile<ManifestFile>>,
}

/// The newest file of its kind that can be read.
#[derive(Clone, Debug)]
pub struct NewestFile<T> {
    /// Its key.
    pub key: String,
    /// What it says.
    pub file: T,
    /// Newer ones that cannot be read, and why.
    pub damaged: Vec<(String, String)>,
}

/// A bucket whose contents cannot be told.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// The store cannot be asked. Check the URL and the credentials, or try again.
    #[error("the bucket cannot be read: {0}")]
    Store(#[from] StoreError),
    /// Nothing there. Check the URL; or the region has not tiered anything yet.
    #[error("no region has written to this bucket, or to this prefix of it")]
    Empty,
    /// There are several clusters. Name one.
    #[error("the bucket holds {} clusters: {}", clusters.len(), clusters.join(", "))]
    Several {
        /// Their ids.
        clusters: Vec<String>,
    },
    /// The cluster that was named is not there.
    #[error("the bucket holds no cluster '{cluster}'; it holds {}", if clusters.is_empty() { "none".to_owned() } else { clusters.join(", ") })]
    NoCluster {
        /// The id that was named.
        cluster: String,
        /// Those that are there.
        clusters: Vec<String>,
    },
    /// No topics file, or none that can be read. Without it nothing says which topics the ids are, nor how many
    /// shards there are.
    #[error("cluster '{cluster}' has no readable list of its topics{}", listed(damaged))]
    NoTopics {
        /// The cluster.
        cluster: String,
        /// Those that cannot be read.
        damaged: Vec<(String, String)>,
    },
    /// A shard has manifest files, but none can be read: its part of the history is lost unless an object can be
    /// brought back from elsewhere.
    #[error("no manifest of shard {shard} can be read{}", listed(damaged))]
    NoManifest {
        /// The shard.
        shard: ShardId,
        /// Those that cannot be read.
        damaged: Vec<(String, String)>,
    },
}

fn listed(damaged: &[(String, String)]) -> String {
    damaged
        .iter()
        .map(|(key, reason)| format!("; {key}: {reason}"))
        .collect()
}

impl Catalog {
    /// The ids of the clusters in a bucket that have written a list of their topics, in order.
    pub async fn clusters(store: &Store) -> Result<Vec<String>, StoreError> {
        let mut clusters = Vec::new();
        // Others may lie beside them: what a probe left, or something that has nothing to do with us.
        for directory in store.list_directories("").await? {
            let inner = store.list_directories(&directory).await?;
            if inner.iter().any(|name| name == "topics") {
                clusters.push(directory);
            }
        }
        clusters.sort_unstable();
        Ok(clusters)
    }

    /// Reads what the bucket says of `cluster`, or of its only one.
    pub async fn open(store: &Store, cluster: Option<&str>) -> Result<Self, CatalogError> {
        let mut clusters = Self::clusters(store).await?;
        let cluster = match cluster {
            Some(cluster) if clusters.iter().any(|it| it == cluster) => cluster.to_owned(),
            Some(cluster) => {
                return Err(CatalogError::NoCluster {
                    cluster: cluster.to_owned(),
                    clusters,
                });
            }
            None if clusters.len() > 1 => return Err(CatalogError::Several { clusters }),
            None => clusters.pop().ok_or(CatalogError::Empty)?,
        };
        let topics = newest(store, &TopicsFile::prefix(&cluster), ".json", TopicsFile::decode).await?;
        let topics = match topics {
            Ok(topics) => topics,
            Err(damaged) => return Err(CatalogError::NoTopics { cluster, damaged }),
        };
        let mut shards = BTreeMap::new();
        for shard in topics.file.shards.all() {
            let prefix = ManifestFile::prefix(&cluster, shard);
            match newest(store, &prefix, ".manifest", ManifestFile::decode).await? {
                Ok(manifest) => {
                    shards.insert(shard, manifest);
                }
                // It has not tiered anything yet.
                Err(damaged) if damaged.is_empty() => {}
                Err(damaged) => return Err(CatalogError::NoManifest { shard, damaged }),
            }
        }
        Ok(Self {
            cluster,
            topics,
            shards,
        })
    }

    /// The shard that holds a partition, and its manifest if it has one.
    pub fn manifest(&self, partition: Partition) -> (ShardId, Option<&ManifestFile>) {
        let shard = self.topics.file.shards.of(partition);
        (shard, self.shards.get(&shard).map(|newest| &newest.file))
    }

    /// A topic's name, or its id where the topics file does not know it.
    pub fn topic_name(&self, id: TopicId) -> String {
        self.topics
            .file
            .topic_by_id(id)
            .map_or_else(|| id.to_string(), |topic: &NamedTopic| topic.name.clone())
    }

    /// Files that are newer than those that were read, but damaged.
    pub fn damaged(&self) -> impl Iterator<Item = &(String, String)> {
        let of_shards = self.shards.values().flat_map(|newest| &newest.damaged);
        self.topics.damaged.iter().chain(of_shards)
    }
}

/// The newest file below `prefix` that can be read; else what is wrong with each. Keys sort by age.
async fn newest<T, E: ToString>(
    store: &Store,
    prefix: &str,
    ending: &str,
    decode: fn(&[u8]) -> Result<T, E>,
) -> Result<Result<NewestFile<T>, Vec<(String, String)>>, StoreError> {
    let mut keys: Vec<String> = store
        .list(prefix)
        .try_collect::<Vec<_>>()
        .await?
        .into_iter()
        .map(|listed| listed.key)
        .filter(|key| key.ends_with(ending))
        .collect();
    keys.sort_unstable();
    let mut damaged = Vec::new();
    while let Some(key) = keys.pop() {
        let bytes = match store.get(&key).await {
            Ok(bytes) => bytes,
            // Older ones are deleted as newer ones come: a newer one is there by now, and this one is not missed.
            Err(StoreError::NotFound { .. }) => {
                damaged.push((key, "it was deleted meanwhile".to_owned()));
                continue;
            }
            Err(error) => return Err(error),
        };
        match decode(&bytes) {
            Ok(file) => return Ok(Ok(NewestFile { key, file, damaged })),
            Err(error) => damaged.push((key, error.to_string())),
        }
    }
    Ok(Err(damaged))
}
