//! Sequencer and state together, against the rules written down a second time.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

/// What a broker does that appends every batch at once: the rules of KIP-98, written down a second time.
#[derive(Default)]
struct Model {
    ends: BTreeMap<Partition, u64>,
    /// Epoch, and (first sequence, records, base offset) of the last five batches.
    producers: BTreeMap<(Partition, u64), (i16, VecDeque<ModelBatch>)>,
}

type ModelBatch = (i64, i64, u64);

#[derive(Debug, PartialEq)]
enum Verdict {
    Append(u64),
    Duplicate(u64),
    OutOfOrder,
    Stale,
}

impl Model {
    fn append(&mut self, to: Partition, spec: BatchSpec) -> Verdict {
        let end = self.ends.entry(to).or_default();
        if let Some((id, epoch, sequence)) = spec.producer {
            let (sequence, records) = (i64::from(sequence), i64::from(spec.records));
            match self.producers.get_mut(&(to, id)) {
                None => {}
                Some((known, _)) if epoch < *known => return Verdict::Stale,
                Some((known, batches)) if epoch == *known => {
                    if let Some((.., base)) = batches.iter().find(|b| (b.0, b.1) == (sequence, records)) {
                        return Verdict::Duplicate(*base);
                    }
                    let (first, count, _) = batches.back().unwrap();
                    if sequence != (first + count) % (1 << 31) {
                        return Verdict::OutOfOrder;
                    }
                }
                Some((known, batches)) => {
                    if sequence != 0 {
                        return Verdict::OutOfOrder;
                    }
                    *known = epoch;
                    batches.clear();
                }
            }
            let (_, batches) = self.producers.entry((to, id)).or_insert((epoch, VecDeque::new()));
            batches.push_back((sequence, records, *end));
            if batches.len() > 5 {
                batches.pop_front();
            }
        }
        *end += u64::from(spec.records);
        Verdict::Append(*end - u64::from(spec.records))
    }

    /// The sequence that a well-behaved producer would send next.
    fn next_sequence(&self, to: Partition, id: u64) -> i64 {
        let known = self
            .producers
            .get(&(to, id))
            .and_then(|(_, batches)| batches.back());
        known.map_or(0, |(first, count, _)| (first + count) % (1 << 31))
    }
}

fn verdict(staged: Result<Staged, ProduceRejection>) -> Verdict {
    match staged {
        Ok(Staged::Append { base_offset }) => Verdict::Append(base_offset.0),
        Ok(Staged::Duplicate { base_offset, .. }) => Verdict::Duplicate(base_offset.0),
        Err(ProduceRejection::OutOfOrderSequence(_)) => Verdict::OutOfOrder,
        Err(ProduceRejection::InvalidProducerEpoch(_)) => Verdict::Stale,
        Err(other) => panic!("unexpected {other}"),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Plain {
        to: u32,
        records: u32,
    },
    /// A batch `back` records before the producer's next sequence: 0 is in order, negative leaves a gap.
    Produce {
        to: u32,
        id: u64,
        epoch: i16,
        back: i64,
        records: u32,
    },
    /// A producer whose sequences are about to wrap.
    ProduceLate {
        to: u32,
        id: u64,
        records: u32,
    },
    Propose,
    Apply,
}

fn step() -> impl Strategy<Value = Step> {
    let (to, id, records) = (0..2_u32, 0..3_u64, 1..4_u32);
    prop_oneof![
        2 => (to.clone(), records.clone()).prop_map(|(to, records)| Step::Plain { to, records }),
        8 => (to.clone(), id.clone(), prop_oneof![6 => Just(0_i16), 1 => 1..3_i16], -2..12_i64, records.clone())
            .prop_map(|(to, id, epoch, back, records)| Step::Produce { to, id, epoch, back: back.min(3 * (back % 4)), records }),
        8 => (to.clone(), id.clone(), records.clone())
            .prop_map(|(to, id, records)| Step::Produce { to, id, epoch: 0, back: 0, records }),
        2 => (to, id, records).prop_map(|(to, id, records)| Step::ProduceLate { to, id: id + 10, records }),
        4 => Just(Step::Propose),
        4 => Just(Step::Apply),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn sequencer_and_state_together_behave_like_one_that_appends_at_once(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut leader = Leader::new();
        let mut model = Model::default();
        for step in steps {
            let (to, spec) = match step {
                Step::Propose => { leader.propose(); continue }
                Step::Apply => { leader.apply_next(); continue }
                Step::Plain { to, records } => (partition(1, to), BatchSpec::records(records)),
                Step::Produce { to, id, epoch, back, records } => {
                    let to = partition(1, to);
                    let sequence = (model.next_sequence(to, id) - back).rem_euclid(1 << 31) as i32;
                    (to, BatchSpec { records, producer: Some((id, epoch, sequence)), ..BatchSpec::default() })
                }
                Step::ProduceLate { to, id, records } => {
                    let to = partition(1, to);
                    let known = model.producers.contains_key(&(to, id));
                    let sequence = if known { model.next_sequence(to, id) as i32 } else { i32::MAX - 3 };
                    (to, BatchSpec { records, producer: Some((id, 0, sequence)), ..BatchSpec::default() })
                }
            };
            prop_assert_eq!(verdict(leader.stage(to, spec)), model.append(to, spec));
        }
        leader.apply_all();
        for (to, end) in model.ends {
            let state = leader.state.partition(to).map_or(Offset(0), PartitionState::high_watermark);
            prop_assert_eq!(state, Offset(end));
        }
    }
}
