//! JoinGroup.

use std::sync::Arc;

use bytes::Bytes;

use super::error::GroupError;
use super::group::{GroupState, Phase};
use super::member::Member;
use super::request::{JoinRequest, Reply, Token};
use super::saves::{Readmission, Then};
use super::step::{Step, refused};
use super::timers::TimerKind;

/// From this version a new dynamic member gets an id first and joins with it (KIP-394).
const VERSION_MEMBER_ID_REQUIRED: i16 = 4;

impl Step<'_> {
    /// `new_id` is for a member that has none.
    pub(super) fn join(&mut self, request: JoinRequest, token: Token, new_id: String) {
        if self.group.state() == GroupState::Dead {
            return self.refuse_join(token, GroupError::NotAvailable, &request.member_id);
        }
        if !self.has_place_for(&request) {
            self.remove_member(&request.member_id);
            self.refuse_join(token, GroupError::GroupFull, "");
            return self.complete_join_if_all_joined();
        }
        if !self.has_bytes_for(&request) {
            return self.refuse_join(token, GroupError::GroupFull, "");
        }
        if !self.group.supports(&request.protocol_type, &request.protocols) {
            return self.refuse_join(token, GroupError::InconsistentProtocol, &request.member_id);
        }
        if request.member_id.is_empty() {
            self.join_new(request, token, Arc::from(new_id));
        } else if self.group.is_pending(&request.member_id) {
            if request.instance_id.is_some() {
                // Only dynamic members are given an id in advance.
                return self.refuse_join(token, GroupError::UnknownMember, &request.member_id);
            }
            let member_id = Arc::from(request.member_id.as_str());
            self.add_member(request, token, member_id);
        } else {
            self.rejoin(request, token);
        }
    }

    /// Whether one more fits in. During the barrier those who have joined count, so that a group above
    /// its limit loses the last to rejoin. A static member that restarts takes its own place, where
    /// Kafka refuses it in a full group.
    fn has_place_for(&self, request: &JoinRequest) -> bool {
        let max = self.settings.group_size_max;
        let present = self.present(request);
        match self.group.state() {
            GroupState::Empty | GroupState::Dead => true,
            GroupState::PreparingRebalance => {
                present.is_some_and(|m| m.join.is_some()) || self.group.joins_waiting() < max
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                present.is_some() || self.group.len() < max
            }
        }
    }

    fn has_bytes_for(&self, request: &JoinRequest) -> bool {
        let freed = self.present(request).map_or(0, Member::size_bytes);
        self.group.bytes() - freed + request.size_bytes() <= self.settings.group_bytes_max
    }

    /// The member that the request is from, or whose place it takes.
    fn present(&self, request: &JoinRequest) -> Option<&Member> {
        match &request.instance_id {
            Some(instance_id) if request.member_id.is_empty() => {
                self.group.member(self.group.static_member_id(instance_id)?)
            }
            _ => self.group.member(&request.member_id),
        }
    }

    fn join_new(&mut self, request: JoinRequest, token: Token, new_id: Arc<str>) {
        if let Some(instance_id) = &request.instance_id {
            return match self.group.static_member_id(instance_id).cloned() {
                Some(old_id) => self.readmit(request, token, &old_id, &new_id),
                None => self.add_member(request, token, new_id),
            };
        }
        if request.api_version < VERSION_MEMBER_ID_REQUIRED {
            return self.add_member(request, token, new_id);
        }
        if self.group.pending_len() >= self.settings.group_size_max {
            return self.refuse_join(token, GroupError::GroupFull, "");
        }
        self.group.add_pending(new_id.clone());
        self.refuse_join(token, GroupError::MemberIdRequired, &new_id);
        self.set_timer(TimerKind::Session(new_id), i64::from(request.session_timeout_ms));
    }

    fn add_member(&mut self, request: JoinRequest, token: Token, member_id: Arc<str>) {
        if let Phase::PreparingRebalance {
            initial: Some(initial),
        } = &mut self.group.phase
        {
            initial.member_added = true;
        }
        let reason = reason("a new member joins", &request);
        let member = Member {
            id: member_id.clone(),
            instance_id: request.instance_id,
            client: request.client,
            session_timeout_ms: request.session_timeout_ms,
            rebalance_timeout_ms: request.rebalance_timeout_ms.max(0),
            protocols: request.protocols,
            assignment: Bytes::new(),
            is_new: true,
            join: Some(token),
            sync: None,
        };
        self.group.add(&request.protocol_type, member);
        self.set_timer(
            TimerKind::Session(member_id),
            self.settings.new_member_join_timeout_ms,
        );
        self.rebalance_or_complete_join(&reason);
    }

    /// A member that has an id joins.
    fn rejoin(&mut self, request: JoinRequest, token: Token) {
        let id = request.member_id.clone();
        if let Err(error) = self.group.validate_member(&id, request.instance_id.as_deref()) {
            return self.refuse_join(token, error, &id);
        }
        let unchanged = self
            .group
            .member(&id)
            .is_some_and(|m| m.protocols == request.protocols);
        let why = match self.group.state() {
            GroupState::PreparingRebalance => "a member rejoins",
            GroupState::CompletingRebalance | GroupState::Stable if !unchanged => {
                "a member's metadata changed"
            }
            // The leader may know of changes that nobody's metadata shows, such as new partitions.
            GroupState::Stable if self.group.is_leader(&id) => "the leader rejoins",
            // The earlier response may have been lost.
            GroupState::CompletingRebalance | GroupState::Stable => {
                let joined = self.group.joined(&id);
                return self.reply(token, Reply::Join(Ok(joined)));
            }
            GroupState::Empty | GroupState::Dead => {
                return self.refuse_join(token, GroupError::UnknownMember, &id);
            }
        };
        let reason = reason(why, &request);
        self.update_member(&id, request, token);
        self.rebalance_or_complete_join(&reason);
    }

    /// Takes the request's metadata over and parks it at the barrier. A request that waited there
    /// before can only be from a connection given up by its client.
    fn update_member(&mut self, member_id: &str, request: JoinRequest, token: Token) {
        let before = self.group.update(member_id, |member| {
            member.protocols = request.protocols;
            member.session_timeout_ms = request.session_timeout_ms;
            member.rebalance_timeout_ms = request.rebalance_timeout_ms.max(0);
            member.client = request.client;
            member.join.replace(token)
        });
        if let Some(before) = before.flatten() {
            self.refuse_join(before, GroupError::RebalanceInProgress, member_id);
        }
    }

    /// A static member restarted: it takes its place under a new id, and the old id is fenced. The
    /// group rebalances only where it must (KIP-345).
    fn readmit(&mut self, request: JoinRequest, token: Token, old_id: &str, new_id: &Arc<str>) {
        let Some(old) = self.group.member(old_id) else {
            return;
        };
        let readmission = Readmission {
            generation: self.group.generation,
            api_version: request.api_version,
            member_id: new_id.to_string(),
            previous_leader: self.group.leader.as_deref().unwrap_or_default().to_owned(),
            old_id: old_id.to_owned(),
            old_protocols: old.protocols.clone(),
            old_session_timeout_ms: old.session_timeout_ms,
            old_rebalance_timeout_ms: old.rebalance_timeout_ms,
        };
        self.replace_member_id(old_id, new_id.clone());
        let reason = reason("a static member restarted", &request);
        self.update_member(new_id, request, token);
        self.expect_heartbeat(new_id);

        match self.group.state() {
            GroupState::Stable if self.group.select_protocol() == self.group.protocol_name => {
                self.save(Then::Readmit(readmission));
            }
            // In CompletingRebalance the leader is assigning to the old id.
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(&reason),
            _ => self.complete_join_if_all_joined(),
        }
    }

    /// Moves a static member to a new id and fences whoever waits under the old one.
    pub(super) fn replace_member_id(&mut self, old_id: &str, new_id: Arc<str>) {
        self.cancel_timer(TimerKind::Session(Arc::from(old_id)));
        let (join, sync) = self.group.replace_id(old_id, new_id);
        if let Some(token) = join {
            self.reply(token, refused(GroupError::FencedInstance, old_id));
        }
        if let Some(token) = sync {
            self.reply_sync(token, Err(GroupError::FencedInstance));
        }
    }
}

fn reason(what: &str, request: &JoinRequest) -> String {
    format!(
        "{what}; client reason: {}",
        request.reason.as_deref().unwrap_or("not provided")
    )
}
