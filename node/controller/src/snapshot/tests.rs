use proptest::prelude::*;

use super::*;
use crate::command::Command;
use crate::configs::ConfigResource;
use crate::testing::{
    NOW, alter, apply, assert_fixture, change, create, founded, id, new_topic, registration, set,
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
fn version_one_reads_its_stored_file() {
    assert_fixture("snapshot-v1.bin", &encoded(&sample()));
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
    ) {
        let mut bytes = encoded(&sample());
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
