//! One pacemaker, told exactly what the others say.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_types::{NodeId, RaftIndex, ShardId, Term, Uuid};

use super::world::{ms, s};
use crate::pacemaker::{
    Action, Beat, HostedShard, LinkState, Members, NodePhase, Pacemaker, PacemakerSettings, Role, ShardRole,
    Timing,
};

const SHARD: ShardId = ShardId(0);
const ME: NodeId = NodeId(1);
const SECOND: NodeId = NodeId(2);
const THIRD: NodeId = NodeId(3);

/// Node 1 of three, each with a replica of one shard. The others beat ten times a second, as they are told.
struct Solo {
    core: Pacemaker,
    now: Duration,
    sequence: u64,
    /// What the others say of the shard. Who is not here is silent.
    says: BTreeMap<NodeId, HostedShard>,
    applied: u64,
}

fn says(role: ShardRole, term: u64, applied: u64) -> HostedShard {
    HostedShard {
        shard: SHARD,
        role,
        leader_seen: role != ShardRole::Seeks,
        term: Term(term),
        applied: RaftIndex(applied),
    }
}

impl Solo {
    fn new(replicas: [NodeId; 3]) -> Self {
        let now = s(50);
        let settings = PacemakerSettings {
            node: ME,
            incarnation: Uuid::from_u128(1),
            start_id: 1,
            address: "a:1".into(),
            seed: 1,
            timing: Timing::default(),
        };
        let mut core = Pacemaker::new(now, settings);
        core.set_peers(now, [(ME, None), (SECOND, None), (THIRD, None)].into());
        core.add_group(now, SHARD, replicas.to_vec());
        let members = Members {
            voters: replicas.into(),
            ..Members::default()
        };
        core.handle_members(now, SHARD, members);
        Self {
            core,
            now,
            sequence: 0,
            says: BTreeMap::new(),
            applied: 0,
        }
    }

    /// This node leads in term 5, is followed, and the group sleeps.
    fn leading(replicas: [NodeId; 3]) -> Self {
        let mut solo = Self::new(replicas);
        solo.applied = 100;
        solo.follow(SECOND, 5, 100);
        solo.follow(THIRD, 5, 100);
        solo.role(Role::Leading { term: Term(5) });
        solo.run(s(8));
        assert_eq!(solo.run(s(1)), []);
        assert!(solo.serves());
        solo
    }

    fn follow(&mut self, node: NodeId, term: u64, applied: u64) {
        self.says.insert(node, says(ShardRole::Follows, term, applied));
    }

    fn role(&mut self, role: Role) {
        self.core.handle_role(self.now, SHARD, role);
    }

    fn beat(&mut self, node: NodeId, start_id: u64, phase: NodePhase) {
        self.sequence += 1;
        let beat = Beat {
            node,
            incarnation: Uuid::from_u128(node.0.into()),
            start_id,
            sequence: self.sequence,
            phase,
            address: "b:1".into(),
            shards: self.says.get(&node).into_iter().copied().collect(),
        };
        self.core.handle_beat(self.now, beat);
    }

    fn actions(&mut self) -> Vec<Action> {
        let polled = std::iter::from_fn(|| self.core.poll_action());
        let is_of_group = |action: &Action| !matches!(action, Action::SendBeat(_) | Action::ViewChanged);
        polled.filter(is_of_group).collect()
    }

    /// Lets time pass; returns what is to be done for the group.
    fn run(&mut self, time: Duration) -> Vec<Action> {
        let end = self.now + time;
        let mut actions = self.actions();
        while self.now < end {
            self.now += ms(20);
            if self.now.as_millis().is_multiple_of(100) {
                for node in self.says.keys().copied().collect::<Vec<_>>() {
                    self.beat(node, 7, NodePhase::Running);
                }
            }
            self.core.handle_applied(SHARD, RaftIndex(self.applied));
            self.core.handle_tick(self.now);
            actions.extend(self.actions());
            assert!(self.core.poll_timeout() > self.now, "it does not spin");
            assert!(self.core.poll_timeout() <= self.now + ms(100), "it beats in time");
        }
        actions
    }

    fn serves(&self) -> bool {
        self.core.view().led.contains_key(&SHARD)
    }
}

