use meridian_lineage::{BeginEpoch, ContentCommand, ContentRun};
use meridian_types::{RegionEpoch, RegionNumber};
use proptest::prelude::*;

use super::*;
use crate::command::{Command, CommittedOffset};
use crate::state::Outcome;
use crate::testing::{BatchSpec, assert_fixture, at, bundle, group, partition, topic};

/// A state with something of everything.
fn sample() -> State {
    let mut state = State::new(ShardId(11));
    let mut index = 0;
    let mut apply = |state: &mut State, command: &Command| {
        index += 1;
        state.apply(at(index), command);
    };
    for n in 0..150_u64 {
        let spec = BatchSpec {
            producer: Some((n % 3, 1, (n / 3) as i32)),
            max_timestamp: 1_700_000_000_000 + (n as i64 * 37) % 1000,
            crc: n as u32,
            ..BatchSpec::default()
        };
        let plain = BatchSpec::records(5);
        let epoch = 1 + n as u32 / 60;
        let groups = vec![
            group(partition(1, 0), [spec.stamped(n, epoch)]),
            group(
                partition(1, (n % 7) as u32 + 1),
                [plain.stamped(n / 7 * 5, epoch)],
            ),
            group(partition(2, 900_000), [plain.stamped(n * 5, epoch)]),
        ];
        apply(
            &mut state,
            &Command::Append {
                now: TimestampMs(1_700_000_000_000 + n as i64),
                groups,
            },
        );
    }
    apply(
        &mut state,
        &Command::SetLogStart {
            starts: vec![(partition(1, 0), Offset(70)), (partition(1, 1), Offset(999))],
        },
    );
    let committed = CommittedOffset {
        offset: Offset(42),
        leader_epoch: Some(LeaderEpoch(2)),
        metadata: "mark".into(),
        committed_at: TimestampMs(5),
    };
    let offsets = vec![
        (partition(1, 0), committed.clone()),
        (
            partition(1, 1),
            CommittedOffset {
                leader_epoch: None,
                ..committed
            },
        ),
    ];
    apply(
        &mut state,
        &Command::CommitOffsets {
            group: "orders".into(),
            now: TimestampMs(5),
            offsets,
        },
    );
    let body = Bytes::from_static(b"generation 3");
    apply(
        &mut state,
        &Command::SaveGroup {
            group: "orders".into(),
            body,
            now: TimestampMs(6),
        },
    );
    apply(
        &mut state,
        &Command::DropTopic {
            topic: topic(8),
            now: TimestampMs(7),
        },
    );
    state.check().unwrap();
    state
}

fn encoded(state: &State) -> Vec<u8> {
    state.encode_snapshot().concat()
}

#[test]
fn a_snapshot_gives_the_whole_state_back() {
    let state = sample();
    let bytes = encoded(&state);
    let back = State::decode_snapshot(&bytes).unwrap();
    assert_eq!(encoded(&back), bytes);
    assert_eq!(back.digest(), state.digest());
    assert_eq!(back.shard(), ShardId(11));
    assert_eq!(back.applied(), state.applied());
    assert_eq!(back.group("orders"), state.group("orders"));
    assert!(back.is_dropped(topic(8)));
    for (partition, before) in state.partitions() {
        let after = back.partition(partition).unwrap();
        assert!(before.chunks().eq(after.chunks()), "{partition}");
        assert_eq!(before.producers(), after.producers());
        assert_eq!(before.digest(), after.digest());
    }
    assert_eq!(back.partitions().count(), 9);
}

#[test]
fn an_empty_state_gives_an_empty_one() {
    let bytes = encoded(&State::new(ShardId(0)));
    assert_eq!(State::decode_snapshot(&bytes).unwrap().partitions().count(), 0);
}

#[test]
fn a_restored_replica_stays_equal_to_one_that_replayed_everything() {
    let mut replayed = sample();
    let mut restored = State::decode_snapshot(&encoded(&replayed)).unwrap();
    for n in 0..90_u64 {
        let index = replayed.applied().index.0 + 1;
        let command = match n % 30 {
            29 => Command::SetLogStart {
                starts: vec![(partition(1, 0), Offset(100 + n))],
            },
            _ => {
                let end = replayed.partition(partition(1, 0)).unwrap().high_watermark();
                let batch = BatchSpec::records(2).stamped(end.0, 9);
                Command::Append {
                    now: TimestampMs(0),
                    groups: vec![group(partition(1, 0), [batch])],
                }
            }
        };
        assert_eq!(
            replayed.apply(at(index), &command),
            restored.apply(at(index), &command)
        );
    }
    assert_eq!(replayed.digest(), restored.digest());
    assert!(replayed.partition(partition(1, 0)).unwrap().high_watermark() > Offset(300));
}

