//! What comes out of the pacemaker.

use std::collections::{BTreeMap, BTreeSet};

use meridian_types::{NodeId, ShardId, Term};

use super::beat::Beat;
#[cfg(doc)]
use super::core::Pacemaker;
use super::leaders::Leader;

/// What the driver is to do. None of it is answered; what comes of it is told as a new role, where anything
/// does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send this to every peer, on the urgent lane.
    SendBeat(Beat),
    /// The leader's Raft group sends a heartbeat to its members.
    Heartbeat {
        /// The group.
        shard: ShardId,
    },
    /// This node's replica stops waiting for a leader that is gone.
    EndLease {
        /// The group.
        shard: ShardId,
        /// The leader.
        leader: NodeId,
        /// Its term.
        term: Term,
    },
    /// Call an election, with a pre-vote.
    Elect {
        /// The group.
        shard: ShardId,
    },
    /// Hand the leadership over. Where Raft has not begun with it, tell
    /// [`Pacemaker::handle_transfer_refused`].
    Transfer {
        /// The group.
        shard: ShardId,
        /// To this voter.
        to: NodeId,
    },
    /// [`Pacemaker::view`] has changed.
    ViewChanged,
}

/// What the region looks like from this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// The nodes that live, this one among them.
    pub(crate) alive: BTreeSet<NodeId>,
    /// Who leads each shard of the region, hosted here or not. A shard is missing while nobody does.
    pub(crate) leaders: BTreeMap<ShardId, Leader>,
    /// The shards that this node leads and may serve. A group that leads in openraft's eyes and is not here
    /// has stepped aside or is handing over: clients are told that it does not lead.
    pub(crate) led: BTreeMap<ShardId, Term>,
    /// The nodes that live and say that their journals have no room for records.
    pub(crate) full: BTreeSet<NodeId>,
    /// Where live peers say that they are reached, `HOST:PORT`.
    pub(crate) addresses: BTreeMap<NodeId, String>,
}
