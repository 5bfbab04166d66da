//! The join barrier: from the first reason to rebalance to the next generation.

use bytes::Bytes;

use super::error::GroupError;
use super::group::{GroupState, InitialDelay, Phase};
use super::request::Reply;
use super::saves::Then;
use super::step::Step;
use super::timers::TimerKind;

impl Step<'_> {
    /// Begins a rebalance, or, if one has begun, ends the barrier when all have joined.
    pub(super) fn rebalance_or_complete_join(&mut self, reason: &str) {
        match self.group.state() {
            GroupState::Empty | GroupState::CompletingRebalance | GroupState::Stable => {
                self.prepare_rebalance(reason);
            }
            GroupState::PreparingRebalance => self.complete_join_if_all_joined(),
            GroupState::Dead => {}
        }
    }

    pub(super) fn prepare_rebalance(&mut self, reason: &str) {
        if self.group.state() == GroupState::CompletingRebalance {
            self.cancel_assignment(GroupError::RebalanceInProgress);
        }
        self.group.pending_syncs.clear();
        self.cancel_timer(TimerKind::Sync);

        let was_empty = self.group.state() == GroupState::Empty;
        let initial = was_empty.then(|| {
            let delay_ms = self.settings.initial_rebalance_delay_ms;
            let remaining_ms = (self.group.rebalance_timeout_ms() - delay_ms).max(0);
            InitialDelay {
                member_added: false,
                delay_ms,
                remaining_ms,
            }
        });
        tracing::info!(
            group = &*self.group.id,
            from = %self.group.state(),
            generation = self.group.generation,
            reason,
            "preparing to rebalance"
        );
        let delay_ms = initial.as_ref().map(|initial| initial.delay_ms);
        self.group
            .set_phase(self.now, Phase::PreparingRebalance { initial });
        match delay_ms {
            Some(delay_ms) => self.set_timer(TimerKind::Join, delay_ms),
            None if self.group.have_all_joined() => self.complete_join(),
            None => self.set_timer(TimerKind::Join, self.group.rebalance_timeout_ms()),
        }
    }

    /// Ends the barrier when all have joined, except that an initial rebalance keeps its delay.
    pub(super) fn complete_join_if_all_joined(&mut self) {
        if matches!(self.group.phase, Phase::PreparingRebalance { initial: None })
            && self.group.have_all_joined()
        {
            self.complete_join();
        }
    }

    /// The timer of the barrier: the initial delay is extended while members come, up to the
    /// rebalance timeout; otherwise the barrier ends with whoever has joined.
    pub(super) fn join_timeout(&mut self) {
        let Phase::PreparingRebalance { initial } = &mut self.group.phase else {
            return;
        };
        if let Some(initial) = initial
            && initial.member_added
            && initial.remaining_ms > 0
        {
            let delay_ms = self.settings.initial_rebalance_delay_ms.min(initial.remaining_ms);
            initial.remaining_ms = (initial.remaining_ms - initial.delay_ms).max(0);
            initial.member_added = false;
            initial.delay_ms = delay_ms;
            self.set_timer(TimerKind::Join, delay_ms);
            return;
        }
        self.complete_join();
    }

    /// Drops dynamic members that have not rejoined and begins the next generation. Static members
    /// stay until their session ends, so that they can restart in peace.
    fn complete_join(&mut self) {
        self.cancel_timer(TimerKind::Join);
        let late: Vec<_> = self
            .group
            .members()
            .filter(|m| m.join.is_none() && !m.is_static())
            .map(|m| m.id.clone())
            .collect();
        for member_id in &late {
            tracing::info!(
                group = &*self.group.id,
                member = &**member_id,
                "removing member that did not rejoin"
            );
            self.remove_member(member_id);
        }
        if self.group.len() > 0 && !self.group.elect_joined_leader() {
            // Only silent static members are left: their sessions decide. The bound from below keeps a
            // rebalance timeout of nothing from turning this into a busy loop.
            self.set_timer(TimerKind::Join, self.group.rebalance_timeout_ms().max(1_000));
            return;
        }
        self.group.begin_generation(self.now);
        if self.group.state() == GroupState::Empty {
            tracing::info!(
                group = &*self.group.id,
                generation = self.group.generation,
                "group is empty"
            );
            self.save(Then::Emptied { leave: None });
            return;
        }
        tracing::info!(
            group = &*self.group.id,
            generation = self.group.generation,
            members = self.group.len(),
            protocol = self.group.protocol_name.as_deref(),
            "all members joined"
        );
        for member_id in self.group.member_ids() {
            let joined = self.group.joined(&member_id);
            self.release_join(&member_id, Reply::Join(Ok(joined)));
            self.group.update(&member_id, |member| member.is_new = false);
            self.expect_heartbeat(&member_id);
        }
        self.set_timer(TimerKind::Sync, self.group.rebalance_timeout_ms());
    }

    /// Takes back what the leader may have sent and sends everyone who waits for it away.
    pub(super) fn cancel_assignment(&mut self, error: GroupError) {
        if let Phase::CompletingRebalance { assignments } = &mut self.group.phase {
            *assignments = None;
        }
        for member_id in self.group.member_ids() {
            self.group
                .update(&member_id, |member| member.assignment = Bytes::new());
            self.release_sync(&member_id, Err(error));
        }
    }

    /// Members that joined the generation but did not sync in time are dropped.
    pub(super) fn sync_timeout(&mut self) {
        if !matches!(
            self.group.state(),
            GroupState::CompletingRebalance | GroupState::Stable
        ) {
            return;
        }
        let missing = std::mem::take(&mut self.group.pending_syncs);
        if missing.is_empty() {
            return;
        }
        for member_id in &missing {
            tracing::info!(
                group = &*self.group.id,
                member = &**member_id,
                "removing member that did not sync"
            );
            self.remove_member(member_id);
        }
        self.prepare_rebalance("members did not sync in time");
    }

    /// A session or a handed-out member id has run out.
    pub(super) fn session_timeout(&mut self, member_id: &str) {
        if self.group.remove_pending(member_id) {
            if self.group.state() == GroupState::PreparingRebalance && self.group.have_all_joined() {
                self.complete_join();
            }
            return;
        }
        let Some(member) = self.group.member(member_id) else {
            return;
        };
        if member.may_be_silent() {
            return;
        }
        tracing::info!(
            group = &*self.group.id,
            member = member_id,
            "removing member that fell silent"
        );
        self.remove_member(member_id);
        match self.group.state() {
            GroupState::Stable | GroupState::CompletingRebalance => {
                self.prepare_rebalance("a member's session timed out");
            }
            GroupState::PreparingRebalance if self.group.have_all_joined() => self.complete_join(),
            _ => {}
        }
    }
}
