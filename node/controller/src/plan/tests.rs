use meridian_types::{LogPosition, RaftIndex, Term};

use super::*;
use crate::configs::{ConfigChange, ConfigOp, ConfigResource};
use crate::testing::{NOW, founding, registration};
use crate::{Outcome, SetPlacementError};

mod properties;
mod world;

use world::World;

const DEAD: Duration = Duration::from_secs(300);

#[test]
fn a_new_region_is_where_it_should_be_from_the_start() {
    for racks in [
        &[""; 1][..],
        &[""; 3],
        &[""; 7],
        &["a", "a", "b", "b", "c", "c"],
        &["a", "a", "a", "b"],
        &["a", "b", "b", "c", "c", "c", ""],
    ] {
        for copies in 1..5 {
            let world = World::founded(racks, copies);
            assert_eq!(world.plan(), [], "{racks:?}, {copies} copies");
            world.assert_goals();
        }
    }
}

#[test]
fn a_region_of_one_node_grows_to_three_and_each_copy_is_made_once() {
    let mut world = World::founded(&[""], 3);
    world.join("");
    world.run();
    assert_eq!((world.loads(), world.copies_made), (vec![16, 16], 16 + 1));
    assert_eq!(world.leads(), [8, 8]);
    world.join("");
    world.run();
    assert_eq!(
        (world.loads(), world.copies_made),
        (vec![16, 16, 16], 2 * (16 + 1))
    );
    let mut leads = world.leads();
    leads.sort_unstable();
    assert_eq!(leads, [5, 5, 6]);
}

#[test]
fn shards_move_to_a_fourth_node_until_all_hold_equally_many() {
    let mut world = World::founded(&["", "", ""], 3);
    world.join("");
    world.run();
    assert_eq!((world.loads(), world.copies_made), (vec![12; 4], 12));
    assert_eq!((world.leads(), world.leads_moved), (vec![4; 4], 4));
    // Its copies lie on three nodes already; more voters would only slow the controller down.
    assert_eq!(world.replicas(ShardId::CONTROLLER).len(), 3);
    world.assert_goals();
}

#[test]
fn a_drained_node_gives_up_its_leads_first_and_then_every_copy() {
    let mut world = World::founded(&["", "", "", ""], 3);
    world.drain(2, true);
    let led = world.leads()[1];
    let first = world.plan();
    let handed: Vec<_> = first
        .iter()
        .map(|command| world.effect(command))
        .filter(|(old, new)| {
            old[0] == NodeId(2) && new[0] != NodeId(2) && old.len() == new.len() && new.contains(&NodeId(2))
        })
        .collect();
    assert!(handed.len() >= led, "{led} leads, {handed:?}");
    world.run();
    assert_eq!(world.loads(), [16, 0, 16, 16]);
    assert!(!world.replicas(ShardId::CONTROLLER).contains(&NodeId(2)));
    assert!(
        world.copies_made <= 13,
        "{} copies for 12 shards and the controller",
        world.copies_made
    );
    let progress = world.progress();
    assert_eq!(
        (
            progress.nodes[1].replicas,
            progress.nodes[1].leaving,
            progress.nodes[1].stuck
        ),
        (0, 0, 0)
    );
    assert_eq!(world.check_remove(2, false), Ok(()));
    // Ended, it fills up again.
    world.drain(2, false);
    world.run();
    assert_eq!(world.loads(), [12; 4]);
}

#[test]
fn a_drain_without_another_node_keeps_the_copies_until_fewer_are_wanted() {
    let mut world = World::founded(&["", "", ""], 3);
    world.drain(3, true);
    world.run();
    assert_eq!((world.loads(), world.copies_made), (vec![16; 3], 0));
    assert_eq!(world.leads(), [8, 8, 0]);
    let node = world.progress().nodes.remove(2);
    assert_eq!(
        (node.replicas, node.leads, node.leaving, node.stuck),
        (17, 0, 0, 17)
    );
    let held = RemoveNodeError::HoldsReplicas {
        node: NodeId(3),
        replicas: 17,
    };
    assert_eq!(world.check_remove(3, false), Err(held));
    world.set_copies(2);
    assert_eq!(world.progress().nodes[2].leaving, 17);
    world.run();
    assert_eq!((world.loads(), world.copies_made), (vec![16, 16, 0], 0));
    assert_eq!(world.check_remove(3, false), Ok(()));
}

