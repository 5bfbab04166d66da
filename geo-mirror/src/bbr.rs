//! Congestion control by a model of the path, after BBR (draft-ietf-ccwg-bbr). Pure.
//!
//! It keeps in flight what the path holds: the highest rate of delivery of the last rounds, times the shortest round trip.
//! A lost packet says nothing by itself; a round that loses many says that the queue is full. Where BBR sets a
//! rate, this sets a window, because quinn spreads a window over the round trip and knows no rate: with twice of what the path
//! holds, as BBR has it, a quarter of the packets were lost to full queues. quinn's own BBR never forgets the shortest
//! round trip of a connection's life, either: a path that got longer kept the window of the shorter one.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

/// Rounds for which a rate of delivery counts.
const RATE_ROUNDS: usize = 10;
/// The window while the rate is being found, in what the path seems to hold: doubles it each round.
const STARTUP_GAIN: f64 = 2.0;
/// Startup ends when the rate has grown by less than this factor, ..
const STARTUP_GROWTH: f64 = 1.25;
/// .. for so many rounds.
const STARTUP_ROUNDS: u32 = 3;
/// The window in each of the rounds of a cycle: looks for more, gives back what that queued, goes on.
const CYCLE: [f64; 8] = [1.35, 0.9, 1.15, 1.15, 1.15, 1.15, 1.15, 1.15];
/// Acknowledgements come late and together by so much: timers, and busy processors.
const SLACK: Duration = Duration::from_millis(5);
/// Packets beyond the model: sends come in bursts of ten.
const SLACK_PACKETS: u64 = 8;
/// The smallest window.
const PACKETS_MIN: u64 = 8;
/// The first window.
const PACKETS_FIRST: u64 = 32;
/// A round that loses a larger share has found a full queue.
const LOSS_MAX: f64 = 0.05;
/// Fewer lost packets than this are chance.
const LOST_PACKETS_MIN: u64 = 4;
/// What such a round leaves of the window.
const LOSS_FACTOR: f64 = 0.85;
/// How a round without such loss lifts the bound again.
const BOUND_GROWTH: f64 = 1.05;
/// How often the shortest round trip is found anew.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// For how long the queue is given time to empty.
const LOOK_TIME: Duration = Duration::from_millis(200);
/// The window meanwhile, in what the path seems to hold.
const LOOK_GAIN: f64 = 0.5;
/// A round trip longer by this factor is another path, whose rate is found anew.
const OTHER_PATH: f64 = 1.5;

/// Makes the controllers of connections that share a path. They look for the shortest round trip at the same times, because
/// only together can they empty the queue.
#[derive(Debug, Default)]
pub(crate) struct BbrFactory {
    began: OnceLock<Instant>,
    made: AtomicU32,
}

impl ControllerFactory for BbrFactory {
    fn build(self: Arc<Self>, now: Instant, mtu_bytes: u16) -> Box<dyn Controller> {
        let began = *self.began.get_or_init(|| now);
        // Connections look for more one after the other.
        let turn = self.made.fetch_add(1, Ordering::Relaxed).wrapping_mul(2);
        Box::new(Bbr::new(began, now, turn, mtu_bytes))
    }
}

/// The controller of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Bbr {
    mtu_bytes: u64,
    phase: Phase,
    window_bytes: u64,
    /// After a round that found a full queue.
    bound_bytes: Option<f64>,
    sent: VecDeque<Sent>,
    in_flight_bytes: u64,
    delivered_bytes: u64,
    delivered_at: Instant,
    /// When the newest packet that is acknowledged was sent.
    newest_sent_at: Option<Instant>,
    /// There was nothing more to send when something was acknowledged last.
    is_app_limited: bool,
    /// In bytes per second, the highest of each round; the last is the round under way.
    rates: VecDeque<f64>,
    round: Round,
    rtt: ShortestRtt,
    turn: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// The window doubles until the rate does not.
    Startup { rate: f64, rounds: u32 },
    /// Until what Startup has queued is gone.
    Drain,
    /// The path is known.
    Steady,
    /// The queue empties, so that the shortest round trip shows.
    Look { until: Instant },
}

/// What was known when something was sent, to reckon a rate of delivery when it is acknowledged.
#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Instant,
    delivered_bytes: u64,
    delivered_at: Instant,
    newest_sent_at: Instant,
}

/// As long as it takes until something sent at its beginning is acknowledged.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    ends_at_bytes: u64,
    lost_bytes: u64,
    acknowledged_bytes: u64,
    in_flight_bytes_max: u64,
    /// There was nothing more to send at some time.
    is_app_limited: bool,
}

#[derive(Clone, Copy, Debug)]
struct ShortestRtt {
    /// In force.
    rtt: Option<Duration>,
    /// Since the last look.
    since_look: Option<Duration>,
    next_look: Instant,
}

