use meridian_types::{RegionEpoch, RegionNumber};
use proptest::prelude::*;

use super::*;
use crate::Outcome;
use crate::command::Command;
use crate::configs::ConfigResource;
use crate::geo::{GeoFounding, GeoRegion, Ownership, OwnershipState};
use crate::node::NodeRegistration;
use crate::testing::{
    NOW, address, alter, apply, assert_fixture, change, create, fixture, founded, founding, id, new_topic,
    registration, set,
};

fn sample() -> Controller {
    let mut controller = founded();
    create(
        &mut controller,
        new_topic(
            1,
            "orders",
            12,
            &[("cleanup.policy", "compact"), ("retention.ms", "-1")],
        ),
    )
    .unwrap();
    create(&mut controller, new_topic(2, "gone", 1, &[])).unwrap();
    create(&mut controller, new_topic(3, "a.b", 100_000, &[])).unwrap();
    apply(
        &mut controller,
        &Command::DeleteTopics {
            topics: vec![id(2)],
            now: NOW,
        },
    );
    for node in 1..=3 {
        apply(
            &mut controller,
            &Command::RegisterNode {
                node: registration(node, 7),
                now: NOW,
            },
        );
    }
    for command in [
        Command::DrainNode {
            node: NodeId(3),
            draining: true,
        },
        Command::SetPlacement {
            shard: ShardId(5),
            replicas: vec![NodeId(2), NodeId(1)],
            expected: 6,
        },
    ] {
        let outcome = apply(&mut controller, &command);
        assert!(matches!(
            outcome,
            Outcome::NodeDrained(Ok(())) | Outcome::PlacementSet(Ok(_))
        ));
    }
    alter(
        &mut controller,
        change(ConfigResource::Cluster, vec![set("log.retention.hours", "24")]),
    )
    .unwrap();
    alter(
        &mut controller,
        change(ConfigResource::Node(NodeId(2)), vec![set("max.connections", "9")]),
    )
    .unwrap();
    apply(&mut controller, &Command::AllocateProducerIds { count: 1000 });
    controller
}

fn encoded(controller: &Controller) -> Vec<u8> {
    controller.encode_snapshot().concat()
}

#[test]
fn a_snapshot_gives_all_facts_back() {
    let controller = sample();
    let bytes = encoded(&controller);
    let back = Controller::decode_snapshot(&bytes).unwrap();
    assert_eq!(encoded(&back), bytes);
    assert_eq!(back.digest(), controller.digest());
    assert!(back.topics().eq(controller.topics()));
    assert!(back.nodes().eq(controller.nodes()));
    assert!(back.placements().eq(controller.placements()));
    assert_eq!(back.feature_level(), controller.feature_level());
    assert!(back.deleted_topics().eq(controller.deleted_topics()));
    assert_eq!(back.founding(), controller.founding());
    assert_eq!(
        back.broker_settings(NodeId(2)),
        controller.broker_settings(NodeId(2))
    );
    assert_eq!(back.applied(), controller.applied());
    let empty = encoded(&Controller::new());
    assert_eq!(encoded(&Controller::decode_snapshot(&empty).unwrap()), empty);
}

#[test]
fn version_two_reads_and_writes_its_stored_file() {
    assert_fixture("snapshot-v2.bin", &encoded(&sample()));
}

#[test]
fn version_three_reads_and_writes_its_stored_file() {
    let mut controller = sample();
    controller.feature_level = 3;
    controller.retired.extend([4, 70].map(NodeId));
    assert_fixture("snapshot-v3.bin", &encoded(&controller));
}

#[test]
fn version_four_reads_and_writes_its_stored_file() {
    let controller = geo();
    let bytes = encoded(&controller);
    assert_fixture("snapshot-v4.bin", &bytes);
    let back = Controller::decode_snapshot(&bytes).unwrap();
    assert_eq!(encoded(&back), bytes);
    assert_eq!(back.standing(), controller.standing());
    assert_eq!(back.ownership(), controller.ownership());
    assert!(back.regions().eq(controller.regions()));
    assert_eq!(back.region_number(), RegionNumber(2));
    assert_eq!(bytes[4], 4);
    for at in 0..bytes.len() {
        assert!(Controller::decode_snapshot(&bytes[..at]).is_err(), "cut to {at}");
    }
}

