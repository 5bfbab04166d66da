#![allow(
    clippy::single_range_in_vec_init,
    reason = "lists of extents, of which some have one"
)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn partition(topic: u64, index: u32) -> Partition {
    Partition {
        topic: TopicId(Uuid::from_u64_pair(topic, 7)),
        index,
    }
}

fn name(number: u64) -> ObjectName {
    ObjectName {
        term: Term(number / 3),
        id: Uuid::from_u64_pair(9, number),
    }
}

fn object(number: u64) -> NewObject {
    NewObject {
        name: name(number),
        bytes: 10_000 + number,
        footer_at: 9_000,
        footer_crc: number as u32,
    }
}

fn extent(offsets: Range<u64>) -> NewExtent {
    let span = offsets.end - offsets.start;
    NewExtent {
        base_offset: Offset(offsets.start),
        end_offset: Offset(offsets.end),
        frame: 3,
        raw_bytes: 10 * span,
        stored_bytes: 1 + span,
        max_timestamp: TimestampMs(1_000 + offsets.end as i64),
        records: span,
    }
}

const NOW: TimestampMs = TimestampMs(77);
const P: u64 = 1;

/// Two bundles of two partitions: offsets 0..10, then 10..30 of each.
fn sample() -> Manifest {
    let mut manifest = Manifest::new();
    for (n, offsets) in [(0, 0..10), (1, 10..30)] {
        let extents = [
            (partition(P, 0), extent(offsets.clone())),
            (partition(P, 1), extent(offsets)),
        ];
        manifest
            .add_bundle(n, RaftIndex(5 + n), object(n), &extents, |_| Some(Offset(0)), NOW)
            .unwrap();
    }
    manifest.check().unwrap();
    manifest
}

#[test]
fn offsets_are_found_in_the_object_that_holds_them() {
    let manifest = sample();
    let p = partition(P, 1);
    let found = |offset| manifest.find(p, Offset(offset)).map(|(_, object)| object.name);
    assert_eq!(found(0), Some(name(0)));
    assert_eq!(found(9), Some(name(0)));
    assert_eq!(found(10), Some(name(1)));
    assert_eq!(found(30), None);
    assert_eq!(
        (manifest.start(p), manifest.end(p)),
        (Some(Offset(0)), Some(Offset(30)))
    );
    assert_eq!(manifest.raw_bytes_before(p, Offset(10)), 100);
    assert_eq!(manifest.raw_bytes_before(p, Offset(11)), 300);
    assert_eq!((manifest.sequence(), manifest.through()), (2, RaftIndex(6)));
    let later = manifest.find_timestamp(p, TimestampMs(1_011), Offset(0)).unwrap();
    assert_eq!(later.base_offset, Offset(10));
    assert_eq!(manifest.find_timestamp(p, TimestampMs(5_000), Offset(0)), None);
    let earlier = manifest.find_timestamp(p, TimestampMs(0), Offset(10)).unwrap();
    assert_eq!(earlier.base_offset, Offset(10));
}

#[test]
fn bundle_of_another_sequence_or_entry_changes_nothing() {
    let mut manifest = sample();
    let before = manifest.clone();
    let extents = [(partition(P, 0), extent(30..40))];
    let log_start = |_| Some(Offset(0));
    let mut add = |expected, through, object| {
        manifest.add_bundle(expected, RaftIndex(through), object, &extents, log_start, NOW)
    };
    assert_eq!(
        add(1, 9, object(2)),
        Err(ManifestRejection::Sequence {
            expected: 1,
            actual: 2
        })
    );
    assert!(matches!(
        add(2, 6, object(2)),
        Err(ManifestRejection::Through { .. })
    ));
    assert!(matches!(
        add(2, 9, object(1)),
        Err(ManifestRejection::Name { .. })
    ));
    assert_eq!(manifest, before);
}

