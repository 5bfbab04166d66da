use meridian_types::{RaftIndex, ShardId, Term, TimestampMs};
use proptest::prelude::*;

use super::*;
use crate::command::{Command, CommittedOffset};
use crate::producers::BATCHES_REMEMBERED;
use crate::state::Outcome;
use crate::testing::{BatchSpec, at, bundle, group, partition};

const NEW_LOG: LogPosition = LogPosition {
    term: Term(0),
    index: RaftIndex(1_000_000),
};

/// One append of a producer to a partition.
#[derive(Clone, Copy, Debug)]
struct Step {
    partition: u32,
    producer: u64,
    records: u32,
    /// The leader changes before it.
    elects: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..3_u32, 0..4_u64, 1..5_u32, prop::bool::weighted(0.1));
    let step = step.prop_map(|(partition, producer, records, elects)| Step {
        partition,
        producer,
        records,
        elects,
    });
    prop::collection::vec(step, 1..60)
}

/// A shard under a leader that does everything right.
struct World {
    state: State,
    epoch: u32,
    sequences: std::collections::BTreeMap<(u32, u64), i32>,
}

impl World {
    fn new() -> Self {
        Self {
            state: State::new(ShardId(3)),
            epoch: 1,
            sequences: std::collections::BTreeMap::new(),
        }
    }

    fn apply(&mut self, command: &Command) {
        let outcome = self.state.apply(at(self.state.applied().index.0 + 1), command);
        match outcome {
            Outcome::Append(results) => results.into_iter().for_each(|result| {
                result.unwrap();
            }),
            Outcome::Tier(result) => result.unwrap(),
            Outcome::Done => {}
            other => panic!("{other:?}"),
        }
        self.state.check().unwrap();
    }

    fn step(&mut self, step: Step) {
        self.epoch += u32::from(step.elects);
        let target = partition(1, step.partition);
        let sequence = self.sequences.entry((step.partition, step.producer)).or_default();
        let spec = BatchSpec {
            records: step.records,
            producer: Some((step.producer, 0, *sequence)),
            crc: self.state.applied().index.0 as u32,
            ..BatchSpec::default()
        };
        *sequence += step.records as i32;
        let base = self.state.cut_end(target).end.0;
        let groups = vec![group(target, [spec.stamped(base, self.epoch)])];
        let now = TimestampMs(1_000_000 + self.state.applied().index.0 as i64);
        self.apply(&Command::Append { now, groups });
    }

    fn tier(&mut self, through: u64, n: u128) {
        let command = bundle(&self.state, RaftIndex(through), n);
        let Command::Tiered { extents, .. } = &command else {
            unreachable!("a bundle")
        };
        if !extents.is_empty() {
            self.apply(&command);
        }
    }
}

