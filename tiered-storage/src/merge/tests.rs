use std::ops::Range;

use meridian_types::{Offset, RaftIndex, Term, TimestampMs, TopicId, Uuid};
use proptest::prelude::*;

use super::*;
use crate::manifest::{NewExtent, NewObject, ObjectName, Replacement};

const NOW: TimestampMs = TimestampMs(5);

fn partition(index: u32) -> Partition {
    Partition {
        topic: TopicId(Uuid::from_u128(3)),
        index,
    }
}

fn extent(offsets: Range<u64>, stored_bytes: u64) -> NewExtent {
    NewExtent {
        base_offset: Offset(offsets.start),
        end_offset: Offset(offsets.end),
        frame: 0,
        raw_bytes: stored_bytes * 2,
        stored_bytes,
        max_timestamp: TimestampMs(1),
        records: offsets.end - offsets.start,
    }
}

/// A shard under load, without its bytes.
#[derive(Default)]
struct World {
    manifest: Manifest,
    objects: u128,
    ends: BTreeMap<Partition, u64>,
    written_bytes: u64,
    merged_bytes: u64,
}

impl World {
    fn object(&mut self, stored_bytes: u64) -> NewObject {
        self.objects += 1;
        NewObject {
            name: ObjectName {
                term: Term(1),
                id: Uuid::from_u128(self.objects),
            },
            bytes: stored_bytes + 200,
            footer_at: stored_bytes + 8,
            footer_crc: 0,
        }
    }

    /// One round with so many bytes of some partitions.
    fn round(&mut self, sizes: &BTreeMap<u32, u64>) {
        let extents: Vec<_> = sizes
            .iter()
            .map(|(index, bytes)| {
                let end = self.ends.entry(partition(*index)).or_default();
                let extent = extent(*end..*end + 10, *bytes);
                *end += 10;
                (partition(*index), extent)
            })
            .collect();
        let bytes: u64 = sizes.values().sum();
        self.written_bytes += bytes;
        let object = self.object(bytes);
        let (sequence, through) = (self.manifest.sequence(), self.manifest.through().next());
        self.manifest
            .add_bundle(sequence, through, object, &extents, |_| Some(Offset(0)), NOW)
            .unwrap();
    }

    /// Does what the plan says, as a driver would.
    fn merge(&mut self, settings: &MergeSettings) -> Option<MergePlan> {
        let plan = plan(&self.manifest, settings)?;
        self.merged_bytes += plan.stored_bytes();
        let replacements: Vec<_> = plan
            .runs
            .iter()
            .map(|run| Replacement {
                partition: run.partition,
                offsets: run.offsets(),
                extents: vec![extent(
                    run.offsets().start.0..run.offsets().end.0,
                    run.stored_bytes(),
                )],
            })
            .collect();
        let object = self.object(plan.stored_bytes());
        self.manifest
            .replace(plan.sequence, object, &replacements, NOW)
            .unwrap();
        self.manifest.check().unwrap();
        Some(plan)
    }
}

#[test]
fn many_rounds_leave_few_extents_and_rewrite_each_byte_a_few_times() {
    let settings = MergeSettings::default();
    let mut world = World::default();
    let rounds = 2_000;
    for round in 0..rounds {
        // A busy partition, a slow one, and many that get something now and then.
        let mut sizes = BTreeMap::from([(0, 3 << 20), (1, 20 << 10)]);
        sizes.insert(2 + round % 50, 700);
        world.round(&sizes);
        while world.merge(&settings).is_some() {}
    }
    let totals = world.manifest.totals();
    let busy = world.manifest.extents(partition(0));
    let large = busy
        .iter()
        .filter(|extent| extent.stored_bytes >= settings.object_bytes_max / 2)
        .count();
    assert!(
        busy.len() - large < 40,
        "{} small extents are left of {rounds}",
        busy.len() - large
    );
    assert!(world.manifest.extents(partition(1)).len() < 40);
    assert!(totals.extents < 600, "{totals:?}");
    let amplification = world.merged_bytes as f64 / world.written_bytes as f64;
    assert!(
        amplification < 5.0,
        "every byte was rewritten {amplification:.1} times"
    );
}

