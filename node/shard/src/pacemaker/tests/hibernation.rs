use meridian_types::{NodeId, ShardId};

use super::world::{World, ms, s};
use crate::pacemaker::{Members, Role};

const SHARD: ShardId = ShardId(0);

#[test]
fn idle_groups_send_nothing_but_the_beats_of_their_nodes() {
    let mut world = World::settled(1, 3, 32, 3);
    world.run(s(120));
    assert_eq!(world.counts.raft_messages, 0);
    assert_eq!(world.counts.heartbeats, 0);
    // Three nodes, each to the other two, ten times a second.
    let regular = 3 * 2 * 10 * 120;
    assert!(
        (regular - regular / 20..=regular).contains(&world.counts.beats),
        "{} beats",
        world.counts.beats
    );
}

#[test]
fn an_active_group_has_a_heartbeat_a_second_and_three_after_its_last_activity() {
    let mut world = World::settled(1, 3, 2, 3);
    let leader = world.leader(SHARD).expect("it is settled");
    for _ in 0..40 {
        assert!(world.propose(leader, SHARD));
        world.run(ms(250));
    }
    let active = world.counts.heartbeats;
    assert!((9..=11).contains(&active), "{active} heartbeats in ten seconds");
    world.run(s(60));
    let after = world.counts.heartbeats - active;
    assert!(
        (2..=3).contains(&after),
        "{after} heartbeats after the last activity"
    );
}

#[test]
fn a_follower_that_restarts_finds_the_sleeping_leader() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 3, 6, 3);
        world.run(s(30));
        world.kill(NodeId(2));
        world.run(s(5));
        let leaders: Vec<_> = world.shards().iter().map(|shard| world.leader(*shard)).collect();
        world.reset_counts();
        world.restart(NodeId(2));
        world.run(ms(500));
        assert_eq!(world.counts.elections, 0);
        for (shard, leader) in world.shards().into_iter().zip(leaders) {
            let leader = leader.expect("it had one");
            let role = world.raft(NodeId(2), shard).role();
            assert!(
                matches!(role, Role::Following { leader: now, .. } if now == leader),
                "shard {shard}: {role:?}"
            );
        }
    }
}

#[test]
fn the_death_of_a_sleeping_leader_is_noticed() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 3, 16, 3);
        world.run(s(30));
        world.power_off(NodeId(3));
        let took = world.run_until(s(2), World::is_settled).expect("new leaders");
        assert!(took <= ms(1000), "{took:?}");
    }
}

#[test]
fn a_sleeping_group_takes_a_proposal_at_once() {
    let mut world = World::settled(1, 3, 4, 3);
    world.run(s(600));
    let start = world.now;
    for shard in world.shards() {
        let leader = world.leader(shard).expect("it is settled");
        assert!(world.propose(leader, shard));
    }
    assert!(world.now - start <= ms(100), "{:?}", world.now - start);
    assert_eq!(world.counts.elections, 0);
}

#[test]
fn a_follower_that_missed_the_last_entry_gets_it_before_the_group_sleeps() {
    for seed in 0..10 {
        let mut world = World::settled(seed, 3, 1, 3);
        let replicas = world.replicas(SHARD);
        world.cut_both(replicas[0], replicas[2]);
        assert!(world.propose(replicas[0], SHARD));
        world.run(s(30));
        let missed = world.raft(replicas[2], SHARD).committed;
        world.heal();
        world.run(s(3));
        let leader = world.raft(replicas[0], SHARD).committed;
        assert!(leader > missed);
        assert_eq!(world.raft(replicas[2], SHARD).committed, leader);
        world.reset_counts();
        world.run(s(60));
        assert!(world.counts.heartbeats <= 3, "it sleeps again");
        assert_eq!(world.counts.elections, 0);
    }
}

#[test]
fn a_group_stays_awake_for_a_member_whose_messages_get_lost() {
    let mut world = World::settled(9, 3, 1, 3);
    let replicas = world.replicas(SHARD);
    world.deafen(replicas[2]);
    assert!(world.propose(replicas[0], SHARD));
    world.run(s(20));
    world.heal();
    world.run(ms(1100));
    let leader = world.raft(replicas[0], SHARD).committed;
    assert_eq!(world.raft(replicas[2], SHARD).committed, leader);
}

#[test]
fn a_new_member_of_a_sleeping_group_hears_of_its_leader() {
    let mut world = World::settled(8, 4, 1, 3);
    let newcomer = NodeId(4);
    let members = Members {
        voters: world.replicas(SHARD).into_iter().collect(),
        learners: [newcomer].into(),
        ..Members::default()
    };
    world.run(s(30));
    world.host(newcomer, SHARD);
    world.set_members(SHARD, &members);
    world.run(ms(200));
    let leader = world.leader(SHARD).expect("it has one");
    assert_eq!(leader, world.replicas(SHARD)[0]);
    let role = world.raft(newcomer, SHARD).role();
    assert!(
        matches!(role, Role::Following { leader: now, .. } if now == leader),
        "{role:?}"
    );
    assert_eq!(world.counts.elections, 0);
    // It has no vote, and calls no election however long there is no leader.
    world.kill(NodeId(1));
    world.kill(NodeId(2));
    world.run(s(1));
    world.reset_counts();
    world.run(s(20));
    assert_eq!(world.counts.elections, 0);
}
