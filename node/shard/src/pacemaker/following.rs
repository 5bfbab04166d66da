//! A group that this node does not lead: when its leader counts as gone, and when to call an election.

use std::time::Duration;

use meridian_types::NodeId;

use super::action::Action;
use super::group::{Effects, Group, Role, Surroundings};
use super::random::Jitter;
use super::settings::Timing;

#[derive(Debug)]
pub(super) struct Following {
    /// When a live node last claimed the shard, or the group last found a new leader.
    claimed: Duration,
    /// The node that last did.
    claimant: Option<NodeId>,
    /// No live node claims to lead the shard, for longer than a change of leader takes.
    is_gone: bool,
    /// When this node last ended the leader's lease.
    lease_ended: Option<Duration>,
    /// When this node calls its next election.
    due: Option<Duration>,
    /// Elections called since the leader is gone.
    attempts: u32,
}

impl Following {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            claimed: now,
            claimant: None,
            is_gone: false,
            lease_ended: None,
            due: None,
            attempts: 0,
        }
    }

    /// The group follows another leader, or another term: its node's next beats will claim the shard.
    pub(super) fn leader_is_new(&mut self, now: Duration, leader: NodeId) {
        self.claimed = now;
        self.claimant = Some(leader);
    }

    /// What the others say may be long past: no election before they have spoken again.
    pub(super) fn handle_stall(&mut self) {
        self.due = None;
    }

    pub(super) fn is_gone(&self) -> bool {
        self.is_gone
    }

    fn stand_down(&mut self) {
        self.lease_ended = None;
        self.due = None;
        self.attempts = 0;
    }
}

impl Group {
    pub(super) fn follow(&mut self, around: &Surroundings, effects: &mut Effects<'_>) {
        self.following.is_gone = self.judge(around, effects);
        if !self.following.is_gone {
            return self.following.stand_down();
        }
        if !self.members.is_voter(around.node) {
            return;
        }
        // Repeated, because a last message of the leader may have renewed it.
        let again = around.clock.lived().saturating_sub(around.timing.claim_grace);
        if self.following.lease_ended.is_none_or(|ended| ended <= again) {
            self.end_lease(around, effects);
        }
        self.campaign(around, effects);
    }

    fn end_lease(&mut self, around: &Surroundings, effects: &mut Effects<'_>) {
        self.following.lease_ended = Some(around.clock.lived());
        if let Role::Following { leader, term } = self.role {
            let shard = self.shard;
            effects
                .actions
                .push_back(Action::EndLease { shard, leader, term });
        }
    }

    /// Whether the leader counts as gone.
    fn judge(&mut self, around: &Surroundings, effects: &mut Effects<'_>) -> bool {
        let now = around.clock.lived();
        if let Some(claim) = around.leaders.claim(self.shard) {
            self.following.claimed = now;
            self.following.claimant = Some(claim.node);
            return false;
        }
        let is_alone = self.members.is_quorum(|node| node == around.node);
        let is_dead = |node| node != around.node && around.detector.is_dead(node);
        if is_alone || self.following.claimant.is_some_and(is_dead) {
            return true;
        }
        let patience_ends = self.following.claimed + around.timing.claim_grace;
        if now < patience_ends {
            effects.wake_at(patience_ends);
        }
        now >= patience_ends
    }

    /// Calls an election when it is this node's turn, as long as a quorum of voters is ready for one. A node
    /// that stops has no turn.
    fn campaign(&mut self, around: &Surroundings, effects: &mut Effects<'_>) {
        let now = around.clock.lived();
        let is_ready = |node| node == around.node || around.detector.is_ready_for_election(node, self.shard);
        let ranked = self.ranked_voters(around);
        let rank = ranked.iter().position(|node| *node == around.node);
        let Some(rank) = rank.filter(|_| self.members.is_quorum(is_ready)) else {
            self.following.due = None;
            return;
        };
        let attempts = &mut self.following.attempts;
        let due = *self.following.due.get_or_insert_with(|| {
            let is_alone = ranked.len() == 1 && *attempts == 0;
            let wait = if is_alone {
                Duration::ZERO
            } else {
                delay(&around.timing, effects.jitter, rank, *attempts)
            };
            now + wait
        });
        if now < due {
            return effects.wake_at(due);
        }
        *attempts = attempts.saturating_add(1);
        let next = now + delay(&around.timing, effects.jitter, rank, *attempts);
        self.following.due = Some(next);
        effects.wake_at(next);
        self.end_lease(around, effects);
        effects.actions.push_back(Action::Elect { shard: self.shard });
    }
}

/// How long the replica of this rank waits before its election, after so many without success.
fn delay(timing: &Timing, jitter: &mut Jitter, rank: usize, attempts: u32) -> Duration {
    let turn = timing
        .rank_step
        .saturating_mul(u32::try_from(rank).unwrap_or(u32::MAX));
    let wait = match attempts.checked_sub(1) {
        None => turn + jitter.below(timing.jitter_max),
        Some(doublings) => {
            let pause = timing
                .retry_min
                .saturating_mul(1 << doublings.min(16))
                .min(timing.retry_max);
            turn.saturating_add(pause / 2 + jitter.below(pause / 2))
        }
    };
    wait.min(timing.retry_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_attempts_go_by_rank_and_later_ones_are_at_most_two_seconds_apart() {
        let timing = Timing::default();
        let mut jitter = Jitter::seeded(3);
        let ms = Duration::from_millis;
        for rank in 0..4_u32 {
            let first = delay(&timing, &mut jitter, rank as usize, 0);
            assert!(first >= ms(150) * rank && first < ms(150) * rank + ms(30));
        }
        for (attempts, least, most) in [
            (1, 150, 300),
            (2, 300, 600),
            (3, 600, 1200),
            (4, 1000, 2000),
            (u32::MAX, 1000, 2000),
        ] {
            let wait = delay(&timing, &mut jitter, 0, attempts);
            assert!(wait >= ms(least) && wait <= ms(most), "{wait:?} after {attempts}");
        }
        assert_eq!(delay(&timing, &mut jitter, usize::MAX, 1), ms(2000));
    }
}
