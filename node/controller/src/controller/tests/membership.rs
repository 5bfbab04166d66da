//! Founding, joining, draining, removing.

use std::collections::BTreeMap;

use meridian_types::{NodeId, RaftIndex, ShardId};

use crate::node::{NodeNotFound, NodeRegistration, RegisterNodeError, RemoveNodeError};
use crate::placement::SetPlacementError;
use crate::testing::{NOW, address, apply, fixture, found, founded, founding, registration, remove};
use crate::{Command, Controller, FoundingError, Outcome};

const ALL: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

fn of_three() -> Controller {
    let mut controller = Controller::new();
    let nodes = [3, 1, 2].map(|node| registration(node, node.into())).into();
    let command = Command::found(founding(), nodes, BTreeMap::new());
    assert_eq!(apply(&mut controller, &command), Outcome::Founded(Ok(())));
    controller
}

fn place(controller: &mut Controller, shard: ShardId, replicas: &[u32], expected: u64) -> Outcome {
    let replicas = replicas.iter().copied().map(NodeId).collect();
    apply(
        controller,
        &Command::SetPlacement {
            shard,
            replicas,
            expected,
        },
    )
}

#[test]
fn a_region_is_founded_by_several_nodes_at_once() {
    let controller = of_three();
    assert_eq!(controller.nodes().len(), 3);
    assert_eq!(controller.feature_level(), 2);
    assert_eq!(controller.placements().len(), 17);
    let mut leads = BTreeMap::new();
    for (shard, placement) in controller.placements() {
        assert_eq!(placement.founders, ALL, "shard {shard}");
        assert_eq!(placement.epoch, 1);
        let mut replicas = placement.replicas.clone();
        replicas.sort_unstable();
        assert_eq!(replicas, ALL, "shard {shard}");
        if shard != ShardId::CONTROLLER {
            *leads.entry(placement.preferred_leader()).or_insert(0) += 1;
        }
    }
    let mut leads: Vec<_> = leads.into_values().collect();
    leads.sort_unstable();
    assert_eq!(leads, [5, 5, 6]);
}

#[test]
fn copies_wanted_are_given_at_the_founding_and_can_be_altered() {
    let mut controller = Controller::new();
    let nodes = (1..=3).map(|node| registration(node, 1)).collect();
    let configs = BTreeMap::from([("default.replication.factor".to_owned(), " 1 ".to_owned())]);
    apply(&mut controller, &Command::found(founding(), nodes, configs));
    assert_eq!(controller.copies_wanted(), 1);
    assert!(
        controller
            .placements()
            .all(|(_, placement)| placement.replicas.len() == 1)
    );
    let wrong = BTreeMap::from([("default.replication.factor".to_owned(), "0".to_owned())]);
    let outcome = apply(
        &mut Controller::new(),
        &Command::found(founding(), Vec::new(), wrong),
    );
    assert!(matches!(outcome, Outcome::Founded(Err(FoundingError::Config(_)))));
}

