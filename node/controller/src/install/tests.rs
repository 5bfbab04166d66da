use bytes::Bytes;
use meridian_types::{RaftIndex, RegionEpoch, RegionNumber, Term};

use super::*;
use crate::command::Command;
use crate::controller::Founding;
use crate::geo::GeoFounding;
use crate::node::{GEO_LEVEL, NodeRegistration};
use crate::outcome::Outcome;
use crate::testing::{NOW, founding, new_topic, registration};

const PART_BYTES: usize = 100;

fn apply(controller: &mut Controller, command: &Command) -> Outcome {
    let entry: Bytes = command.encode().concat().into();
    let command = Command::decode(std::slice::from_ref(&entry)).unwrap();
    let index = RaftIndex(controller.applied().index.0 + 1);
    let outcome = controller.apply(LogPosition { term: Term(2), index }, &command);
    controller.check().unwrap();
    *controller = Controller::decode_snapshot(&controller.encode_snapshot().concat()).unwrap();
    outcome
}

/// The controller of a region of one node, of a cluster that region 0 owns.
fn region(number: u16) -> Controller {
    let number = RegionNumber(number);
    let node = NodeRegistration {
        version_max: GEO_LEVEL,
        ..registration(number.node(1).unwrap().0, 1)
    };
    let founding = Founding {
        region: format!("region-{number}"),
        region_epoch: RegionEpoch(0),
        ..founding()
    };
    let geo = GeoFounding {
        number,
        owner: RegionNumber(0),
    };
    let found = Command::found_geo(founding, geo, vec![node], 1);
    let mut controller = Controller::new();
    assert_eq!(apply(&mut controller, &found), Outcome::Founded(Ok(())));
    controller
}

fn create(controller: &mut Controller, name: &str, id: u128) {
    let outcome = apply(
        controller,
        &Command::CreateTopics {
            topics: vec![new_topic(id, name, 3, &[])],
            now: NOW,
        },
    );
    assert!(
        matches!(&outcome, Outcome::TopicsCreated(results) if results[0].is_ok()),
        "{outcome:?}"
    );
}

fn stage(controller: &mut Controller, body: &[u8]) -> Outcome {
    let mut last = None;
    for (number, bytes) in body.chunks(PART_BYTES).enumerate() {
        last = Some(apply(
            controller,
            &Command::Stage(StagePart {
                checkpoint: 9,
                total_bytes: body.len() as u64,
                at: (number * PART_BYTES) as u64,
                bytes: Bytes::copy_from_slice(bytes),
            }),
        ));
    }
    last.unwrap()
}

#[test]
fn a_mirror_takes_the_topics_of_a_checkpoint_and_keeps_its_own_nodes() {
    let mut owner = region(0);
    create(&mut owner, "a", 1);
    create(&mut owner, "b", 2);
    let body = owner.encode_snapshot().concat();
    let mut mirror = region(1);
    assert_eq!(stage(&mut mirror, &body), Outcome::Staged(Ok(())));
    assert_eq!(
        mirror.staged().map(|(name, bytes)| (name, bytes.len())),
        Some((9, body.len()))
    );
    let sequence = owner.standing().sequence();
    let installed = apply(&mut mirror, &Command::Install { checkpoint: 9 });
    assert_eq!(installed, Outcome::Installed(Ok(sequence)));
    assert_eq!(mirror.staged(), None);
    assert!(mirror.topic("a").is_some() && mirror.topic("b").is_some());
    assert!(mirror.is_owned_elsewhere() && !mirror.is_owner());
    assert_eq!(mirror.standing().digest(), owner.standing().digest());
    assert_eq!(mirror.region_number(), RegionNumber(1));
    let nodes: Vec<_> = mirror.nodes().map(|node| node.registration.node).collect();
    assert_eq!(nodes, [RegionNumber(1).node(1).unwrap()]);
    // The same once more is not newer.
    stage(&mut mirror, &body);
    let again = apply(&mut mirror, &Command::Install { checkpoint: 9 });
    assert_eq!(
        again,
        Outcome::Installed(Err(InstallRejected::Stale {
            sequence,
            present: sequence
        }))
    );
}

#[test]
fn nobody_takes_what_is_no_checkpoint_of_another_region() {
    let mut owner = region(0);
    let refused = stage(&mut owner, b"anything");
    assert!(
        matches!(refused, Outcome::Staged(Err(StageRejected::NotMirror { .. }))),
        "{refused:?}"
    );
    let mut mirror = region(1);
    let absent = apply(&mut mirror, &Command::Install { checkpoint: 9 });
    assert_eq!(absent, Outcome::Installed(Err(InstallRejected::NotStaged)));
    let own = mirror.encode_snapshot().concat();
    for body in [&b"no snapshot"[..], &own] {
        stage(&mut mirror, body);
        let before = mirror.digest();
        let refused = apply(&mut mirror, &Command::Install { checkpoint: 9 });
        assert!(
            matches!(refused, Outcome::Installed(Err(InstallRejected::Unusable { .. }))),
            "{refused:?}"
        );
        assert_eq!(mirror.staged().map(|(name, _)| name), Some(9));
        assert_ne!(mirror.digest(), before, "only what was applied moved on");
    }
}