const HEARTBEAT: Action = Action::Heartbeat { shard: SHARD };
const ELECT: Action = Action::Elect { shard: SHARD };

#[test]
fn a_leader_that_hears_of_a_later_one_steps_aside_and_asks_its_group() {
    let mut solo = Solo::leading([ME, SECOND, THIRD]);
    solo.says.insert(SECOND, says(ShardRole::Leads, 6, 101));
    let actions = solo.run(ms(200));
    assert!(!solo.serves());
    assert_eq!(solo.core.view().leaders[&SHARD].node, SECOND);
    assert_eq!(
        actions,
        [HEARTBEAT],
        "the answers tell Raft what it does not know yet"
    );
}

#[test]
fn a_follower_of_a_later_leader_is_proof_enough() {
    let mut solo = Solo::leading([ME, SECOND, THIRD]);
    solo.follow(THIRD, 6, 101);
    solo.run(ms(100));
    assert!(!solo.serves());
}

#[test]
fn a_leader_keeps_its_group_awake_for_a_member_that_lags() {
    let mut solo = Solo::leading([ME, SECOND, THIRD]);
    solo.follow(THIRD, 5, 99);
    assert_eq!(solo.run(s(10)).len(), 10);
    solo.follow(THIRD, 5, 100);
    solo.run(s(4));
    assert_eq!(solo.run(s(10)), []);
}

#[test]
fn a_leader_keeps_its_group_awake_for_a_member_that_does_not_know_it() {
    for stranger in [says(ShardRole::Follows, 4, 100), says(ShardRole::Seeks, 0, 100)] {
        let mut solo = Solo::leading([ME, SECOND, THIRD]);
        solo.says.insert(THIRD, stranger);
        assert_eq!(solo.run(s(10)).len(), 10);
    }
}

#[test]
fn a_member_that_restarts_wakes_the_group() {
    let mut solo = Solo::leading([ME, SECOND, THIRD]);
    solo.beat(THIRD, 8, NodePhase::Running);
    assert_eq!(solo.actions(), [HEARTBEAT]);
}

#[test]
fn a_change_of_members_wakes_the_group() {
    let mut solo = Solo::leading([ME, SECOND, THIRD]);
    let members = Members {
        voters: [ME, SECOND].into(),
        learners: [THIRD].into(),
        ..Members::default()
    };
    solo.core.handle_members(solo.now, SHARD, members.clone());
    assert_eq!(solo.run(s(10)), [HEARTBEAT, HEARTBEAT, HEARTBEAT]);
    solo.core.handle_members(solo.now, SHARD, members);
    assert_eq!(solo.run(s(10)), [], "the same again is no change");
}

#[test]
fn a_new_leader_tells_its_group_at_once() {
    let mut solo = Solo::new([ME, SECOND, THIRD]);
    solo.follow(SECOND, 5, 0);
    solo.follow(THIRD, 5, 0);
    solo.run(s(1));
    solo.role(Role::Elected { term: Term(5) });
    assert_eq!(solo.actions(), [HEARTBEAT]);
    assert!(!solo.serves(), "not before its state is complete");
    assert_eq!(solo.core.view().leaders[&SHARD].node, ME);
    solo.role(Role::Leading { term: Term(5) });
    assert_eq!(solo.actions(), []);
    assert!(solo.serves());
}

#[test]
fn a_leader_steps_aside_after_a_second_without_a_quorum_and_comes_back_with_it() {
    let mut solo = Solo::leading([ME, SECOND, THIRD]);
    solo.says.remove(&THIRD);
    solo.run(s(5));
    assert!(solo.serves(), "one of two others is enough");
    let second = solo.says.remove(&SECOND).expect("it spoke");
    solo.run(ms(900));
    assert!(solo.serves());
    solo.run(ms(200));
    assert!(!solo.serves());
    assert_eq!(solo.core.view().leaders.get(&SHARD), None);
    solo.says.insert(SECOND, second);
    solo.run(ms(100));
    assert!(solo.serves());
}

