//! A group that this node leads: its heartbeats, its public face, and giving it to another.

use std::time::Duration;

use meridian_types::{NodeId, RaftIndex};

use super::action::Action;
use super::beat::{NodePhase, ShardRole};
use super::group::{Effects, Group, Role, Surroundings};
use super::settings::Timing;

#[derive(Debug)]
pub(super) struct Leading {
    since: Duration,
    /// A quorum of voters was heard lately, and nobody claims the shard under a later term.
    is_supported: bool,
    /// The next heartbeat; `None` while the group hibernates.
    heartbeat: Option<Duration>,
    /// Heartbeats left before it hibernates.
    heartbeats_left: u8,
    handover: Option<Handover>,
    /// A transfer was refused: none before this time.
    refused_until: Duration,
    /// Since when the preferred leader has been fit to take over.
    preferred_fit: Option<Duration>,
    lag: LagSample,
}

/// openraft proposes nothing more once a transfer has begun, until there is a new term: this ends only
/// with the leadership.
#[derive(Debug)]
struct Handover {
    to: NodeId,
    /// When to ask again.
    retry: Duration,
}

/// When this node gave, and may again give, a group to its preferred leader.
#[derive(Debug)]
pub(super) struct Preference {
    /// Whom it was given to, while it is open whether it got there.
    pending: Option<NodeId>,
    began: Option<Duration>,
    /// From then on, how long to wait.
    pause: Duration,
}

impl Preference {
    pub(super) fn new(timing: &Timing) -> Self {
        Self {
            pending: None,
            began: None,
            pause: timing.handover_interval,
        }
    }

    fn begin(&mut self, now: Duration, to: NodeId) {
        self.pending = Some(to);
        self.began = Some(now);
    }

    fn is_free(&self, now: Duration) -> bool {
        self.began.is_none_or(|began| now >= began + self.pause)
    }

    /// There is a leader again. A node that cannot get its vote is not asked every few seconds: each attempt
    /// costs the group its leader.
    pub(super) fn leader_is(&mut self, timing: &Timing, leader: NodeId) {
        let Some(wanted) = self.pending.take() else { return };
        self.pause = match wanted == leader {
            true => timing.handover_interval,
            false => (self.pause * 2).min(timing.handover_interval_max),
        };
    }
}

/// What this node had applied a while ago: who has reached it by now is caught up.
#[derive(Debug, Default)]
struct LagSample {
    taken: Option<Duration>,
    newer: RaftIndex,
    older: Option<RaftIndex>,
}

impl LagSample {
    fn take(&mut self, now: Duration, lag_max: Duration, applied: RaftIndex) {
        if self.taken.is_none_or(|taken| now >= taken + lag_max) {
            self.older = self.taken.map(|_| self.newer);
            self.newer = applied;
            self.taken = Some(now);
        }
    }
}

impl Leading {
    /// Its first heartbeats tell the others at once whom they elected.
    pub(super) fn new(now: Duration, heartbeats: u8) -> Self {
        Self {
            since: now,
            is_supported: true,
            heartbeat: Some(now),
            heartbeats_left: heartbeats,
            handover: None,
            refused_until: Duration::ZERO,
            preferred_fit: None,
            lag: LagSample::default(),
        }
    }

    pub(super) fn is_claimed(&self) -> bool {
        self.is_supported && self.handover.is_none()
    }

    /// Something happens in the group: it is to have heartbeats for a while.
    pub(super) fn wake(&mut self, now: Duration, heartbeats_after: u8) {
        self.heartbeats_left = heartbeats_after;
        self.heartbeat.get_or_insert(now);
    }

    /// The transfer was refused before openraft began with it.
    pub(super) fn handover_refused(&mut self, until: Duration) {
        self.handover = None;
        self.refused_until = until;
        self.preferred_fit = None;
    }

    pub(super) fn doubt_preferred(&mut self) {
        self.preferred_fit = None;
    }
}

impl Group {
    pub(super) fn lead(&mut self, around: &Surroundings, effects: &mut Effects<'_>) {
        let Some(mut leading) = self.leading.take() else {
            return;
        };
        leading
            .lag
            .take(around.clock.lived(), around.timing.lag_max, self.applied);
        let is_superseded = around.leaders.term(self.shard) > self.role.term().unwrap_or_default();
        leading.is_supported = !is_superseded && self.is_quorum_heard(around);
        self.choose_successor(&mut leading, around, effects);
        // While it hands over, leases must be free to lapse.
        if leading.handover.is_none() {
            if self.has_straggler(&leading, around) {
                leading.wake(around.clock.lived(), around.timing.heartbeats_after);
            }
            self.beat_heart(&mut leading, around, effects);
        }
        self.leading = Some(leading);
    }

    fn is_quorum_heard(&self, around: &Surroundings) -> bool {
        let is_heard = |node| {
            let age = around.timing.quorum_silence_max;
            node == around.node || around.detector.is_heard_within(&around.clock, node, age)
        };
        self.members.is_quorum(is_heard)
    }

