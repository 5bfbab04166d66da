use std::time::Duration;

use meridian_types::{NodeId, ShardId, Term};

use super::world::{World, ms, s};

const SHARD: ShardId = ShardId(0);

/// Nodes of a shard's placement in order: the first leads a settled world.
fn three(world: &World) -> (NodeId, NodeId, NodeId) {
    let replicas = world.replicas(SHARD);
    (replicas[0], replicas[1], replicas[2])
}

fn failover(world: &mut World, within: Duration) -> Duration {
    let took = world.run_until(within, World::is_settled);
    took.unwrap_or_else(|| panic!("no leader of every shard within {within:?}"))
}

#[test]
fn a_new_region_has_leaders_in_half_a_second() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3, 8, 3);
        failover(&mut world, ms(600));
    }
}

#[test]
fn a_killed_leader_is_replaced_within_150_ms() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 3, 6, 3);
        world.kill(NodeId(1));
        failover(&mut world, ms(150));
    }
}

#[test]
fn a_leader_that_falls_silent_is_replaced_within_a_second() {
    for (nodes, copies) in [(3, 3), (5, 5), (5, 3)] {
        for seed in 0..20 {
            let mut world = World::settled(seed, nodes, 6, copies);
            world.power_off(NodeId(1));
            failover(&mut world, ms(1000));
        }
    }
}

#[test]
fn the_next_in_the_placement_takes_over() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 5, 5, 5);
        let (first, second, third) = three(&world);
        world.kill(first);
        failover(&mut world, ms(500));
        assert_eq!(world.leader(SHARD), Some(second));
        world.kill(second);
        failover(&mut world, ms(500));
        assert_eq!(world.leader(SHARD), Some(third));
    }
}

#[test]
fn who_lacks_entries_does_not_win_and_costs_no_more_than_its_turn() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 3, 1, 3);
        let (leader, second, third) = three(&world);
        world.isolate(second);
        world.run(ms(50));
        assert!(world.propose(leader, SHARD));
        world.run(ms(20));
        world.heal();
        world.power_off(leader);
        failover(&mut world, ms(1000));
        assert_eq!(world.leader(SHARD), Some(third));
    }
}

#[test]
fn a_minority_calls_no_election() {
    let mut world = World::settled(1, 3, 6, 3);
    world.kill(NodeId(1));
    world.kill(NodeId(2));
    world.run(s(1));
    world.reset_counts();
    world.run(s(60));
    assert_eq!(world.counts.elections, 0);
    assert_eq!(world.leader(SHARD), None);
    world.restart(NodeId(2));
    failover(&mut world, ms(1000));
}

#[test]
fn an_isolated_leader_steps_aside_and_later_follows() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 3, 3, 3);
        let (leader, second, _) = three(&world);
        assert!(world.propose(leader, SHARD));
        world.isolate(leader);
        let took = world.run_until(s(2), |world| world.leader(SHARD) == Some(second));
        assert!(took.expect("the others have a leader") <= ms(1200));
        world.run(ms(200));
        assert!(world.pacemaker(leader).view().led.is_empty(), "nobody follows it");
        world.reset_counts();
        world.heal();
        failover(&mut world, ms(500));
        assert_eq!(world.leader(SHARD), Some(second));
        let back = |served: &&(_, NodeId, ShardId, Option<Term>)| served.1 == leader && served.3.is_some();
        assert_eq!(world.served.iter().filter(back).count(), 0, "not for a moment");
    }
}

#[test]
fn a_minority_side_steps_aside_and_a_majority_side_goes_on() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 5, 5, 5);
        for a in [1, 2] {
            for b in [3, 4, 5] {
                world.cut_both(NodeId(a), NodeId(b));
            }
        }
        world.run(ms(1500));
        for shard in world.shards() {
            let leader = world.leader(shard).expect("the majority has a leader");
            assert!(leader.0 >= 3, "{leader} leads {shard}");
        }
        world.reset_counts();
        world.run(s(30));
        assert_eq!(world.counts.elections, 0);
        world.heal();
        failover(&mut world, ms(500));
    }
}

/// One follower cannot hear the leader, or cannot be heard by it: the leader still serves with the other.
#[test]
fn one_bad_link_moves_no_leader() {
    for seed in 0..3 {
        for (there, back) in [(true, true), (true, false), (false, true)] {
            let mut world = World::settled(seed, 3, 1, 3);
            let (leader, follower, _) = three(&world);
            if there {
                world.cut(leader, follower);
            }
            if back {
                world.cut(follower, leader);
            }
            for _ in 0..10 {
                world.run(s(10));
                assert_eq!(world.leader(SHARD), Some(leader));
                assert!(world.propose(leader, SHARD));
            }
            assert_eq!(world.counts.elections, 0);
            world.heal();
            failover(&mut world, ms(500));
            assert_eq!(world.leader(SHARD), Some(leader));
        }
    }
}

#[test]
fn a_leader_that_is_heard_but_does_not_hear_is_replaced() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 3, 1, 3);
        let (leader, second, third) = three(&world);
        world.cut(second, leader);
        world.cut(third, leader);
        let took = world.run_until(s(5), |world| world.leader(SHARD) == Some(second));
        assert!(took.expect("a leader that hears") <= ms(2000));
    }
}

#[test]
fn a_restarted_leader_leaves_no_gap_of_more_than_a_second() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 3, 6, 3);
        world.kill(NodeId(1));
        let down = world.random_below(400);
        world.run(ms(down));
        world.restart(NodeId(1));
        failover(&mut world, ms(1000));
    }
}

#[test]
fn a_group_of_one_voter_elects_at_once() {
    for seed in 0..5 {
        let mut world = World::new(seed, 3, 3, 1);
        assert!(failover(&mut world, ms(100)) <= ms(20));
        world.kill(NodeId(1));
        world.run(s(1));
        world.restart(NodeId(1));
        assert!(failover(&mut world, ms(100)) <= ms(20));
    }
}

#[test]
fn a_region_whose_nodes_start_one_by_one_has_leaders_soon_after_the_last() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 3, 6, 3);
        for node in 1..=3 {
            world.kill(NodeId(node));
        }
        world.run(s(10));
        for node in [2, 3, 1] {
            let pause = world.random_below(3000);
            world.run(ms(pause));
            world.restart(NodeId(node));
        }
        failover(&mut world, ms(1000));
    }
}

#[test]
fn leaders_of_later_terms_are_never_forgotten_for_earlier_ones() {
    let mut world = World::settled(3, 4, 1, 3);
    let (leader, second, third) = three(&world);
    let stranger = NodeId(4);
    // Node 4 alone still hears the old leader, which cannot hear of its end.
    world.cut_both(leader, second);
    world.cut_both(leader, third);
    world.run(s(2));
    let now = world.pacemaker(stranger).view().leaders[&SHARD];
    assert_eq!(now.node, second);
    world.kill(second);
    world.cut_both(third, stranger);
    world.run(ms(100));
    assert_eq!(world.pacemaker(stranger).view().leaders.get(&SHARD), None);
    assert!(now.term > Term(1));
}

#[test]
fn nodes_without_a_copy_know_every_leader() {
    let mut world = World::settled(5, 6, 8, 3);
    world.kill(NodeId(2));
    failover(&mut world, ms(300));
    for node in world.node_ids() {
        let view = world.pacemaker(node).view();
        if node != NodeId(2) {
            assert_eq!(view.leaders.len(), 8);
            assert!(!view.alive.contains(&NodeId(2)));
            assert_eq!(view.alive.len(), 5);
        }
    }
}
