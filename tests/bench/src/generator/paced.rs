//! `generate paced`: requests of one record each at a fixed rate, on a schedule that never waits for the server (open
//! loop). A latency counts from the time a request was due, so a stall is charged to every request it delays
//! (coordinated omission).

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use meridian_compat::load::connect_any;

use super::connection::{Prepared, Responses, check_produced, connect};
use super::outcome::{Outcome, latencies};

/// Options of `generate paced`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// HOST:PORT,.. of servers.
    #[arg(long)]
    pub bootstrap: String,
    /// Topic, which must exist. Each partition has a connection to its leader; requests go round over them.
    #[arg(long)]
    pub topic: String,
    /// Bytes of a record.
    #[arg(long, default_value_t = 1024)]
    pub record_bytes: usize,
    /// Records per second, each a request of its own.
    #[arg(long)]
    pub rate: f64,
    /// Seconds before the window.
    #[arg(long, default_value_t = 1.0)]
    pub warm_s: f64,
    /// Seconds of the window.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
}

/// When request `n` is due.
#[derive(Clone, Copy)]
struct Schedule {
    start: Instant,
    rate: f64,
}

impl Schedule {
    fn due(&self, request: usize) -> Instant {
        self.start + Duration::from_secs_f64(request as f64 / self.rate)
    }
}

/// Produces at the rate. Errors: the first of any connection.
pub fn run(options: &Options) -> io::Result<Outcome> {
    let count = ((options.warm_s + options.seconds) * options.rate) as usize;
    let warm_count = (options.warm_s * options.rate) as usize;
    let leaders = leaders(options)?;
    let connections = leaders.len();
    let mut streams = Vec::new();
    let mut requests = Vec::new();
    for (partition, leader) in leaders.iter().enumerate() {
        streams.push(connect(leader)?);
        let seed = partition as u64;
        requests.push(Prepared::new(&options.topic, 1, options.record_bytes, seed));
    }
    let schedule = Schedule {
        start: Instant::now() + Duration::from_millis(50),
        rate: options.rate,
    };
    let readers: Vec<_> = streams
        .iter()
        .enumerate()
        .map(|(index, stream)| {
            let mut responses = Responses::new(stream.try_clone()?, 4096);
            thread::Builder::new()
                .name(format!("reader-{index}"))
                .spawn(move || {
                    let own = (index..count).step_by(connections);
                    read(&mut responses, schedule, own, warm_count)
                })
        })
        .collect::<io::Result<_>>()?;
    for request in 0..count {
        let now = Instant::now();
        let due = schedule.due(request);
        if due > now {
            thread::sleep(due - now);
        }
        let connection = request % connections;
        let partition = i32::try_from(connection).expect("partitions are few");
        requests[connection].send(&mut streams[connection], correlation(request), partition)?;
    }
    let mut all = latencies();
    for reader in readers {
        let latencies = reader.join().expect("readers do not panic")?;
        all.add(&latencies).expect("all histograms have the same bounds");
    }
    let record_bytes = options.record_bytes as u64;
    Ok(Outcome {
        bytes: count as u64 * record_bytes,
        window_bytes: (count - warm_count) as u64 * record_bytes,
        // The time until the last answer: a server that cannot keep the rate shows a lower one.
        window_s: Instant::now()
            .duration_since(schedule.due(warm_count))
            .as_secs_f64(),
        ..Outcome::default()
    }
    .with_latencies(&all))
}

/// The address of each partition's leader, in their order. Errors: a server does not answer, or a partition has no leader.
fn leaders(options: &Options) -> io::Result<Vec<String>> {
    let mut client = connect_any(&options.bootstrap)
        .ok_or_else(|| io::Error::other(format!("nobody answers at {}", options.bootstrap)))?;
    let metadata = client.metadata(&options.topic)?;
    if metadata.partitions.is_empty() || !metadata.has_leaders(metadata.partitions.len()) {
        return Err(io::Error::other(format!(
            "topic '{}' is not there with a leader for each partition: {metadata:?}",
            options.topic
        )));
    }
    let address = |leader| metadata.address(leader).map(str::to_owned);
    metadata
        .partitions
        .iter()
        .map(|it| address(it.leader).ok_or_else(|| io::Error::other("a leader without an address")))
        .collect()
}

/// Reads the answers of one connection; `own` are its requests.
fn read(
    responses: &mut Responses,
    schedule: Schedule,
    own: impl Iterator<Item = usize>,
    warm_count: usize,
) -> io::Result<Histogram<u64>> {
    let mut latencies = latencies();
    for request in own {
        check_produced(responses.next(correlation(request))?)?;
        if request >= warm_count {
            latencies.saturating_record(micros(
                Instant::now().saturating_duration_since(schedule.due(request)),
            ));
        }
    }
    Ok(latencies)
}

/// Correlation ids wrap around.
fn correlation(request: usize) -> i32 {
    (request & 0x7fff_ffff) as i32
}

/// Whole microseconds, at least 1.
fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_even_intervals_whatever_the_server_does() {
        let start = Instant::now();
        let schedule = Schedule {
            start,
            rate: 20_000.0,
        };
        assert_eq!(schedule.due(0), start);
        assert_eq!(schedule.due(20_000) - start, Duration::from_secs(1));
        assert_eq!(schedule.due(3) - schedule.due(2), Duration::from_micros(50));
    }
}
