use super::*;
use crate::command::Command;
use crate::state::Outcome;
use crate::testing::{BatchSpec, at, bundle, group, partition, topic};
use meridian_types::{RaftIndex, ShardId, TimestampMs};

const NOW: TimestampMs = TimestampMs(1_000_000);

fn apply(state: &mut State, command: &Command) -> Outcome {
    let outcome = state.apply(at(state.applied().index.0 + 1), command);
    state.check().unwrap();
    outcome
}

/// Ten batches of ten records each in entries 1 to 10, in two partitions by turns; their timestamps rise by 100 from
/// 1000.
fn filled() -> State {
    let mut state = State::new(ShardId(3));
    for n in 0..10_u64 {
        let spec = BatchSpec {
            records: 10,
            max_timestamp: 1000 + 100 * n as i64,
            ..BatchSpec::default()
        };
        let groups = vec![group(partition(1, n as u32 % 2), [spec.stamped(n / 2 * 10, 1)])];
        apply(&mut state, &Command::Append { now: NOW, groups });
    }
    state
}

fn p() -> Partition {
    partition(1, 0)
}

fn tier(state: &mut State, through: u64, n: u128) {
    let command = bundle(state, RaftIndex(through), n);
    assert_eq!(apply(state, &command), Outcome::Tier(Ok(())));
}

fn set_local_start(state: &mut State, start: u64) {
    let starts = vec![(p(), Offset(start))];
    assert_eq!(apply(state, &Command::SetLocalStart { starts }), Outcome::Done);
}

fn set_log_start(state: &mut State, start: u64) {
    let starts = vec![(p(), Offset(start))];
    assert_eq!(apply(state, &Command::SetLogStart { starts }), Outcome::Done);
}

#[test]
fn the_log_is_needed_only_beyond_what_the_bucket_has() {
    let mut state = filled();
    assert_eq!(state.oldest_index_needed(), Some(RaftIndex(1)));
    let whole = state.untiered_bytes();
    assert_eq!(whole, 2 * state.partition(p()).unwrap().size_bytes());
    tier(&mut state, 7, 1);
    assert_eq!(state.oldest_index_needed(), Some(RaftIndex(8)));
    assert_eq!(state.untiered_bytes(), whole * 3 / 10);
    let starts: Vec<_> = state
        .untiered()
        .map(|(partition, _, start)| (partition.index, start.0))
        .collect();
    assert_eq!(starts, [(0, 40), (1, 30)]);
    tier(&mut state, 11, 2);
    assert_eq!(state.oldest_index_needed(), None);
    let offsets = vec![];
    let commit = Command::CommitOffsets {
        group: "g".into(),
        now: NOW,
        offsets,
    };
    apply(&mut state, &commit);
    assert_eq!(
        state.oldest_index_needed(),
        None,
        "entries without records hold nothing back"
    );
}

#[test]
fn a_bundle_that_lacks_records_is_refused_on_every_replica() {
    let mut state = filled();
    let Command::Tiered {
        sequence,
        through,
        object,
        extents,
        now,
    } = bundle(&state, RaftIndex(6), 1)
    else {
        panic!("a bundle")
    };
    let with = |extents: Vec<(Partition, NewExtent)>, through| Command::Tiered {
        sequence,
        through,
        object,
        extents,
        now,
    };
    let before = state.digest();
    let refused = |state: &State, command: &Command| match state.clone().apply(at(11), command) {
        Outcome::Tier(Err(rejected)) => rejected,
        other => panic!("{other:?}"),
    };
    let lacks_one = refused(&state, &with(extents[..1].to_vec(), through));
    assert!(
        matches!(lacks_one, TierRejected::Incomplete { partition, offset: Offset(0), index: RaftIndex(2) } if partition.index == 1),
        "{lacks_one}"
    );
    let lacks_the_end = refused(&state, &with(extents.clone(), RaftIndex(7)));
    assert!(
        matches!(
            lacks_the_end,
            TierRejected::Incomplete {
                offset: Offset(30),
                index: RaftIndex(7),
                ..
            }
        ),
        "{lacks_the_end}"
    );
    let mut too_long = extents.clone();
    too_long[0].1.end_offset = Offset(51);
    let beyond = refused(&state, &with(too_long, through));
    assert!(
        matches!(beyond, TierRejected::Beyond { end: Offset(51), .. }),
        "{beyond}"
    );
    let ahead = refused(&state, &with(extents.clone(), RaftIndex(11)));
    assert!(matches!(ahead, TierRejected::Ahead { .. }), "{ahead}");
    assert_eq!(state.digest(), before);
    assert_eq!(
        state.apply(at(11), &with(extents, through)),
        Outcome::Tier(Ok(()))
    );
}