#[test]
fn digest_does_not_depend_on_how_topics_lie_in_memory() {
    let mut state = State::new(ShardId(0));
    for n in (1..=200).rev() {
        let groups = vec![group(
            partition(n * 7919 % 211, 0),
            [BatchSpec::records(1).stamped(0, 1)],
        )];
        let at = at(state.applied().index.0 + 1);
        state.apply(
            at,
            &Command::Append {
                now: TimestampMs(0),
                groups,
            },
        );
    }
    let restored = State::decode_snapshot(&encoded(&state)).unwrap();
    let order = |state: &State| {
        state
            .partitions()
            .map(|(partition, _)| partition)
            .collect::<Vec<_>>()
    };
    assert_ne!(
        order(&state),
        order(&restored),
        "the two must lie differently for this test to say something"
    );
    assert_eq!(state.digest(), restored.digest());
}

/// The sample with its oldest records in the bucket, and some of them there only.
fn tiered() -> State {
    let mut state = sample();
    let through = RaftIndex(40);
    let command = bundle(&state, through, 0);
    let at = at(state.applied().index.0 + 1);
    assert_eq!(state.apply(at, &command), Outcome::Tier(Ok(())));
    let at = LogPosition {
        index: at.index.next(),
        ..at
    };
    let starts = vec![
        (partition(2, 900_000), Offset(100)),
        (partition(1, 3), Offset(10)),
    ];
    state.apply(at, &Command::SetLocalStart { starts });
    state.check().unwrap();
    state
}

#[test]
fn a_shard_without_a_bucket_reads_and_writes_version_one() {
    let bytes = encoded(&sample());
    assert_eq!(bytes[4], 1);
    assert_fixture("snapshot-v1.bin", &bytes);
}

#[test]
fn version_two_reads_its_stored_file() {
    let state = tiered();
    let bytes = encoded(&state);
    assert_eq!(bytes[4], 2);
    assert_fixture("snapshot-v2.bin", &bytes);
    let back = State::decode_snapshot(&bytes).unwrap();
    assert_eq!(encoded(&back), bytes);
    assert_eq!(back.manifest(), state.manifest());
    let cold = back.partition(partition(2, 900_000)).unwrap();
    assert_eq!(cold.log_start_offset(), Offset(0));
    assert_eq!(cold.local_start_offset(), Offset(100));
}

/// The tiered sample after a life among regions: its history counts as one command, then it was the owner, a mirror, and
/// the owner again.
fn counted() -> State {
    let mut state = tiered();
    let begin = |region_epoch, is_owner: bool, expected_sequence| {
        Command::BeginEpoch(BeginEpoch {
            region_epoch: RegionEpoch(region_epoch),
            owner: RegionNumber(u16::from(!is_owner)),
            is_owner,
            expected_sequence,
        })
    };
    let append = |state: &State, epoch| {
        let end = state.partition(partition(1, 2)).unwrap().high_watermark().0;
        Command::Append {
            now: TimestampMs(1_700_000_200_000),
            groups: vec![group(
                partition(1, 2),
                [BatchSpec::records(3).stamped(end, epoch)],
            )],
        }
    };
    let apply = |state: &mut State, command: Command| {
        let next = at(state.applied().index.0 + 1);
        let outcome = state.apply(next, &command);
        assert!(
            matches!(
                &outcome,
                Outcome::Begun(Ok(())) | Outcome::Fenced(Ok(())) | Outcome::Mirrored(Ok(_))
            ) || matches!(&outcome, Outcome::Append(results) if results.iter().all(Result::is_ok)),
            "{outcome:?}"
        );
    };
    apply(&mut state, begin(0, true, 0));
    let command = append(&state, 9);
    apply(&mut state, command);
    apply(
        &mut state,
        Command::Fence {
            region_epoch: RegionEpoch(0),
        },
    );
    apply(&mut state, begin(1, false, 2));
    let command = append(&state, 1 << 20 | 3);
    let run = ContentRun {
        region_epoch: RegionEpoch(1),
        first_sequence: 2,
        digest: command.fold(state.standing().digest()),
        commands: vec![command.encode().concat().into()],
    };
    apply(&mut state, Command::Mirrored(run));
    apply(&mut state, begin(2, true, 3));
    state.check().unwrap();
    state
}

#[test]
fn version_three_reads_and_writes_its_stored_file() {
    let state = counted();
    let bytes = encoded(&state);
    assert_eq!(bytes[4], 3);
    assert_fixture("snapshot-v3.bin", &bytes);
    let back = State::decode_snapshot(&bytes).unwrap();
    assert_eq!(encoded(&back), bytes);
    assert_eq!(back.standing(), state.standing());
    let spans: Vec<_> = back
        .standing()
        .lineage()
        .spans()
        .iter()
        .map(|(e, s)| (e.0, *s))
        .collect();
    assert_eq!(spans, [(0, 0), (1, 2), (2, 3)]);
    assert_eq!(back.manifest(), state.manifest());
}

