//! What can go wrong, one enum per operation. The broker maps them to Kafka's codes.

use meridian_raft::ProposeError;
use meridian_state::ProduceRejection;
use meridian_types::NodeId;
use thiserror::Error;

use crate::read::Positions;

/// Why a batch was not appended, or why nobody knows.
#[derive(Clone, Debug, Error)]
pub enum AppendError {
    /// Certainly not appended. Refresh metadata, then retry at `leader`.
    #[error("this node does not lead the partition's shard")]
    NotLeader {
        /// The leader, where it is known.
        leader: Option<NodeId>,
    },
    /// Final for this batch: the idempotent producer broke its own rules, or the topic is gone.
    #[error(transparent)]
    Rejected(#[from] ProduceRejection),
    /// Too many bytes wait in this shard. Retry after a pause.
    #[error("{bytes} bytes wait for the shard, the limit is {bytes_max}: retry after a pause")]
    Busy {
        /// Bytes that wait.
        bytes: usize,
        /// The limit, `shard.queue_bytes_max`.
        bytes_max: usize,
    },
    /// It may or may not be in the log. An idempotent producer retries safely.
    #[error("the outcome is unknown: {reason}")]
    Unknown {
        /// What happened.
        reason: String,
    },
    /// The shard has stopped on this node, or its disk takes no more; nothing was acknowledged.
    #[error("the shard takes no writes on this node: {reason}")]
    Storage {
        /// What happened.
        reason: String,
    },
}

impl From<ProposeError> for AppendError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { leader } => Self::NotLeader { leader },
            // It leads no quorum, so another one may soon.
            ProposeError::LeaseExpired => Self::NotLeader { leader: None },
            ProposeError::Unknown { reason } => Self::Unknown { reason },
            ProposeError::Refused { reason } | ProposeError::Stopped { reason } => Self::Storage { reason },
        }
    }
}

/// Why a read gives nothing.
#[derive(Clone, Debug, Error)]
pub enum ReadError {
    /// Refresh metadata, then ask `leader`.
    #[error("this node does not lead the partition's shard")]
    NotLeader {
        /// The leader, where it is known.
        leader: Option<NodeId>,
    },
    /// Reset the position: it lies outside what the partition holds.
    #[error("the offset lies outside {}..={}", positions.log_start_offset, positions.high_watermark)]
    OffsetOutOfRange {
        /// What the partition holds.
        positions: Positions,
    },
    /// This replica has not come so far yet. Ask the leader, or ask again in a moment.
    #[error("this replica has the partition only up to {}", positions.high_watermark)]
    Behind {
        /// What the partition holds here.
        positions: Positions,
    },
    /// This replica was made from a checkpoint and never had these records. Ask the leader.
    #[error("this replica does not hold the partition from its beginning")]
    NotHeld {
        /// What the partition holds here.
        positions: Positions,
    },
    /// The records lie in the bucket, which does not answer now. Ask again in a moment.
    #[error("the records cannot be fetched from the bucket now: {reason}")]
    Unavailable {
        /// What happened.
        reason: String,
    },
    /// The bytes cannot be read on this node; another replica may have them.
    #[error("the partition cannot be read on this node: {reason}")]
    Storage {
        /// What happened.
        reason: String,
    },
}

/// Why records could not be deleted.
#[derive(Clone, Debug, Error)]
pub enum DeleteRecordsError {
    /// As for any read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// As for any write.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Why a command to a shard or to the controller has no answer.
#[derive(Clone, Debug, Error)]
pub enum ControlError {
    /// Certainly not done. Ask `leader`.
    #[error("this node does not lead the shard")]
    NotLeader {
        /// The leader, where it is known.
        leader: Option<NodeId>,
    },
    /// Certainly not done, and asking again does not help. The text says why.
    #[error("{reason}")]
    Refused {
        /// What stands against it.
        reason: String,
    },
    /// It may or may not be done. Look, then retry.
    #[error("the outcome is unknown: {reason}")]
    Unknown {
        /// What happened.
        reason: String,
    },
    /// Certainly not done: the shard has stopped on this node, or its disk takes no more now.
    #[error("the shard takes no writes on this node: {reason}")]
    Storage {
        /// What happened.
        reason: String,
    },
}

impl From<ProposeError> for ControlError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { leader } => Self::NotLeader { leader },
            // It leads no quorum, so another one may soon.
            ProposeError::LeaseExpired => Self::NotLeader { leader: None },
            ProposeError::Unknown { reason } => Self::Unknown { reason },
            ProposeError::Refused { reason } | ProposeError::Stopped { reason } => Self::Storage { reason },
        }
    }
}

impl From<ControlError> for AppendError {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::NotLeader { leader } => Self::NotLeader { leader },
            ControlError::Unknown { reason } => Self::Unknown { reason },
            ControlError::Refused { reason } | ControlError::Storage { reason } => Self::Storage { reason },
        }
    }
}