impl Bbr {
    fn new(began: Instant, now: Instant, turn: u32, mtu_bytes: u16) -> Self {
        let mut next_look = began + LOOK_INTERVAL;
        while next_look <= now {
            next_look += LOOK_INTERVAL;
        }
        let mtu_bytes = u64::from(mtu_bytes);
        Self {
            mtu_bytes,
            phase: Phase::STARTUP,
            window_bytes: PACKETS_FIRST * mtu_bytes,
            bound_bytes: None,
            sent: VecDeque::new(),
            in_flight_bytes: 0,
            delivered_bytes: 0,
            delivered_at: now,
            newest_sent_at: None,
            is_app_limited: false,
            rates: VecDeque::from([0.0]),
            round: Round::default(),
            rtt: ShortestRtt {
                rtt: None,
                since_look: None,
                next_look,
            },
            turn,
        }
    }

    fn handle_sent(&mut self, now: Instant, bytes: u64) {
        if self.in_flight_bytes == 0 {
            // Nothing was under way, and that time does not count.
            self.delivered_at = now;
            self.newest_sent_at = Some(now);
        }
        self.in_flight_bytes += bytes;
        let highest = &mut self.round.in_flight_bytes_max;
        *highest = self.in_flight_bytes.max(*highest);
        if self.sent.back().is_none_or(|sent| sent.at < now) {
            self.sent.push_back(Sent {
                at: now,
                delivered_bytes: self.delivered_bytes,
                delivered_at: self.delivered_at,
                newest_sent_at: self.newest_sent_at.unwrap_or(now),
            });
        }
    }

    fn handle_acknowledged(&mut self, now: Instant, sent_at: Instant, bytes: u64) {
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
        self.delivered_bytes += bytes;
        self.delivered_at = now;
        self.round.acknowledged_bytes += bytes;
        self.newest_sent_at = self.newest_sent_at.max(Some(sent_at));
    }

    fn handle_lost(&mut self, bytes: u64, is_persistent: bool) {
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
        self.round.lost_bytes += bytes;
        if is_persistent {
            // Nothing came through for long: whatever was known may be wrong.
            self.begin_anew(PACKETS_MIN * self.mtu_bytes);
        }
    }

    /// All that one frame acknowledges has been told.
    fn handle_end(&mut self, now: Instant, in_flight_bytes: u64, is_app_limited: bool) {
        self.in_flight_bytes = in_flight_bytes;
        self.is_app_limited = is_app_limited && self.in_flight_bytes < self.window_bytes / 4 * 3;
        self.round.is_app_limited |= is_app_limited;
        if let Some(newest) = self.newest_sent_at {
            self.measure(now, newest);
        }
        self.look(now);
        self.set_window();
    }

    fn measure(&mut self, now: Instant, newest: Instant) {
        while self.sent.get(1).is_some_and(|next| next.at <= newest) {
            self.sent.pop_front();
        }
        let Some(sent) = self.sent.front().copied().filter(|sent| sent.at <= newest) else {
            return;
        };
        self.rtt.handle_sample(now.saturating_duration_since(newest));
        let elapsed = newest
            .saturating_duration_since(sent.newest_sent_at)
            .max(now.saturating_duration_since(sent.delivered_at));
        let delivered = self.delivered_bytes - sent.delivered_bytes;
        // What is measured over less than a round trip came from acknowledgements that were held up.
        let is_long = elapsed >= self.rtt.rtt.unwrap_or_default().mul_f64(0.9) && !elapsed.is_zero();
        if is_long {
            let highest = self.rates.back_mut().expect("there is always a round");
            *highest = highest.max(delivered as f64 / elapsed.as_secs_f64());
        }
        if sent.delivered_bytes >= self.round.ends_at_bytes {
            self.end_round();
        }
    }

    fn end_round(&mut self) {
        let ended = std::mem::replace(
            &mut self.round,
            Round {
                ends_at_bytes: self.delivered_bytes,
                ..Round::default()
            },
        );
        self.turn = self.turn.wrapping_add(1);
        let total = ended.lost_bytes + ended.acknowledged_bytes;
        let is_app_limited = ended.is_app_limited && ended.in_flight_bytes_max < self.window_bytes / 4 * 3;
        let is_full = ended.lost_bytes >= LOST_PACKETS_MIN * self.mtu_bytes
            && ended.lost_bytes as f64 > total as f64 * LOSS_MAX;
        let rate = self.rate();
        match &mut self.phase {
            Phase::Startup { .. } if is_full => self.phase = Phase::Drain,
            Phase::Startup { rate: before, rounds } if !is_app_limited => {
                if rate >= *before * STARTUP_GROWTH {
                    (*before, *rounds) = (rate, 0);
                } else {
                    *rounds += 1;
                    if *rounds >= STARTUP_ROUNDS {
                        self.phase = Phase::Drain;
                    }
                }
            }
            Phase::Startup { .. } | Phase::Drain | Phase::Look { .. } => {}
            Phase::Steady if is_full => {
                let window = self.window_bytes as f64;
                self.bound_bytes = Some(window * LOSS_FACTOR);
            }
            Phase::Steady => {
                let held = self.held_bytes().unwrap_or(0.0);
                let grown = self.bound_bytes.map(|bound| bound * BOUND_GROWTH);
                self.bound_bytes = grown.filter(|bound| *bound < held * STARTUP_GAIN);
            }
        }
        // What was measured with little to send says nothing about the path, and does not push out what does.
        if !is_app_limited {
            self.rates.push_back(0.0);
            if self.rates.len() > RATE_ROUNDS {
                self.rates.pop_front();
            }
        }
    }