#[test]
fn of_two_bundles_for_the_same_entries_only_the_first_counts() {
    let mut state = filled();
    let (first, second) = (bundle(&state, RaftIndex(6), 1), bundle(&state, RaftIndex(10), 2));
    assert_eq!(apply(&mut state, &first), Outcome::Tier(Ok(())));
    assert!(matches!(
        apply(&mut state, &second),
        Outcome::Tier(Err(TierRejected::Manifest(ManifestRejection::Sequence { .. })))
    ));
    assert_eq!(state.manifest().through(), RaftIndex(6));
    tier(&mut state, 10, 3);
    assert_eq!(state.extents(p()).len(), 2);
}

#[test]
fn the_hot_index_is_cut_only_where_the_bucket_has_the_records() {
    let mut state = filled();
    set_local_start(&mut state, 30);
    assert_eq!(state.partition(p()).unwrap().local_start_offset(), Offset(0));
    tier(&mut state, 6, 1);
    set_local_start(&mut state, 15);
    let held = state.partition(p()).unwrap();
    assert_eq!(held.local_start_offset(), Offset(10), "whole chunks");
    assert!(held.spans(Offset(9), 1000).unwrap().is_empty());
    assert_eq!(held.spans(Offset(10), 1).unwrap().len(), 1);
    assert_eq!(held.log_start_offset(), Offset(0));
    set_local_start(&mut state, 999);
    let held = state.partition(p()).unwrap();
    assert_eq!(
        held.local_start_offset(),
        Offset(30),
        "no further than the bucket goes"
    );
    assert_eq!(held.epoch_at(Offset(3)), Some(meridian_types::LeaderEpoch(1)));
    tier(&mut state, 13, 2);
    set_local_start(&mut state, 999);
    let held = state.partition(p()).unwrap();
    assert_eq!(
        held.local_start_offset(),
        held.high_watermark(),
        "all of it is cold"
    );
    let groups = vec![group(p(), [BatchSpec::records(2).stamped(50, 1)])];
    apply(&mut state, &Command::Append { now: NOW, groups });
    assert_eq!(state.partition(p()).unwrap().local_start_offset(), Offset(50));
}

#[test]
fn retention_counts_each_record_once_and_reaches_the_bucket() {
    let mut state = filled();
    let whole = state.partition(p()).unwrap().size_bytes();
    let one = whole / 5;
    tier(&mut state, 4, 1);
    tier(&mut state, 8, 2);
    let total = |state: &State| state.partition(p()).unwrap().total_bytes(state.extents(p()));
    assert_eq!(total(&state), whole);
    for (start, hot) in [(10, 4), (20, 3), (40, 1)] {
        set_local_start(&mut state, start);
        assert_eq!(total(&state), whole, "local start {start}");
        assert_eq!(state.partition(p()).unwrap().size_bytes(), hot * one);
    }
    let held = state.partition(p()).unwrap();
    let tiered = state.extents(p());
    let by_bytes = |bytes| held.retention_start(None, Some(bytes), NOW, tiered);
    assert_eq!(by_bytes(whole), None);
    assert_eq!(by_bytes(3 * one), Some(Offset(20)), "the first extent goes whole");
    assert_eq!(by_bytes(3 * one + 1), None);
    assert_eq!(by_bytes(0), Some(Offset(50)));
    // Partition 0 has timestamps 1000, 1200 in the first extent and 1400, 1600 in the second.
    let by_time = |now| held.retention_start(Some(100), None, TimestampMs(now), tiered);
    assert_eq!(by_time(1300), None);
    assert_eq!(by_time(1301), Some(Offset(20)));
    assert_eq!(by_time(1701), Some(Offset(40)));
    assert_eq!(by_time(1901), Some(Offset(50)));
}