#[test]
fn founding_facts_that_do_not_go_together_are_refused() {
    let refusal = |command: &Command| match apply(&mut Controller::new(), command) {
        Outcome::Founded(Err(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let twice = Command::found(
        founding(),
        vec![registration(1, 1), registration(1, 2)],
        BTreeMap::new(),
    );
    assert!(refusal(&twice).ends_with("node 1 is named twice; every node needs an id of its own"));
    let silent = NodeRegistration {
        peer: None,
        ..registration(2, 2)
    };
    let silent = Command::found(founding(), vec![registration(1, 1), silent], BTreeMap::new());
    assert!(refusal(&silent).starts_with("node 2 gives no peer address"));
    let incomplete = |change: fn(&mut Vec<(ShardId, Vec<NodeId>)>)| {
        let mut command = Command::found(founding(), vec![registration(1, 1)], BTreeMap::new());
        if let Command::Found { placements, .. } = &mut command {
            change(placements);
        }
        refusal(&command)
    };
    assert!(
        incomplete(|rows| drop(rows.pop())).ends_with("every shard needs one placement, and the controller")
    );
    assert!(incomplete(|rows| rows.push(rows[0].clone())).ends_with("and the controller"));
    assert!(incomplete(|rows| rows[3].1 = vec![NodeId(2)]).ends_with("shard 3 on [NodeId(2)]"));
    assert!(incomplete(|rows| rows[3].1.clear()).ends_with("shard 3 on []"));
}

#[test]
fn the_first_node_that_registers_gets_every_shard_and_later_ones_none() {
    let mut controller = founded();
    assert_eq!(controller.replicas_of(ShardId(0)), []);
    for node in 4..6 {
        let node = registration(node, 1);
        apply(&mut controller, &Command::RegisterNode { node, now: NOW });
    }
    for (_, placement) in controller.placements() {
        assert_eq!(
            (&placement.founders, &placement.replicas),
            (&vec![NodeId(4)], &vec![NodeId(4)])
        );
    }
}

#[test]
fn a_log_of_version_one_gives_its_node_every_shard_and_goes_on_in_version_two() {
    let mut controller = Controller::new();
    for name in ["found", "register_node"] {
        let stored = fixture(&format!("command-v1-{name}.bin"));
        apply(&mut controller, &Command::decode(&[stored]).unwrap());
    }
    assert_eq!(controller.feature_level(), 1);
    assert!(
        controller
            .placements()
            .all(|(_, placement)| placement.replicas == [NodeId(2)])
    );
    let node = registration(2, 99);
    apply(&mut controller, &Command::RegisterNode { node, now: NOW });
    assert_eq!(controller.feature_level(), 2);
    assert_eq!(controller.placements().len(), 17);
    assert_eq!(controller.placement(ShardId(3)).unwrap().epoch, 2);
}

#[test]
fn a_second_node_needs_a_peer_address() {
    let mut controller = founded();
    let alone = |node| NodeRegistration {
        peer: None,
        ..registration(node, 1)
    };
    let register = |node| Command::RegisterNode { node, now: NOW };
    assert_eq!(
        apply(&mut controller, &register(alone(1))),
        Outcome::NodeRegistered(Ok(2))
    );
    assert_eq!(
        apply(&mut controller, &register(alone(1))),
        Outcome::NodeRegistered(Ok(3))
    );
    let refused = RegisterNodeError::NoPeerAddress { node: NodeId(2) };
    assert_eq!(
        apply(&mut controller, &register(alone(2))),
        Outcome::NodeRegistered(Err(refused))
    );
    let wrong = NodeRegistration {
        peer: Some(address("", 9190)),
        ..registration(2, 1)
    };
    assert!(matches!(
        apply(&mut controller, &register(wrong)),
        Outcome::NodeRegistered(Err(RegisterNodeError::Address { port: 9190, .. }))
    ));
}

#[test]
fn the_feature_level_is_what_all_nodes_understand_and_never_falls() {
    let mut controller = founded();
    let mut register = |node, version_max| {
        let node = NodeRegistration {
            version_max,
            ..registration(node, 1)
        };
        let outcome = apply(&mut controller, &Command::RegisterNode { node, now: NOW });
        (outcome, controller.feature_level())
    };
    assert_eq!(register(1, 2).1, 2);
    let (outcome, level) = register(2, 1);
    let refused = RegisterNodeError::Version {
        node: NodeId(2),
        version_max: 1,
        feature_level: 2,
    };
    assert_eq!((outcome, level), (Outcome::NodeRegistered(Err(refused)), 2));
    assert_eq!(register(2, 3).1, 2);
    assert_eq!(register(1, 4).1, 3);
    assert!(matches!(register(2, 2).0, Outcome::NodeRegistered(Err(_))));
    // With the last old node the level rises.
    assert_eq!(
        apply(&mut controller, &remove(2, false)),
        Outcome::NodeRemoved(Ok(()))
    );
    assert_eq!(controller.feature_level(), 4);
}

#[test]
fn a_placement_is_changed_by_who_knows_the_present_one() {
    let mut controller = of_three();
    let shard = ShardId(7);
    assert_eq!(
        place(&mut controller, shard, &[3, 1], 1),
        Outcome::PlacementSet(Ok(2))
    );
    assert_eq!(controller.replicas_of(shard), [NodeId(3), NodeId(1)]);
    assert_eq!(controller.placement(shard).unwrap().founders, ALL);
    let changed = SetPlacementError::Changed {
        shard,
        present: 2,
        expected: 1,
    };
    assert_eq!(
        place(&mut controller, shard, &[1], 1),
        Outcome::PlacementSet(Err(changed))
    );
    for replicas in [&[][..], &[1, 2, 1][..]] {
        let outcome = place(&mut controller, shard, replicas, 2);
        assert!(matches!(
            outcome,
            Outcome::PlacementSet(Err(SetPlacementError::Replicas { .. }))
        ));
    }
    let unknown = SetPlacementError::NodeNotFound(NodeNotFound { node: NodeId(9) });
    assert_eq!(
        place(&mut controller, shard, &[1, 9], 2),
        Outcome::PlacementSet(Err(unknown))
    );
    let shard = ShardId(16);
    let missing = SetPlacementError::ShardNotFound { shard };
    assert_eq!(missing.to_string(), "shard 16 has no placement");
    assert_eq!(
        place(&mut controller, shard, &[1], 1),
        Outcome::PlacementSet(Err(missing))
    );
    assert!(matches!(
        place(&mut controller, ShardId::CONTROLLER, &[2, 1], 1),
        Outcome::PlacementSet(Ok(_))
    ));
}

#[test]
fn draining_is_kept_through_a_restart_of_the_node() {
    let mut controller = of_three();
    let drain = |node, draining| Command::DrainNode {
        node: NodeId(node),
        draining,
    };
    assert_eq!(
        apply(&mut controller, &drain(2, true)),
        Outcome::NodeDrained(Ok(()))
    );
    let node = registration(2, 2);
    apply(&mut controller, &Command::RegisterNode { node, now: NOW });
    assert!(controller.node(NodeId(2)).unwrap().draining);
    apply(&mut controller, &drain(2, false));
    assert!(!controller.node(NodeId(2)).unwrap().draining);
    let missing = NodeNotFound { node: NodeId(4) };
    assert_eq!(
        apply(&mut controller, &drain(4, true)),
        Outcome::NodeDrained(Err(missing))
    );
}

#[test]
fn a_node_with_replicas_goes_by_force_only_and_can_found_nothing_again() {
    let mut controller = of_three();
    let refused = apply(&mut controller, &remove(3, false));
    let Outcome::NodeRemoved(Err(error)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(
        error.to_string(),
        "node 3 still holds replicas of 17 shards; drain it first, or remove it by force if it is lost for good"
    );
    place(&mut controller, ShardId(0), &[1, 2], 1);
    assert_eq!(
        apply(&mut controller, &remove(3, true)),
        Outcome::NodeRemoved(Ok(()))
    );
    let at = controller.applied().index;
    for (shard, placement) in controller.placements() {
        assert_eq!(placement.founders, [], "shard {shard}");
        assert_eq!(placement.replicas.len(), 2, "shard {shard}");
        let expected = if shard == ShardId(0) { RaftIndex(3) } else { at };
        assert_eq!(RaftIndex(placement.epoch), expected, "shard {shard}");
    }
    // Its id is free for another directory.
    let node = registration(3, 99);
    let outcome = apply(&mut controller, &Command::RegisterNode { node, now: NOW });
    assert!(matches!(outcome, Outcome::NodeRegistered(Ok(_))));
}

#[test]
fn the_last_replica_of_a_shard_cannot_be_removed_by_force_either() {
    let mut controller = of_three();
    place(&mut controller, ShardId(4), &[2], 1);
    let Outcome::NodeRemoved(Err(error)) = apply(&mut controller, &remove(2, true)) else {
        panic!("it is refused")
    };
    let shard = ShardId(4);
    assert_eq!(
        error,
        RemoveNodeError::LastReplica {
            node: NodeId(2),
            shard
        }
    );
    assert_eq!(
        error.to_string(),
        "node 2 holds the only replica of shard 4; bring it back"
    );
}

#[test]
fn nothing_is_placed_before_the_founding() {
    let mut controller = Controller::new();
    assert_eq!(place(&mut controller, ShardId(0), &[1], 0), Outcome::NotFounded);
    assert_eq!(
        apply(&mut controller, &found(founding())),
        Outcome::Founded(Ok(()))
    );
    assert!(matches!(
        place(&mut controller, ShardId(0), &[1], 0),
        Outcome::PlacementSet(Err(SetPlacementError::ShardNotFound { .. }))
    ));
}

#[test]
fn the_id_of_a_removed_node_is_never_given_again() {
    let mut controller = founded();
    let register = |node, incarnation| Command::RegisterNode {
        node: NodeRegistration {
            version_max: 3,
            ..registration(node, incarnation)
        },
        now: NOW,
    };
    for node in [1, 2] {
        let registered = apply(&mut controller, &register(node, 5));
        assert!(matches!(registered, Outcome::NodeRegistered(Ok(_))));
    }
    assert_eq!(controller.feature_level(), 3);
    assert_eq!(
        apply(&mut controller, &remove(2, false)),
        Outcome::NodeRemoved(Ok(()))
    );
    let retired = RegisterNodeError::Retired { node: NodeId(2) };
    for incarnation in [5, 6] {
        assert_eq!(
            apply(&mut controller, &register(2, incarnation)),
            Outcome::NodeRegistered(Err(retired.clone()))
        );
    }
    let other = apply(&mut controller, &register(3, 6));
    assert!(matches!(other, Outcome::NodeRegistered(Ok(_))));
}