#[test]
fn a_few_extents_are_left_alone() {
    let mut world = World::default();
    for _ in 0..7 {
        world.round(&BTreeMap::from([(0, 1000)]));
        assert_eq!(world.merge(&MergeSettings::default()), None);
    }
    world.round(&BTreeMap::from([(0, 1000)]));
    let plan = world.merge(&MergeSettings::default()).unwrap();
    assert_eq!((plan.removed(), plan.sources().count()), (7, 8));
    assert_eq!(world.manifest.extents(partition(0)).len(), 1);
}

#[test]
fn tiny_partitions_share_an_object() {
    let mut world = World::default();
    for _ in 0..8 {
        world.round(&(0..100).map(|index| (index, 500)).collect());
    }
    let plan = world.merge(&MergeSettings::default()).unwrap();
    assert_eq!((plan.runs.len(), plan.removed()), (100, 700));
    assert_eq!(world.manifest.objects().count(), 1);
    assert!(plan.runs.is_sorted_by_key(|run| run.partition));
}

#[test]
fn what_little_is_left_of_large_objects_is_moved() {
    let settings = MergeSettings {
        freed_bytes_min: 1 << 20,
        ..MergeSettings::default()
    };
    let mut world = World::default();
    for _ in 0..5 {
        world.round(&BTreeMap::from([(0, 500_000), (1, 1_000), (2, 900)]));
    }
    assert_eq!(world.merge(&settings), None);
    world.manifest.trim(partition(0), Offset(50), NOW);
    let plan = world.merge(&settings).unwrap();
    assert_eq!((plan.runs.len(), plan.stored_bytes()), (2, 9_500));
    assert_eq!(world.manifest.objects().count(), 1);
    assert_eq!(world.manifest.unlinked().count(), 5);
    assert_eq!(world.merge(&settings), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn merging_always_ends_and_never_goes_beyond_its_bounds(
        rounds in proptest::collection::vec(proptest::collection::btree_map(0..6_u32, 1..200_000_u64, 1..5), 1..60),
        extents_min in 2..9_usize,
        object_bytes_max in 10_000..2_000_000_u64,
    ) {
        let settings = MergeSettings { extents_min, object_bytes_max, removed_min: extents_min - 1, freed_bytes_min: 1_000 };
        let mut world = World::default();
        for sizes in &rounds {
            world.round(sizes);
        }
        prop_assert_eq!(world.manifest.through(), RaftIndex(rounds.len() as u64));
        let mut merges = 0;
        while let Some(plan) = world.merge(&settings) {
            merges += 1;
            prop_assert!(merges < 1000, "it does not end");
            let one = plan.runs.len() == 1;
            prop_assert!(plan.stored_bytes() <= object_bytes_max || one && plan.runs[0].extents.len() == 1);
            prop_assert!(plan.runs.is_sorted_by_key(|run| run.partition));
        }
        for (partition, end) in &world.ends {
            prop_assert_eq!(world.manifest.start(*partition), Some(Offset(0)));
            prop_assert_eq!(world.manifest.end(*partition), Some(Offset(*end)));
        }
    }
}

#[test]
fn what_is_avoided_stays_and_does_not_keep_the_rest_from_being_merged() {
    let mut world = World::default();
    for _ in 0..20 {
        world.round(&BTreeMap::from([(0, 500), (1, 500)]));
    }
    let settings = MergeSettings::default();
    let avoided = BTreeSet::from([ObjectId(9)]);
    let plan = plan_without(&world.manifest, &settings, &avoided).unwrap();
    let sources: Vec<ObjectId> = plan.sources().collect();
    assert!(
        !sources.contains(&ObjectId(9)) && sources.len() >= 8,
        "{sources:?}"
    );
    let all: BTreeSet<ObjectId> = world.manifest.objects().map(|(id, _)| id).collect();
    assert_eq!(plan_without(&world.manifest, &settings, &all), None);
}
