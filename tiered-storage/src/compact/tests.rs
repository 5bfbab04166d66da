use std::collections::BTreeMap;

use meridian_types::{LeaderEpoch, ProducerId};
use meridian_wire::batch::{BatchBuilder, Compression, EndTxn, Record, end_txn_batch, stamp};
use proptest::prelude::*;

use super::*;
use crate::manifest::ObjectId;

const LIMIT: usize = 1 << 20;
const RETENTION_MS: u64 = 1_000;

/// Records as (key, is a tombstone); key 0 is none.
fn batch(base: u64, entries: &[(u8, bool)], codec: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(codec)
        .stored_at(Offset(base), LeaderEpoch(2))
        .with_producer(ProducerId(5), 1, base as i32);
    for (at, (key, is_tombstone)) in (base..).zip(entries) {
        let value = format!("value {at}");
        let key = [b'k', *key];
        let key = (key[1] != 0).then_some(&key[..]);
        let value = (!is_tombstone).then_some(value.as_bytes());
        builder
            .push(TimestampMs(10_000 + at as i64 % 7), key, value, &[])
            .unwrap();
    }
    builder.build().unwrap()
}

fn all(batches: &[Bytes]) -> Vec<Record> {
    let all = batches.iter().flat_map(|batch| records(batch, LIMIT).unwrap());
    all.map(|record| record.unwrap()).collect()
}

/// One pass over all of `batches`, of which those from `dirty` on are new.
fn pass(batches: &[Bytes], dirty: usize, now: i64) -> Vec<Bytes> {
    let mut latest = LatestOffsets::new(usize::MAX, LIMIT);
    for batch in &batches[dirty..] {
        assert_eq!(latest.note(batch), Ok(Noted::Yes));
    }
    rewrite(batches, &latest, now)
}

fn rewrite(batches: &[Bytes], latest: &LatestOffsets, now: i64) -> Vec<Bytes> {
    let compactor = Compactor {
        latest,
        now: TimestampMs(now),
        delete_retention_ms: RETENTION_MS,
    };
    let mut left = Vec::new();
    for (at, batch) in batches.iter().enumerate() {
        match compactor.batch(batch, at + 1 == batches.len()).unwrap() {
            Compacted::Unchanged => left.push(batch.clone()),
            Compacted::Rewritten(batch) => left.push(batch),
            Compacted::Gone => {}
        }
    }
    left
}

#[test]
fn latest_record_of_each_key_stays_with_its_offset() {
    let batches = [
        batch(0, &[(1, false), (2, false), (1, false)], Compression::None),
        batch(3, &[(2, false), (3, false)], Compression::Zstd),
        batch(5, &[(3, false), (3, false)], Compression::None),
        batch(7, &[(4, false)], Compression::None),
    ];
    let left = pass(&batches, 0, 20_000);
    let offsets: Vec<u64> = all(&left).iter().map(|record| record.offset.0).collect();
    assert_eq!(offsets, [2, 3, 6, 7]);
    assert_eq!(left[3], batches[3], "a batch that loses nothing stays bit by bit");
}