/// The owner of three regions, while it is being drained.
fn geo() -> Controller {
    let mut controller = Controller::new();
    let number = RegionNumber(2);
    let geo = GeoFounding {
        number,
        owner: number,
    };
    let node = NodeRegistration {
        version_max: 4,
        ..registration(200_001, 7)
    };
    apply(
        &mut controller,
        &Command::found_geo(founding(), geo, vec![node], 1),
    );
    for (number, name) in [(0, "west"), (1, "east"), (2, "south")] {
        let region = GeoRegion {
            number: RegionNumber(number),
            name: name.into(),
            geo: vec![address("geo.example", 9290 + number)],
        };
        apply(&mut controller, &Command::SetRegion(region));
    }
    create(&mut controller, new_topic(1, "orders", 12, &[])).unwrap();
    let drain = Ownership {
        region_epoch: RegionEpoch(3),
        owner: number,
        state: OwnershipState::Draining {
            to: RegionNumber(1),
            deadline: NOW,
        },
    };
    let outcome = apply(&mut controller, &Command::SetOwnership(drain));
    assert_eq!(outcome, Outcome::OwnershipSet(Ok(())));
    controller
}

#[test]
fn version_one_is_read_as_a_region_whose_first_node_holds_everything() {
    let old = Controller::decode_snapshot(&fixture("snapshot-v1.bin")).unwrap();
    assert_eq!(old.feature_level(), 1);
    assert_eq!(old.placements().len(), 17);
    for (_, placement) in old.placements() {
        assert_eq!(placement.replicas, [NodeId(1)]);
        assert_eq!(placement.founders, [NodeId(1)]);
    }
    for node in old.nodes() {
        let NodeRegistration {
            kafka,
            peer,
            version_max,
            ..
        } = &node.registration;
        assert_eq!(kafka.as_ref().unwrap().to_string(), "node.example:9092");
        assert_eq!((peer, *version_max, node.draining), (&None, 1, false));
    }
    let new = sample();
    assert!(old.topics().eq(new.topics()));
    assert!(old.deleted_topics().eq(new.deleted_topics()));
    assert_eq!(old.founding(), new.founding());
    // Read once, it is kept in the present version.
    let kept = Controller::decode_snapshot(&encoded(&old)).unwrap();
    assert_eq!(kept.digest(), old.digest());
}

#[test]
fn every_flipped_or_missing_byte_is_noticed() {
    let bytes = encoded(&sample());
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(Controller::decode_snapshot(&damaged).is_err(), "byte {at}");
        assert!(Controller::decode_snapshot(&bytes[..at]).is_err(), "cut to {at}");
    }
    let error = |bytes: &[u8]| Controller::decode_snapshot(bytes).unwrap_err();
    assert_eq!(error(b"GIF89a"), SnapshotError::Magic);
    assert_eq!(error(b"MDCS\x07"), SnapshotError::Version { version: 7 });
    assert_eq!(error(b"MDCS\x01\0\0\0\0x"), SnapshotError::Checksum);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damage_under_a_valid_checksum_never_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        is_geo: bool,
    ) {
        let mut bytes = encoded(&if is_geo { geo() } else { sample() });
        for (at, byte) in damage {
            let at = 9 + at.index(bytes.len() - 9);
            bytes[at] = byte;
        }
        let checksum = crc_fast::crc32_iscsi(&bytes[9..]);
        bytes[5..9].copy_from_slice(&checksum.to_le_bytes());
        if let Ok(controller) = Controller::decode_snapshot(&bytes) {
            controller.check().unwrap();
            let _ = (controller.digest(), controller.replicas_of(meridian_types::ShardId(0)));
        }
    }
}