    /// Whether a live member does not follow this leader, be it for a later one, or has missed entries that it
    /// should long have.
    fn has_straggler(&self, leading: &Leading, around: &Surroundings) -> bool {
        self.members.all().any(|node| {
            let hosted = around.detector.hosted(node, self.shard);
            hosted.is_some_and(|hosted| {
                let follows = hosted.role == ShardRole::Follows && Some(hosted.term) == self.role.term();
                let lags = leading.lag.older.is_some_and(|older| hosted.applied < older);
                !follows || lags
            })
        })
    }

    fn beat_heart(&mut self, leading: &mut Leading, around: &Surroundings, effects: &mut Effects<'_>) {
        let now = around.clock.lived();
        let Some(due) = leading.heartbeat else { return };
        if now < due {
            return effects.wake_at(due);
        }
        leading.heartbeat = match leading.heartbeats_left.checked_sub(1) {
            None => None,
            Some(left) => {
                leading.heartbeats_left = left;
                effects.actions.push_back(Action::Heartbeat { shard: self.shard });
                let next = now + around.timing.heartbeat_interval;
                effects.wake_at(next);
                Some(next)
            }
        };
    }

    /// Begins, or repeats, a hand-over where one is due.
    fn choose_successor(&mut self, leading: &mut Leading, around: &Surroundings, effects: &mut Effects<'_>) {
        let now = around.clock.lived();
        let to = match &leading.handover {
            Some(handover) if now < handover.retry => {
                return effects.wake_at(handover.retry);
            }
            Some(handover) if around.detector.is_alive(handover.to) => Some(handover.to),
            Some(_) => self.best_successor(around),
            None if now < leading.refused_until => {
                return effects.wake_at(leading.refused_until);
            }
            None if around.phase == NodePhase::Stopping => self.best_successor(around),
            None if self.should_leave(around) => self.fit_replica(leading, around),
            None => self.due_preferred(leading, around),
        };
        let Some(to) = to else { return };
        let is_leaving = around.phase == NodePhase::Stopping || self.should_leave(around);
        if leading.handover.is_none() && !is_leaving {
            self.preference.begin(now, to);
        }
        let retry = now + around.timing.handover_retry;
        leading.handover = Some(Handover { to, retry });
        effects.wake_at(retry);
        effects.actions.push_back(Action::Transfer {
            shard: self.shard,
            to,
        });
    }

    /// The live voter that has the most of the log, or would lead soonest among equals.
    pub(super) fn best_successor(&self, around: &Surroundings) -> Option<NodeId> {
        let ranked = self.ranked_voters(around);
        let may_lead = |node: NodeId| node != around.node && self.members.voters.contains(&node);
        let others = ranked.into_iter().enumerate().filter(|(_, node)| may_lead(*node));
        let best = others.filter_map(|(rank, node)| {
            let hosted = around.detector.hosted(node, self.shard)?;
            let follows = hosted.role == ShardRole::Follows;
            Some(((follows, hosted.applied, std::cmp::Reverse(rank)), node))
        });
        best.max().map(|(_, node)| node)
    }

    /// Whether another should lead what this node leads: it can take no records, or the shard is placed on others, as
    /// it is when its replica here is about to be removed.
    fn should_leave(&self, around: &Surroundings) -> bool {
        let is_misplaced = !self.replicas.is_empty() && !self.replicas.contains(&around.node);
        is_misplaced || around.phase == NodePhase::Full
    }

    /// The first of the replicas that could lead now. It need not prove itself: somebody has to take over.
    fn fit_replica(&self, leading: &Leading, around: &Surroundings) -> Option<NodeId> {
        let fit = |node: &NodeId| self.is_fit(*node, leading, around);
        self.replicas.iter().copied().find(fit)
    }

    /// The preferred leader, once it has been fit for long enough.
    fn due_preferred(&self, leading: &mut Leading, around: &Surroundings) -> Option<NodeId> {
        let now = around.clock.lived();
        let preferred = self.replicas.first().copied();
        let fit = preferred.filter(|node| self.is_fit(*node, leading, around));
        let Some(preferred) = fit else {
            leading.preferred_fit = None;
            return None;
        };
        let since = *leading.preferred_fit.get_or_insert(now);
        let is_proven = now >= since.max(leading.since) + around.timing.preferred_after;
        (is_proven && self.preference.is_free(now)).then_some(preferred)
    }

    /// Whether the node could lead this group now as well as this node does.
    fn is_fit(&self, node: NodeId, leading: &Leading, around: &Surroundings) -> bool {
        let may_leave = matches!(self.role, Role::Leading { .. }) && leading.is_supported;
        let may_come = node != around.node
            && self.members.voters.contains(&node)
            && self.members.outgoing.is_empty()
            && around.detector.phase(node) == NodePhase::Running;
        let is_caught_up = around.detector.hosted(node, self.shard).is_some_and(|hosted| {
            hosted.role == ShardRole::Follows
                && Some(hosted.term) == self.role.term()
                && leading.lag.older.is_some_and(|older| hosted.applied >= older)
        });
        may_leave && may_come && is_caught_up
    }
}