#[test]
fn tombstones_are_read_for_their_time_and_then_go() {
    let batches = [
        batch(0, &[(1, false), (2, false)], Compression::None),
        batch(2, &[(1, true)], Compression::None),
        batch(3, &[(3, false)], Compression::None),
    ];
    let left = pass(&batches, 0, 20_000);
    let horizon = BatchHeader::parse(&left[1]).unwrap().delete_horizon;
    assert_eq!(horizon, Some(TimestampMs(21_000)));
    assert_eq!(
        all(&left)
            .iter()
            .map(|record| record.offset.0)
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    // Not a moment before, however often it is compacted.
    let early = pass(&left, 0, 20_999);
    assert_eq!(early, left);
    let late = pass(&left, 0, 21_000);
    assert_eq!(
        all(&late)
            .iter()
            .map(|record| record.offset.0)
            .collect::<Vec<_>>(),
        [1, 3]
    );
}

#[test]
fn superseded_tombstone_goes_at_once() {
    let batches = [
        batch(0, &[(1, true), (2, false)], Compression::None),
        batch(2, &[(1, false)], Compression::None),
    ];
    let left = pass(&batches, 0, 20_000);
    assert_eq!(
        all(&left)
            .iter()
            .map(|record| record.offset.0)
            .collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(BatchHeader::parse(&left[0]).unwrap().delete_horizon, None);
}

#[test]
fn what_lies_behind_the_noted_keys_is_left_alone() {
    let batches = [
        batch(0, &[(1, false)], Compression::None),
        batch(1, &[(1, false)], Compression::None),
        batch(2, &[(1, false), (1, false), (0, false)], Compression::None),
    ];
    let mut latest = LatestOffsets::new(usize::MAX, LIMIT);
    latest.note(&batches[0]).unwrap();
    latest.note(&batches[1]).unwrap();
    let left = rewrite(&batches, &latest, 20_000);
    assert_eq!(all(&left).len(), 4);
    assert_eq!(left[1], batches[2]);
}

#[test]
fn full_map_ends_the_pass_between_batches() {
    let mut latest = LatestOffsets::new(3 * (KEY_OVERHEAD_BYTES + 2), LIMIT);
    let batches = [
        batch(0, &[(1, false), (2, false)], Compression::None),
        batch(2, &[(3, false), (4, false)], Compression::None),
    ];
    assert_eq!(latest.note(&batches[0]), Ok(Noted::Yes));
    assert_eq!(latest.note(&batches[1]), Ok(Noted::Full));
    assert_eq!((latest.end(), latest.len()), (Offset(2), 2));
    // Known keys cost nothing.
    assert_eq!(
        latest.note(&batch(2, &[(1, false), (2, true)], Compression::None)),
        Ok(Noted::Yes)
    );
    // A single batch of many keys still makes progress.
    let mut tiny = LatestOffsets::new(1, LIMIT);
    assert_eq!(tiny.note(&batches[0]), Ok(Noted::Yes));
}

#[test]
fn records_without_a_key_go_and_markers_stay() {
    let mut marker = end_txn_batch(ProducerId(5), 1, EndTxn::Commit, 0, TimestampMs(10_000))
        .unwrap()
        .to_vec();
    stamp(&mut marker, Offset(2), LeaderEpoch(2)).unwrap();
    let marker = Bytes::from(marker);
    let batches = [
        batch(0, &[(0, false), (0, false)], Compression::None),
        marker.clone(),
        batch(3, &[(1, false)], Compression::None),
    ];
    let left = pass(&batches, 0, 20_000);
    assert_eq!(left, [marker, batches[2].clone()]);
}

#[test]
fn damaged_batch_is_an_error_and_no_loss() {
    let good = batch(0, &[(1, false), (1, false)], Compression::None);
    let mut latest = LatestOffsets::new(usize::MAX, LIMIT);
    latest.note(&good).unwrap();
    let compactor = Compactor {
        latest: &latest,
        now: TimestampMs(0),
        delete_retention_ms: 0,
    };
    for at in 21..good.len() {
        let mut bad = good.to_vec();
        bad[at] ^= 4;
        assert!(compactor.batch(&bad.into(), true).is_err(), "byte {at}");
    }
}

fn extent(base: u64, end: u64, max_timestamp: i64) -> Extent {
    Extent {
        base_offset: Offset(base),
        end_offset: Offset(end),
        object: ObjectId(base),
        frame: 0,
        raw_bytes: end - base,
        stored_bytes: end - base,
        max_timestamp: TimestampMs(max_timestamp),
        records: end - base,
    }
}

#[test]
fn pass_is_due_by_the_share_of_what_is_new() {
    let settings = CompactionSettings {
        object_bytes_max: 100,
        ..CompactionSettings::default()
    };
    let now = TimestampMs(10_000);
    let extents = [extent(0, 60, 1), extent(60, 90, 2), extent(90, 130, 3)];
    let all = plan(&extents, Offset(0), now, &settings).unwrap();
    assert_eq!((all.dirty_from, all.end()), (Offset(0), Offset(130)));
    assert_eq!(all.groups.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(
        plan(&extents, Offset(90), now, &settings),
        None,
        "40 of 130 bytes are new"
    );
    let some = plan(&extents, Offset(60), now, &settings).unwrap();
    assert_eq!((some.dirty_from, some.dirty().count()), (Offset(60), 2));
    // A pass that ended within an extent, for want of memory, goes on there.
    let within = plan(&extents, Offset(70), now, &settings).unwrap();
    assert_eq!((within.dirty_from, within.dirty().count()), (Offset(70), 2));
    assert_eq!(plan(&extents, Offset(130), now, &settings), None);
    assert_eq!(plan(&[], Offset(0), now, &settings), None);
    let overdue = CompactionSettings {
        lag_max_ms: 5_000,
        ..settings
    };
    assert!(plan(&extents, Offset(90), now, &overdue).is_some());
}

#[test]
fn young_extents_and_all_behind_them_are_left_alone() {
    let settings = CompactionSettings {
        lag_min_ms: 1_000,
        ..CompactionSettings::default()
    };
    let extents = [extent(0, 60, 1), extent(60, 90, 9_500), extent(90, 130, 3)];
    let plan = plan(&extents, Offset(0), TimestampMs(10_000), &settings).unwrap();
    assert_eq!(plan.end(), Offset(60));
}

fn logs() -> impl Strategy<Value = Vec<(Vec<(u8, bool)>, usize)>> {
    let entries = proptest::collection::vec((0..6_u8, prop::bool::weighted(0.2)), 1..6);
    proptest::collection::vec((entries, 0..5_usize), 1..25)
}

/// What a reader of the whole log would hold in the end.
fn table(records: &[Record]) -> BTreeMap<Bytes, Bytes> {
    let mut table = BTreeMap::new();
    for record in records {
        match (record.key.clone(), record.value.clone()) {
            (Some(key), Some(value)) => drop(table.insert(key, value)),
            (Some(key), None) => drop(table.remove(&key)),
            (None, _) => {}
        }
    }
    table
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn compacted_log_tells_the_same_as_the_whole(log in logs(), splits in proptest::collection::vec(0..25_usize, 1..4)) {
        let mut end = 0;
        let whole: Vec<Bytes> = log
            .iter()
            .map(|(entries, codec)| {
                let base = end;
                end += entries.len() as u64;
                batch(base, entries, Compression::ALL[*codec])
            })
            .collect();
        let original = all(&whole);
        // Several passes, each over what the one before left and some that is new.
        let mut splits: Vec<usize> = splits.into_iter().map(|at| at.min(whole.len())).collect();
        splits.push(whole.len());
        splits.sort_unstable();
        let mut left: Vec<Bytes> = Vec::new();
        let mut from = 0;
        let mut now = 20_000;
        for to in splits {
            if to == from {
                continue;
            }
            let dirty = left.len();
            left.extend_from_slice(&whole[from..to]);
            left = pass(&left, dirty, now);
            now += 700;
            from = to;
        }
        let records = all(&left);
        prop_assert_eq!(table(&records), table(&original));
        // Each record that is left is one that was, as it was.
        for record in &records {
            prop_assert_eq!(record, &original[record.offset.0 as usize]);
        }
        // In each pass at most one record of a key that is not new; at the end, no key twice with a value.
        let mut seen = BTreeMap::new();
        for record in &records {
            let key = record.key.clone().unwrap();
            prop_assert!(seen.insert(key, record.offset).is_none());
        }
        let last = BatchHeader::parse(left.last().unwrap()).unwrap();
        prop_assert_eq!(last.next_offset(), Offset(end));
        let mut at = Offset(0);
        for batch in &left {
            let header = BatchHeader::parse(batch).unwrap();
            prop_assert!(header.base_offset >= at);
            at = header.next_offset();
        }
    }
}