#[test]
fn a_node_that_is_back_in_time_finds_everything_as_it_was() {
    let mut world = World::founded(&["", "", "", ""], 3);
    let before = world.placements();
    world.silence(2, DEAD - Duration::from_secs(1));
    assert_eq!(world.plan(), []);
    let progress = world.progress();
    assert_eq!(
        progress.nodes[1].presence,
        Presence::Silent(DEAD - Duration::from_secs(1))
    );
    assert!(
        progress
            .nodes
            .iter()
            .all(|node| node.arriving + node.leaving + node.stuck == 0)
    );
    world.revive(2);
    world.run();
    assert_eq!(world.placements(), before);
}

#[test]
fn the_copies_of_a_dead_node_are_made_anew_elsewhere() {
    let mut world = World::founded(&["", "", "", ""], 3);
    let controller_voted = world.replicas(ShardId::CONTROLLER).contains(&NodeId(2));
    world.silence(2, DEAD);
    let arriving: usize = world.progress().nodes.iter().map(|node| node.arriving).sum();
    assert_eq!(arriving, 12 + usize::from(controller_voted));
    world.run();
    assert_eq!(world.loads(), [16, 0, 16, 16]);
    assert_eq!(world.copies_made, arriving);
    // Back too late, it is filled anew.
    world.revive(2);
    world.run();
    assert_eq!(world.loads(), [12; 4]);
    world.assert_goals();
}

#[test]
fn a_dead_node_that_nobody_can_stand_in_for_keeps_its_place() {
    let mut world = World::founded(&["", "", ""], 3);
    world.silence(2, DEAD);
    world.run();
    assert_eq!((world.loads(), world.leads()[1]), (vec![16; 3], 0));
    assert_eq!(world.progress().nodes[1].stuck, 17);
    assert_eq!(
        world.check_remove(1, true),
        Err(RemoveNodeError::Alive { node: NodeId(1) })
    );
    assert_eq!(world.check_remove(2, true), Ok(()));
    world.remove(2, true);
    world.run();
    assert_eq!(world.loads(), [16, 16]);
    world.join("");
    world.run();
    assert_eq!(world.loads(), [16, 16, 16]);
    world.assert_goals();
}

#[test]
fn a_node_that_dies_on_its_way_in_is_given_up() {
    let mut world = World::founded(&["", "", ""], 3);
    world.join("");
    world.propose();
    let waiting = world.moving();
    assert_eq!(waiting.len(), PlanSettings::default().arriving_max);
    let copies = world.copies_made;
    world.silence(4, Duration::from_secs(1));
    world.propose();
    assert_eq!(world.moving(), waiting, "a short silence changes nothing");
    world.silence(4, DEAD);
    let node = world.progress().nodes.remove(3);
    assert_eq!((node.arriving, node.stuck), (0, 0));
    world.run();
    assert_eq!((world.loads(), world.copies_made), (vec![16, 16, 16, 0], copies));
    assert_eq!(world.moving(), []);
}

#[test]
fn a_shard_turned_back_goes_to_whom_it_was_to_leave() {
    let mut world = World::founded(&["", "", "", ""], 3);
    let before = world.placements();
    world.join("");
    world.propose();
    assert_ne!(world.moving(), []);
    world.silence(5, DEAD);
    world.run();
    assert_eq!((world.placements(), world.copies_made), (before, 0));
}

#[test]
fn no_more_copies_are_on_their_way_to_a_node_than_allowed() {
    let mut world = World::founded(&["", "", ""], 3);
    world.join("");
    world.settings.arriving_max = 2;
    for _ in 0..5 {
        world.propose();
        assert_eq!(world.moving().len(), 2);
    }
    world.run();
    assert_eq!(world.loads(), [12; 4]);
}

