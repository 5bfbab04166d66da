//! The coordinator: which groups are here, and every input's way to its group.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use meridian_types::{LeaderEpoch, ShardId, TimestampMs, shard_of_name};

use super::error::{GroupError, StoreError};
use super::group::{Group, GroupState, Phase};
use super::request::{
    CommitKind, CommitRequest, HeartbeatRequest, JoinRequest, LeaveRequest, LeavingMember, LeftMember, Reply,
    SyncRequest, Token,
};
use super::saved::{DecodeError, SavedGroup};
use super::saves::{SaveId, Then};
use super::settings::GroupSettings;
use super::step::{Effects, Step, refused};
use super::timers::TimerKind;

/// Makes the part of a member id that nobody else has or guesses, such as a random UUID.
pub type MemberIds = Box<dyn FnMut() -> String + Send>;

/// What the driver is to do. It reports back with [`Coordinator::saved`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Save the group's body in place of its last one, durably.
    Save {
        /// Names the save.
        save: SaveId,
        /// The group.
        group: Arc<str>,
        /// The leadership it was decided under: under a later one it must not take effect.
        epoch: LeaderEpoch,
        /// `docs/formats/group.md`.
        body: Bytes,
    },
    /// Delete the group's body and its committed offsets, durably.
    Delete {
        /// Names the deletion.
        save: SaveId,
        /// The group.
        group: Arc<str>,
        /// The leadership it was decided under: under a later one it must not take effect.
        epoch: LeaderEpoch,
    },
}

/// A saved group that could not be read. Its members are told to join anew.
#[derive(Debug, thiserror::Error)]
#[error("group {group}: {error}")]
pub struct LoadProblem {
    /// The group.
    pub group: String,
    /// What is wrong with its body.
    pub error: DecodeError,
}

/// This node's part in a shard whose groups it coordinates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ownership {
    Loading,
    /// Under this leadership.
    Active(LeaderEpoch),
}

/// All classic groups that this node coordinates.
///
/// Times are milliseconds since the Unix epoch by a clock that never steps back. After any call,
/// take what [`Self::poll_reply`] and [`Self::poll_action`] give until they give nothing.
pub struct Coordinator {
    settings: GroupSettings,
    shards: u32,
    member_ids: MemberIds,
    owned: BTreeMap<ShardId, Ownership>,
    pub(super) groups: BTreeMap<Arc<str>, Group>,
    /// Size of all groups' members together.
    bytes: usize,
    pub(super) effects: Effects,
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator")
            .field("owned", &self.owned)
            .field("groups", &self.groups.len())
            .finish()
    }
}

impl Coordinator {
    /// A coordinator of no shard yet. `shards` is the region's number of shards.
    pub fn new(settings: GroupSettings, shards: u32, member_ids: MemberIds) -> Self {
        Self {
            settings,
            shards,
            member_ids,
            owned: BTreeMap::new(),
            groups: BTreeMap::new(),
            bytes: 0,
            effects: Effects::default(),
        }
    }

    /// This node leads the shard and will coordinate its groups as soon as they are loaded; until
    /// then clients are told to wait.
    pub fn begin_load(&mut self, shard: ShardId) {
        self.unload(shard);
        self.owned.insert(shard, Ownership::Loading);
    }

    /// Takes over the shard's groups as they were saved, under the leadership of `epoch`; a group that is only known by its offsets is
    /// left out. Groups that cannot be read are returned, and start anew.
    pub fn load(
        &mut self,
        now: TimestampMs,
        shard: ShardId,
        epoch: LeaderEpoch,
        groups: impl IntoIterator<Item = (String, Bytes)>,
    ) -> Vec<LoadProblem> {
        self.unload(shard);
        self.owned.insert(shard, Ownership::Active(epoch));
        let mut problems = Vec::new();
        for (id, body) in groups {
            debug_assert_eq!(shard_of_name(&id, self.shards), shard);
            match SavedGroup::decode(body) {
                Ok(saved) => self.load_group(now, &Arc::from(id), saved),
                Err(error) => problems.push(LoadProblem { group: id, error }),
            }
        }
        problems
    }

