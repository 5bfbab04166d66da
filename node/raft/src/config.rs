//! openraft's types, fixed once. Nobody outside this crate sees them.

use std::fmt;

use meridian_journal::Payload;
use meridian_types::{LogPosition, NodeId, RaftIndex, Term};
use openraft::type_config::alias::{
    CommittedLeaderIdOf, EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf,
};

use crate::Reply;
use crate::checkpoint::Stored;

openraft::declare_raft_types!(
    /// A standard leader id: at most one leader per term, so a term names its leader.
    pub(crate) Types:
        D = Proposal,
        R = Reply,
        NodeId = u64,
        Node = (),
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
);

pub(crate) type LogId = LogIdOf<Types>;
pub(crate) type LeaderId = CommittedLeaderIdOf<Types>;
pub(crate) type Entry = EntryOf<Types>;
pub(crate) type EntryPayload = openraft::EntryPayload<Proposal, u64, ()>;
pub(crate) type Vote = VoteOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, ()>;
pub(crate) type StoredMembership = StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = SnapshotMetaOf<Types>;
pub(crate) type Snapshot = SnapshotOf<Types, Option<Stored>>;
pub(crate) type Raft = openraft::Raft<Types, crate::machine::Applier>;

/// A command on its way into the log.
pub(crate) struct Proposal(pub(crate) Payload);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

pub(crate) fn log_id(at: LogPosition) -> LogId {
    LogId::new(LeaderId::new(at.term.0), at.index.0)
}

pub(crate) fn position(id: &LogId) -> LogPosition {
    LogPosition {
        term: Term(id.committed_leader_id().term),
        index: RaftIndex(id.index()),
    }
}

/// openraft's test suite wants node ids of 64 bits; ours are of 32.
pub(crate) fn node_id(id: u64) -> NodeId {
    NodeId(u32::try_from(id).expect("every member was made from a NodeId"))
}
