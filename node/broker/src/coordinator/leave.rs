//! LeaveGroup.

use super::error::GroupError;
use super::group::GroupState;
use super::request::{LeaveRequest, LeavingMember, LeftMember, Reply, Token};
use super::saves::Then;
use super::step::Step;

impl Step<'_> {
    /// Removes the members. When none is left the answer waits until that is saved.
    pub(super) fn leave(&mut self, request: LeaveRequest, token: Token) {
        if self.group.state() == GroupState::Dead {
            return self.reply(token, Reply::Leave(Err(GroupError::NotAvailable)));
        }
        let left: Vec<LeftMember> = request
            .members
            .into_iter()
            .map(|leaving| {
                let result = self.leave_one(&leaving);
                LeftMember {
                    member_id: leaving.member_id,
                    instance_id: leaving.instance_id,
                    result,
                }
            })
            .collect();
        if left.iter().any(|member| member.result.is_ok()) {
            match self.group.state() {
                GroupState::Stable | GroupState::CompletingRebalance => {
                    self.prepare_rebalance("members left");
                }
                _ => self.complete_join_if_all_joined(),
            }
        }
        if self
            .group
            .saves
            .wanted
            .iter()
            .any(|then| matches!(then, Then::Emptied { .. }))
        {
            self.save(Then::Emptied {
                leave: Some((token, left)),
            });
        } else {
            self.reply(token, Reply::Leave(Ok(left)));
        }
    }

    fn leave_one(&mut self, leaving: &LeavingMember) -> Result<(), GroupError> {
        let instance_id = leaving.instance_id.as_deref();
        let id = if leaving.member_id.is_empty() {
            // An administrator names static members by their instance alone.
            let id = instance_id.and_then(|instance_id| self.group.static_member_id(instance_id));
            id.ok_or(GroupError::UnknownMember)?.to_string()
        } else {
            if !self.group.is_pending(&leaving.member_id) {
                self.group.validate_member(&leaving.member_id, instance_id)?;
            }
            leaving.member_id.clone()
        };
        tracing::info!(
            group = &*self.group.id,
            member = id,
            instance = instance_id,
            reason = leaving.reason.as_deref().unwrap_or("not provided"),
            "member leaves"
        );
        self.remove_member(&id);
        Ok(())
    }
}
