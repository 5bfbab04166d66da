//! Connections over a path that is reckoned packet by packet.

use super::*;

const MTU_BYTES: u64 = 1452;
const TICK: Duration = Duration::from_micros(500);

/// A bottleneck with a queue, and a chance to lose what passed it.
struct Path {
    bytes_per_second: f64,
    rtt: Duration,
    queue: Duration,
    loss: f64,
    free_at: Instant,
    dice: u64,
}

struct Flow {
    controller: Bbr,
    /// When the other side's word about a packet comes, when it was sent, and whether it arrived.
    coming: VecDeque<(Instant, Instant, bool)>,
    tokens: f64,
    smoothed_rtt: Duration,
    in_flight_bytes: u64,
    /// It has so much to send at most.
    bytes_per_second: f64,
    waiting_bytes: f64,
    sent_bytes: u64,
    arrived_bytes: u64,
}

struct World {
    now: Instant,
    path: Path,
    flows: Vec<Flow>,
}

/// What came of all flows in a time.
struct Share {
    /// Of what the path carries, arrived.
    goodput: f64,
    /// Bytes for each that arrived.
    sent_per_byte: f64,
    /// Mean wait before the bottleneck.
    queued: Duration,
}

impl Path {
    /// When the word about a packet sent now comes back, and whether it arrived.
    fn pass(&mut self, now: Instant) -> (Instant, bool) {
        let begins = self.free_at.max(now);
        if begins - now > self.queue {
            // The next one that arrives tells of it.
            return (begins + self.rtt, false);
        }
        self.free_at = begins + Duration::from_secs_f64(MTU_BYTES as f64 / self.bytes_per_second);
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let is_lost = ((self.dice >> 33) as f64) < self.loss * 2_f64.powi(31);
        (self.free_at + self.rtt, !is_lost)
    }
}

impl World {
    fn new(flows: u32, megabytes_per_second: f64, rtt_ms: u64, loss: f64) -> Self {
        let now = tokio::time::Instant::now().into_std();
        let factory = Arc::new(BbrFactory::default());
        let flow = |_| Flow {
            controller: *factory
                .clone()
                .build(now, MTU_BYTES as u16)
                .into_any()
                .downcast()
                .expect("its own"),
            coming: VecDeque::new(),
            tokens: 0.0,
            smoothed_rtt: Duration::from_millis(rtt_ms),
            in_flight_bytes: 0,
            bytes_per_second: f64::MAX,
            waiting_bytes: 0.0,
            sent_bytes: 0,
            arrived_bytes: 0,
        };
        Self {
            now,
            path: Path {
                bytes_per_second: megabytes_per_second * 1e6,
                rtt: Duration::from_millis(rtt_ms),
                queue: Duration::from_millis(50),
                loss,
                free_at: now,
                dice: 7,
            },
            flows: (0..flows).map(flow).collect(),
        }
    }

    fn run(&mut self, time: Duration) -> Share {
        let until = self.now + time;
        let sum = |flows: &[Flow], of: fn(&Flow) -> u64| flows.iter().map(of).sum::<u64>();
        let sent = sum(&self.flows, |flow| flow.sent_bytes);
        let arrived = sum(&self.flows, |flow| flow.arrived_bytes);
        let (mut queued, mut ticks) = (Duration::ZERO, 0);
        while self.now < until {
            self.now += TICK;
            for flow in &mut self.flows {
                flow.step(self.now, &mut self.path);
            }
            queued += self.path.free_at.saturating_duration_since(self.now);
            ticks += 1;
        }
        let sent = sum(&self.flows, |flow| flow.sent_bytes) - sent;
        let arrived = sum(&self.flows, |flow| flow.arrived_bytes) - arrived;
        Share {
            goodput: arrived as f64 / (self.path.bytes_per_second * time.as_secs_f64()),
            sent_per_byte: sent as f64 / arrived as f64,
            queued: queued / ticks,
        }
    }
}

