//! How many appends a second become durable: closed loop, one append in flight per log.
//!
//! `cargo run --release -p meridian-journal --example append_rate -- [DIR] [SECONDS] [LOGS]`
//! writes to DIR (default: a temporary directory under the current one, removed at the end).

#![expect(clippy::disallowed_methods, reason = "measures time")]
#![expect(clippy::unwrap_used, reason = "a measurement may panic")]

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_journal::{Disk, Durability, Entry, Journal, JournalSettings, RealDisk};
use meridian_types::{LogPosition, RaftIndex, ShardId, Term};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments
        .next()
        .map_or_else(|| PathBuf::from("append-rate.tmp"), PathBuf::from);
    let seconds = arguments.next().map_or(2.0, |seconds| seconds.parse().unwrap());
    let only: Option<u32> = arguments.next().map(|logs| logs.parse().unwrap());
    println!(
        "{:>6} {:>8} {:>7} {:>10} {:>8} {:>10} {:>10} {:>9} {:>9}",
        "logs", "bytes", "sync", "appends/s", "MB/s", "per round", "round us", "max us", "cpu us"
    );
    for (logs, bytes, durability) in [
        (1, 4096, Durability::Fsync),
        (8, 4096, Durability::Fsync),
        (64, 4096, Durability::Fsync),
        (512, 4096, Durability::Fsync),
        (64, 65_536, Durability::Fsync),
        (16, 1 << 20, Durability::Fsync),
        (64, 4096, Durability::Memory),
        (64, 65_536, Durability::Memory),
    ] {
        if only.is_some_and(|only| only != logs) {
            continue;
        }
        let _ = std::fs::remove_dir_all(&directory);
        measure(
            &directory,
            logs,
            bytes,
            durability,
            Duration::from_secs_f64(seconds),
        );
    }
    reopen(&directory);
    for (logs, bytes) in [
        (1, 4096),
        (8, 4096),
        (64, 4096),
        (512, 4096),
        (64, 65_536),
        (16, 1 << 20),
    ] {
        if only.is_some_and(|only| only as usize != logs) {
            continue;
        }
        bare(&directory, logs, bytes, Duration::from_secs_f64(seconds));
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

fn measure(directory: &Path, logs: u32, bytes: usize, durability: Durability, time: Duration) {
    let disk = Arc::new(RealDisk::open(directory).unwrap());
    let settings = JournalSettings {
        durability,
        file_bytes: 64 << 20,
        bytes_max: 384 << 20,
        cache_bytes: 64 << 20,
        ..JournalSettings::new(1)
    };
    let begin = Instant::now();
    let (journal, writer) = Journal::open(disk, settings).unwrap();
    let opened = begin.elapsed();
    let thread = std::thread::Builder::new()
        .name("journal".into())
        .spawn(move || writer.run())
        .unwrap();
    let payload = Bytes::from(vec![7; bytes]);
    let (done, told) = mpsc::channel();
    let mut next = vec![1_u64; logs as usize];
    let mut submit = |log: u32| {
        let index = next[log as usize];
        next[log as usize] += 1;
        let position = LogPosition {
            term: Term(1),
            index: RaftIndex(index),
        };
        let done = done.clone();
        journal.append(
            ShardId(log),
            vec![Entry {
                position,
                payload: payload.clone().into(),
            }],
            Box::new(move |result| {
                result.unwrap();
                let _ = done.send(log);
            }),
        );
        if index.is_multiple_of(8) {
            // As if tiered at once, so that files are used again.
            let through = LogPosition {
                term: Term(1),
                index: RaftIndex(index - 4),
            };
            journal.purge(ShardId(log), through, Box::new(|result| result.unwrap()));
            journal.release(ShardId(log), through.index);
        }
    };
    (0..logs).for_each(&mut submit);
    let warm = Instant::now();
    while warm.elapsed() < time / 4 {
        submit(told.recv().unwrap());
    }
    let (before, cpu, begin, mut appends) = (journal.usage(), cpu_us(), Instant::now(), 0_u64);
    while begin.elapsed() < time {
        for _ in 0..256 {
            submit(told.recv().unwrap());
        }
        appends += 256;
    }
    let (elapsed, usage) = (begin.elapsed().as_secs_f64(), journal.usage());
    let cpu = (cpu_us() - cpu) / appends as f64;
    let rounds = (usage.rounds - before.rounds).max(1);
    println!(
        "{logs:>6} {bytes:>8} {:>7} {:>10.0} {:>8.0} {:>10.1} {:>10.0} {:>9} {cpu:>9.1}   open {opened:?}, files {} retired {}",
        if durability == Durability::Fsync {
            "yes"
        } else {
            "behind"
        },
        appends as f64 / elapsed,
        appends as f64 * bytes as f64 / 1e6 / elapsed,
        appends as f64 / rounds as f64,
        (usage.round_us - before.round_us) as f64 / rounds as f64,
        usage.round_us_max,
        usage.files,
        usage.files_retired,
    );
    journal.shutdown();
    thread.join().unwrap();
}

/// The same rounds with nothing around them: one gathered write and one sync over a file written before.
fn bare(directory: &Path, logs: usize, bytes: usize, time: Duration) {
    let file_bytes = 256 << 20;
    let disk = RealDisk::open(directory).unwrap();
    let file = disk.create("bare", file_bytes).unwrap();
    let zeros = vec![0; 1 << 20];
    for at in (0..file_bytes).step_by(1 << 20) {
        file.write_at(at, &mut [IoSlice::new(&zeros)]).unwrap();
    }
    file.sync_data().unwrap();
    let payload = vec![7; bytes];
    let (cpu, begin, mut rounds, mut at) = (cpu_us(), Instant::now(), 0_u64, 0);
    while begin.elapsed() < time {
        let mut slices = vec![IoSlice::new(&payload); logs];
        file.write_at(at, &mut slices).unwrap();
        file.sync_data().unwrap();
        rounds += 1;
        at = (at + (logs * bytes) as u64) % (file_bytes - (logs * bytes) as u64);
    }
    let (elapsed, appends) = (begin.elapsed().as_secs_f64(), (rounds * logs as u64) as f64);
    let cpu = (cpu_us() - cpu) / appends;
    println!(
        "{logs:>6} {bytes:>8} {:>7} {:>10.0} {:>8.0} {logs:>10} {:>10.0} {:>9} {cpu:>9.1}",
        "bare",
        appends / elapsed,
        appends * bytes as f64 / 1e6 / elapsed,
        elapsed * 1e6 / rounds as f64,
        "",
    );
    disk.remove("bare").unwrap();
}

/// Opens what the last measurement left.
fn reopen(directory: &Path) {
    let disk = Arc::new(RealDisk::open(directory).unwrap());
    let begin = Instant::now();
    let (journal, _writer) = Journal::open(disk, JournalSettings::new(1)).unwrap();
    println!(
        "opened {} MB in {:?}",
        journal.usage().disk_bytes / 1_000_000,
        begin.elapsed()
    );
}

/// Time on processors of this process so far, in microseconds, as coarse as the system counts it.
fn cpu_us() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks * 10_000.0
}
