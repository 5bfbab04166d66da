//! What a pipe promises.

use std::num::NonZeroU64;

use proptest::prelude::*;

use super::*;
use crate::chance::Probability;
use crate::conditions::{Loss, Reorder};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn share(share: f64) -> Probability {
    Probability::new(share).expect("a share")
}

/// All that comes out until `until`, each with its time, asked for as soon as it may be there.
fn drain<P: Clone>(pipe: &mut Pipe<P>, from: Duration, until: Duration) -> Vec<(Duration, P)> {
    let (mut out, mut now) = (Vec::new(), from);
    loop {
        while let Some(packet) = pipe.poll_packet(now) {
            out.push((now, packet));
        }
        match pipe.poll_timeout() {
            Some(at) if at <= until => now = at.max(now),
            _ => return out,
        }
    }
}

fn datagram(pipe: &mut Pipe<u32>, now: Duration, bytes: usize, number: u32) {
    pipe.handle_packet(now, Kind::Datagram, bytes, number);
}

#[test]
fn a_packet_comes_out_after_its_delay_and_not_before() {
    let mut pipe = Pipe::new(1, Conditions::delayed(ms(40)));
    assert_eq!(pipe.poll_timeout(), None);
    datagram(&mut pipe, ms(5), 100, 1);
    assert_eq!(pipe.poll_timeout(), Some(ms(45)));
    assert_eq!(pipe.poll_packet(ms(44)), None);
    assert_eq!(pipe.poll_packet(ms(45)), Some(1));
    assert_eq!(pipe.poll_packet(ms(45)), None);
    assert_eq!(pipe.counters().held_mean(), Some(ms(40)));
}

#[test]
fn the_bottleneck_sends_at_its_rate_and_drops_what_finds_no_room() {
    let mut pipe = Pipe::new(
        1,
        Conditions {
            rate_bytes_per_second: NonZeroU64::new(100_000),
            queue_bytes_max: 3_000,
            ..Conditions::delayed(ms(10))
        },
    );
    // Each takes 10 ms to send; one more than three find no room.
    for number in 0..5 {
        datagram(&mut pipe, ms(0), 1_000, number);
    }
    assert_eq!(pipe.counters().queue_full_packets, 2);
    let out = drain(&mut pipe, ms(0), ms(1_000));
    assert_eq!(out, [(ms(20), 0), (ms(30), 1), (ms(40), 2)]);
    // A datagram larger than the queue passes an empty one.
    datagram(&mut pipe, ms(1_000), 9_000, 9);
    assert_eq!(drain(&mut pipe, ms(1_000), ms(2_000)), [(ms(1_100), 9)]);
}

#[test]
fn a_new_rate_holds_for_what_waits() {
    let slow = Conditions {
        rate_bytes_per_second: NonZeroU64::new(1_000),
        queue_bytes_max: 1 << 20,
        ..Conditions::default()
    };
    let mut pipe = Pipe::new(1, slow);
    for number in 0..3 {
        datagram(&mut pipe, ms(0), 1_000, number);
    }
    assert_eq!(drain(&mut pipe, ms(0), ms(1_500)), [(ms(1_000), 0)]);
    pipe.set(ms(1_500), Conditions::default());
    assert_eq!(
        drain(&mut pipe, ms(1_500), ms(9_000)),
        [(ms(1_500), 1), (ms(1_500), 2)]
    );
}

#[test]
fn a_cut_drops_datagrams_holds_pieces_and_lets_nothing_through() {
    let mut pipe = Pipe::new(1, Conditions::delayed(ms(10)));
    datagram(&mut pipe, ms(0), 10, 1);
    pipe.handle_packet(ms(0), Kind::Piece, 10, 2);
    let cut = Conditions {
        is_cut: true,
        ..Conditions::delayed(ms(10))
    };
    pipe.set(ms(5), cut);
    datagram(&mut pipe, ms(6), 10, 3);
    pipe.handle_packet(ms(7), Kind::Piece, 10, 4);
    assert_eq!(pipe.poll_timeout(), None);
    assert_eq!(pipe.poll_packet(ms(500)), None);
    assert_eq!(pipe.counters().cut_packets, 2);
    pipe.set(ms(500), Conditions::delayed(ms(10)));
    assert_eq!(drain(&mut pipe, ms(500), ms(900)), [(ms(500), 2), (ms(510), 4)]);
}

