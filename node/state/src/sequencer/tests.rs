use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use meridian_types::ShardId;
use proptest::prelude::*;

use super::*;
use crate::command::Command;
use crate::state::Outcome;
use crate::testing::{BatchSpec, at, group, partition, topic};

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

/// A well-behaved idempotent producer: five batches in flight, retries from the first unanswered one.
#[derive(Clone, Default)]
struct Client {
    answered: u32,
    next: u32,
}

const CLIENTS: u64 = 3;
const BATCHES: u32 = 12;

/// Two records per batch; the clients' batches tell themselves apart by their CRC field.
fn client_batch(id: u64, number: u32) -> BatchSpec {
    let producer = Some((id, 0, number as i32 * 2));
    BatchSpec {
        records: 2,
        producer,
        crc: id as u32 * 1000 + number,
        ..BatchSpec::default()
    }
}

/// A leader under clients that retry, with everything that may go wrong between stage and apply.
struct World {
    leader: Leader,
    clients: Vec<Client>,
    /// Answers that wait for a first copy to be applied.
    waiting: Vec<(u64, u32, Offset)>,
    log: Vec<u32>,
    to: Partition,
}

impl World {
    fn send(&mut self, id: u64) {
        let client = &mut self.clients[id as usize];
        if client.next == BATCHES || client.next - client.answered == 5 {
            return;
        }
        let number = client.next;
        client.next += 1;
        match self.leader.stage(self.to, client_batch(id, number)) {
            Ok(Staged::Append { .. }) => {}
            Ok(Staged::Duplicate { last_offset, .. }) => self.waiting.push((id, number, last_offset)),
            Err(_) => self.clients[id as usize].next = number,
        }
        self.answer_waiting();
    }

    fn answer(&mut self, id: u64, number: u32, is_there: bool) {
        let client = &mut self.clients[id as usize];
        if is_there {
            client.answered = client.answered.max(number + 1);
        } else {
            client.next = client.next.min(number);
        }
        client.next = client.next.max(client.answered);
    }

    fn answer_waiting(&mut self) {
        let state = self.leader.state.partition(self.to).cloned();
        let end = state.as_ref().map_or(Offset(0), PartitionState::high_watermark);
        for (id, number, last_offset) in std::mem::take(&mut self.waiting) {
            let header = client_batch(id, number).header();
            if state
                .as_ref()
                .is_some_and(|state| state.duplicate(&header).is_some())
            {
                self.answer(id, number, true);
            } else if end > last_offset || self.leader.sequencer.is_idle() {
                self.answer(id, number, false);
            } else {
                self.waiting.push((id, number, last_offset));
            }
        }
    }

    fn apply(&mut self) {
        let Some((groups, results)) = self.leader.apply_next() else {
            return;
        };
        for (group, result) in groups.iter().zip(results) {
            let header = BatchHeader::parse(&group.batches[0]).unwrap();
            if result.is_ok() {
                self.log.push(header.crc);
            }
            self.answer((header.crc / 1000).into(), header.crc % 1000, result.is_ok());
        }
        self.answer_waiting();
    }

    fn fail(&mut self, groups: &[AppendGroup]) {
        for group in groups {
            let crc = BatchHeader::parse(&group.batches[0]).unwrap().crc;
            self.answer((crc / 1000).into(), crc % 1000, false);
        }
        self.answer_waiting();
    }

    /// What was staged cannot be proposed.
    fn abandon(&mut self) {
        let staged = std::mem::take(&mut self.leader.staged);
        self.leader.sequencer.abandoned(&staged);
        self.fail(&staged);
    }

    /// Another leader takes over with the first `kept` of the proposals; clients hear nothing and retry.
    fn change_leader(&mut self, kept: usize) {
        self.leader.staged.clear();
        self.leader.proposed.truncate(kept);
        self.waiting.clear();
        let old = self.leader.sequencer.epoch();
        while let Some(groups) = self.leader.proposed.pop_front() {
            let command = Command::Append {
                now: TimestampMs(0),
                groups: groups.clone(),
            };
            let Outcome::Append(results) = self.leader.state.apply(at(self.leader.next_index), &command)
            else {
                panic!("an append answers as one")
            };
            self.leader.next_index += 1;
            for (group, result) in groups.iter().zip(results) {
                if result.is_ok() {
                    self.log.push(BatchHeader::parse(&group.batches[0]).unwrap().crc);
                }
            }
        }
        self.leader.sequencer = Sequencer::new(LeaderEpoch(old.0 + 1));
        for client in &mut self.clients {
            client.next = client.answered;
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Send(u64),
    Propose,
    Apply,
    Abandon,
    ChangeLeader(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        10 => (0..CLIENTS).prop_map(Event::Send),
        4 => Just(Event::Propose),
        4 => Just(Event::Apply),
        1 => Just(Event::Abandon),
        1 => (0..3_usize).prop_map(Event::ChangeLeader),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_batch_is_in_the_log_once_and_in_order_whatever_is_lost(
        events in prop::collection::vec(event(), 1..200),
    ) {
        let mut world = World {
            leader: Leader::new(),
            clients: vec![Client::default(); CLIENTS as usize],
            waiting: Vec::new(),
            log: Vec::new(),
            to: partition(1, 0),
        };
        for event in events {
            match event {
                Event::Send(id) => world.send(id),
                Event::Propose => world.leader.propose(),
                Event::Apply => world.apply(),
                Event::Abandon => world.abandon(),
                Event::ChangeLeader(kept) => world.change_leader(kept),
            }
        }
        for _ in 0..100 {
            (0..CLIENTS).for_each(|id| world.send(id));
            world.leader.propose();
            while !world.leader.proposed.is_empty() {
                world.apply();
            }
        }
        world.leader.state.check().unwrap();
        for id in 0..CLIENTS as u32 {
            let numbers: Vec<u32> =
                world.log.iter().filter(|crc| **crc / 1000 == id).map(|crc| crc % 1000).collect();
            prop_assert_eq!(numbers, (0..BATCHES).collect::<Vec<_>>());
        }
    }
}