#[test]
fn a_shard_that_counts_and_has_no_bucket_is_version_three_too() {
    let mut state = State::new(ShardId(1));
    let begin = BeginEpoch {
        region_epoch: RegionEpoch(0),
        owner: RegionNumber(7),
        is_owner: false,
        expected_sequence: 0,
    };
    state.apply(at(1), &Command::BeginEpoch(begin));
    let bytes = encoded(&state);
    assert_eq!(bytes[4], 3);
    assert_eq!(
        State::decode_snapshot(&bytes).unwrap().standing(),
        state.standing()
    );
    for version in [1, 2] {
        let mut older = bytes.clone();
        older[4] = version;
        assert!(State::decode_snapshot(&older).is_err(), "version {version}");
    }
    let without: Vec<_> = sections_of(&bytes)
        .into_iter()
        .filter(|(kind, _)| *kind != section::STANDING)
        .collect();
    assert!(State::decode_snapshot(&resealed(3, &without)).is_err());
}

#[test]
fn hot_records_that_are_missing_without_a_manifest_are_noticed() {
    let mut sections = sections_of(&encoded(&tiered()));
    let tier = sections
        .iter()
        .position(|(kind, _)| *kind == section::TIER)
        .unwrap();
    sections.remove(tier);
    for version in [1, 2, 3] {
        let bytes = resealed(version, &sections);
        assert!(State::decode_snapshot(&bytes).is_err(), "version {version}");
    }
}

#[test]
fn every_flipped_byte_is_noticed() {
    let bytes = encoded(&counted());
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        assert!(State::decode_snapshot(&damaged).is_err(), "byte {at}");
    }
    for length in 0..bytes.len() {
        assert!(
            State::decode_snapshot(&bytes[..length]).is_err(),
            "cut to {length}"
        );
    }
    let error = State::decode_snapshot(&[&bytes[..], &[0]].concat()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "snapshot is malformed: bytes are left behind its end"
    );
}

#[test]
fn errors_say_what_is_wrong() {
    let error = |bytes: &[u8]| State::decode_snapshot(bytes).unwrap_err().to_string();
    assert!(error(b"GIF89a").contains("MDSS"));
    assert_eq!(
        error(b"MDSS\x05"),
        "snapshot has format version 5; this version of Meridian reads up to 4"
    );
    let mut bytes = encoded(&sample());
    bytes[20] ^= 1;
    assert_eq!(
        error(&bytes),
        "snapshot is corrupt: section 1 at byte 5 has a wrong checksum"
    );
}

/// Damage that a checksum would hide: the sections are sealed again.
fn resealed(version: u8, sections: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.push(version);
    for (kind, body) in sections {
        bytes.extend_from_slice(&section_head(*kind, body));
        bytes.extend_from_slice(body);
    }
    bytes
}

fn sections_of(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut from = &bytes[5..];
    let mut sections = Vec::new();
    while !from.is_empty() {
        let (kind, body) = next_section(&mut from, bytes.len()).unwrap();
        sections.push((kind, body.to_vec()));
    }
    sections
}

#[test]
fn many_partitions_are_written_and_read_in_well_under_a_second() {
    let mut state = State::new(ShardId(0));
    for n in 0..100_000_u64 {
        let spec = BatchSpec {
            producer: Some((n, 0, 0)),
            ..BatchSpec::records(1)
        };
        let groups = vec![group(
            partition(1 + u128::from(n / 10), n as u32 % 10),
            [spec.stamped(0, 1)],
        )];
        state.apply(
            at(n + 1),
            &Command::Append {
                now: TimestampMs(0),
                groups,
            },
        );
    }
    let parts = state.encode_snapshot();
    assert!(parts.iter().all(|part| part.len() < SECTION_BYTES + 1000));
    let bytes = parts.concat();
    assert!(
        bytes.len() < 100_000 * 80,
        "{} bytes for 100,000 partitions",
        bytes.len()
    );
    let back = State::decode_snapshot(&bytes).unwrap();
    assert_eq!(back.digest(), state.digest());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damage_under_valid_checksums_never_panics(
        section in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        static SECTIONS: std::sync::OnceLock<Vec<(u8, Vec<u8>)>> = std::sync::OnceLock::new();
        let mut sections = SECTIONS.get_or_init(|| sections_of(&encoded(&counted()))).clone();
        let with_content = sections.len() - 1;
        let body = &mut section.get_mut(&mut sections[..with_content]).1;
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if let Ok(state) = State::decode_snapshot(&resealed(SNAPSHOT_VERSION, &sections)) {
            state.check().unwrap();
            let _ = state.digest();
        }
    }
}