proptest! {
    /// Some steps, a bundle of all of them, further steps: what clients see of the cut state is what they saw then.
    #[test]
    fn a_cut_state_shows_what_the_state_at_the_cut_showed(before in steps(), earlier in 0..60_usize, after in steps()) {
        let mut world = World::new();
        for (n, step) in before.iter().enumerate() {
            world.step(*step);
            if n == earlier {
                world.tier(world.state.applied().index.0, 1);
            }
        }
        let then = world.state.clone();
        let through = then.applied().index.0;
        let old_epoch = world.epoch;
        for step in &after {
            world.step(*step);
        }
        world.tier(through, 2);
        let mut cut = world.state.clone();
        let report = cut.cut(NEW_LOG);
        cut.check().unwrap();

        prop_assert_eq!(cut.applied(), NEW_LOG);
        prop_assert_eq!(cut.untiered().count(), 0);
        let lost: u64 = after.iter().map(|step| u64::from(step.records)).sum();
        prop_assert_eq!(report.records, lost);
        for index in 0..3 {
            let p = partition(1, index);
            prop_assert_eq!(cut.partition(p).is_some(), then.partition(p).is_some());
            let (Some(cut), Some(then)) = (cut.partition(p), then.partition(p)) else { continue };
            prop_assert_eq!(cut.high_watermark(), then.high_watermark());
            prop_assert_eq!(cut.log_start_offset(), then.log_start_offset());
            prop_assert_eq!(cut.local_start_offset(), cut.high_watermark());
            prop_assert_eq!(cut.latest_epoch(), then.latest_epoch());
            for epoch in 0..=old_epoch {
                let epoch = LeaderEpoch(epoch);
                prop_assert_eq!(cut.end_offset_for(epoch), then.end_offset_for(epoch));
            }
            for offset in 0..then.high_watermark().0 {
                prop_assert_eq!(cut.epoch_at(Offset(offset)), then.epoch_at(Offset(offset)));
            }
            for known in then.producers() {
                let newer = after.iter().filter(|step| step.partition == index && step.producer == known.id.0).count();
                match cut.producer(known.id) {
                    // It goes on where it was, and knows as many batches as are still remembered.
                    Some(left) => {
                        let (left, known) = (left.batches(), known.batches());
                        prop_assert_eq!(left, &known[known.len() - left.len()..]);
                        prop_assert!(left.len() == (BATCHES_REMEMBERED - newer.min(BATCHES_REMEMBERED)).min(known.len()));
                    }
                    None => prop_assert!(newer >= BATCHES_REMEMBERED),
                }
            }
            for left in cut.producers() {
                prop_assert!(then.producer(left.id).is_some(), "nobody is known who was not");
                prop_assert!(left.batches().iter().all(|batch| batch.base_offset < cut.high_watermark()));
            }
            let is_shortened = after.iter().any(|step| step.partition == index);
            prop_assert_eq!(cut.digest() == then.digest(), !is_shortened);
        }
    }

    /// Whatever was deleted meanwhile, a cut state holds its invariants and is read back from its own snapshot.
    #[test]
    fn a_cut_state_is_sound_and_makes_a_snapshot(
        before in steps(),
        after in steps(),
        starts in prop::collection::vec((0..3_u32, 0..200_u64), 0..6),
        dropped in prop::bool::weighted(0.1),
    ) {
        let mut world = World::new();
        before.iter().for_each(|step| world.step(*step));
        world.tier(world.state.applied().index.0, 1);
        after.iter().for_each(|step| world.step(*step));
        for (index, start) in starts {
            world.apply(&Command::SetLogStart { starts: vec![(partition(1, index), Offset(start))] });
        }
        if dropped {
            world.apply(&Command::DropTopic { topic: partition(1, 0).topic, now: TimestampMs(5) });
        }
        let mut cut = world.state.clone();
        cut.cut(NEW_LOG);
        cut.check().unwrap();
        for (partition, state) in cut.partitions() {
            prop_assert!(state.high_watermark() <= world.state.partition(partition).unwrap().high_watermark());
            prop_assert_eq!(state.chunks().count(), 0);
        }
        let bytes = cut.encode_snapshot().concat();
        let read = State::decode_snapshot(&bytes).unwrap();
        prop_assert_eq!(read.digest(), cut.digest());
        let again = cut.cut(NEW_LOG);
        prop_assert_eq!(again, Cut::default(), "what was cut stays as it is");
    }
}

#[test]
fn a_shard_without_a_bundle_is_empty_after_the_cut_but_for_its_groups() {
    let mut world = World::new();
    let step = Step {
        partition: 0,
        producer: 7,
        records: 3,
        elects: false,
    };
    world.step(step);
    commit(&mut world, 2);
    let report = world.state.cut(NEW_LOG);
    assert_eq!(
        report,
        Cut {
            partitions: 1,
            records: 3,
            producers: 1
        }
    );
    assert_eq!(world.state.partitions().count(), 0);
    assert!(world.state.group("readers").is_some());
    world.state.check().unwrap();
}

fn commit(world: &mut World, offset: u64) {
    let committed = CommittedOffset {
        offset: Offset(offset),
        leader_epoch: Some(LeaderEpoch(9)),
        metadata: "mark".into(),
        committed_at: TimestampMs(5),
    };
    let offsets = (0..3)
        .map(|index| (partition(1, index), committed.clone()))
        .collect();
    world.apply(&Command::CommitOffsets {
        group: "readers".into(),
        now: TimestampMs(5),
        offsets,
    });
}

#[test]
fn committed_offsets_are_taken_back_to_the_end_and_forgotten_with_their_partition() {
    let mut world = World::new();
    commit(&mut world, 10);
    let ends = |target: Partition| match target.index {
        0 => Some(CutEnd {
            end: Offset(4),
            leader_epoch: Some(LeaderEpoch(3)),
        }),
        1 => Some(CutEnd {
            end: Offset(10),
            leader_epoch: Some(LeaderEpoch(3)),
        }),
        _ => None,
    };
    assert_eq!(world.state.clamp_offsets(ends), 1);
    let offsets = &world.state.group("readers").expect("the group").offsets;
    let (first, second) = (&offsets[&partition(1, 0)], &offsets[&partition(1, 1)]);
    assert_eq!(
        (first.offset, first.leader_epoch),
        (Offset(4), Some(LeaderEpoch(3)))
    );
    assert_eq!(first.metadata, "mark");
    assert_eq!(
        (second.offset, second.leader_epoch),
        (Offset(10), Some(LeaderEpoch(9)))
    );
    assert_eq!(offsets.len(), 2);
    assert_eq!(world.state.clamp_offsets(|_| None), 0);
    assert!(world.state.group("readers").is_none(), "nothing is left of it");
}