    fn load_group(&mut self, now: TimestampMs, id: &Arc<str>, saved: SavedGroup) {
        let group = saved.into_group(id.clone(), now);
        self.bytes += group.bytes();
        self.groups.insert(id.clone(), group);
        self.step(now, id, |step| {
            for member_id in step.group.member_ids() {
                step.expect_heartbeat(&member_id);
            }
            if step.group.len() > step.settings.group_size_max {
                step.prepare_rebalance("the loaded group is above group.max.size");
            }
        });
    }

    /// This node no longer leads the shard: forgets its groups and answers everyone who waits with
    /// NOT_COORDINATOR.
    pub fn unload(&mut self, shard: ShardId) {
        self.owned.remove(&shard);
        let gone: Vec<Arc<str>> = self
            .groups
            .keys()
            .filter(|id| shard_of_name(id, self.shards) == shard)
            .cloned()
            .collect();
        for id in gone {
            self.unload_group(&id);
        }
    }

    fn unload_group(&mut self, id: &Arc<str>) {
        let Some(mut group) = self.groups.remove(id) else {
            return;
        };
        self.bytes -= group.bytes();
        self.effects.timers.cancel_group(id);
        self.effects.actions.retain(|action| match action {
            Action::Save { group, .. } | Action::Delete { group, .. } => group != id,
        });
        let error = GroupError::NotCoordinator;
        let replies = &mut self.effects.replies;
        for member in group.members() {
            replies.extend(member.join.map(|token| (token, refused(error, &member.id))));
            replies.extend(member.sync.map(|token| (token, Reply::Sync(Err(error)))));
        }
        for then in group.saves.take_all() {
            match then {
                Then::Emptied {
                    leave: Some((token, _)),
                } => replies.push_back((token, Reply::Leave(Err(error)))),
                Then::Deleted { token } => replies.push_back((token, Reply::Delete(Err(error)))),
                // Their waiting calls are with the members.
                Then::Emptied { leave: None } | Then::Assign { .. } | Then::Readmit(_) => {}
            }
        }
    }

    /// The leadership under which this node answers for the group now.
    pub(super) fn check_owned(&self, group_id: &str) -> Result<LeaderEpoch, GroupError> {
        match self.owned.get(&shard_of_name(group_id, self.shards)) {
            Some(Ownership::Active(epoch)) => Ok(*epoch),
            Some(Ownership::Loading) => Err(GroupError::LoadInProgress),
            None => Err(GroupError::NotCoordinator),
        }
    }

    fn check_group(&self, group_id: &str) -> Result<(), GroupError> {
        if group_id.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        self.check_owned(group_id).map(|_| ())
    }

    /// Whether some shard's groups are still being loaded.
    pub(super) fn is_loading(&self) -> bool {
        self.owned
            .values()
            .any(|ownership| *ownership == Ownership::Loading)
    }

    /// JoinGroup; answered with [`Reply::Join`].
    pub fn handle_join(&mut self, now: TimestampMs, request: JoinRequest, token: Token) {
        if let Err(error) = self.admit_join(now, &request) {
            let member_id = match error {
                GroupError::InvalidSessionTimeout => "",
                _ => &request.member_id,
            };
            return self.effects.replies.push_back((token, refused(error, member_id)));
        }
        let group_id = request.group_id.clone();
        let new_id = if request.member_id.is_empty() {
            let named_after = request.instance_id.as_ref().unwrap_or(&request.client.id);
            format!("{named_after}-{}", (self.member_ids)())
        } else {
            String::new()
        };
        self.step(now, &group_id, |step| step.join(request, token, new_id));
    }

    /// Checks what does not depend on the group's state, and creates a group for its first member.
    fn admit_join(&mut self, now: TimestampMs, request: &JoinRequest) -> Result<(), GroupError> {
        if request.group_id.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        let allowed = self.settings.session_timeout_min_ms..=self.settings.session_timeout_max_ms;
        if !allowed.contains(&request.session_timeout_ms) {
            return Err(GroupError::InvalidSessionTimeout);
        }
        self.check_owned(&request.group_id)?;
        if self.bytes + request.size_bytes() > self.settings.total_bytes_max {
            return Err(GroupError::NotAvailable);
        }
        if !self.groups.contains_key(request.group_id.as_str()) {
            if !request.member_id.is_empty() {
                return Err(GroupError::UnknownMember);
            }
            if self.groups.len() >= self.settings.groups_max {
                return Err(GroupError::NotAvailable);
            }
            let id: Arc<str> = Arc::from(request.group_id.as_str());
            self.groups.insert(id.clone(), Group::new(id, now));
        }
        Ok(())
    }

