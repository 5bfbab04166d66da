//! A far place behind a WAN, for as long as standard input is open, so that other programs can be tried over it.
//!
//! `cargo run --release -p meridian-cluster --example wan -- RTT_MS LOSS_PERCENT MB_PER_S QUEUE_MS`, as root. Prints the words
//! that lead to the far place and its addresses, and then each second what passed.

use std::io::{BufRead, stdin};
use std::num::NonZeroU64;
use std::thread::{sleep, spawn};
use std::time::Duration;

use meridian_cluster::Wan;
use meridian_wan_relay::{Conditions, Direction, Probability};

#[expect(clippy::disallowed_methods, reason = "a program beside real ones")]
fn main() -> Result<(), String> {
    let mut words = std::env::args().skip(1);
    let mut number = |default: f64| match words.next() {
        None => Ok(default),
        Some(word) => word.parse::<f64>().map_err(|_| format!("`{word}` is no number")),
    };
    let (rtt_ms, loss, rate, queue_ms) = (number(100.0)?, number(0.0)?, number(25.0)?, number(50.0)?);
    let mut conditions = Conditions::delayed(Duration::from_secs_f64(rtt_ms / 2000.0));
    conditions.loss.share = Probability::new(loss / 100.0).ok_or("expected a loss from 0 to 100")?;
    conditions.rate_bytes_per_second = NonZeroU64::new((rate * 1e6) as u64);
    conditions.queue_bytes_max = (rate * 1e3 * queue_ms) as usize;
    let wan = Wan::create()?;
    wan.link().set(Direction::Forward, conditions);
    wan.link().set(Direction::Backward, conditions);
    println!("{}", wan.enter().join(" "));
    println!(
        "near {}, far {}, watched {}",
        wan.near(),
        wan.far(),
        wan.far_watched()
    );
    let link = wan.link().clone();
    spawn(move || {
        let mut before = [Direction::Forward, Direction::Backward].map(|it| link.counters(it));
        loop {
            sleep(Duration::from_secs(1));
            let now = [Direction::Forward, Direction::Backward].map(|it| link.counters(it));
            for (name, now, before) in [("there", now[0], before[0]), ("back", now[1], before[1])] {
                let held = now.held_total.saturating_sub(before.held_total).as_secs_f64();
                let delivered = now.delivered_packets - before.delivered_packets;
                eprint!(
                    "{name}: {:.2} MB/s in, {:.2} out, {} packets, lost {}, queue full {}, refused {}, held {:.1} ms;  ",
                    (now.received_bytes - before.received_bytes) as f64 / 1e6,
                    (now.delivered_bytes - before.delivered_bytes) as f64 / 1e6,
                    now.received_packets - before.received_packets,
                    now.lost_packets - before.lost_packets,
                    now.queue_full_packets - before.queue_full_packets,
                    now.refused_packets - before.refused_packets,
                    held * 1e3 / (delivered.max(1)) as f64,
                );
            }
            eprintln!();
            before = now;
        }
    });
    // Until whoever started it is done.
    for _ in stdin().lock().lines() {}
    drop(wan);
    Ok(())
}