/// The lease must be over for real before this node serves again: its stall counts in full here.
#[test]
fn a_leader_that_stood_still_serves_only_after_it_has_heard_a_quorum() {
    let mut solo = Solo::leading([ME, SECOND, THIRD]);
    solo.now += s(2);
    solo.core.handle_tick(solo.now);
    assert_eq!(solo.actions(), []);
    assert!(!solo.serves());
    solo.beat(SECOND, 7, NodePhase::Running);
    assert_eq!(solo.actions(), []);
    assert!(solo.serves());
}

#[test]
fn the_silence_of_others_during_a_stall_is_not_held_against_them() {
    let mut solo = Solo::new([SECOND, THIRD, ME]);
    solo.says.insert(SECOND, says(ShardRole::Leads, 5, 0));
    solo.follow(THIRD, 5, 0);
    solo.role(Role::Following {
        leader: SECOND,
        term: Term(5),
    });
    solo.run(s(1));
    solo.now += s(10);
    solo.core.handle_tick(solo.now);
    assert_eq!(solo.actions(), []);
    assert_eq!(solo.core.view().alive.len(), 3);
    assert_eq!(solo.core.view().leaders[&SHARD].node, SECOND);
}

/// Node 1 follows node 2; whatever it holds of it, node 3 decides whether there is an election.
fn following() -> Solo {
    let mut solo = Solo::new([SECOND, ME, THIRD]);
    solo.says.insert(SECOND, says(ShardRole::Leads, 5, 0));
    solo.follow(THIRD, 5, 0);
    solo.role(Role::Following {
        leader: SECOND,
        term: Term(5),
    });
    solo.run(s(1));
    solo
}

const END_LEASE: Action = Action::EndLease {
    shard: SHARD,
    leader: SECOND,
    term: Term(5),
};

#[test]
fn no_election_while_another_voter_sees_the_leader() {
    let mut solo = following();
    solo.says.remove(&SECOND);
    let actions = solo.run(s(10));
    assert!(actions.len() > 20 && actions.iter().all(|action| *action == END_LEASE));
    solo.says.insert(THIRD, says(ShardRole::Seeks, 0, 0));
    let actions = solo.run(ms(150));
    assert!(actions.ends_with(&[END_LEASE, ELECT]), "{actions:?}");
}

#[test]
fn a_refused_connection_ends_the_lease_at_once() {
    let mut solo = following();
    solo.core.handle_link(solo.now, SECOND, LinkState::Connected);
    solo.core.handle_link(solo.now, SECOND, LinkState::Refused);
    assert_eq!(solo.actions(), [END_LEASE]);
    assert!(!solo.core.view().alive.contains(&SECOND));
}

#[test]
fn attempts_go_on_with_growing_pauses_until_there_is_a_leader() {
    let mut solo = following();
    solo.says.remove(&SECOND);
    solo.says.insert(THIRD, says(ShardRole::Seeks, 0, 0));
    let count = |actions: &[Action]| actions.iter().filter(|action| **action == ELECT).count();
    let first = count(&solo.run(s(5)));
    assert!((4..=9).contains(&first), "{first} attempts in five seconds");
    let later = count(&solo.run(s(60)));
    assert!((28..=62).contains(&later), "{later} attempts in a minute");
    solo.says.insert(THIRD, says(ShardRole::Leads, 7, 0));
    solo.run(ms(100));
    assert_eq!(solo.run(s(10)), []);
}

#[test]
fn opinions_from_before_a_stall_do_not_count() {
    let mut solo = following();
    solo.says.remove(&SECOND);
    solo.run(ms(600));
    solo.says.insert(THIRD, says(ShardRole::Seeks, 0, 0));
    solo.beat(THIRD, 7, NodePhase::Running);
    assert!(
        !solo.actions().contains(&ELECT),
        "in a moment, if it were not for the stall"
    );
    solo.now += s(5);
    for _ in 0..8 {
        solo.now += ms(10);
        solo.core.handle_tick(solo.now);
        assert!(!solo.actions().contains(&ELECT));
    }
    solo.beat(THIRD, 7, NodePhase::Running);
    assert!(solo.run(ms(60)).contains(&ELECT), "said again, it counts");
}

