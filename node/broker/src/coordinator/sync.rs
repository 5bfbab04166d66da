//! SyncGroup and Heartbeat.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::error::GroupError;
use super::group::{GroupState, Phase};
use super::request::{HeartbeatRequest, SyncRequest, Synced, Token};
use super::saves::Then;
use super::step::Step;

impl Step<'_> {
    pub(super) fn sync(&mut self, request: SyncRequest, token: Token) {
        if let Err(error) = self.validate_sync(&request) {
            return self.reply_sync(token, Err(error));
        }
        self.group.pending_syncs.remove(request.member_id.as_str());
        self.stop_sync_timer_if_all_synced();

        if self.group.state() == GroupState::Stable {
            let synced = self.synced(&request.member_id);
            return self.reply_sync(token, Ok(synced));
        }
        let before = self
            .group
            .update(&request.member_id, |member| member.sync.replace(token))
            .flatten();
        if let Some(before) = before {
            // Given up by its client, which has sent the same request again.
            self.reply_sync(before, Err(GroupError::RebalanceInProgress));
        }
        if self.group.is_leader(&request.member_id) {
            self.take_assignments(request.assignments);
        }
    }

    fn validate_sync(&self, request: &SyncRequest) -> Result<(), GroupError> {
        let group = &self.group;
        match group.state() {
            GroupState::Dead => return Err(GroupError::NotAvailable),
            GroupState::Empty => return Err(GroupError::UnknownMember),
            _ => {}
        }
        group.validate_member(&request.member_id, request.instance_id.as_deref())?;
        if request.generation != group.generation {
            return Err(GroupError::IllegalGeneration);
        }
        if differs(request.protocol_type.as_deref(), group.protocol_type.as_deref())
            || differs(request.protocol_name.as_deref(), group.protocol_name.as_deref())
        {
            return Err(GroupError::InconsistentProtocol);
        }
        if group.state() == GroupState::PreparingRebalance {
            return Err(GroupError::RebalanceInProgress);
        }
        Ok(())
    }

    /// Saves the leader's assignments; they are handed out when the save is done. A leader that
    /// repeats itself meanwhile changes nothing: a generation has one assignment.
    fn take_assignments(&mut self, sent: Vec<(String, Bytes)>) {
        let Phase::CompletingRebalance { assignments } = &mut self.group.phase else {
            return;
        };
        if assignments.is_some() {
            return;
        }
        let mut sent: BTreeMap<String, Bytes> = sent.into_iter().collect();
        let taken: BTreeMap<String, Bytes> = self
            .group
            .member_ids()
            .into_iter()
            .map(|id| (id.to_string(), sent.remove(&*id).unwrap_or_default()))
            .collect();
        let bytes: usize = taken.values().map(Bytes::len).sum();
        if self.group.bytes() + bytes > self.settings.group_bytes_max {
            self.cancel_assignment(GroupError::TooLarge);
            return self.prepare_rebalance("the leader's assignment is too large to save");
        }
        self.group.phase = Phase::CompletingRebalance {
            assignments: Some(taken),
        };
        self.save(Then::Assign {
            generation: self.group.generation,
        });
    }

    /// Hands the saved assignments out.
    pub(super) fn assign(&mut self) {
        let Phase::CompletingRebalance { assignments } = &mut self.group.phase else {
            return;
        };
        let Some(mut assignments) = assignments.take() else {
            return;
        };
        self.group.set_phase(self.now, Phase::Stable);
        for member_id in self.group.member_ids() {
            let assignment = assignments.remove(&*member_id).unwrap_or_default();
            self.group
                .update(&member_id, |member| member.assignment = assignment);
            let synced = self.synced(&member_id);
            self.release_sync(&member_id, Ok(synced));
        }
        tracing::info!(
            group = &*self.group.id,
            generation = self.group.generation,
            "group is stable"
        );
    }

    fn synced(&self, member_id: &str) -> Synced {
        Synced {
            protocol_type: self.group.protocol_type.clone(),
            protocol_name: self.group.protocol_name.clone(),
            assignment: self
                .group
                .member(member_id)
                .map(|m| m.assignment.clone())
                .unwrap_or_default(),
        }
    }

    pub(super) fn heartbeat(&mut self, request: &HeartbeatRequest) -> Result<(), GroupError> {
        if self.group.state() == GroupState::Dead {
            return Err(GroupError::NotAvailable);
        }
        self.group
            .validate_member(&request.member_id, request.instance_id.as_deref())?;
        if request.generation != self.group.generation {
            return Err(GroupError::IllegalGeneration);
        }
        self.expect_heartbeat(&request.member_id);
        match self.group.state() {
            GroupState::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            // A member may heartbeat between its join and its sync: that is no fault.
            _ => Ok(()),
        }
    }
}

/// Older versions do not name the protocol; a named one must be the group's.
fn differs(named: Option<&str>, of_group: Option<&str>) -> bool {
    matches!((named, of_group), (Some(named), Some(of_group)) if named != of_group)
}
