use meridian_types::ProducerId;
use meridian_wire::batch::Compression;

use super::*;

const IDENTITY: Identity = Identity {
    id: ProducerId(7),
    epoch: 0,
};

/// A queue with a clock, and a server that knows what Kafka's broker knows of a producer.
struct World {
    queue: PartitionQueue,
    now: Instant,
    limits: Limits,
}

impl World {
    fn new() -> Self {
        Self {
            queue: PartitionQueue::default(),
            now: Instant::now(),
            limits: Limits {
                batch_bytes: 100,
                linger: Duration::from_millis(10),
                in_flight_max: 5,
                delivery_timeout: Duration::from_secs(10),
            },
        }
    }

    /// Fills `count` batches of one record each.
    fn push(&mut self, count: usize) {
        for _ in 0..count {
            let builder = || BatchBuilder::new(Compression::None);
            let value = [0_u8; 90];
            self.queue
                .push(
                    self.now,
                    &self.limits,
                    builder,
                    TimestampMs(0),
                    None,
                    Some(&value),
                    &[],
                    90,
                )
                .unwrap();
        }
    }

    fn is_ready(&self) -> bool {
        self.queue.ready_at(&self.limits).is_some_and(|at| at <= self.now)
    }

    /// Has a first batch written, so that the next ones may go together. They are numbered from 1.
    fn established() -> Self {
        let mut world = Self::new();
        world.push(1);
        let first = world.take_all().remove(0);
        world.answer(first, Answer::Written);
        world
    }

    /// Takes everything that may be sent now.
    fn take_all(&mut self) -> Vec<Batch> {
        let mut taken = Vec::new();
        while self.is_ready() {
            taken.extend(self.queue.take(Some(IDENTITY)));
        }
        taken
    }

    fn answer(&mut self, batch: Batch, answer: Answer) -> Verdict {
        self.queue.answer(batch, answer, self.now).0
    }

    fn retry(&mut self, batch: Batch, may_be_written: bool) {
        let answer = Answer::Retry {
            may_be_written,
            reason: "x".to_owned(),
        };
        assert!(matches!(self.answer(batch, answer), Verdict::Queued));
    }
}

fn bases(batches: &[Batch]) -> Vec<(i16, i32)> {
    batches
        .iter()
        .map(|batch| batch.sequence.map(|it| (it.epoch, it.base)).unwrap())
        .collect()
}

#[test]
fn a_batch_waits_for_its_linger_unless_it_is_full_or_flushed() {
    let mut world = World::new();
    let builder = || BatchBuilder::new(Compression::None);
    world
        .queue
        .push(
            world.now,
            &world.limits,
            builder,
            TimestampMs(0),
            None,
            Some(b"x"),
            &[],
            10,
        )
        .unwrap();
    assert!(!world.is_ready());
    world.now += Duration::from_millis(10);
    assert!(world.is_ready());
    world.now -= Duration::from_millis(5);
    assert_eq!(world.queue.flush().count(), 1);
    assert!(world.is_ready());
}

#[test]
fn the_first_batch_of_a_series_goes_alone() {
    let mut world = World::new();
    world.push(3);
    let mut taken = world.take_all();
    assert_eq!(bases(&taken), [(0, 0)]);
    world.answer(taken.remove(0), Answer::Written);
    assert_eq!(bases(&world.take_all()), [(0, 1), (0, 2)]);
}

#[test]
fn five_batches_are_in_flight_at_most_and_numbered_in_order() {
    let mut world = World::established();
    world.push(7);
    let mut taken = world.take_all();
    assert_eq!(bases(&taken), [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5)]);
    let first = taken.remove(0);
    assert!(matches!(
        world.answer(first, Answer::Written),
        Verdict::Written(_)
    ));
    assert_eq!(bases(&world.take_all()), [(0, 6)]);
}

#[test]
fn retried_batches_keep_numbers_and_order_and_go_one_at_a_time() {
    let mut world = World::established();
    world.push(4);
    let mut taken = world.take_all();
    let (fourth, third) = (taken.pop().unwrap(), taken.pop().unwrap());
    let (second, first) = (taken.pop().unwrap(), taken.pop().unwrap());
    // The leader moves: the first is lost on the way, the others come too early.
    world.retry(first, true);
    assert!(!world.is_ready(), "three are still in flight");
    world.answer(third, Answer::OutOfOrder);
    world.answer(second, Answer::OutOfOrder);
    world.answer(fourth, Answer::OutOfOrder);
    for expected in 1..5 {
        let mut again = world.take_all();
        assert_eq!(
            bases(&again),
            [(0, expected)],
            "one at a time, with its old number"
        );
        world.answer(again.remove(0), Answer::Written);
    }
    world.push(3);
    assert_eq!(
        bases(&world.take_all()),
        [(0, 5), (0, 6), (0, 7)],
        "then in parallel again"
    );
}

