//! One input applied to one group: the group, the time, and where effects go.

use std::collections::VecDeque;
use std::sync::Arc;

use meridian_types::{LeaderEpoch, TimestampMs};

use super::core::Action;
use super::error::GroupError;
use super::group::Group;
use super::request::{JoinRefused, Reply, Synced, Token};
use super::settings::GroupSettings;
use super::timers::{TimerKey, TimerKind, Timers};

/// What steps leave behind for the driver.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) timers: Timers,
    pub(super) replies: VecDeque<(Token, Reply)>,
    pub(super) actions: VecDeque<Action>,
    pub(super) saves_begun: u64,
}

pub(super) struct Step<'a> {
    pub(super) now: TimestampMs,
    /// The leadership under which this is decided.
    pub(super) epoch: LeaderEpoch,
    pub(super) settings: &'a GroupSettings,
    pub(super) group: &'a mut Group,
    pub(super) effects: &'a mut Effects,
}

impl Step<'_> {
    pub(super) fn reply(&mut self, token: Token, reply: Reply) {
        self.effects.replies.push_back((token, reply));
    }

    pub(super) fn refuse_join(&mut self, token: Token, error: GroupError, member_id: &str) {
        self.reply(token, refused(error, member_id));
    }

    pub(super) fn reply_sync(&mut self, token: Token, result: Result<Synced, GroupError>) {
        self.reply(token, Reply::Sync(result));
    }

    /// Answers the JoinGroup of the member, if one waits.
    pub(super) fn release_join(&mut self, member_id: &str, reply: Reply) {
        if let Some(token) = self.group.update(member_id, |m| m.join.take()).flatten() {
            self.reply(token, reply);
        }
    }

    /// Answers the SyncGroup of the member, if one waits, and expects its next heartbeat. A session
    /// that ran out while the member waited was not counted against it, so its timer must start again.
    pub(super) fn release_sync(&mut self, member_id: &str, result: Result<Synced, GroupError>) {
        if let Some(token) = self.group.update(member_id, |m| m.sync.take()).flatten() {
            self.reply_sync(token, result);
            self.expect_heartbeat(member_id);
        }
    }

    /// Starts the member's session anew.
    pub(super) fn expect_heartbeat(&mut self, member_id: &str) {
        if let Some(member) = self.group.member(member_id) {
            let (id, timeout_ms) = (member.id.clone(), i64::from(member.session_timeout_ms));
            self.set_timer(TimerKind::Session(id), timeout_ms);
        }
    }

    /// Removes a member or a handed-out id with its timer; what it waits for is answered with
    /// UNKNOWN_MEMBER_ID, upon which a client that is still there joins anew.
    pub(super) fn remove_member(&mut self, member_id: &str) {
        self.cancel_timer(TimerKind::Session(Arc::from(member_id)));
        let Some(member) = self.group.remove(member_id) else {
            return;
        };
        if let Some(token) = member.join {
            self.refuse_join(token, GroupError::UnknownMember, "");
        }
        if let Some(token) = member.sync {
            self.reply_sync(token, Err(GroupError::UnknownMember));
        }
        self.stop_sync_timer_if_all_synced();
    }

    pub(super) fn stop_sync_timer_if_all_synced(&mut self) {
        if self.group.pending_syncs.is_empty() {
            self.cancel_timer(TimerKind::Sync);
        }
    }

    pub(super) fn set_timer(&mut self, kind: TimerKind, after_ms: i64) {
        let key = TimerKey {
            group: self.group.id.clone(),
            kind,
        };
        self.effects
            .timers
            .set(key, TimestampMs(self.now.0.saturating_add(after_ms)));
    }

    pub(super) fn cancel_timer(&mut self, kind: TimerKind) {
        self.effects.timers.cancel(TimerKey {
            group: self.group.id.clone(),
            kind,
        });
    }
}

pub(super) fn refused(error: GroupError, member_id: &str) -> Reply {
    Reply::Join(Err(JoinRefused {
        error,
        member_id: member_id.to_owned(),
    }))
}
