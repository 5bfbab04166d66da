//! One member of a group.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::request::{Client, Protocol, Token};

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: Arc<str>,
    pub(super) instance_id: Option<String>,
    pub(super) client: Client,
    pub(super) session_timeout_ms: i32,
    pub(super) rebalance_timeout_ms: i32,
    /// In order of preference, never empty.
    pub(super) protocols: Vec<Protocol>,
    pub(super) assignment: Bytes,
    /// The first join has not been answered yet, so the member cannot heartbeat.
    pub(super) is_new: bool,
    /// The JoinGroup that waits for the barrier. Counted by the group: change it there only.
    pub(super) join: Option<Token>,
    /// The SyncGroup that waits for the leader's assignment.
    pub(super) sync: Option<Token>,
}

impl Member {
    pub(super) fn is_static(&self) -> bool {
        self.instance_id.is_some()
    }

    /// Whether silence is no fault: a member that waits for us cannot heartbeat. A new member can
    /// time out all the same, because its client may have gone without our knowing.
    pub(super) fn may_be_silent(&self) -> bool {
        !self.is_new && (self.join.is_some() || self.sync.is_some())
    }

    /// Metadata for the protocol, empty if the member does not support it.
    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|p| p.name == protocol)
            .map(|p| p.metadata.clone())
            .unwrap_or_default()
    }

    /// The first of the member's protocols that is a candidate.
    pub(super) fn vote<'a>(&'a self, candidates: &BTreeSet<&str>) -> Option<&'a str> {
        self.protocols
            .iter()
            .map(|p| p.name.as_str())
            .find(|name| candidates.contains(name))
    }

    /// Size in memory and in the saved group, roughly; the fixed part stands for numbers and lengths.
    pub(super) fn size_bytes(&self) -> usize {
        size_bytes(
            &self.id,
            self.instance_id.as_deref(),
            &self.client,
            &self.protocols,
        ) + self.assignment.len()
    }
}

/// Size of a member without an assignment.
pub(super) fn size_bytes(id: &str, instance: Option<&str>, client: &Client, protocols: &[Protocol]) -> usize {
    const FIXED: usize = 64;
    let protocols: usize = protocols
        .iter()
        .map(|p| p.name.len() + p.metadata.len() + 8)
        .sum();
    FIXED + id.len() + instance.map_or(0, str::len) + client.id.len() + client.host.len() + protocols
}
