use meridian_types::{Offset, TimestampMs};
use meridian_wire::batch::{BatchBuilder, Compression};

use super::*;
use crate::testing::{BatchSpec, group, partition, topic};

fn append(batches: Vec<Bytes>) -> Command {
    Command::Append {
        now: TimestampMs(5),
        groups: vec![group(partition(1, 0), batches)],
    }
}

fn joined(command: &Command) -> Bytes {
    command.encode().concat().into()
}

#[test]
fn the_digest_covers_everything_but_what_the_checksum_covers() {
    let command = append(vec![
        BatchSpec::records(2).stamped(0, 7),
        BatchSpec::default().stamped(2, 7),
    ]);
    let bytes = joined(&command);
    let digest = command.fold(ContentDigest::EMPTY);
    let header_bytes = bytes.len() - 2 * 71;
    let mut seen = 0;
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x20;
        let Ok(damaged) = Command::read(&damaged.into()) else {
            continue;
        };
        let in_batch = at.checked_sub(header_bytes).map(|at| at % 71);
        let is_covered = in_batch.is_some_and(|at| at >= 24);
        assert_eq!(
            damaged.fold(ContentDigest::EMPTY) == digest,
            is_covered,
            "byte {at}"
        );
        seen += 1;
    }
    assert!(seen > 142, "the test looked at {seen} bytes");
}

#[test]
fn the_digest_covers_every_byte_of_a_small_command() {
    let command = Command::DropTopic {
        topic: topic(9),
        now: TimestampMs(77),
    };
    let bytes = joined(&command);
    for at in 2..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1;
        let damaged = Command::read(&damaged.into()).unwrap();
        assert_ne!(
            damaged.fold(ContentDigest::EMPTY),
            command.fold(ContentDigest::EMPTY),
            "byte {at}"
        );
    }
}

#[test]
fn a_damaged_batch_is_noticed_before_it_is_proposed() {
    let mut builder =
        BatchBuilder::new(Compression::None).stored_at(Offset(0), meridian_types::LeaderEpoch(1));
    builder
        .push(TimestampMs(1), None, Some(b"value"), &[])
        .expect("it fits");
    let batch = builder.build().expect("a batch");
    let whole = joined(&append(vec![batch]));
    assert_eq!(verify_content(&whole), Ok(()));
    let mut damaged = whole.to_vec();
    *damaged.last_mut().expect("not empty") ^= 1;
    assert!(matches!(
        verify_content(&damaged.into()),
        Err(ContentFault::Batch(_))
    ));
    let own = Command::SetLocalStart { starts: vec![] };
    assert_eq!(
        verify_content(&joined(&own)),
        Err(ContentFault::NotContent {
            name: "set_local_start"
        })
    );
    assert!(matches!(
        verify_content(&Bytes::from_static(&[1])),
        Err(ContentFault::Command(CommandError::Truncated))
    ));
}
