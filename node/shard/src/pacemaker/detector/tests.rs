use std::time::Duration;

use meridian_types::{NodeId, Uuid};

use super::*;

const PEER: NodeId = NodeId(2);

struct Bench {
    clock: Clock,
    timing: Timing,
    detector: Detector,
}

impl Bench {
    fn new() -> Self {
        let timing = Timing::default();
        let mut bench = Self {
            clock: Clock::new(Duration::ZERO, Duration::MAX, timing.beat_interval),
            timing,
            detector: Detector::default(),
        };
        bench.set_incarnation(None);
        bench
    }

    fn set_incarnation(&mut self, incarnation: Option<u128>) {
        let peers = [(PEER, incarnation.map(Uuid::from_u128))];
        self.detector.set_peers(&self.clock, peers.into());
    }

    fn at(&mut self, now_ms: u64) -> &mut Self {
        self.clock.advance(Duration::from_millis(now_ms));
        self
    }

    fn beat(&mut self, start_id: u64, sequence: u64) -> Heard {
        self.detector.handle_beat(&self.clock, beat(start_id, sequence))
    }

    fn link(&mut self, link: LinkState) -> bool {
        self.detector.handle_link(&self.clock, &self.timing, PEER, link)
    }

    fn check(&mut self) -> bool {
        self.detector.check(&self.clock, &self.timing)
    }
}

fn beat(start_id: u64, sequence: u64) -> Beat {
    Beat {
        node: PEER,
        incarnation: Uuid::from_u128(5),
        start_id,
        sequence,
        phase: NodePhase::Running,
        address: "b:1".into(),
        shards: Vec::new(),
    }
}

#[test]
fn half_a_second_of_silence_is_suspicious() {
    let mut bench = Bench::new();
    assert_eq!(bench.at(100).beat(1, 1), Heard::Appeared);
    assert!(!bench.at(599).check());
    assert!(bench.detector.is_alive(PEER));
    assert!(bench.at(600).check());
    assert!(bench.detector.is_dead(PEER));
    assert!(!bench.at(700).check(), "suspected once");
    let silent = bench.detector.dead_for(&bench.clock);
    assert_eq!(silent, [(PEER, Duration::from_millis(600))].into());
    assert_eq!(bench.at(800).beat(1, 2), Heard::Appeared);
    assert!(bench.detector.is_alive(PEER));
}

#[test]
fn a_refused_connection_is_proof_only_after_a_connection() {
    let mut bench = Bench::new();
    assert!(
        !bench.at(10).link(LinkState::Refused),
        "it may not have come up yet"
    );
    bench.link(LinkState::Connected);
    bench.at(100).beat(1, 1);
    assert!(!bench.at(110).link(LinkState::Down), "a cable, perhaps");
    assert!(bench.at(111).link(LinkState::Refused));
    assert!(bench.detector.is_dead(PEER));
    assert!(!bench.at(200).link(LinkState::Refused), "it is suspected already");
}

#[test]
fn a_dead_process_is_not_revived_by_beats_that_were_on_their_way() {
    let mut bench = Bench::new();
    bench.link(LinkState::Connected);
    bench.at(100).beat(1, 1);
    bench.at(150).link(LinkState::Refused);
    assert_eq!(bench.at(160).beat(1, 2), Heard::Nothing);
    assert!(bench.detector.is_dead(PEER));
    assert_eq!(
        bench.at(401).beat(1, 3),
        Heard::Appeared,
        "it was its listener only"
    );
}

#[test]
fn a_restart_is_noticed_at_once_and_the_old_process_stays_gone() {
    let mut bench = Bench::new();
    bench.link(LinkState::Connected);
    bench.at(100).beat(1, 40);
    bench.at(150).link(LinkState::Refused);
    assert_eq!(bench.at(160).beat(2, 1), Heard::Appeared);
    assert_eq!(bench.at(170).beat(1, 41), Heard::Nothing);
    assert_eq!(bench.at(260).beat(2, 2), Heard::Same);
}

#[test]
fn overtaken_beats_and_strangers_are_not_heard() {
    let mut bench = Bench::new();
    bench.at(100).beat(1, 5);
    assert_eq!(bench.at(400).beat(1, 4), Heard::Nothing);
    assert!(bench.at(600).check(), "an old beat is no sign of life");
    let stranger = Beat {
        node: NodeId(9),
        ..beat(1, 9)
    };
    assert_eq!(bench.detector.handle_beat(&bench.clock, stranger), Heard::Nothing);
}

#[test]
fn another_data_directory_under_the_same_id_is_not_heard() {
    let mut bench = Bench::new();
    assert_eq!(bench.at(100).beat(1, 1), Heard::Appeared);
    bench.set_incarnation(Some(6));
    assert!(!bench.detector.is_alive(PEER), "what was heard was not it");
    assert_eq!(bench.at(200).beat(1, 2), Heard::Nothing);
    bench.set_incarnation(Some(5));
    assert_eq!(bench.at(300).beat(1, 3), Heard::Appeared);
}

#[test]
fn a_peer_never_heard_of_is_neither_alive_nor_dead_at_first() {
    let mut bench = Bench::new();
    assert!(!bench.detector.is_alive(PEER) && !bench.detector.is_dead(PEER));
    assert!(bench.at(500).check());
    assert!(bench.detector.is_dead(PEER));
}