#[test]
fn a_refused_batch_leaves_no_hole() {
    let mut world = World::established();
    world.push(3);
    let first = world.queue.take(Some(IDENTITY)).unwrap();
    assert!(matches!(world.answer(first, Answer::Refused), Verdict::Failed(_)));
    assert_eq!(
        bases(&world.take_all()),
        [(0, 1), (0, 2)],
        "its number is used again"
    );
}

#[test]
fn a_refused_batch_with_others_behind_it_begins_a_new_series() {
    let mut world = World::established();
    world.push(3);
    let mut taken = world.take_all().into_iter();
    let (first, second, third) = (
        taken.next().unwrap(),
        taken.next().unwrap(),
        taken.next().unwrap(),
    );
    world.answer(first, Answer::Refused);
    world.answer(second, Answer::OutOfOrder);
    assert!(!world.is_ready(), "the third is still in flight");
    world.answer(third, Answer::OutOfOrder);
    assert_eq!(bases(&world.take_all()), [(1, 0)]);
}

#[test]
fn a_server_that_lost_its_state_gets_a_new_series() {
    let mut world = World::established();
    world.push(2);
    let mut taken = world.take_all().into_iter();
    let (first, second) = (taken.next().unwrap(), taken.next().unwrap());
    world.answer(first, Answer::OutOfOrder);
    world.answer(second, Answer::OutOfOrder);
    assert_eq!(bases(&world.take_all()), [(1, 0)]);
}

#[test]
fn an_expired_batch_that_may_be_written_begins_a_new_series() {
    let mut world = World::new();
    world.push(1);
    let first = world.take_all().remove(0);
    world.retry(first, true);
    world.now += Duration::from_secs(11);
    world.push(1);
    let (expired, needs_identity) = world.queue.expire(world.now, &world.limits);
    assert!(expired.len() == 1 && expired[0].may_be_written && !needs_identity);
    assert_eq!(bases(&world.take_all()), [(1, 0)]);
}

#[test]
fn an_expired_batch_that_is_certainly_not_written_does_not() {
    let mut world = World::new();
    world.push(1);
    let first = world.take_all().remove(0);
    world.retry(first, false);
    world.now += Duration::from_secs(11);
    world.push(1);
    world.queue.expire(world.now, &world.limits);
    assert_eq!(bases(&world.take_all()), [(0, 0)]);
}

#[test]
fn a_new_identity_is_taken_when_nothing_of_the_old_is_in_flight() {
    let mut world = World::established();
    world.push(2);
    let mut taken = world.take_all().into_iter();
    let (first, second) = (taken.next().unwrap(), taken.next().unwrap());
    let (verdict, needs_identity) = world.queue.answer(first, Answer::WrongEpoch, world.now);
    assert!(matches!(verdict, Verdict::Queued) && needs_identity);
    world.answer(second, Answer::WrongEpoch);
    let other = Identity {
        id: ProducerId(8),
        epoch: 3,
    };
    let again = world.queue.take(Some(other)).unwrap();
    let sequence = again.sequence.unwrap();
    assert_eq!(
        (sequence.id, sequence.epoch, sequence.base),
        (ProducerId(8), 3, 0)
    );
}

/// A server that takes a batch only if its number follows, knows the last five, and loses answers.
#[test]
fn with_lost_answers_and_moving_leaders_every_record_is_written_once_in_order() {
    for seed in 0..300_u64 {
        let mut world = World::new();
        let mut random = seed;
        let mut chance = |percent: u64| {
            random = crate::backoff::split_mix(random);
            random % 100 < percent
        };
        let mut log: Vec<i32> = Vec::new();
        let mut written = 0;
        let mut flying: VecDeque<Batch> = VecDeque::new();
        let total = 40;
        world.push(total);
        let mut steps = 0;
        while written < total {
            steps += 1;
            assert!(steps < 10_000, "seed {seed} makes no progress");
            flying.extend(world.take_all());
            let Some(batch) = flying.pop_front() else {
                continue;
            };
            let base = batch.sequence.unwrap().base;
            if chance(10) {
                // Lost on the way there.
                world.retry(batch, true);
                continue;
            }
            if chance(10) {
                world.retry(batch, false);
                continue;
            }
            // Without any state a server takes every number.
            let is_next = log.last().is_none_or(|last| last + 1 == base);
            let is_known = log.iter().rev().take(5).any(|known| *known == base);
            if is_next {
                log.push(base);
            } else if !is_known {
                world.answer(batch, Answer::OutOfOrder);
                continue;
            }
            if chance(10) {
                // Lost on the way back.
                world.retry(batch, true);
            } else {
                assert!(matches!(
                    world.answer(batch, Answer::Written),
                    Verdict::Written(_)
                ));
                written += 1;
            }
        }
        assert!(log.iter().copied().eq(0..total as i32), "seed {seed}: {log:?}");
    }
}
