use meridian_lineage::ContentDigest;
use meridian_tiered_storage::manifest::ObjectName;
use meridian_types::{LeaderEpoch, Offset, RegionNumber, Term, Uuid};
use proptest::prelude::*;

use super::*;
use crate::testing::{BatchSpec, assert_fixture, group, partition, topic};

fn committed(offset: u64, epoch: Option<u32>, metadata: &str) -> CommittedOffset {
    CommittedOffset {
        offset: Offset(offset),
        leader_epoch: epoch.map(LeaderEpoch),
        metadata: metadata.into(),
        committed_at: TimestampMs(1_700_000_000_123),
    }
}

/// One command of every kind.
fn samples() -> Vec<Command> {
    let now = TimestampMs(1_700_000_000_000);
    vec![
        Command::Append {
            now,
            groups: vec![
                group(
                    partition(1, 0),
                    [
                        BatchSpec::records(3).stamped(0, 5),
                        BatchSpec::records(2).stamped(3, 5),
                    ],
                ),
                group(partition(2, 70_000), [BatchSpec::default().stamped(99, 5)]),
            ],
        },
        Command::CommitOffsets {
            group: "orders".into(),
            now,
            offsets: vec![
                (partition(1, 0), committed(42, Some(7), "héllo")),
                (partition(1, 1), committed(0, None, "")),
            ],
        },
        Command::SaveGroup {
            group: "orders".into(),
            body: Bytes::from_static(b"\0opaque\xff"),
            now,
        },
        Command::DeleteGroups {
            groups: vec!["a".into(), String::new(), "c".into()],
        },
        Command::DeleteOffsets {
            group: "orders".into(),
            partitions: vec![partition(1, 0), partition(3, 9)],
        },
        Command::ExpireOffsets {
            now,
            expired: vec![ExpiredOffsets {
                group: "old".into(),
                offsets: vec![
                    (partition(1, 2), TimestampMs(-1)),
                    (partition(1, 3), TimestampMs(12)),
                ],
            }],
        },
        Command::SetLogStart {
            starts: vec![(partition(1, 0), Offset(17)), (partition(2, 1), Offset(u64::MAX))],
        },
        Command::DropTopic { topic: topic(9), now },
        Command::ExpireProducers { now },
        Command::Tiered {
            sequence: 3,
            through: RaftIndex(700),
            object: object(1),
            extents: vec![
                (partition(1, 0), extent(0, 5)),
                (partition(2, 70_000), extent(99, 100)),
            ],
            now,
        },
        Command::Replaced {
            sequence: 4,
            object: object(2),
            replaced: vec![Replacement {
                partition: partition(1, 0),
                offsets: Offset(0)..Offset(9),
                extents: vec![extent(0, 5), extent(5, 9)],
            }],
            now,
        },
        Command::TierDeleted {
            objects: vec![ObjectId(0), ObjectId(u64::MAX)],
        },
        Command::SetLocalStart {
            starts: vec![(partition(1, 0), Offset(5)), (partition(2, 1), Offset(u64::MAX))],
        },
        Command::Mirrored(run()),
        Command::BeginEpoch(BeginEpoch {
            region_epoch: RegionEpoch(3),
            owner: RegionNumber(999),
            is_owner: true,
            expected_sequence: 70_000,
        }),
        Command::Fence {
            region_epoch: RegionEpoch(2),
        },
    ]
}

/// An append and a small command, as their owner encoded them.
fn run() -> ContentRun {
    let append = Command::Append {
        now: TimestampMs(1_700_000_000_000),
        groups: vec![group(
            partition(1, 0),
            [BatchSpec::records(2).stamped(5, 3 << 20 | 7)],
        )],
    };
    let small = Command::DeleteGroups {
        groups: vec!["old".into()],
    };
    ContentRun {
        region_epoch: RegionEpoch(3),
        first_sequence: 1_000_000,
        commands: vec![joined(&append.encode()), joined(&small.encode())],
        digest: ContentDigest(0x0123_4567_89ab_cdef),
    }
}

fn object(n: u128) -> NewObject {
    NewObject {
        name: ObjectName {
            term: Term(7),
            id: Uuid::from_u128(n << 64 | 0xbeef),
        },
        bytes: 1_048_600,
        footer_at: 1_048_000,
        footer_crc: 0xdead_beef,
    }
}

fn extent(base: u64, end: u64) -> NewExtent {
    NewExtent {
        base_offset: Offset(base),
        end_offset: Offset(end),
        frame: 2,
        raw_bytes: 4000,
        stored_bytes: 1000,
        max_timestamp: TimestampMs(-1),
        records: end - base,
    }
}

fn joined(parts: &[Bytes]) -> Bytes {
    parts.concat().into()
}

