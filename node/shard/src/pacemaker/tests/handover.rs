use meridian_types::{NodeId, ShardId};

use super::world::{World, ms, s};
use crate::pacemaker::NodePhase;

const SHARD: ShardId = ShardId(0);

#[test]
fn the_preferred_leader_gets_its_shards_back_after_ten_quiet_seconds_and_once() {
    for seed in 0..10 {
        let mut world = World::settled(seed, 3, 6, 3);
        world.kill(NodeId(1));
        world.run(s(3));
        let second = world.leader(SHARD);
        world.restart(NodeId(1));
        world.reset_counts();
        world.run(s(9));
        assert_eq!(world.counts.transfers, 0);
        assert_eq!(world.leader(SHARD), second);
        world.run(s(3));
        for shard in world.shards() {
            assert_eq!(world.leader(shard), world.replicas(shard).first().copied());
        }
        assert_eq!(world.counts.transfers, 2, "as many as it leads");
        assert_eq!(world.counts.elections, 0, "a transfer is no failure");
        world.run(s(120));
        assert_eq!(world.counts.transfers, 2);
    }
}

#[test]
fn a_hand_over_costs_a_few_messages_of_time() {
    let mut world = World::settled(4, 3, 6, 3);
    world.kill(NodeId(1));
    world.run(s(3));
    world.restart(NodeId(1));
    world.run(s(2));
    world.reset_counts();
    world.run(s(12));
    let of_shard: Vec<_> = world.served.iter().filter(|served| served.2 == SHARD).collect();
    let [(end, _, _, None), (start, NodeId(1), _, Some(_))] = of_shard[..] else {
        panic!("one leader after another: {of_shard:?}");
    };
    assert!(*start - *end <= ms(20), "{:?}", *start - *end);
}

#[test]
fn a_preferred_leader_that_comes_and_goes_gets_nothing() {
    let mut world = World::settled(2, 3, 3, 3);
    world.reset_counts();
    for _ in 0..20 {
        world.kill(NodeId(1));
        world.run(s(2));
        world.restart(NodeId(1));
        world.run(s(7));
    }
    assert_eq!(world.counts.transfers, 0);
}

#[test]
fn a_draining_node_gets_nothing() {
    let mut world = World::settled(2, 3, 3, 3);
    world.kill(NodeId(1));
    world.run(s(2));
    world.restart(NodeId(1));
    world.set_phase(NodeId(1), NodePhase::Draining);
    world.run(s(60));
    assert_ne!(world.leader(SHARD), Some(NodeId(1)));
    world.set_phase(NodeId(1), NodePhase::Running);
    world.run(s(12));
    assert_eq!(world.leader(SHARD), Some(NodeId(1)));
}

#[test]
fn a_leader_without_room_hands_over_at_once_and_gets_nothing_back_before_it_has_some() {
    for seed in 0..10 {
        let mut world = World::settled(seed, 3, 6, 3);
        world.set_phase(NodeId(1), NodePhase::Full);
        let took = world.run_until(s(2), |world| {
            world
                .shards()
                .into_iter()
                .all(|shard| world.leader(shard).is_some_and(|leader| leader != NodeId(1)))
        });
        assert!(took.expect("others have room") <= ms(500), "{took:?}");
        world.reset_counts();
        world.run(s(60));
        assert_eq!((world.counts.transfers, world.counts.elections), (0, 0));
        world.set_phase(NodeId(1), NodePhase::Running);
        world.run(s(9));
        assert_eq!(world.counts.transfers, 0, "it has to prove itself");
        world.run(s(3));
        for shard in world.shards() {
            assert_eq!(world.leader(shard), world.replicas(shard).first().copied());
        }
    }
}

#[test]
fn where_nobody_has_room_nothing_moves() {
    let mut world = World::settled(3, 3, 6, 3);
    for node in world.node_ids() {
        world.set_phase(node, NodePhase::Full);
    }
    // The first did not know yet that the others have none either.
    world.run(s(1));
    let leaders: Vec<_> = world
        .shards()
        .into_iter()
        .map(|shard| world.leader(shard))
        .collect();
    world.reset_counts();
    world.run(s(60));
    assert_eq!((world.counts.transfers, world.counts.elections), (0, 0));
    let now: Vec<_> = world
        .shards()
        .into_iter()
        .map(|shard| world.leader(shard))
        .collect();
    assert_eq!(now, leaders);
    let all: std::collections::BTreeSet<_> = world.node_ids().into_iter().collect();
    for node in world.node_ids() {
        assert_eq!(world.pacemaker(node).view().full, all, "as node {node} knows it");
    }
}