    /// SyncGroup; answered with [`Reply::Sync`].
    pub fn handle_sync(&mut self, now: TimestampMs, request: SyncRequest, token: Token) {
        if let Err(error) = self.check_group(&request.group_id) {
            return self.effects.replies.push_back((token, Reply::Sync(Err(error))));
        }
        let group_id = request.group_id.clone();
        if self
            .step(now, &group_id, |step| step.sync(request, token))
            .is_none()
        {
            self.effects
                .replies
                .push_back((token, Reply::Sync(Err(GroupError::UnknownMember))));
        }
    }

    /// Heartbeat. While groups load every heartbeat is taken for good: its member may well be in the
    /// group.
    pub fn handle_heartbeat(
        &mut self,
        now: TimestampMs,
        request: &HeartbeatRequest,
    ) -> Result<(), GroupError> {
        match self.check_group(&request.group_id) {
            Err(GroupError::LoadInProgress) => return Ok(()),
            result => result?,
        }
        self.step(now, &request.group_id, |step| step.heartbeat(request))
            .unwrap_or(Err(GroupError::UnknownMember))
    }

    /// LeaveGroup; answered with [`Reply::Leave`], after a save when nobody is left.
    pub fn handle_leave(&mut self, now: TimestampMs, request: LeaveRequest, token: Token) {
        if let Err(error) = self.check_group(&request.group_id) {
            return self.effects.replies.push_back((token, Reply::Leave(Err(error))));
        }
        if self.groups.contains_key(request.group_id.as_str()) {
            let group_id = request.group_id.clone();
            self.step(now, &group_id, |step| step.leave(request, token));
            return;
        }
        let unknown = |leaving: LeavingMember| LeftMember {
            member_id: leaving.member_id,
            instance_id: leaving.instance_id,
            result: Err(GroupError::UnknownMember),
        };
        let left = request.members.into_iter().map(unknown).collect();
        self.effects.replies.push_back((token, Reply::Leave(Ok(left))));
    }

    /// Whether offsets may be committed, and under which leadership: under a later one the group may have another
    /// generation. A commit that is accepted counts as a heartbeat.
    ///
    /// Without a generation (-1) a group without members takes commits from anyone: consumers that
    /// use no group, and administrators.
    pub fn validate_commit(
        &mut self,
        now: TimestampMs,
        request: &CommitRequest,
    ) -> Result<LeaderEpoch, GroupError> {
        let epoch = self.check_owned(&request.group_id)?;
        let unknown_group = if request.generation < 0 {
            Ok(())
        } else {
            Err(GroupError::IllegalGeneration)
        };
        self.step(now, &request.group_id, |step| {
            check_commit(step.group, request)?;
            if request.kind == CommitKind::Plain
                && matches!(
                    step.group.state(),
                    GroupState::Stable | GroupState::PreparingRebalance
                )
            {
                step.expect_heartbeat(&request.member_id);
            }
            Ok(())
        })
        .unwrap_or(unknown_group)?;
        Ok(epoch)
    }

    /// Deletes a group without members; answered with [`Reply::Delete`] when it is done.
    /// `has_offsets`: whether committed offsets of the group exist.
    pub fn handle_delete(&mut self, now: TimestampMs, group_id: &str, has_offsets: bool, token: Token) {
        if let Err(error) = self.validate_delete(group_id, has_offsets) {
            return self.effects.replies.push_back((token, Reply::Delete(Err(error))));
        }
        let id: Arc<str> = Arc::from(group_id);
        self.groups
            .entry(id.clone())
            .or_insert_with(|| Group::new(id, now));
        self.step(now, group_id, |step| {
            for member_id in step.group.pending_ids() {
                step.remove_member(&member_id);
            }
            // Not `set_phase`: if the deletion fails, the group is empty since when it was.
            step.group.phase = Phase::Dead;
            step.save(Then::Deleted { token });
        });
    }

