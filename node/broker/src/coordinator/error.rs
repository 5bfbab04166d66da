//! What a group request can be refused with.

/// Why a request about a group was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// Wait a moment and send the same request again.
    #[error("the coordinator of this group is loading its groups; retry after a backoff")]
    LoadInProgress,
    /// Wait a moment, find the coordinator again, retry.
    #[error("the coordinator cannot answer for this group at present; retry after a backoff")]
    NotAvailable,
    /// Find the coordinator again and send the request there.
    #[error("this broker is not the coordinator of the group; find the coordinator again")]
    NotCoordinator,
    /// Rejoin without the generation.
    #[error("the generation is not the group's current one; rejoin the group")]
    IllegalGeneration,
    /// Configure all members of the group with one protocol type and at least one common assignor.
    #[error(
        "the protocol type or protocols do not fit the group's other members; give all members a common assignor"
    )]
    InconsistentProtocol,
    /// Name a group.
    #[error("the group id is empty; set group.id")]
    InvalidGroupId,
    /// Rejoin with an empty member id.
    #[error("the group does not know this member; rejoin with an empty member id")]
    UnknownMember,
    /// Choose a session timeout inside the broker's bounds.
    #[error(
        "session.timeout.ms must lie between group.min.session.timeout.ms and group.max.session.timeout.ms"
    )]
    InvalidSessionTimeout,
    /// Finish work on the old assignment, commit, rejoin.
    #[error("the group is rebalancing; rejoin it")]
    RebalanceInProgress,
    /// Stop the group's members, then delete it.
    #[error("the group has members; stop them first")]
    NonEmptyGroup,
    /// Check the name: there is no such group.
    #[error("there is no such group; check its name with a list of the groups")]
    GroupNotFound,
    /// Join again with the member id in the answer (KIP-394).
    #[error("join again with the member id in this response")]
    MemberIdRequired,
    /// Use fewer members or smaller metadata, or raise `group.max.size`.
    #[error(
        "the group has reached group.max.size or its limit of bytes; use fewer members or raise the limit"
    )]
    GroupFull,
    /// Final for this process: another one runs with the same `group.instance.id`.
    #[error("another member with this group.instance.id has joined; give each process its own")]
    FencedInstance,
    /// Stop the consumers of this topic, then delete its offsets.
    #[error("the group is subscribed to this topic; stop its consumers of the topic first")]
    SubscribedToTopic,
    /// The group's assignment is too large to be saved: use fewer members or partitions per group.
    #[error("the group's state is too large to save; use fewer members or smaller metadata and assignments")]
    TooLarge,
}

impl GroupError {
    /// The error's code in the Kafka protocol.
    pub fn code(self) -> i16 {
        match self {
            Self::TooLarge => -1,
            Self::LoadInProgress => 14,
            Self::NotAvailable => 15,
            Self::NotCoordinator => 16,
            Self::IllegalGeneration => 22,
            Self::InconsistentProtocol => 23,
            Self::InvalidGroupId => 24,
            Self::UnknownMember => 25,
            Self::InvalidSessionTimeout => 26,
            Self::RebalanceInProgress => 27,
            Self::NonEmptyGroup => 68,
            Self::GroupNotFound => 69,
            Self::MemberIdRequired => 79,
            Self::GroupFull => 81,
            Self::FencedInstance => 82,
            Self::SubscribedToTopic => 86,
        }
    }
}

/// Why a group could not be saved or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The shard answers no writes at present; the members rebalance and try again.
    #[error("the group's shard cannot be written at present")]
    Unavailable,
    /// This node no longer leads the group's shard; members look for the new coordinator.
    #[error("this node does not lead the group's shard")]
    NotLeader,
    /// The saved group exceeds the size of a command.
    #[error("the saved group is too large for the shard")]
    TooLarge,
}

impl From<StoreError> for GroupError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable => Self::NotAvailable,
            StoreError::NotLeader => Self::NotCoordinator,
            StoreError::TooLarge => Self::TooLarge,
        }
    }
}