    /// Looks for the shortest round trip when it is time, and ends that.
    fn look(&mut self, now: Instant) {
        let held = self.held_bytes().unwrap_or(f64::MAX);
        match self.phase {
            Phase::Drain if (self.in_flight_bytes as f64) <= held => self.phase = Phase::Steady,
            Phase::Look { until } if until <= now => {
                self.phase = Phase::Steady;
                self.end_look();
            }
            Phase::Startup { .. } | Phase::Drain | Phase::Steady | Phase::Look { .. } => {}
        }
        if self.rtt.next_look > now {
            return;
        }
        while self.rtt.next_look <= now {
            self.rtt.next_look += LOOK_INTERVAL;
        }
        if self.is_app_limited {
            // There was no queue to empty.
            self.end_look();
        } else if self.phase == Phase::Steady {
            self.rtt.since_look = None;
            let until = now + LOOK_TIME + self.rtt.rtt.unwrap_or_default();
            self.phase = Phase::Look { until };
        } else {
            self.end_look();
        }
    }

    fn end_look(&mut self) {
        let before = self.rtt.rtt;
        let Some(found) = self.rtt.since_look.take() else {
            return;
        };
        self.rtt.rtt = Some(found);
        if before.is_some_and(|before| found > before.mul_f64(OTHER_PATH) + SLACK) {
            self.begin_anew(self.window_bytes);
        }
    }

    fn begin_anew(&mut self, window_bytes: u64) {
        self.phase = Phase::STARTUP;
        self.bound_bytes = None;
        self.rates = VecDeque::from([0.0]);
        self.window_bytes = window_bytes;
    }

    fn set_window(&mut self) {
        let least = PACKETS_MIN * self.mtu_bytes;
        let Some(held) = self.held_bytes() else {
            return;
        };
        let slack = self.rate() * SLACK.as_secs_f64() + (SLACK_PACKETS * self.mtu_bytes) as f64;
        let window = match self.phase {
            Phase::Startup { .. } => {
                let first = (PACKETS_FIRST * self.mtu_bytes) as f64;
                (held * STARTUP_GAIN + slack)
                    .max(self.window_bytes as f64)
                    .max(first)
            }
            Phase::Drain => held,
            Phase::Look { .. } => held * LOOK_GAIN,
            Phase::Steady => {
                let gain = CYCLE[self.turn as usize % CYCLE.len()];
                (held * gain + slack).min(self.bound_bytes.unwrap_or(f64::MAX))
            }
        };
        self.window_bytes = (window as u64).max(least);
    }

    /// The highest rate of the last rounds, in bytes per second.
    fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    /// What the path holds without a queue.
    fn held_bytes(&self) -> Option<f64> {
        let rate = self.rate();
        let rtt = self.rtt.rtt.filter(|_| rate > 0.0)?;
        Some(rate * rtt.as_secs_f64())
    }
}

impl Phase {
    const STARTUP: Self = Self::Startup { rate: 0.0, rounds: 0 };
}

impl ShortestRtt {
    fn handle_sample(&mut self, sample: Duration) {
        let shorter = |known: Option<Duration>| Some(known.map_or(sample, |known| known.min(sample)));
        self.rtt = shorter(self.rtt);
        self.since_look = shorter(self.since_look);
    }
}

impl Controller for Bbr {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.handle_sent(now, bytes);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _app_limited: bool, _rtt: &RttEstimator) {
        self.handle_acknowledged(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _largest: Option<u64>) {
        self.handle_end(now, in_flight, app_limited);
    }

    fn on_congestion_event(
        &mut self,
        _now: Instant,
        _sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.handle_lost(lost_bytes, is_persistent_congestion);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu_bytes = u64::from(new_mtu);
        self.window_bytes = self.window_bytes.max(PACKETS_MIN * self.mtu_bytes);
    }

    fn window(&self) -> u64 {
        self.window_bytes
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window_bytes;
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        PACKETS_FIRST * self.mtu_bytes
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests;