#[test]
fn every_kind_returns_from_parts_and_from_one_piece() {
    for command in samples() {
        let parts = command.encode();
        assert_eq!(Command::decode(&parts).as_ref(), Ok(&command));
        assert_eq!(Command::decode(&[joined(&parts)]).as_ref(), Ok(&command));
    }
}

#[test]
fn a_cut_at_any_byte_changes_nothing() {
    for command in samples() {
        let whole = joined(&command.encode());
        for cut in 0..=whole.len() {
            let parts = [whole.slice(..cut), Bytes::new(), whole.slice(cut..)];
            assert_eq!(Command::decode(&parts).as_ref(), Ok(&command), "cut at {cut}");
        }
    }
}

#[test]
fn batches_are_not_copied() {
    let command = &samples()[0];
    let Command::Append { groups, .. } = command else {
        panic!("first sample appends")
    };
    let parts = command.encode();
    assert_eq!(parts[1].as_ptr(), groups[0].batches[0].as_ptr());
    let whole = joined(&parts);
    let Ok(Command::Append { groups, .. }) = Command::decode(std::slice::from_ref(&whole)) else {
        panic!("decodes")
    };
    assert!(whole.as_ptr_range().contains(&groups[1].batches[0].as_ptr()));
}

#[test]
fn first_batch_lies_where_the_header_ends() {
    let Command::Append { now, groups } = samples().remove(0) else {
        panic!("first sample appends")
    };
    let header_bytes = append_header_bytes(&groups);
    let first = groups[0].batches[0].clone();
    let whole = joined(&Command::Append { now, groups }.encode());
    assert_eq!(whole.slice(header_bytes..header_bytes + first.len()), first);
}

#[test]
fn commands_of_a_run_are_not_copied() {
    let run = run();
    let parts = Command::Mirrored(run.clone()).encode();
    assert_eq!(parts.len(), 3);
    assert_eq!(parts[2].as_ptr(), run.commands[1].as_ptr());
    let Ok(Command::Mirrored(back)) = Command::decode(&parts) else {
        panic!("decodes")
    };
    assert_eq!(back.commands[0].as_ptr(), run.commands[0].as_ptr());
}

#[test]
fn a_run_with_a_command_of_the_future_stops_the_replica() {
    let with = |command: &'static [u8]| {
        let run = ContentRun {
            commands: vec![Bytes::from_static(command)],
            ..run()
        };
        Command::decode(&Command::Mirrored(run).encode())
    };
    assert_eq!(with(&[2, 1]), Err(CommandError::Version { version: 2 }));
    assert_eq!(with(&[1, 32]), Err(CommandError::Kind { kind: 32 }));
    // These are for `apply` to refuse: every version does.
    for command in [&[][..], &[1], &[1, 16], &[1, 24, 9], &[1, 8, 1]] {
        assert!(matches!(with(command), Ok(Command::Mirrored(_))), "{command:?}");
    }
}

#[test]
fn version_one_reads_and_writes_its_stored_files() {
    for command in samples() {
        let bytes = joined(&command.encode());
        assert_fixture(&format!("command-v1-{}.bin", command.name()), &bytes);
    }
}

#[test]
fn newer_versions_and_unknown_kinds_are_named() {
    assert_eq!(Command::decode(&[]), Err(CommandError::Truncated));
    assert_eq!(
        Command::decode(&[Bytes::from_static(&[1])]),
        Err(CommandError::Truncated)
    );
    assert_eq!(
        Command::decode(&[Bytes::from_static(&[2, 1])]),
        Err(CommandError::Version { version: 2 })
    );
    assert_eq!(
        Command::decode(&[Bytes::from_static(&[1, 40])]),
        Err(CommandError::Kind { kind: 40 })
    );
}

#[test]
fn every_shortened_command_is_an_error() {
    for command in samples() {
        let whole = joined(&command.encode());
        for length in 0..whole.len() {
            assert!(
                Command::decode(&[whole.slice(..length)]).is_err(),
                "{} cut to {length}",
                command.name()
            );
        }
        let longer: Bytes = [&whole[..], &[0]].concat().into();
        assert!(matches!(
            Command::decode(&[longer]),
            Err(CommandError::Malformed { .. })
        ));
    }
}

proptest! {
    #[test]
    fn damaged_commands_never_panic(
        sample in 0..16_usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = joined(&samples()[sample].encode()).to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let bytes = Bytes::from(bytes);
        let cut = cut.index(bytes.len());
        let parts = [bytes.slice(..cut), bytes.slice(cut..)];
        let whole = Command::decode(std::slice::from_ref(&bytes));
        prop_assert_eq!(&whole, &Command::decode(&parts));
        if let Ok(command) = whole {
            prop_assert_eq!(joined(&command.encode()), bytes);
        }
    }

    #[test]
    fn random_bytes_never_panic(kind in 0..40_u8, mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        bytes.splice(0..0, [1, kind]);
        let _ = Command::decode(&[bytes.into()]);
    }
}
