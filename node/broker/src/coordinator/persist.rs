//! Saving a group, and what follows.

use std::sync::Arc;

use super::core::Action;
use super::error::{GroupError, StoreError};
use super::group::{GroupState, Phase};
use super::request::Reply;
use super::saved::SavedGroup;
use super::saves::{Readmission, SaveId, Then};
use super::step::{Step, refused};

/// From this version a leader can be told to skip assigning (KIP-814).
const VERSION_SKIP_ASSIGNMENT: i16 = 9;

impl Step<'_> {
    /// Wants the group saved as it is at the end of the step; `then` follows.
    pub(super) fn save(&mut self, then: Then) {
        self.group.saves.wanted.push(then);
    }

    /// Begins what is wanted, unless a save is under way. Called at the end of every step.
    pub(super) fn begin_save(&mut self) {
        let wanted = std::mem::take(&mut self.group.saves.wanted);
        let wanted: Vec<Then> = wanted
            .into_iter()
            .filter(|then| self.still_matters(then))
            .collect();
        if self.group.saves.under_way.is_some() || wanted.is_empty() {
            self.group.saves.wanted = wanted;
            return;
        }
        let save = SaveId(self.effects.saves_begun);
        self.effects.saves_begun += 1;
        let (group, epoch) = (self.group.id.clone(), self.epoch);
        let action = if wanted.iter().any(|then| matches!(then, Then::Deleted { .. })) {
            Action::Delete { save, group, epoch }
        } else {
            Action::Save {
                save,
                group,
                epoch,
                body: SavedGroup::of(self.group).encode(),
            }
        };
        self.effects.actions.push_back(action);
        self.group.saves.under_way = Some((save, wanted));
    }

    /// Whether the group is still where `then` would take it on.
    fn still_matters(&self, then: &Then) -> bool {
        match then {
            Then::Assign { generation } => {
                *generation == self.group.generation
                    && matches!(
                        self.group.phase,
                        Phase::CompletingRebalance { assignments: Some(_) }
                    )
            }
            Then::Readmit(readmission) => {
                readmission.generation == self.group.generation
                    && self.group.state() == GroupState::Stable
                    && self
                        .group
                        .member(&readmission.member_id)
                        .is_some_and(|m| m.join.is_some())
            }
            Then::Emptied { .. } | Then::Deleted { .. } => true,
        }
    }

    /// Carries on after a save. A result of a save that is not under way is from before the group
    /// was last given up, and changes nothing.
    pub(super) fn saved(&mut self, save: SaveId, result: Result<(), StoreError>) {
        let Some((_, thens)) = self.group.saves.under_way.take_if(|(id, _)| *id == save) else {
            return;
        };
        if let Err(error) = result {
            tracing::warn!(group = &*self.group.id, %error, "could not save the group");
        }
        let result = result.map_err(GroupError::from);
        for then in thens {
            if self.still_matters(&then) {
                self.follow(then, result);
            }
        }
    }

    fn follow(&mut self, then: Then, result: Result<(), GroupError>) {
        match (then, result) {
            (Then::Assign { .. }, Ok(())) => self.assign(),
            (Then::Assign { .. }, Err(error)) => {
                self.cancel_assignment(error);
                self.prepare_rebalance("the assignment could not be saved");
            }
            (Then::Readmit(readmission), Ok(())) => self.admit(&readmission),
            (Then::Readmit(readmission), Err(error)) => self.undo_readmission(readmission, error),
            (
                Then::Emptied {
                    leave: Some((token, left)),
                },
                result,
            ) => {
                self.reply(token, Reply::Leave(result.map(|()| left)));
            }
            // If the coordinator moves now, the generation before comes back and its sessions end.
            (Then::Emptied { leave: None }, _) => {}
            (Then::Deleted { token }, result) => {
                if result.is_err() {
                    self.group.phase = Phase::Empty;
                }
                self.reply(token, Reply::Delete(result));
            }
        }
    }

    fn admit(&mut self, readmission: &Readmission) {
        let member_id = &readmission.member_id;
        self.group.learn_subscribed_topics();
        let mut joined = self.group.joined(member_id);
        if readmission.api_version >= VERSION_SKIP_ASSIGNMENT {
            joined.skip_assignment = self.group.is_leader(member_id);
        } else {
            // An older client that finds itself leader would assign. Under its old id it does not.
            joined.leader.clone_from(&readmission.previous_leader);
            joined.members.clear();
        }
        self.release_join(member_id, Reply::Join(Ok(joined)));
        self.expect_heartbeat(member_id);
    }

    /// The log still has the old id, so the group keeps it too; the client tries again.
    fn undo_readmission(&mut self, readmission: Readmission, error: GroupError) {
        self.release_join(&readmission.member_id, refused(error, ""));
        self.group.update(&readmission.member_id, |member| {
            member.protocols = readmission.old_protocols;
            member.session_timeout_ms = readmission.old_session_timeout_ms;
            member.rebalance_timeout_ms = readmission.old_rebalance_timeout_ms;
        });
        self.replace_member_id(&readmission.member_id, Arc::from(readmission.old_id.as_str()));
        self.expect_heartbeat(&readmission.old_id);
    }
}
