//! What of a group is being saved, and what follows when it is.

use super::request::{LeftMember, Protocol, Token};

/// Names one save or deletion that the driver carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaveId(pub(super) u64);

/// What follows a save.
#[derive(Debug)]
pub(super) enum Then {
    /// Hand out the leader's assignments.
    Assign { generation: i32 },
    /// Let the restarted static member in under its new id, or take the old id back.
    Readmit(Readmission),
    /// The group has become empty; answer the LeaveGroup that emptied it.
    Emptied { leave: Option<(Token, Vec<LeftMember>)> },
    /// The group is deleted.
    Deleted { token: Token },
}

/// A static member restarted and nobody else need notice.
#[derive(Debug)]
pub(super) struct Readmission {
    pub(super) generation: i32,
    pub(super) api_version: i16,
    pub(super) member_id: String,
    pub(super) previous_leader: String,
    /// What the member was before.
    pub(super) old_id: String,
    pub(super) old_protocols: Vec<Protocol>,
    pub(super) old_session_timeout_ms: i32,
    pub(super) old_rebalance_timeout_ms: i32,
}

/// One save of a group is under way at a time. What is wanted meanwhile is saved together
/// afterwards: each save holds the whole group, so only the newest matters.
#[derive(Debug, Default)]
pub(super) struct Saves {
    pub(super) under_way: Option<(SaveId, Vec<Then>)>,
    pub(super) wanted: Vec<Then>,
}

impl Saves {
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_none() && self.wanted.is_empty()
    }

    /// All that would follow, when the group is given up.
    pub(super) fn take_all(&mut self) -> Vec<Then> {
        let mut all = self.under_way.take().map(|(_, then)| then).unwrap_or_default();
        all.append(&mut self.wanted);
        all
    }
}
