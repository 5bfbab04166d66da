use std::collections::VecDeque;

use bytes::Bytes;
use meridian_types::ShardId;

use super::*;
use crate::command::Command;
use crate::state::Outcome;
use crate::testing::{BatchSpec, at, group, partition, topic};

mod model;
mod retries;

const EPOCH: LeaderEpoch = LeaderEpoch(5);

type Applied = (Vec<AppendGroup>, Vec<Result<Appended, Rejected>>);

/// A leader with what it has staged and proposed.
struct Leader {
    state: State,
    sequencer: Sequencer,
    staged: Vec<AppendGroup>,
    proposed: VecDeque<Vec<AppendGroup>>,
    next_index: u64,
}

impl Leader {
    fn new() -> Self {
        Self {
            state: State::new(ShardId(0)),
            sequencer: Sequencer::new(EPOCH),
            staged: Vec::new(),
            proposed: VecDeque::new(),
            next_index: 1,
        }
    }

    fn stage(&mut self, to: Partition, spec: BatchSpec) -> Result<Staged, ProduceRejection> {
        let mut batch = spec.unstamped();
        let header = BatchHeader::parse(&batch).unwrap();
        let staged = self.sequencer.stage(&self.state, to, &mut batch, &header);
        match staged {
            Ok(Staged::Append { base_offset }) => {
                let stamped = BatchHeader::parse(&batch).unwrap();
                assert_eq!(stamped.base_offset, base_offset);
                assert_eq!(stamped.leader_epoch, Some(self.sequencer.epoch()));
                self.staged.push(group(to, [Bytes::from(batch)]));
            }
            _ => assert_eq!(
                batch,
                spec.unstamped(),
                "a batch that is not appended is left as it was"
            ),
        }
        staged
    }

    fn propose(&mut self) {
        if !self.staged.is_empty() {
            self.proposed.push_back(std::mem::take(&mut self.staged));
        }
    }

    fn apply_next(&mut self) -> Option<Applied> {
        let groups = self.proposed.pop_front()?;
        let command = Command::Append {
            now: TimestampMs(0),
            groups,
        };
        let Outcome::Append(results) = self.state.apply(at(self.next_index), &command) else {
            panic!("an append answers as one")
        };
        let Command::Append { groups, .. } = command else {
            unreachable!("made above")
        };
        self.next_index += 1;
        self.sequencer.applied(&groups, &results);
        Some((groups, results))
    }

    fn apply_all(&mut self) {
        self.propose();
        while self.apply_next().is_some() {}
        assert!(self.sequencer.is_idle());
        self.state.check().unwrap();
    }
}

fn produced(sequence: i32, records: u32) -> BatchSpec {
    BatchSpec {
        records,
        producer: Some((77, 0, sequence)),
        ..BatchSpec::default()
    }
}

fn append(base_offset: u64) -> Result<Staged, ProduceRejection> {
    Ok(Staged::Append {
        base_offset: Offset(base_offset),
    })
}

fn duplicate(base_offset: u64, last_offset: u64) -> Result<Staged, ProduceRejection> {
    Ok(Staged::Duplicate {
        base_offset: Offset(base_offset),
        last_offset: Offset(last_offset),
    })
}

#[test]
fn offsets_run_ahead_of_the_applied_state() {
    let mut leader = Leader::new();
    let p = partition(1, 0);
    assert_eq!(leader.stage(p, BatchSpec::records(3)), append(0));
    assert_eq!(leader.stage(p, BatchSpec::records(2)), append(3));
    assert_eq!(leader.stage(partition(1, 1), BatchSpec::records(2)), append(0));
    assert_eq!(
        leader.state.partition(p).map(PartitionState::high_watermark),
        None
    );
    assert_eq!(leader.sequencer.end_offset(&leader.state, p), Offset(5));
    leader.apply_all();
    assert_eq!(leader.sequencer.end_offset(&leader.state, p), Offset(5));
    assert_eq!(leader.stage(p, BatchSpec::records(1)), append(5));
}

#[test]
fn any_of_the_last_five_batches_is_a_duplicate_in_flight_and_applied() {
    let mut leader = Leader::new();
    let p = partition(1, 0);
    for n in 0..6 {
        assert_eq!(leader.stage(p, produced(n * 10, 10)), append(n as u64 * 10));
    }
    for _ in 0..2 {
        for n in 1..6 {
            assert_eq!(
                leader.stage(p, produced(n * 10, 10)),
                duplicate(n as u64 * 10, n as u64 * 10 + 9)
            );
        }
        let sixth = leader.stage(p, produced(0, 10));
        assert!(
            matches!(sixth, Err(ProduceRejection::OutOfOrderSequence(_))),
            "{sixth:?}"
        );
        leader.apply_all();
    }
}