impl Flow {
    fn step(&mut self, now: Instant, path: &mut Path) {
        let (mut lost, mut is_end) = (0, false);
        while let Some((_, sent_at, has_arrived)) = self.coming.pop_front_if(|(at, ..)| *at <= now) {
            self.in_flight_bytes -= MTU_BYTES;
            if has_arrived {
                is_end = true;
                self.arrived_bytes += MTU_BYTES;
                self.smoothed_rtt = (self.smoothed_rtt * 7 + (now - sent_at)) / 8;
                self.controller.handle_acknowledged(now, sent_at, MTU_BYTES);
            } else {
                lost += MTU_BYTES;
            }
        }
        if is_end {
            let has_nothing = self.waiting_bytes < MTU_BYTES as f64;
            self.controller
                .handle_end(now, self.in_flight_bytes + lost, has_nothing);
        }
        if lost > 0 {
            self.controller.handle_lost(lost, false);
        }
        // As quinn spreads a window.
        let window = self.controller.window();
        let rtts = TICK.as_secs_f64() / self.smoothed_rtt.as_secs_f64();
        let capacity = (window as f64 * 0.002 / self.smoothed_rtt.as_secs_f64())
            .clamp(10.0 * MTU_BYTES as f64, 256.0 * MTU_BYTES as f64);
        self.tokens = (self.tokens + window as f64 * 1.25 * rtts).min(capacity);
        let more = self.bytes_per_second * TICK.as_secs_f64();
        self.waiting_bytes = (self.waiting_bytes + more).min(1e9);
        let bytes = MTU_BYTES as f64;
        while self.tokens >= bytes
            && self.waiting_bytes >= bytes
            && self.in_flight_bytes + MTU_BYTES < self.controller.window()
        {
            self.tokens -= bytes;
            self.waiting_bytes -= bytes;
            self.in_flight_bytes += MTU_BYTES;
            self.sent_bytes += MTU_BYTES;
            self.controller.handle_sent(now, MTU_BYTES);
            let (at, has_arrived) = path.pass(now);
            self.coming.push_back((at, now, has_arrived));
        }
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn loss_by_chance_costs_little_more_than_what_is_lost() {
    for (flows, rtt_ms, loss) in [
        (1, 1, 0.0),
        (1, 20, 0.001),
        (1, 100, 0.0),
        (1, 100, 0.001),
        (4, 100, 0.001),
        (4, 100, 0.01),
        (4, 150, 0.01),
        (4, 1, 0.01),
    ] {
        let mut world = World::new(flows, 10.0, rtt_ms, loss);
        world.run(seconds(4));
        let share = world.run(seconds(16));
        let told = format!(
            "{flows} connections, {rtt_ms} ms, {loss}: {:.3} of the link, {:.3} sent, {:?} queued",
            share.goodput, share.sent_per_byte, share.queued
        );
        println!("{told}");
        assert!(share.goodput > 0.9, "{told}");
        assert!(share.sent_per_byte < 1.04 + loss, "{told}");
        assert!(share.queued < Duration::from_millis(45), "{told}");
    }
}

#[test]
fn a_path_that_gets_longer_or_slower_is_learnt() {
    let mut world = World::new(4, 10.0, 1, 0.001);
    world.run(seconds(3));
    world.path.rtt = Duration::from_millis(100);
    // At the next look.
    world.run(LOOK_INTERVAL + seconds(3));
    let share = world.run(seconds(10));
    assert!(share.goodput > 0.9, "longer: {:.3}", share.goodput);

    world.path.bytes_per_second = 4e6;
    world.run(seconds(5));
    let share = world.run(seconds(10));
    assert!(share.goodput > 0.9, "slower: {:.3}", share.goodput);
    assert!(share.sent_per_byte < 1.05, "slower: {:.3}", share.sent_per_byte);

    world.path.bytes_per_second = 20e6;
    world.run(seconds(8));
    let share = world.run(seconds(10));
    assert!(share.goodput > 0.85, "faster: {:.3}", share.goodput);
}

#[test]
fn a_flow_that_sends_little_keeps_its_window_for_when_it_has_more() {
    let mut world = World::new(1, 10.0, 100, 0.0);
    world.run(seconds(5));
    world.flows[0].bytes_per_second = 0.2e6;
    world.flows[0].waiting_bytes = 0.0;
    world.run(seconds(1));
    let share = world.run(seconds(20));
    assert!((0.019..0.021).contains(&share.goodput), "{}", share.goodput);
    world.flows[0].bytes_per_second = f64::MAX;
    world.run(Duration::from_millis(300));
    let share = world.run(seconds(2));
    assert!(share.goodput > 0.85, "{}", share.goodput);
}

#[test]
fn one_that_comes_later_gets_its_share() {
    let mut world = World::new(2, 10.0, 50, 0.0);
    world.flows[1].bytes_per_second = 0.0;
    world.run(seconds(8));
    world.flows[1].bytes_per_second = f64::MAX;
    world.run(seconds(10));
    let before = world.flows[1].arrived_bytes;
    world.run(seconds(10));
    let share = (world.flows[1].arrived_bytes - before) as f64 / 100e6;
    assert!((0.25..0.75).contains(&share), "{share}");
}

#[test]
fn what_was_known_is_forgotten_when_nothing_came_through_for_long() {
    let mut world = World::new(1, 10.0, 100, 0.0);
    world.run(seconds(5));
    let controller = &mut world.flows[0].controller;
    assert!(controller.window() > 100 * MTU_BYTES);
    controller.handle_lost(controller.in_flight_bytes, true);
    assert_eq!(controller.window(), PACKETS_MIN * MTU_BYTES);
    world.run(seconds(2));
    let share = world.run(seconds(5));
    assert!(share.goodput > 0.85, "{}", share.goodput);
}
