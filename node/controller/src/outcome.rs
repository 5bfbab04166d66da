//! What became of a command.

use std::sync::Arc;

use meridian_lineage::{InstallRejected, MirrorRejected, NotOwner, StageRejected, TurnRejected};
use meridian_types::{ProducerId, RegionEpoch, TopicId};
use thiserror::Error;

use crate::configs::ConfigError;
use crate::controller::{PRODUCER_IDS_MAX, SHARDS_MAX};
use crate::geo::RegionError;
use crate::node::{NodeNotFound, RegisterNodeError, RemoveNodeError};
use crate::placement::SetPlacementError;
use crate::topic::{CreateTopicError, PARTITIONS_MAX, Topic};

/// What a command did, by its kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The region has not been founded: nothing else is possible before.
    NotFounded,
    /// To [`Command::Found`].
    Founded(Result<(), FoundingError>),
    /// To [`Command::CreateTopics`], in order.
    TopicsCreated(Vec<Result<Arc<Topic>, CreateTopicError>>),
    /// To [`Command::DeleteTopics`], in order.
    TopicsDeleted(Vec<Result<Arc<Topic>, TopicNotFound>>),
    /// To [`Command::CreatePartitions`], in order.
    PartitionsCreated(Vec<Result<Arc<Topic>, CreatePartitionsError>>),
    /// To [`Command::AlterConfigs`], in order.
    ConfigsAltered(Vec<Result<(), ConfigError>>),
    /// To [`Command::RegisterNode`]: the node's epoch.
    NodeRegistered(Result<u64, RegisterNodeError>),
    /// To [`Command::RemoveNode`].
    NodeRemoved(Result<(), RemoveNodeError>),
    /// To [`Command::DrainNode`].
    NodeDrained(Result<(), NodeNotFound>),
    /// To [`Command::SetPlacement`]: the placement's new epoch.
    PlacementSet(Result<u64, SetPlacementError>),
    /// To [`Command::AllocateProducerIds`].
    ProducerIds(Result<ProducerIds, AllocateError>),
    /// Another region owns the cluster, or is about to: topics, their configs, the cluster's configs and regions are
    /// changed there.
    NotOwner(NotOwner),
    /// To [`Command::Mirrored`]: the controller's sequence behind it.
    Mirrored(Result<u64, MirrorRejected>),
    /// To [`Command::SetRegion`].
    RegionSet(Result<(), RegionError>),
    /// To [`Command::RemoveRegion`].
    RegionRemoved(Result<(), RegionError>),
    /// To [`Command::SetOwnership`].
    OwnershipSet(Result<(), TurnRejected>),
    /// To [`Command::Stage`].
    Staged(Result<(), StageRejected>),
    /// To [`Command::Install`]: the controller's sequence behind it.
    Installed(Result<u64, InstallRejected>),
}

/// Why a region was not founded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FoundingError {
    /// Somebody was faster: go on with what was founded.
    #[error("the region is founded already, as '{region}' of cluster {cluster_id}")]
    Founded {
        /// The region's name.
        region: String,
        /// The cluster's id.
        cluster_id: String,
    },
    /// A power of two lets a region double its shards later.
    #[error("a region has 1 to {SHARDS_MAX} shards, a power of two; asked for were {shards}")]
    Shards {
        /// The number asked for.
        shards: u32,
    },
    /// Names go into object keys, metrics and client metadata.
    #[error("{what} {name:?} must be 1 to 64 ASCII letters, digits, '.', '_' or '-'")]
    Name {
        /// Which name.
        what: &'static str,
        /// What it was.
        name: String,
    },
    /// It would not fit a leader epoch.
    #[error("region epoch {epoch} is beyond 2047")]
    RegionEpoch {
        /// The epoch asked for.
        epoch: RegionEpoch,
    },
    /// What the region is to be among others is not possible.
    #[error("the region cannot be one of several: {what}")]
    Geo {
        /// What does not go.
        what: String,
    },
    /// A first node is not possible.
    #[error(transparent)]
    Node(#[from] RegisterNodeError),
    /// A config of the cluster is not possible.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nodes or placements do not go together: a defect of the proposer.
    #[error("the first nodes and placements do not go together: {what}")]
    Placement {
        /// What does not.
        what: String,
    },
}

/// There is no topic of that id. Kafka's 3 or 100, UNKNOWN_TOPIC_OR_PARTITION or UNKNOWN_TOPIC_ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("there is no topic with id {topic}")]
pub struct TopicNotFound {
    /// The id.
    pub topic: TopicId,
}

/// Why a topic did not get more partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CreatePartitionsError {
    /// Kafka's 3, UNKNOWN_TOPIC_OR_PARTITION.
    #[error(transparent)]
    TopicNotFound(#[from] TopicNotFound),
    /// Kafka's 37, INVALID_PARTITIONS: partitions are only ever added.
    #[error("topic has {present} partitions, which is not fewer than the {total} asked for")]
    NotMore {
        /// Partitions there are.
        present: u32,
        /// Partitions asked for.
        total: u32,
    },
    /// Kafka's 37, INVALID_PARTITIONS.
    #[error("a topic can have at most {PARTITIONS_MAX} partitions; asked for were {total}")]
    TooMany {
        /// Partitions asked for.
        total: u32,
    },
}

/// Why no producer ids were dealt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AllocateError {
    /// Ask for a block of another size.
    #[error("a block has 1 to {PRODUCER_IDS_MAX} producer ids; asked for were {count}")]
    Count {
        /// The size asked for.
        count: u32,
    },
    /// The region has dealt 2^48 ids.
    #[error("the region has no producer ids left")]
    Exhausted,
}

/// A block of producer ids: `first` and the `count - 1` after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIds {
    /// The first id.
    pub first: ProducerId,
    /// How many ids.
    pub count: u32,
}