#[test]
fn a_stopping_node_calls_no_election_and_others_do_not_wait_for_it() {
    let mut solo = following();
    solo.core.set_phase(solo.now, NodePhase::Stopping);
    solo.says.remove(&SECOND);
    solo.says.insert(THIRD, says(ShardRole::Seeks, 0, 0));
    assert!(!solo.run(s(5)).contains(&ELECT));

    // Node 2 would go first, and says that it stops.
    let mut solo = following();
    solo.says.insert(SECOND, says(ShardRole::Seeks, 0, 0));
    solo.says.insert(THIRD, says(ShardRole::Seeks, 0, 0));
    let start = solo.now;
    while !solo.actions().contains(&ELECT) {
        solo.now += ms(10);
        solo.beat(SECOND, 7, NodePhase::Stopping);
        solo.beat(THIRD, 7, NodePhase::Running);
        solo.core.handle_tick(solo.now);
        assert!(
            solo.now - start <= ms(360),
            "300 ms without a claim, then its own turn"
        );
    }
}

#[test]
fn after_it_is_unseated_a_leader_gives_its_successor_time_to_speak() {
    let mut solo = Solo::leading([ME, SECOND, THIRD]);
    solo.says.insert(SECOND, says(ShardRole::Seeks, 0, 100));
    solo.says.insert(THIRD, says(ShardRole::Seeks, 0, 100));
    solo.run(ms(100));
    solo.role(Role::Seeking);
    assert!(!solo.run(ms(280)).contains(&ELECT));
    assert!(solo.run(ms(100)).contains(&ELECT));
}

#[test]
fn a_transfer_that_has_begun_is_not_taken_back_by_a_refused_repetition() {
    let mut solo = Solo::leading([SECOND, ME, THIRD]);
    let transfer = Action::Transfer {
        shard: SHARD,
        to: SECOND,
    };
    assert_eq!(solo.run(s(3)).first(), Some(&transfer));
    assert!(!solo.serves());
    solo.role(Role::Elected { term: Term(5) });
    solo.core.handle_transfer_refused(solo.now, SHARD);
    assert!(solo.run(ms(400)).contains(&transfer));
    assert_eq!(
        solo.core.view().leaders.get(&SHARD),
        None,
        "it does not claim the shard"
    );
}

#[test]
fn a_new_preferred_leader_has_to_prove_itself_anew() {
    let mut solo = Solo::leading([ME, SECOND, THIRD]);
    solo.core.set_replicas(solo.now, SHARD, vec![SECOND, ME, THIRD]);
    assert_eq!(solo.run(s(9)), []);
    solo.core.set_replicas(solo.now, SHARD, vec![THIRD, ME, SECOND]);
    assert_eq!(solo.run(s(9)), []);
    let transfer = Action::Transfer {
        shard: SHARD,
        to: THIRD,
    };
    assert_eq!(solo.run(s(2)).first(), Some(&transfer));
}

#[test]
fn a_preferred_leader_that_lags_gets_nothing() {
    let mut solo = Solo::leading([SECOND, ME, THIRD]);
    solo.follow(SECOND, 5, 99);
    assert!(solo.run(s(30)).iter().all(|action| *action == HEARTBEAT));
}

#[test]
fn at_a_stop_the_voter_with_the_longest_log_is_chosen() {
    let mut solo = Solo::leading([ME, SECOND, THIRD]);
    solo.follow(SECOND, 5, 98);
    solo.run(ms(200));
    solo.core.set_phase(solo.now, NodePhase::Stopping);
    let transfer = Action::Transfer {
        shard: SHARD,
        to: THIRD,
    };
    assert_eq!(solo.actions(), [transfer]);
    assert_eq!(solo.core.handovers_left(), 1);
}

#[test]
fn views_and_progress_of_peers_are_told() {
    let mut solo = following();
    assert_eq!(solo.core.applied(THIRD, SHARD), Some(RaftIndex(0)));
    assert_eq!(solo.core.applied(THIRD, ShardId(9)), None);
    assert_eq!(solo.core.view().addresses[&THIRD], "b:1");
    solo.says.remove(&THIRD);
    solo.run(s(3));
    assert_eq!(solo.core.applied(THIRD, SHARD), None);
    assert!(!solo.core.view().addresses.contains_key(&THIRD));
    let silent = solo.core.dead_for();
    assert_eq!(silent.len(), 1);
    assert!((ms(2900)..=ms(3100)).contains(&silent[&THIRD]), "{silent:?}");
}
