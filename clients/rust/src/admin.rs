//! Topics, settings, groups and the cluster, from outside.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use meridian_wire::ApiKey;
use thiserror::Error;

use crate::cluster::{Cluster, CoordinatorError, TopicError};
use crate::error::{Refusal, RequestError};

mod cluster;
mod configs;
mod groups;
mod mirror;
mod offsets;
mod region;
mod tokens;
mod topics;

pub(crate) use self::groups::fetch_offsets;
pub(crate) use self::offsets::list_offsets;
pub(crate) use self::tokens::tokens;

pub use self::cluster::{ClusterDescription, LogDir, LogDirPartition};
pub use self::configs::{ConfigChange, ConfigEntry, ConfigResource, ConfigSource};
pub use self::groups::{CommittedOffset, GroupDescription, GroupListing, GroupMember};
pub use self::mirror::{
    LinkDirection, MirrorDescription, MirrorLink, MirrorPartition, MirrorRegion, MirrorShard,
};
pub use self::offsets::{ListedOffset, OffsetSpec};
pub use self::region::{
    BucketStanding, NodeBucket, RegionDescription, RegionNode, RegionReplica, RegionShard, ShardMove, TierLag,
};
pub use self::topics::{CreatedTopic, NewTopic};

/// Asks a cluster to do things, and about itself.
#[derive(Clone, Debug)]
pub struct Admin {
    cluster: Cluster,
    /// Name of the region whose servers the settings name, once one of them has told.
    home: Arc<OnceLock<String>>,
}

/// Why an administrative request failed.
#[derive(Clone, Debug, Error)]
pub enum AdminError {
    /// No answer; see there whether it may have been executed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The server refuses; its words say what must change.
    #[error("{what}: {refusal}")]
    Refused {
        /// What was asked, such as `topic 'orders'`.
        what: String,
        /// What the server says.
        refusal: Refusal,
    },
    /// The answer does not speak of what was asked: a fault of the server.
    #[error("{api} answered without a word about {what}")]
    Unanswered {
        /// The request.
        api: ApiKey,
        /// What was asked.
        what: String,
    },
    /// The partition has no leader; try again when its brokers are back.
    #[error("partition {partition} of topic '{topic}' has no leader")]
    NoLeader {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
    },
    /// The topic has no such partition.
    #[error("topic '{topic}' has no partition {partition}: it has {count}, numbered from 0")]
    NoPartition {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// How many there are.
        count: usize,
    },
    /// No token can be made of a record: it needs a server with topic ids and leader epochs, and an acknowledgement that
    /// says where the record is.
    #[error("there is no token for partition {partition} of topic '{topic}': {reason}")]
    NoToken {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// What is missing.
        reason: &'static str,
    },
}

impl From<TopicError> for AdminError {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::Request(error) => Self::Request(error),
            TopicError::Refused { topic, refusal } => Self::Refused {
                what: format!("topic '{topic}'"),
                refusal,
            },
        }
    }
}

impl From<CoordinatorError> for AdminError {
    fn from(error: CoordinatorError) -> Self {
        match error {
            CoordinatorError::Request(error) => Self::Request(error),
            CoordinatorError::Refused { group, refusal } => Self::Refused {
                what: format!("the coordinator of group '{group}'"),
                refusal,
            },
        }
    }
}

impl AdminError {
    /// The server's code, if it answered.
    pub fn code(&self) -> Option<meridian_wire::ErrorCode> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal.code),
            _ => None,
        }
    }
}

impl Admin {
    /// Works on `cluster`.
    pub fn new(cluster: &Cluster) -> Self {
        Self {
            cluster: cluster.clone(),
            home: Arc::default(),
        }
    }

    /// The cluster it works on.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The time the server gets for what it does, in milliseconds: the client must not give up before it.
    fn server_timeout_ms(&self) -> i32 {
        let limit = self.cluster.settings().request_timeout;
        millis(limit.saturating_sub(Duration::from_secs(1)).max(limit / 2))
    }
}

/// Milliseconds as the protocol has them.
pub(crate) fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

/// Turns a refusal into an error about `what`.
fn refused(what: String, result: Result<(), Refusal>) -> Result<(), AdminError> {
    result.map_err(|refusal| AdminError::Refused { what, refusal })
}

/// A partition index as the protocol has it.
pub(crate) fn partition_id(index: u32) -> i32 {
    i32::try_from(index).unwrap_or(i32::MAX)
}