#[test]
fn copies_leave_a_crowded_rack_when_there_is_a_free_one() {
    let mut world = World::founded(&["a", "a", "b"], 3);
    world.join("c");
    world.run();
    for shard in 0..16 {
        let racks: BTreeSet<_> = world.racks(ShardId(shard)).into_iter().collect();
        assert_eq!(racks.len(), 3, "shard {shard}");
    }
    assert_eq!(world.racks(ShardId::CONTROLLER).len(), 3);
    // The two nodes of one rack share its 16 copies, the others have 16 each.
    assert_eq!(world.loads(), [8, 8, 16, 16]);
    assert_eq!(world.copies_made, 17);
    world.assert_goals();
}

#[test]
fn the_controllers_voters_are_as_many_as_copies_and_the_dead_are_replaced() {
    let mut world = World::founded(&["a", "a", "b", "c", "c"], 3);
    let voters = world.replicas(ShardId::CONTROLLER);
    let racks: BTreeSet<_> = world.racks(ShardId::CONTROLLER).into_iter().collect();
    assert_eq!((voters.len(), racks.len()), (3, 3));
    let lost = voters[0];
    world.silence(lost.0, DEAD);
    world.run();
    let voters = world.replicas(ShardId::CONTROLLER);
    assert!(voters.len() == 3 && !voters.contains(&lost), "{voters:?}");
}

#[test]
fn balance_does_at_once_what_rests_while_a_node_is_silent() {
    let mut world = World::founded(&["", "", ""], 3);
    world.join("");
    world.join("");
    world.silence(1, Duration::from_secs(5));
    assert_eq!(world.plan(), []);
    let commands = balance(&world.controller, &world.sight(), &world.settings);
    assert!(commands.len() > 8, "{commands:?}");
    for command in &commands {
        let (old, new) = world.effect(command);
        assert!(
            new.contains(&NodeId(1)) == old.contains(&NodeId(1)),
            "{old:?} to {new:?}"
        );
    }
    world.propose_all(&commands);
    world.finish_all();
    let loads = world.loads();
    assert!(
        loads[1..].iter().max().unwrap() - loads[1..].iter().min().unwrap() <= 1,
        "{loads:?}"
    );
}

#[test]
fn a_plan_stays_the_same_until_it_is_applied_and_each_command_applies_once() {
    let mut world = World::founded(&["", "", ""], 3);
    world.join("");
    let commands = world.plan();
    assert_eq!(world.plan(), commands);
    world.propose_all(&commands);
    for command in &commands {
        let again = world.apply(command);
        assert!(matches!(
            again,
            Outcome::PlacementSet(Err(SetPlacementError::Changed { .. }))
        ));
    }
}

#[test]
fn shards_without_a_leader_are_left_alone() {
    let mut world = World::founded(&["", "", "", ""], 3);
    world.drain(1, true);
    let sight = Sight::default();
    assert_eq!(next_steps(&world.controller, &sight, &world.settings), []);
    let progress = progress(&world.controller, &sight, &world.settings);
    assert_eq!((progress.unknown, progress.moving), (17, 0));
}

#[test]
fn a_node_that_still_votes_cannot_be_removed_though_nothing_is_placed_on_it() {
    let mut world = World::founded(&["", "", "", ""], 3);
    world.drain(2, true);
    world.run();
    world.join_votes(ShardId(3), 2);
    let held = RemoveNodeError::HoldsReplicas {
        node: NodeId(2),
        replicas: 1,
    };
    assert_eq!(world.check_remove(2, false), Err(held));
    assert_eq!(world.moving(), [ShardId(3)]);
}

#[test]
fn the_largest_region_is_planned_as_well() {
    let mut world = World::with_shards(&[""; 12], 3, 4096);
    world.join("");
    let steps = world.plan();
    assert_eq!(steps.len(), PlanSettings::default().arriving_max);
    let joined = world.progress().nodes.remove(12);
    assert_eq!(joined.arriving, 4096 * 3 / 13);
}