#[test]
fn only_what_is_held_back_is_overtaken() {
    let mut pipe = Pipe::new(
        3,
        Conditions {
            reorder: Reorder {
                share: share(0.2),
                by: ms(7),
            },
            ..Conditions::delayed(ms(20))
        },
    );
    for number in 0..1_000 {
        datagram(&mut pipe, ms(number.into()), 10, number);
    }
    let out = drain(&mut pipe, ms(1_000), ms(9_000));
    let held_back = pipe.counters().reordered_packets as usize;
    assert!((150..250).contains(&held_back), "{held_back}");
    // Without what was held back, the rest is in order.
    let mut next = 0;
    let late = out
        .iter()
        .filter(|(_, number)| {
            let is_late = *number < next;
            next = next.max(*number + 1);
            is_late
        })
        .count();
    assert!(late > 0 && late <= held_back, "{late} of {held_back}");
}

fn any_conditions() -> impl Strategy<Value = Conditions> {
    let shares = (0.0..0.5_f64, 0..6_u32, 0.0..0.5_f64, 0.0..0.5_f64);
    let times = (0..80_u64, 0..30_u64, 0..30_u64);
    let bottleneck = (prop::option::of(1_000..5_000_000_u64), 1_000..200_000_usize);
    (shares, times, bottleneck).prop_map(
        |((loss, burst_packets, duplicate, reorder), (delay, jitter, by), (rate, queue_bytes_max))| {
            Conditions {
                delay: ms(delay),
                jitter: ms(jitter),
                loss: Loss {
                    share: share(loss),
                    burst_packets,
                },
                duplicate: share(duplicate),
                reorder: Reorder {
                    share: share(reorder),
                    by: ms(by),
                },
                rate_bytes_per_second: rate.and_then(NonZeroU64::new),
                queue_bytes_max,
                is_cut: false,
            }
        },
    )
}

/// What happens to a pipe.
#[derive(Clone, Debug)]
enum Step {
    Packet { is_piece: bool, bytes: usize },
    Wait { us: u64 },
    Set(Conditions),
    Cut,
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (any::<bool>(), 1..3_000_usize).prop_map(|(is_piece, bytes)| Step::Packet { is_piece, bytes }),
        4 => (0..20_000_u64).prop_map(|us| Step::Wait { us }),
        1 => any_conditions().prop_map(Step::Set),
        1 => Just(Step::Cut),
    ];
    prop::collection::vec(step, 0..120)
}

/// The number of a packet, and whether it is a piece.
type Numbered = (u32, bool);

/// Plays the steps, heals, and waits until nothing is left. Gives what came out, and the number of packets put in.
fn play(seed: u64, conditions: Conditions, steps: &[Step]) -> (Pipe<Numbered>, Vec<(Duration, Numbered)>) {
    let mut pipe = Pipe::new(seed, conditions);
    let (mut now, mut out, mut number) = (Duration::ZERO, Vec::new(), 0);
    for step in steps {
        match step {
            Step::Packet { is_piece, bytes } => {
                let kind = if *is_piece { Kind::Piece } else { Kind::Datagram };
                pipe.handle_packet(now, kind, *bytes, (number, *is_piece));
                number += 1;
            }
            Step::Wait { us } => {
                let until = now + Duration::from_micros(*us);
                out.extend(drain(&mut pipe, now, until));
                now = until;
            }
            Step::Set(conditions) => pipe.set(now, *conditions),
            Step::Cut => {
                let cut = Conditions {
                    is_cut: true,
                    ..*pipe.conditions()
                };
                pipe.set(now, cut);
            }
        }
    }
    let healed = Conditions {
        is_cut: false,
        ..*pipe.conditions()
    };
    pipe.set(now, healed);
    out.extend(drain(&mut pipe, now, now + Duration::from_secs(100_000)));
    (pipe, out)
}