#[test]
fn a_gap_in_sequences_is_refused_and_says_what_was_expected() {
    let mut leader = Leader::new();
    let p = partition(1, 0);
    leader.stage(p, produced(0, 10)).unwrap();
    let error = leader.stage(p, produced(20, 1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "producer 77 epoch 0 sent sequence 20 where 10 was expected"
    );
    // Same first sequence, other length: neither a duplicate nor next.
    assert!(matches!(
        leader.stage(p, produced(0, 9)),
        Err(ProduceRejection::OutOfOrderSequence(_))
    ));
    assert_eq!(leader.stage(p, produced(10, 1)), append(10));
}

#[test]
fn a_batch_is_early_while_what_was_sent_before_it_may_still_come() {
    let mut leader = Leader::new();
    let p = partition(1, 0);
    let is_early = |leader: &Leader, sequence| {
        let header = BatchHeader::parse(&produced(sequence, 1).unstamped()).unwrap();
        leader.sequencer.is_early(&leader.state, p, &header)
    };
    assert!(!is_early(&leader, 0), "it is the first");
    assert!(is_early(&leader, 3), "of an unknown producer");
    leader.stage(p, produced(i32::MAX - 1, 1)).unwrap();
    assert!(
        !is_early(&leader, 7),
        "what was in flight under this leader came in order"
    );
    leader.apply_all();
    assert!(!is_early(&leader, 7), "applied or not");

    leader.sequencer = Sequencer::new(LeaderEpoch(EPOCH.0 + 1));
    assert!(!is_early(&leader, i32::MAX - 1), "a duplicate");
    assert!(!is_early(&leader, i32::MAX), "the next one");
    assert!(is_early(&leader, 0), "behind the last sequence comes 0");
    assert!(!is_early(&leader, i32::MAX - 7), "long gone by");
    leader.stage(p, produced(i32::MAX, 1)).unwrap();
    leader.apply_all();
    assert!(!is_early(&leader, 7), "the producer has found this leader");
}

#[test]
fn sequences_wrap_from_the_greatest_to_zero() {
    let mut leader = Leader::new();
    let p = partition(1, 0);
    assert_eq!(
        leader.stage(p, produced(i32::MAX - 1, 2)),
        append(0),
        "an unknown producer starts anywhere"
    );
    assert_eq!(leader.stage(p, produced(0, 1)), append(2));
    leader.apply_all();
    assert_eq!(leader.stage(p, produced(1, 1)), append(3));

    let q = partition(1, 1);
    assert_eq!(
        leader.stage(q, produced(i32::MAX - 1, 5)),
        append(0),
        "wraps within a batch"
    );
    assert_eq!(leader.stage(q, produced(i32::MAX - 1, 5)), duplicate(0, 4));
    assert_eq!(leader.stage(q, produced(3, 1)), append(5));
    leader.apply_all();
}

#[test]
fn a_new_producer_epoch_starts_at_zero_and_ends_the_old_one() {
    let mut leader = Leader::new();
    let p = partition(1, 0);
    let with = |epoch, sequence| BatchSpec {
        producer: Some((77, epoch, sequence)),
        ..BatchSpec::default()
    };
    leader.stage(p, with(3, 100)).unwrap();
    assert!(matches!(
        leader.stage(p, with(4, 101)),
        Err(ProduceRejection::OutOfOrderSequence(_))
    ));
    assert_eq!(leader.stage(p, with(4, 0)), append(1));
    let stale = leader.stage(p, with(3, 101)).unwrap_err();
    assert_eq!(
        stale.to_string(),
        "producer 77 sent epoch 3, older than its epoch 4 here"
    );
    assert!(matches!(stale, ProduceRejection::InvalidProducerEpoch(_)));
    leader.apply_all();
    assert!(matches!(
        leader.stage(p, with(3, 101)),
        Err(ProduceRejection::InvalidProducerEpoch(_))
    ));
    assert_eq!(leader.stage(p, with(4, 1)), append(2));
}

#[test]
fn transactional_batches_outside_of_a_transaction_are_refused() {
    let mut leader = Leader::new();
    let mut batch = produced(0, 1).unstamped();
    for bit in [0x10, 0x20] {
        batch[22] = bit;
        let header = BatchHeader::parse(&batch).unwrap();
        let staged = leader
            .sequencer
            .stage(&leader.state, partition(1, 0), &mut batch, &header);
        assert_eq!(staged, Err(ProduceRejection::InvalidTxnState));
    }
}

#[test]
fn a_dropped_topic_takes_no_batches() {
    let mut leader = Leader::new();
    leader.stage(partition(1, 0), BatchSpec::default()).unwrap();
    leader.state.apply(
        at(1),
        &Command::DropTopic {
            topic: topic(1),
            now: TimestampMs(0),
        },
    );
    leader.next_index = 2;
    assert_eq!(
        leader.stage(partition(1, 0), BatchSpec::default()),
        Err(ProduceRejection::TopicDropped)
    );
    leader.propose();
    let (_, results) = leader.apply_next().unwrap();
    assert_eq!(results, [Err(Rejected::TopicDropped)]);
    assert!(leader.sequencer.is_idle());
}

#[test]
fn a_leader_of_an_older_epoch_is_refused() {
    let mut leader = Leader::new();
    leader.stage(partition(1, 0), BatchSpec::default()).unwrap();
    leader.apply_all();
    leader.sequencer = Sequencer::new(LeaderEpoch(4));
    let error = leader.stage(partition(1, 0), BatchSpec::default()).unwrap_err();
    assert_eq!(
        error,
        ProduceRejection::StaleLeader {
            epoch: LeaderEpoch(4),
            latest: EPOCH
        }
    );
}

#[test]
fn after_a_lost_append_the_partition_settles_before_it_takes_more() {
    let mut leader = Leader::new();
    let p = partition(1, 0);
    leader.stage(p, produced(0, 1)).unwrap();
    let lost = std::mem::take(&mut leader.staged);
    leader.stage(p, produced(1, 1)).unwrap();
    leader.propose();
    leader.sequencer.abandoned(&lost);
    assert_eq!(leader.stage(p, produced(0, 1)), Err(ProduceRejection::Unsettled));
    assert_eq!(
        leader.stage(partition(1, 1), produced(0, 1)),
        append(0),
        "others are not disturbed"
    );
    leader.propose();
    let (_, results) = leader.apply_next().unwrap();
    assert_eq!(
        results,
        [Err(Rejected::BaseOffset {
            stamped: Offset(1),
            end: Offset(0)
        })]
    );
    assert_eq!(leader.stage(p, produced(0, 1)), append(0));
    leader.apply_all();
}
