//! `generate produce`: many connections send batches made beforehand as fast as they are acknowledged.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::connection::{Prepared, Responses, check_produced, connect};
use super::outcome::{Outcome, latencies};

/// Options of `generate produce`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// HOST:PORT of the server.
    #[arg(long)]
    pub bootstrap: String,
    /// Topic, which must exist.
    #[arg(long)]
    pub topic: String,
    /// Its partitions; every connection goes round over all of them.
    #[arg(long)]
    pub partitions: u32,
    /// Producers, each with one connection.
    #[arg(long, default_value_t = 64)]
    pub connections: u32,
    /// Bytes of a record.
    #[arg(long, default_value_t = 1024)]
    pub record_bytes: usize,
    /// Records of a batch; a request holds one batch.
    #[arg(long, default_value_t = 63)]
    pub batch_records: u32,
    /// Requests of a connection without an answer yet.
    #[arg(long, default_value_t = 5)]
    pub in_flight: usize,
    /// Seconds before the window.
    #[arg(long, default_value_t = 1.0)]
    pub warm_s: f64,
    /// Seconds of the window; ends earlier with `--bytes`.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// End once so many record bytes are acknowledged.
    #[arg(long)]
    pub bytes: Option<u64>,
}

/// Produces until the window ends. Errors: the first of any connection.
pub fn run(options: &Options) -> io::Result<Outcome> {
    let start = Instant::now() + Duration::from_secs_f64(options.warm_s);
    let end = start + Duration::from_secs_f64(options.seconds);
    let threads: Vec<_> = (0..options.connections)
        .map(|index| {
            let options = options.clone();
            thread::Builder::new()
                .name(format!("producer-{index}"))
                .stack_size(256 << 10)
                .spawn(move || produce(&options, index, start, end))
        })
        .collect::<io::Result<_>>()?;
    let mut total = Outcome {
        window_s: options.seconds,
        ..Outcome::default()
    };
    let mut all = latencies();
    let mut last = start;
    for thread in threads {
        let (bytes, window_bytes, ended, latencies) = thread.join().expect("producers do not panic")?;
        total.bytes += bytes;
        total.window_bytes += window_bytes;
        last = last.max(ended);
        all.add(&latencies).expect("all histograms have the same bounds");
    }
    if options.bytes.is_some() {
        total.window_s = last
            .duration_since(start)
            .as_secs_f64()
            .clamp(f64::EPSILON, options.seconds);
    }
    Ok(total.with_latencies(&all))
}

/// One connection: keeps `in_flight` requests under way. Gives bytes, those in the window, its end, and latencies.
fn produce(
    options: &Options,
    index: u32,
    start: Instant,
    end: Instant,
) -> io::Result<(u64, u64, Instant, Histogram<u64>)> {
    let mut stream = connect(&options.bootstrap)?;
    let mut responses = Responses::new(stream.try_clone()?, 4096);
    let seed = u64::from(index) * 2;
    let mut prepared = [seed, seed + 1]
        .map(|seed| Prepared::new(&options.topic, options.batch_records, options.record_bytes, seed));
    let batch_bytes = u64::from(options.batch_records) * options.record_bytes as u64;
    let share = options
        .bytes
        .map_or(u64::MAX, |bytes| bytes.div_ceil(u64::from(options.connections)));
    let first = u64::from(index) * u64::from(options.partitions) / u64::from(options.connections);
    let mut latencies = latencies();
    let mut sent_at = vec![Instant::now(); options.in_flight];
    let (mut sent, mut answered, mut window_bytes) = (0_usize, 0_usize, 0);
    loop {
        while sent - answered < options.in_flight && sent as u64 * batch_bytes < share && Instant::now() < end
        {
            let partition = (first + sent as u64) % u64::from(options.partitions);
            let partition = i32::try_from(partition).expect("partitions are far below 2^31");
            sent_at[sent % options.in_flight] = Instant::now();
            prepared[sent % 2].send(&mut stream, correlation(sent), partition)?;
            sent += 1;
        }
        if sent == answered {
            break;
        }
        check_produced(responses.next(correlation(answered))?)?;
        let now = Instant::now();
        if now >= start && now < end {
            window_bytes += batch_bytes;
            latencies.saturating_record(micros(now - sent_at[answered % options.in_flight]));
        }
        answered += 1;
    }
    Ok((
        answered as u64 * batch_bytes,
        window_bytes,
        Instant::now(),
        latencies,
    ))
}

/// Correlation ids wrap around.
pub(super) fn correlation(request: usize) -> i32 {
    (request & 0x7fff_ffff) as i32
}

/// Whole microseconds, at least 1.
pub(super) fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1)
}