proptest! {
    #[test]
    fn nothing_is_forgotten_and_pieces_arrive_once_and_in_order(
        seed: u64, conditions in any_conditions(), steps in any_steps(),
    ) {
        let (pipe, out) = play(seed, conditions, &steps);
        let c = *pipe.counters();
        prop_assert_eq!(pipe.poll_timeout(), None);
        prop_assert_eq!(out.len() as u64, c.delivered_packets);
        prop_assert_eq!(
            c.received_packets + c.duplicated_packets,
            c.delivered_packets + c.lost_packets + c.queue_full_packets + c.cut_packets
        );
        let sent: Vec<u32> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Packet { is_piece, .. } => Some(*is_piece),
                _ => None,
            })
            .enumerate()
            .filter_map(|(number, is_piece)| is_piece.then_some(number as u32))
            .collect();
        let arrived: Vec<u32> = out
            .iter()
            .filter_map(|(_, (number, is_piece))| is_piece.then_some(*number))
            .collect();
        prop_assert_eq!(arrived, sent);
        prop_assert!(out.is_sorted_by_key(|(at, _)| *at));
    }

    #[test]
    fn the_same_seed_gives_the_same_result(seed: u64, conditions in any_conditions(), steps in any_steps()) {
        let (_, first) = play(seed, conditions, &steps);
        let (_, second) = play(seed, conditions, &steps);
        prop_assert_eq!(first, second);
    }

    #[test]
    fn a_packet_is_held_for_its_delay_and_at_most_jitter_and_hold_back_more(
        seed: u64, conditions in any_conditions(), gaps in prop::collection::vec(0..5_000_u64, 1..100),
    ) {
        let conditions = Conditions { rate_bytes_per_second: None, ..conditions };
        let mut pipe = Pipe::new(seed, conditions);
        let (mut now, mut sent, mut out) = (Duration::ZERO, Vec::new(), Vec::new());
        for (number, gap) in gaps.iter().enumerate() {
            let next = now + Duration::from_micros(*gap);
            out.extend(drain(&mut pipe, now, next));
            now = next;
            datagram(&mut pipe, now, 100, number as u32);
            sent.push(now);
        }
        out.extend(drain(&mut pipe, now, now + ms(10_000)));
        for (at, number) in out {
            let held = at - sent[number as usize];
            prop_assert!(held >= conditions.delay, "{held:?}");
            prop_assert!(held <= conditions.delay + conditions.jitter + conditions.reorder.by, "{held:?}");
        }
    }

    #[test]
    fn no_stretch_of_time_carries_more_than_the_rate(
        rate in 10_000..1_000_000_u64, sizes in prop::collection::vec(1..2_000_usize, 1..200),
    ) {
        let mut pipe = Pipe::new(1, Conditions {
            rate_bytes_per_second: NonZeroU64::new(rate),
            queue_bytes_max: usize::MAX,
            ..Conditions::default()
        });
        for (number, bytes) in sizes.iter().enumerate() {
            datagram(&mut pipe, Duration::ZERO, *bytes, number as u32);
        }
        let out = drain(&mut pipe, Duration::ZERO, Duration::from_secs(100_000));
        prop_assert_eq!(out.len(), sizes.len());
        let mut passed = 0;
        for (at, number) in out {
            passed += sizes[number as usize] as u128;
            // Whole nanoseconds are lost in each division.
            let carried = u128::from(rate) * (at.as_nanos() + sizes.len() as u128) / 1_000_000_000;
            prop_assert!(passed <= carried + 1, "{passed} of {carried} at {at:?}");
        }
    }
}
