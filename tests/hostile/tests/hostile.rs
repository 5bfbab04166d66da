//! Hostile input against a real process. `MERIDIAN_TEST_SERVER=kafka` proves the tests on a real Apache Kafka.

#![expect(clippy::disallowed_methods, reason = "attacks take time on a real clock")]

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meridian_compat::raw::RawClient;
use meridian_hostile::bomb::Bomb;
use meridian_hostile::siege::TARGET_TOPIC;
use meridian_hostile::{Siege, attack};

/// Latencies are measured: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn malformed_frames_are_answered_or_closed_and_disturb_nobody() {
    let _alone = alone();
    let mut siege = Siege::begin("hostile-frames");
    for (name, attack) in [
        ("impossible lengths", attack::impossible_lengths as fn(_) -> _),
        ("cut off requests", attack::cut_off_requests),
        ("huge lengths", attack::huge_lengths),
        ("random frames", |address| attack::random_frames(address, 5_000)),
    ] {
        let reactions = siege.withstands(attack);
        println!("{name}: {reactions:?}");
        assert!(reactions.closed > 0, "{name}: nothing was refused");
        assert_eq!(
            reactions.silent, 0,
            "{name}: frames were neither answered nor refused: {reactions:?}"
        );
    }
}

#[test]
fn no_bad_batch_is_acknowledged() {
    let _alone = alone();
    let mut siege = Siege::begin("hostile-batches");
    let codes = siege.withstands(|address| attack::bad_batches(address, 3_000));
    assert!(codes.len() > 1_000, "only {} batches were answered", codes.len());
    assert!(
        !codes.contains(&0),
        "{} bad batches were acknowledged",
        codes.iter().filter(|code| **code == 0).count()
    );
}

#[test]
fn decompression_bombs_cost_no_memory() {
    let _alone = alone();
    let mut siege = Siege::begin("hostile-bombs");
    for bomb in Bomb::ALL {
        // Below the default max.message.bytes, gigabytes inside where the format can.
        let inside = match bomb {
            Bomb::Gzip => 400 << 20,
            Bomb::Lz4 => 200 << 20,
            Bomb::Zstd => 1 << 30,
            // Claims 4 GiB, whatever is inside.
            Bomb::Snappy => 1 << 20,
        };
        let batch = bomb.batch(inside);
        assert!(batch.len() < 1_000_000, "{bomb:?} has {} bytes", batch.len());
        let answers = siege.withstands(|address| {
            // Several at once, so that a limit for one does not hide the sum.
            let throwers: Vec<_> = (0..4)
                .map(|_| {
                    let batch = batch.clone();
                    std::thread::Builder::new()
                        .spawn(move || {
                            let mut client = RawClient::connect(address).expect("connections are accepted");
                            client.produce(TARGET_TOPIC, 0, &batch).ok()
                        })
                        .expect("a thread can be started")
                })
                .collect();
            throwers
                .into_iter()
                .map(|thrower| thrower.join().expect("no panic"))
                .collect::<Vec<_>>()
        });
        println!("{bomb:?}: {} bytes, answers {answers:?}", batch.len());
    }
}

#[test]
fn ten_thousand_idle_connections_disturb_nobody() {
    let _alone = alone();
    let mut siege = Siege::begin("hostile-idle");
    let connections = siege.withstands(|address| {
        let connections = attack::idle_connections(address, 10_000)
            .expect("the server, and our own limits, take 10,000 connections");
        std::thread::sleep(Duration::from_secs(2));
        connections
    });
    assert_eq!(connections.len(), 10_000);
    drop(connections);
    siege.withstands(|_| ());
}

#[test]
fn half_open_frames_reserve_no_memory() {
    let _alone = alone();
    let mut siege = Siege::begin("hostile-half-open");
    // Together they announce 100 GB. Apache Kafka 4.3 does not withstand this: it reserves what a frame announces.
    let connections = siege.withstands(|address| {
        let connections =
            attack::half_open_frames(address, 1_000, 99 << 20).expect("connections are accepted");
        std::thread::sleep(Duration::from_secs(2));
        connections
    });
    drop(connections);
}

#[test]
fn clients_that_never_read_disturb_nobody() {
    let _alone = alone();
    let mut siege = Siege::begin("hostile-readers");
    attack::fill_target(siege.address, 60);
    // Together they ask for 50 GB.
    let readers = siege.withstands(|address| {
        let readers = attack::readers_that_never_read(address, 50, 20).expect("connections are accepted");
        std::thread::sleep(Duration::from_secs(3));
        readers
    });
    drop(readers);
    let taken = siege.withstands(|address| {
        attack::requests_without_reading(address, 256 << 20).expect("connections are accepted")
    });
    println!("{taken} bytes of requests were taken from a client that never reads");
}