#[test]
fn a_planned_stop_gives_everything_away_first() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 3, 12, 3);
        assert_eq!(world.pacemaker(NodeId(1)).handovers_left(), 4);
        world.set_phase(NodeId(1), NodePhase::Stopping);
        let done = world.run_until(s(1), |world| world.pacemaker(NodeId(1)).handovers_left() == 0);
        assert!(done.expect("all are given away") <= ms(50));
        let settled = world.run_until(s(1), World::is_settled);
        assert!(settled.expect("all are led by others") <= ms(50));
        assert_eq!(world.counts.elections, 0);
        world.kill(NodeId(1));
        world.run(ms(500));
        assert!(world.is_settled());
        assert_eq!(world.counts.elections, 0, "the end was no surprise");
    }
}

#[test]
fn the_last_node_of_a_group_has_nobody_to_give_it_to() {
    let mut world = World::settled(1, 3, 3, 1);
    world.set_phase(NodeId(1), NodePhase::Stopping);
    world.run(s(1));
    assert_eq!(world.pacemaker(NodeId(1)).handovers_left(), 0);
    assert_eq!(world.counts.transfers, 0);
    assert_eq!(world.leader(SHARD), Some(NodeId(1)));
}

#[test]
fn a_hand_over_that_gets_lost_ends_in_an_election() {
    for seed in 0..20 {
        let mut world = World::settled(seed, 3, 1, 3);
        let replicas = world.replicas(SHARD);
        // Its beats still come, its requests do not.
        world.drop_raft(replicas[0]);
        world.set_phase(replicas[0], NodePhase::Stopping);
        let took = world.run_until(s(5), |world| {
            world.leader(SHARD).is_some_and(|leader| leader != replicas[0])
        });
        assert!(took.expect("somebody leads") <= ms(1200), "{took:?}");
    }
}

#[test]
fn with_two_voters_a_lost_hand_over_is_asked_for_again() {
    for seed in 0..10 {
        let mut world = World::settled(seed, 2, 1, 2);
        let replicas = world.replicas(SHARD);
        assert!(world.propose(replicas[0], SHARD));
        world.drop_raft(replicas[0]);
        world.set_phase(replicas[0], NodePhase::Stopping);
        world.run(ms(100));
        assert!(world.counts.transfers > 0);
        world.heal();
        let took = world.run_until(s(2), |world| world.leader(SHARD) == Some(replicas[1]));
        assert!(took.expect("the other leads") <= ms(600), "{took:?}");
    }
}

/// Each try costs the group its leader for a moment, so they become rare.
#[test]
fn a_preferred_leader_that_cannot_win_is_asked_ever_less_often() {
    let mut world = World::settled(6, 3, 1, 3);
    let preferred = world.replicas(SHARD)[0];
    world.kill(preferred);
    world.run(s(2));
    world.restart(preferred);
    world.drop_votes(preferred);
    world.reset_counts();
    world.run(s(600));
    let moves = world.served.iter().filter(|served| served.3.is_some()).count();
    assert!((2..=12).contains(&moves), "{moves} in ten minutes");
    world.heal();
    world.run(s(900));
    assert_eq!(world.leader(SHARD), Some(preferred));
}

#[test]
fn a_refused_transfer_leaves_the_leader_in_place_and_is_not_repeated_at_once() {
    let mut world = World::settled(7, 3, 1, 3);
    let leader = world.replicas(SHARD)[0];
    world.refuse_transfers(leader);
    world.set_phase(leader, NodePhase::Stopping);
    world.run(ms(1000));
    assert_eq!(world.leader(SHARD), Some(leader));
    assert!(
        (5..=8).contains(&world.counts.transfers),
        "{} tries",
        world.counts.transfers
    );
    assert_eq!(world.counts.elections, 0);
}

#[test]
fn a_shard_that_is_placed_elsewhere_is_handed_over_without_waiting_for_long() {
    let mut world = World::settled(8, 3, 1, 3);
    let wished = world.replicas(SHARD)[1..].to_vec();
    let now = world.now;
    for node in world.node_ids() {
        world.with(node, |node| {
            node.pacemaker.set_replicas(now, SHARD, wished.clone());
        });
    }
    let took = world.run_until(s(5), |world| world.leader(SHARD) == Some(wished[0]));
    assert!(took.expect("it is handed over") <= s(2), "{took:?}");
}