#[test]
fn gaps_and_overlaps_are_refused_unless_the_log_starts_behind_them() {
    let mut manifest = sample();
    let mut add = |offsets: Range<u64>, log_start: u64| {
        let extents = [(partition(P, 0), extent(offsets))];
        let sequence = manifest.sequence();
        manifest.add_bundle(
            sequence,
            RaftIndex(9),
            object(9),
            &extents,
            |_| Some(Offset(log_start)),
            NOW,
        )
    };
    assert!(matches!(add(31..40, 0), Err(ManifestRejection::Gap { .. })));
    assert!(matches!(add(31..40, 30), Err(ManifestRejection::Gap { .. })));
    assert!(matches!(add(29..40, 0), Err(ManifestRejection::Overlap { .. })));
    assert!(matches!(add(0..10, 5), Err(ManifestRejection::Overlap { .. })));
    add(31..40, 31).unwrap();
    manifest.check().unwrap();
    // What was before the gap is gone: the log starts behind it.
    assert_eq!(manifest.start(partition(P, 0)), Some(Offset(31)));
    assert_eq!(manifest.start(partition(P, 1)), Some(Offset(0)));
}

#[test]
fn first_extent_reaches_down_to_the_log_start() {
    let add = |base, log_start| {
        let extents = [(partition(P, 0), extent(base..100))];
        Manifest::new().add_bundle(
            0,
            RaftIndex(1),
            object(0),
            &extents,
            |_| Some(Offset(log_start)),
            NOW,
        )
    };
    assert!(matches!(add(50, 40), Err(ManifestRejection::Gap { .. })));
    assert_eq!(add(40, 40), Ok(()));
    assert_eq!(add(30, 40), Ok(()));
}

#[test]
fn bundle_of_which_nothing_counts_is_unlinked_at_once() {
    let mut manifest = Manifest::new();
    let extents = [(partition(P, 0), extent(0..10)), (partition(2, 0), extent(0..10))];
    let log_start = |p: Partition| (p == partition(P, 0)).then_some(Offset(10));
    manifest
        .add_bundle(0, RaftIndex(1), object(0), &extents, log_start, NOW)
        .unwrap();
    manifest.check().unwrap();
    assert_eq!(manifest.partitions().count(), 0);
    let unlinked: Vec<_> = manifest.unlinked().collect();
    assert_eq!(unlinked.len(), 1);
    assert_eq!((unlinked[0].1.name, unlinked[0].1.since), (name(0), NOW));
}

#[test]
fn object_is_unlinked_with_its_last_extent_and_forgotten_after_its_deletion() {
    let mut manifest = sample();
    manifest.trim(partition(P, 0), Offset(10), NOW);
    assert_eq!(manifest.unlinked().count(), 0);
    assert_eq!(manifest.object(ObjectId(0)).unwrap().extents, 1);
    manifest.trim(partition(P, 1), Offset(29), NOW);
    assert_eq!(
        manifest.unlinked().map(|(id, _)| id).collect::<Vec<_>>(),
        [ObjectId(0)]
    );
    manifest.drop_topic(TopicId(Uuid::from_u64_pair(P, 7)), NOW);
    assert_eq!(manifest.unlinked().count(), 2);
    assert_eq!(manifest.names().count(), 2);
    manifest.forget(&[ObjectId(0), ObjectId(55)]);
    assert_eq!(manifest.names().collect::<Vec<_>>(), [name(1)]);
    manifest.forget(&[ObjectId(1)]);
    assert!(manifest.is_empty());
    manifest.check().unwrap();
    // Neither the sequence nor ids begin again.
    assert_eq!(manifest.sequence(), 2);
}

fn replacement(offsets: Range<u64>, extents: &[Range<u64>]) -> Replacement {
    Replacement {
        partition: partition(P, 0),
        offsets: Offset(offsets.start)..Offset(offsets.end),
        extents: extents.iter().cloned().map(extent).collect(),
    }
}

