//! Requests and replies, free of wire types: handlers convert.
//!
//! Ids are Kafka's strings. An empty `member_id` means "none yet", as on the wire.

use bytes::Bytes;

use super::error::GroupError;
use super::member;

/// Names a request that is answered later through `poll_reply`. The driver chooses it and must not
/// use one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Who sent a request, for describing the group only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// `client.id` of the connection.
    pub id: String,
    /// Address of the client.
    pub host: String,
}

/// One way of assigning that a member supports, with what it wants the assignor to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Name of the assignor, such as `range`.
    pub name: String,
    /// Opaque to the coordinator.
    pub metadata: Bytes,
}

/// JoinGroup.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// Version of the request: from 4 a new member must join twice (KIP-394), from 9 a leader can be
    /// told to skip assigning (KIP-814).
    pub api_version: i16,
    /// The group.
    pub group_id: String,
    /// Empty at first.
    pub member_id: String,
    /// `group.instance.id` of a static member (KIP-345).
    pub instance_id: Option<String>,
    /// Sender.
    pub client: Client,
    /// How long the member may be silent.
    pub session_timeout_ms: i32,
    /// How long the member may take to rejoin; version 0 has none: pass the session timeout.
    pub rebalance_timeout_ms: i32,
    /// Such as `consumer` or `connect`.
    pub protocol_type: String,
    /// In order of preference.
    pub protocols: Vec<Protocol>,
    /// Why the member joins (KIP-800), for the log.
    pub reason: Option<String>,
}

impl JoinRequest {
    /// Size of the member that the request makes.
    pub(super) fn size_bytes(&self) -> usize {
        member::size_bytes(
            &self.member_id,
            self.instance_id.as_deref(),
            &self.client,
            &self.protocols,
        )
    }
}

/// The outcome of a JoinGroup.
pub type JoinResult = Result<Joined, JoinRefused>;

/// The member belongs to a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Generation of the group, from 1.
    pub generation: i32,
    /// Such as `consumer`.
    pub protocol_type: Option<String>,
    /// The assignor that all members use now.
    pub protocol_name: Option<String>,
    /// Member id of the leader.
    pub leader: String,
    /// True for a static leader that rejoined: it must not assign, only sync.
    pub skip_assignment: bool,
    /// The id of the member itself.
    pub member_id: String,
    /// For the leader all members, else empty.
    pub members: Vec<JoinMember>,
}

/// A member as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinMember {
    /// Member id.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// Metadata of the chosen protocol.
    pub metadata: Bytes,
}

/// The member did not join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRefused {
    /// Why.
    pub error: GroupError,
    /// With [`GroupError::MemberIdRequired`] the id to join with, else what Kafka sends back.
    pub member_id: String,
}

/// SyncGroup.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// The group.
    pub group_id: String,
    /// From the JoinGroup response.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// From the JoinGroup response.
    pub generation: i32,
    /// From version 5; must fit the group's.
    pub protocol_type: Option<String>,
    /// From version 5; must fit the group's.
    pub protocol_name: Option<String>,
    /// The leader's decision by member id; empty from all others.
    pub assignments: Vec<(String, Bytes)>,
}

/// The answer to SyncGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Such as `consumer`.
    pub protocol_type: Option<String>,
    /// The chosen assignor.
    pub protocol_name: Option<String>,
    /// What the leader assigned to the member; opaque.
    pub assignment: Bytes,
}

/// Heartbeat.
#[derive(Clone, Debug)]
pub struct HeartbeatRequest {
    /// The group.
    pub group_id: String,
    /// From the JoinGroup response.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// From the JoinGroup response.
    pub generation: i32,
}

/// LeaveGroup; versions 0 to 2 hold one member.
#[derive(Clone, Debug)]
pub struct LeaveRequest {
    /// The group.
    pub group_id: String,
    /// Who leaves.
    pub members: Vec<LeavingMember>,
}

/// One who leaves, or is removed by an administrator through its instance id alone.
#[derive(Clone, Debug)]
pub struct LeavingMember {
    /// Empty when an administrator removes a static member.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// Why (KIP-800), for the log.
    pub reason: Option<String>,
}

/// The outcome for one member of a LeaveGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftMember {
    /// As in the request.
    pub member_id: String,
    /// As in the request.
    pub instance_id: Option<String>,
    /// Whether the member was removed.
    pub result: Result<(), GroupError>,
}

/// Which API commits offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitKind {
    /// OffsetCommit.
    Plain,
    /// TxnOffsetCommit: the state of the group is not looked at, only the member.
    Transactional,
}

/// Who wants to commit offsets.
#[derive(Clone, Debug)]
pub struct CommitRequest {
    /// The group; may be empty, as old simple consumers have it.
    pub group_id: String,
    /// Empty from consumers without a group and from administrators.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// -1 from consumers without a group and from administrators.
    pub generation: i32,
    /// Which API.
    pub kind: CommitKind,
}

/// The answer to a request that waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To JoinGroup.
    Join(JoinResult),
    /// To SyncGroup.
    Sync(Result<Synced, GroupError>),
    /// To LeaveGroup.
    Leave(Result<Vec<LeftMember>, GroupError>),
    /// To the deletion of a group.
    Delete(Result<(), GroupError>),
}
