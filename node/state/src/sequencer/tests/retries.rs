//! Clients that retry, through lost proposals and changes of the leader.

use proptest::prelude::*;

use super::*;

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
