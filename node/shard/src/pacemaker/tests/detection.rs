use meridian_types::{NodeId, ShardId};

use super::world::{Network, World, ms, s};

const SHARD: ShardId = ShardId(0);

#[test]
fn an_hour_of_loss_and_delay_calls_no_election() {
    for (seed, nodes) in [(1, 3), (2, 4)] {
        let mut world = World::settled(seed, nodes, 2, 3);
        world.network = Network {
            loss_percent: 5,
            delay_min: ms(0),
            delay_max: ms(300),
        };
        world.run(s(3600));
        assert_eq!(world.counts.elections, 0);
        let moved = world.served.iter().filter(|served| served.3.is_some());
        assert_eq!(moved.count(), 0, "no leader steps aside and comes back");
    }
}

#[test]
fn a_paused_follower_disturbs_nobody_when_it_goes_on() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 3, 3, 3);
        for pause in [400, 1500, 10_000] {
            world.pause(NodeId(3));
            world.run(ms(pause));
            world.resume(NodeId(3));
            world.run(s(2));
        }
        let leader = world.leader(SHARD).expect("it has one");
        assert_eq!(leader, NodeId(1));
        let lost = world.served.iter().filter(|served| served.2 == SHARD);
        assert_eq!(lost.count(), 0);
    }
}

#[test]
fn a_paused_leader_is_replaced_and_does_not_serve_when_it_goes_on() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 3, 3, 3);
        let leader = NodeId(1);
        world.pause(leader);
        world.run(s(5));
        let next = world.leader(SHARD).expect("the others have a leader");
        assert_ne!(next, leader);
        world.reset_counts();
        world.resume(leader);
        let after = world.pacemaker(leader).view();
        assert!(!after.led.contains_key(&SHARD), "it served under an old term");
        world.run(s(3));
        assert!(world.is_settled());
        assert_eq!(world.leader(SHARD), Some(next));
        assert_eq!(world.counts.elections, 0);
    }
}

#[test]
fn a_short_pause_of_the_leader_is_forgiven() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 3, 3, 3);
        world.pause(NodeId(1));
        world.run(ms(380));
        world.resume(NodeId(1));
        world.run(s(2));
        assert_eq!(world.counts.elections, 0);
        assert_eq!(world.leader(SHARD), Some(NodeId(1)));
    }
}

#[test]
fn nodes_that_are_always_late_still_replace_a_dead_leader() {
    for seed in 0..10 {
        let mut world = World::settled(seed, 3, 3, 3);
        world.power_off(NodeId(1));
        let mut waited = ms(0);
        while world.leader(SHARD).is_none() {
            world.pause(NodeId(2));
            world.run(ms(350));
            world.resume(NodeId(2));
            world.run(ms(10));
            waited += ms(360);
            assert!(waited <= s(6), "seed {seed}");
        }
    }
}