    /// The outcome of an [`Action`] on the group.
    pub fn saved(&mut self, now: TimestampMs, group_id: &str, save: SaveId, result: Result<(), StoreError>) {
        self.step(now, group_id, |step| step.saved(save, result));
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<TimestampMs> {
        self.effects.timers.next()
    }

    /// Fires all timers that are due.
    pub fn handle_timeout(&mut self, now: TimestampMs) {
        while let Some(key) = self.effects.timers.pop_due(now) {
            self.step(now, &key.group, |step| match &key.kind {
                TimerKind::Join => step.join_timeout(),
                TimerKind::Sync => step.sync_timeout(),
                TimerKind::Session(member_id) => step.session_timeout(member_id),
            });
        }
    }

    /// The next answer.
    pub fn poll_reply(&mut self) -> Option<(Token, Reply)> {
        self.effects.replies.pop_front()
    }

    /// The next thing to do. A group has one action under way at a time.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.effects.actions.pop_front()
    }

    /// Applies one input to a group, begins the save it may want, and forgets a group of which
    /// nothing is known. `None` when there is no such group.
    fn step<R>(
        &mut self,
        now: TimestampMs,
        group_id: &str,
        input: impl FnOnce(&mut Step<'_>) -> R,
    ) -> Option<R> {
        // Groups are unloaded with their shard.
        let epoch = self.check_owned(group_id).ok()?;
        let group = self.groups.get_mut(group_id)?;
        let bytes_before = group.bytes();
        let mut step = Step {
            now,
            epoch,
            settings: &self.settings,
            group,
            effects: &mut self.effects,
        };
        let result = input(&mut step);
        step.begin_save();
        self.bytes = self.bytes - bytes_before + group.bytes();
        let deleted = group.state() == GroupState::Dead && group.saves.is_idle();
        if deleted || group.is_void() {
            let id = group.id.clone();
            self.bytes -= group.bytes();
            self.groups.remove(&id);
            self.effects.timers.cancel_group(&id);
        }
        Some(result)
    }

    /// What must always hold; tests call it after every step.
    #[cfg(test)]
    pub(super) fn check(&self) {
        use super::timers::TimerKey;
        assert_eq!(self.bytes, self.groups.values().map(Group::bytes).sum::<usize>());
        let mut timers = 0;
        for (id, group) in &self.groups {
            group.check();
            let has = |kind| {
                self.effects.timers.contains(&TimerKey {
                    group: id.clone(),
                    kind,
                })
            };
            for member in group.members() {
                let watched = has(TimerKind::Session(member.id.clone()));
                assert!(
                    watched || member.may_be_silent(),
                    "{} of {id} would never time out",
                    member.id
                );
                timers += usize::from(watched);
            }
            for pending in group.pending_ids() {
                assert!(has(TimerKind::Session(pending)));
                timers += 1;
            }
            assert_eq!(
                has(TimerKind::Join),
                group.state() == GroupState::PreparingRebalance
            );
            assert_eq!(has(TimerKind::Sync), !group.pending_syncs.is_empty());
            timers += usize::from(has(TimerKind::Join)) + usize::from(has(TimerKind::Sync));
            assert!(group.saves.under_way.is_some() || group.saves.wanted.is_empty());
        }
        assert_eq!(
            self.effects.timers.len(),
            timers,
            "a timer outlives what it watches"
        );
    }
}

fn check_commit(group: &Group, request: &CommitRequest) -> Result<(), GroupError> {
    let state = group.state();
    if state == GroupState::Dead {
        return Err(GroupError::NotAvailable);
    }
    if request.generation < 0 && state == GroupState::Empty {
        return Ok(());
    }
    let plain = request.kind == CommitKind::Plain;
    if request.generation >= 0 || !request.member_id.is_empty() || request.instance_id.is_some() {
        group.validate_member(&request.member_id, request.instance_id.as_deref())?;
        if request.generation != group.generation {
            return Err(GroupError::IllegalGeneration);
        }
    } else if plain && state != GroupState::Empty {
        return Err(GroupError::UnknownMember);
    }
    if plain && state == GroupState::CompletingRebalance {
        // The member knows of the new generation but has no assignment in it yet.
        return Err(GroupError::RebalanceInProgress);
    }
    Ok(())
}