#[test]
fn replacement_takes_the_place_of_exactly_what_it_names() {
    let mut manifest = sample();
    let mut replace = |replacement| {
        let sequence = manifest.sequence();
        manifest.replace(sequence, object(5), &[replacement], NOW)
    };
    for wrong in [
        replacement(0..20, &[0..20]),
        replacement(1..30, &[1..30]),
        replacement(10..31, &[10..31]),
    ] {
        assert!(matches!(
            replace(wrong),
            Err(ManifestRejection::NotCovered { .. })
        ));
    }
    for wrong in [
        replacement(0..30, &[0..20]),
        replacement(0..30, &[0..9, 10..30]),
        replacement(0..30, &[]),
    ] {
        assert!(matches!(replace(wrong), Err(ManifestRejection::Malformed { .. })));
    }
    replace(replacement(0..30, &[0..30])).unwrap();
    manifest.check().unwrap();
    assert_eq!(manifest.extents(partition(P, 0)).len(), 1);
    assert_eq!(manifest.sequence(), 3);
    // The other partition still holds on to the old objects.
    assert_eq!(manifest.objects().count(), 3);
    manifest.drop_topic(TopicId(Uuid::from_u64_pair(P, 7)), NOW);
    assert_eq!(manifest.unlinked().count(), 3);
}

#[test]
fn replacement_of_what_was_trimmed_meanwhile_brings_nothing_back() {
    let mut manifest = sample();
    manifest.trim(partition(P, 0), Offset(10), NOW);
    manifest
        .replace(2, object(5), &[replacement(0..30, &[0..10, 10..30])], NOW)
        .unwrap();
    manifest.check().unwrap();
    assert_eq!(manifest.start(partition(P, 0)), Some(Offset(10)));
    manifest.trim(partition(P, 0), Offset(30), NOW);
    manifest
        .replace(3, object(6), &[replacement(10..30, &[10..30])], NOW)
        .unwrap();
    manifest.check().unwrap();
    assert_eq!(manifest.start(partition(P, 0)), None);
    assert!(manifest.unlinked().any(|(_, object)| object.name == name(6)));
}

#[test]
fn names_of_bundles_read_as_they_are_written() {
    let name = ObjectName {
        term: Term(0x1f),
        id: Uuid::from_u128(0x1234),
    };
    let key = name.key("c1", ShardId(3));
    assert_eq!(
        key,
        "c1/3/000000000000001f-00000000-0000-0000-0000-000000001234.bundle"
    );
    assert_eq!(ObjectName::parse(key.rsplit('/').next().unwrap()), Some(name));
    for wrong in [
        "",
        "x.bundle",
        "1f-00000000-0000-0000-0000-000000001234.bundle",
        "state",
    ] {
        assert_eq!(ObjectName::parse(wrong), None);
    }
}

#[test]
fn format_is_the_one_that_version_1_stored() {
    let mut manifest = sample();
    manifest.trim(partition(P, 1), Offset(10), NOW);
    let compacted = NewExtent {
        records: 4,
        ..extent(0..30)
    };
    let replacement = Replacement {
        partition: partition(P, 0),
        offsets: Offset(0)..Offset(30),
        extents: vec![compacted],
    };
    manifest.replace(2, object(5), &[replacement], NOW).unwrap();
    let mut bytes = Vec::new();
    manifest.encode(&mut bytes);
    crate::fixture::assert("manifest-v1.bin", &bytes);
    assert_eq!(Manifest::decode(&bytes), Ok(manifest));
}

#[test]
fn no_cut_and_no_flipped_bit_of_a_manifest_panics() {
    let mut bytes = Vec::new();
    sample().encode(&mut bytes);
    for cut in 0..bytes.len() {
        assert!(Manifest::decode(&bytes[..cut]).is_err());
    }
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // The checksum is the container's; here it is enough that what is read is sound.
        if let Ok(manifest) = Manifest::decode(&bad) {
            manifest.check().unwrap();
        }
    }
    bytes.push(0);
    assert!(matches!(
        Manifest::decode(&bytes),
        Err(ManifestError::Malformed { .. })
    ));
    bytes[0] = 2;
    assert_eq!(
        Manifest::decode(&bytes),
        Err(ManifestError::Version { version: 2 })
    );
}

/// The same, kept as plainly as can be: for each partition a list of ranges with the name of their object.
#[derive(Clone, Debug, Default)]
struct Model {
    sequence: u64,
    runs: BTreeMap<Partition, Vec<(Range<u64>, ObjectName)>>,
    log_starts: BTreeMap<Partition, u64>,
    known: BTreeSet<ObjectName>,
}