#[test]
fn local_retention_takes_only_what_the_bucket_has() {
    let mut state = filled();
    tier(&mut state, 6, 1);
    let held = state.partition(p()).unwrap();
    let one = held.size_bytes() / 5;
    let tiered = state.extents(p());
    let by_bytes = |bytes| held.local_retention_start(None, Some(bytes), NOW, tiered);
    assert_eq!(by_bytes(5 * one), None);
    assert_eq!(by_bytes(4 * one), Some(Offset(10)));
    assert_eq!(
        by_bytes(0),
        Some(Offset(30)),
        "the last two chunks are not in the bucket yet"
    );
    let by_time = |now| held.local_retention_start(Some(100), None, TimestampMs(now), tiered);
    assert_eq!(by_time(1100), None);
    assert_eq!(by_time(1101), Some(Offset(10)));
    assert_eq!(by_time(i64::MAX), Some(Offset(30)));
    assert_eq!(
        held.local_retention_start(Some(0), Some(0), TimestampMs(9999), &[]),
        None
    );
}

#[test]
fn what_the_log_start_passes_is_unlinked_with_its_object() {
    let mut state = filled();
    tier(&mut state, 4, 1);
    tier(&mut state, 8, 2);
    set_log_start(&mut state, 25);
    assert_eq!(state.extents(p()).len(), 1);
    assert_eq!(
        state.manifest().unlinked().count(),
        0,
        "the other partition still needs the object"
    );
    let other = Command::SetLogStart {
        starts: vec![(partition(1, 1), Offset(20))],
    };
    apply(&mut state, &other);
    let unlinked: Vec<_> = state.manifest().unlinked().map(|(id, _)| id).collect();
    assert_eq!(unlinked.len(), 1);
    apply(&mut state, &Command::TierDeleted { objects: unlinked });
    assert_eq!(state.manifest().unlinked().count(), 0);
    // Beyond all that the bucket has: nothing of the partition is left there.
    set_log_start(&mut state, 45);
    assert!(state.extents(p()).is_empty());
    assert_eq!(state.oldest_index_needed(), Some(RaftIndex(9)));
    tier(&mut state, 12, 3);
    assert_eq!(state.extents(p()).len(), 1);
}

#[test]
fn a_deleted_topic_leaves_nothing_in_the_manifest() {
    let mut state = filled();
    tier(&mut state, 4, 1);
    let late = bundle(&state, RaftIndex(10), 2);
    apply(
        &mut state,
        &Command::DropTopic {
            topic: topic(1),
            now: TimestampMs(7),
        },
    );
    assert_eq!(state.manifest().objects().count(), 0);
    assert_eq!(state.manifest().unlinked().count(), 1);
    // A bundle that was on its way: taken, and unlinked at once.
    assert_eq!(apply(&mut state, &late), Outcome::Tier(Ok(())));
    assert_eq!(state.manifest().objects().count(), 0);
    assert_eq!(state.manifest().unlinked().count(), 2);
    assert_eq!(state.oldest_index_needed(), None);
}

#[test]
fn nothing_about_a_bucket_shows_before_the_first_bundle() {
    let (mut state, mut plain) = (filled(), filled());
    let next = state.applied().index.next();
    let commands = [
        Command::SetLocalStart {
            starts: vec![(p(), Offset(10))],
        },
        Command::TierDeleted {
            objects: vec![ObjectId(0)],
        },
    ];
    for command in commands {
        assert_eq!(apply(&mut state, &command), Outcome::Done);
    }
    apply(&mut state, &Command::ExpireProducers { now: NOW });
    let nothing = Command::DeleteGroups { groups: Vec::new() };
    plain.apply(at(next.0), &nothing);
    plain.apply(at(next.0 + 1), &nothing);
    plain.apply(at(next.0 + 2), &Command::ExpireProducers { now: NOW });
    assert_eq!(state.digest(), plain.digest());
}
