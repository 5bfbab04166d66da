//! From the errors of the crates below to Kafka's codes: the only place that decides this.
//!
//! Each function names the APIs it answers for, because a code that is not legal for an API breaks clients: a
//! REQUEST_TIMED_OUT in a Fetch response, for one, throws in the Java consumer.

use meridian_controller::{ConfigError, CreatePartitionsError, CreateTopicError, RemoveNodeError};
use meridian_shard::{AppendError, ControlError, DeleteRecordsError, ReadError};
use meridian_state::ProduceRejection;
use meridian_wire::ErrorCode;
use meridian_wire::batch::ProduceBatchError;

use crate::coordinator::GroupError;

/// Produce: a batch that was refused before it was appended.
pub(crate) fn of_batch(error: &ProduceBatchError) -> ErrorCode {
    error.error_code()
}

/// Produce: a batch that was not appended, or of which nobody knows.
pub(crate) fn of_append(error: &AppendError) -> ErrorCode {
    match error {
        AppendError::NotLeader { .. } => ErrorCode::NotLeaderOrFollower,
        AppendError::Rejected(rejection) => of_rejection(rejection),
        // Kafka has no "busy"; this one makes every client wait for its retry backoff without a metadata storm.
        AppendError::Busy { .. } => ErrorCode::NotEnoughReplicas,
        // Retriable, and idempotent producers retry without a duplicate.
        AppendError::Unknown { .. } => ErrorCode::NotEnoughReplicasAfterAppend,
        AppendError::Storage { .. } => ErrorCode::KafkaStorageError,
    }
}

fn of_rejection(rejection: &ProduceRejection) -> ErrorCode {
    match rejection {
        ProduceRejection::OutOfOrderSequence(_) => ErrorCode::OutOfOrderSequenceNumber,
        ProduceRejection::InvalidProducerEpoch(_) => ErrorCode::InvalidProducerEpoch,
        ProduceRejection::InvalidTxnState => ErrorCode::InvalidTxnState,
        ProduceRejection::TopicDropped => ErrorCode::UnknownTopicOrPartition,
        ProduceRejection::StaleLeader { .. }
        | ProduceRejection::NotOwner(_)
        | ProduceRejection::RegionEpoch { .. } => ErrorCode::NotLeaderOrFollower,
        ProduceRejection::Unsettled => ErrorCode::NotEnoughReplicas,
        ProduceRejection::Malformed => ErrorCode::InvalidRecord,
    }
}

/// Fetch, ListOffsets, OffsetForLeaderEpoch, DescribeProducers.
pub(crate) fn of_read(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::NotLeader { .. } => ErrorCode::NotLeaderOrFollower,
        ReadError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        // Clients go back to the leader, and keep their position.
        ReadError::Behind { .. } | ReadError::NotHeld { .. } => ErrorCode::OffsetNotAvailable,
        // Retriable for every client; a code for "later, at the same leader" that all of them know there is not.
        ReadError::Unavailable { .. } | ReadError::Storage { .. } => ErrorCode::KafkaStorageError,
    }
}

/// DeleteRecords.
pub(crate) fn of_delete_records(error: &DeleteRecordsError) -> ErrorCode {
    match error {
        DeleteRecordsError::Read(error) => of_read(error),
        DeleteRecordsError::Append(error) => match of_append(error) {
            ErrorCode::NotEnoughReplicas | ErrorCode::NotEnoughReplicasAfterAppend => {
                ErrorCode::RequestTimedOut
            }
            code => code,
        },
    }
}

/// Changes of topics and configurations, producer ids: the controller's group.
pub(crate) fn of_control(error: &ControlError) -> ErrorCode {
    match error {
        ControlError::NotLeader { .. } => ErrorCode::NotController,
        ControlError::Refused { .. } => ErrorCode::InvalidRequest,
        ControlError::Unknown { .. } => ErrorCode::RequestTimedOut,
        ControlError::Storage { .. } => ErrorCode::KafkaStorageError,
    }
}

/// Changes of a consumer group in its shard.
pub(crate) fn of_group_write(error: &ControlError) -> ErrorCode {
    match error {
        ControlError::NotLeader { .. } => ErrorCode::NotCoordinator,
        ControlError::Refused { .. } | ControlError::Unknown { .. } | ControlError::Storage { .. } => {
            ErrorCode::CoordinatorNotAvailable
        }
    }
}

/// Reads of a consumer group in its shard.
pub(crate) fn of_group_read(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::NotLeader { .. } => ErrorCode::NotCoordinator,
        ReadError::OffsetOutOfRange { .. }
        | ReadError::Behind { .. }
        | ReadError::NotHeld { .. }
        | ReadError::Unavailable { .. }
        | ReadError::Storage { .. } => ErrorCode::CoordinatorNotAvailable,
    }
}

/// CreateTopics.
pub(crate) fn of_create_topic(error: &CreateTopicError) -> ErrorCode {
    match error {
        CreateTopicError::Exists { .. } => ErrorCode::TopicAlreadyExists,
        CreateTopicError::Name(_) | CreateTopicError::Collision { .. } => ErrorCode::InvalidTopicException,
        CreateTopicError::Partitions { .. } => ErrorCode::InvalidPartitions,
        CreateTopicError::Config(error) => of_config(error),
        CreateTopicError::Home { .. } => ErrorCode::InvalidConfig,
        // The next try has another id.
        CreateTopicError::IdTaken { .. } => ErrorCode::RequestTimedOut,
    }
}

/// CreatePartitions.
pub(crate) fn of_create_partitions(error: &CreatePartitionsError) -> ErrorCode {
    match error {
        CreatePartitionsError::TopicNotFound(_) => ErrorCode::UnknownTopicOrPartition,
        CreatePartitionsError::NotMore { .. } | CreatePartitionsError::TooMany { .. } => {
            ErrorCode::InvalidPartitions
        }
    }
}

/// CreateTopics, AlterConfigs, IncrementalAlterConfigs.
pub(crate) fn of_config(error: &ConfigError) -> ErrorCode {
    match error {
        ConfigError::Unknown { .. }
        | ConfigError::Invalid { .. }
        | ConfigError::ReadOnly { .. }
        | ConfigError::NotAList { .. }
        | ConfigError::Conflict { .. } => ErrorCode::InvalidConfig,
        ConfigError::ClusterOnly { .. } | ConfigError::NodeNotFound { .. } => ErrorCode::InvalidRequest,
        ConfigError::TopicNotFound { .. } => ErrorCode::UnknownTopicOrPartition,
    }
}

/// UnregisterBroker.
pub(crate) fn of_remove_node(error: &RemoveNodeError) -> ErrorCode {
    match error {
        RemoveNodeError::NotFound(_) => ErrorCode::BrokerIdNotRegistered,
        RemoveNodeError::HoldsReplicas { .. }
        | RemoveNodeError::LastReplica { .. }
        | RemoveNodeError::Alive { .. } => ErrorCode::InvalidRequest,
    }
}

/// Consumer groups.
pub(crate) fn of_group(error: GroupError) -> ErrorCode {
    ErrorCode::from_code(error.code()).unwrap_or(ErrorCode::UnknownServerError)
}