impl Model {
    fn live(&self) -> BTreeSet<ObjectName> {
        self.runs.values().flatten().map(|(_, name)| *name).collect()
    }

    fn trim(&mut self, partition: Partition) {
        let log_start = self.log_starts.get(&partition).copied().unwrap_or(0);
        if let Some(runs) = self.runs.get_mut(&partition) {
            runs.retain(|(offsets, _)| offsets.end > log_start);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add {
        spans: Vec<(u32, u64)>,
        expected_off: u64,
        skip: u64,
    },
    Merge {
        partition: u32,
        from: usize,
        count: usize,
        split: bool,
    },
    Trim {
        partition: u32,
        by: u64,
    },
    Drop {
        topic: u64,
    },
    Forget {
        count: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let spans = proptest::collection::vec((0..4_u32, 1..20_u64), 1..4);
    prop_oneof![
        6 => (spans, prop_oneof![9 => Just(0_u64), 1 => 1..3_u64], prop_oneof![8 => Just(0_u64), 1 => 1..30_u64])
            .prop_map(|(spans, expected_off, skip)| Step::Add { spans, expected_off, skip }),
        3 => (0..4_u32, 0..6_usize, 1..5_usize, any::<bool>())
            .prop_map(|(partition, from, count, split)| Step::Merge { partition, from, count, split }),
        2 => (0..4_u32, 0..40_u64).prop_map(|(partition, by)| Step::Trim { partition, by }),
        1 => (1..3_u64).prop_map(|topic| Step::Drop { topic }),
        1 => (0..3_usize).prop_map(|count| Step::Forget { count }),
    ]
}

/// Partitions 0 and 1 are of topic 1, 2 and 3 of topic 2.
fn numbered(number: u32) -> Partition {
    partition(1 + u64::from(number / 2), number % 2)
}

fn take_step(manifest: &mut Manifest, model: &mut Model, number: u64, step: Step) {
    match step {
        Step::Add {
            spans,
            expected_off,
            skip,
        } => {
            let mut ends: BTreeMap<Partition, u64> = BTreeMap::new();
            let mut extents = BTreeMap::new();
            for (number, span) in spans {
                let p = numbered(number);
                let end = ends.entry(p).or_insert_with(|| {
                    let end = model
                        .runs
                        .get(&p)
                        .and_then(|runs| runs.last())
                        .map(|run| run.0.end);
                    end.unwrap_or_else(|| model.log_starts.get(&p).copied().unwrap_or(0)) + skip
                });
                extents.insert((p, *end), extent(*end..*end + span));
                *end += span;
            }
            let extents: Vec<_> = extents.into_iter().map(|((p, _), extent)| (p, extent)).collect();
            let starts = model.log_starts.clone();
            let log_start = |p: Partition| Some(Offset(starts.get(&p).copied().unwrap_or(0)));
            let is_gap = extents.iter().any(|(p, extent)| {
                let end = model
                    .runs
                    .get(p)
                    .and_then(|runs| runs.last())
                    .map(|run| run.0.end);
                let log_start = starts.get(p).copied().unwrap_or(0);
                extent.base_offset.0 == end.unwrap_or(log_start) + skip
                    && skip > 0
                    && extent.base_offset.0 > log_start
            });
            let expected = model.sequence + expected_off;
            let through = RaftIndex(manifest.through().0 + 1);
            let result = manifest.add_bundle(expected, through, object(number), &extents, log_start, NOW);
            assert_eq!(result.is_err(), expected_off > 0 || is_gap, "{result:?}");
            if result.is_ok() {
                model.sequence += 1;
                model.known.insert(name(number));
                for (p, extent) in extents {
                    let run = (extent.base_offset.0..extent.end_offset.0, name(number));
                    model.runs.entry(p).or_default().push(run);
                    model.trim(p);
                }
            }
        }
        Step::Merge {
            partition,
            from,
            count,
            split,
        } => {
            let p = numbered(partition);
            let runs = model.runs.entry(p).or_default();
            let Some(some) = runs
                .get(from..(from + count).min(runs.len()))
                .filter(|some| !some.is_empty())
            else {
                return;
            };
            let (start, end) = (some[0].0.start, some[some.len() - 1].0.end);
            let middle = start.midpoint(end);
            let parts: Vec<Range<u64>> = if split && middle > start {
                vec![start..middle, middle..end]
            } else {
                vec![start..end]
            };
            let replacement = Replacement {
                partition: p,
                offsets: Offset(start)..Offset(end),
                extents: parts.iter().cloned().map(extent).collect(),
            };
            manifest
                .replace(model.sequence, object(number), &[replacement], NOW)
                .unwrap();
            model.sequence += 1;
            model.known.insert(name(number));
            let last = (from + count).min(runs.len());
            runs.splice(from..last, parts.into_iter().map(|part| (part, name(number))));
        }
        Step::Trim { partition, by } => {
            let p = numbered(partition);
            *model.log_starts.entry(p).or_default() += by;
            manifest.trim(p, Offset(model.log_starts[&p]), NOW);
            model.trim(p);
        }
        Step::Drop { topic } => {
            manifest.drop_topic(TopicId(Uuid::from_u64_pair(topic, 7)), NOW);
            let of_topic = |p: &Partition| p.topic == TopicId(Uuid::from_u64_pair(topic, 7));
            model.runs.retain(|p, _| !of_topic(p));
            model.log_starts.retain(|p, _| !of_topic(p));
        }
        Step::Forget { count } => {
            let some: Vec<_> = manifest
                .unlinked()
                .take(count)
                .map(|(id, object)| (id, object.name))
                .collect();
            manifest.forget(&some.iter().map(|(id, _)| *id).collect::<Vec<_>>());
            for (_, name) in some {
                model.known.remove(&name);
            }
        }
    }
}

fn assert_agrees(manifest: &Manifest, model: &Model) {
    manifest.check().unwrap();
    assert_eq!(manifest.sequence(), model.sequence);
    for number in 0..4 {
        let p = numbered(number);
        let runs = model.runs.get(&p).cloned().unwrap_or_default();
        assert_eq!(manifest.start(p), runs.first().map(|run| Offset(run.0.start)));
        assert_eq!(manifest.end(p), runs.last().map(|run| Offset(run.0.end)));
        for (offsets, name) in &runs {
            for offset in offsets.clone() {
                let (extent, object) = manifest.find(p, Offset(offset)).expect("it is there");
                assert_eq!(
                    (object.name, extent.offsets().contains(&Offset(offset))),
                    (*name, true)
                );
            }
        }
        assert_eq!(manifest.extents(p).len(), runs.len());
    }
    let live: BTreeSet<_> = manifest.objects().map(|(_, object)| object.name).collect();
    assert_eq!(live, model.live());
    assert_eq!(manifest.names().collect::<BTreeSet<_>>(), model.known);
    let mut bytes = Vec::new();
    manifest.encode(&mut bytes);
    assert_eq!(Manifest::decode(&bytes).as_ref(), Ok(manifest));
}

proptest! {
    #[test]
    fn manifest_agrees_with_a_plain_list_of_ranges(steps in proptest::collection::vec(step(), 1..40)) {
        let mut manifest = Manifest::new();
        let mut model = Model::default();
        for (number, step) in (0..).zip(steps) {
            let before = manifest.clone();
            let sequence = model.sequence;
            take_step(&mut manifest, &mut model, number, step.clone());
            if let (Step::Add { .. }, true) = (&step, model.sequence == sequence) {
                prop_assert_eq!(&before, &manifest, "a refused bundle changed something");
            }
            assert_agrees(&manifest, &model);
        }
    }

    #[test]
    fn no_bytes_make_a_manifest_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut versioned = vec![MANIFEST_VERSION];
        versioned.extend(bytes);
        if let Ok(manifest) = Manifest::decode(&versioned) {
            manifest.check().unwrap();
        }
    }
}
