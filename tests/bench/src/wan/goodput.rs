//! How much arrives while more is there than the link carries.

use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use meridian_compat::raw::plain_batch;
use meridian_wan_relay::Direction;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use super::pair::{ONE, Pair, SIXTEEN, System, ends};
use super::weather::Weather;

/// Before the window: congestion control finds the rate.
const WARM: Duration = Duration::from_secs(4);

/// The values of records, in bytes.
const RECORD_BYTES: u64 = 1024;

/// Records of a batch.
const BATCH_RECORDS: u32 = 256;

/// Different batches of a partition, 4 MiB in all: what is sent together never repeats itself, so no codec gains anything.
const BATCHES: usize = 16;

/// How much more is written than the link carries until the window ends.
const AHEAD: f64 = 1.3;

/// How much arrived.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Goodput {
    /// Who copied.
    pub system: System,
    /// Over which link.
    pub weather: Weather,
    /// In how many partitions.
    pub partitions: i32,
    /// MB/s of record values that consumers can read at the far place.
    pub mb_per_s: f64,
    /// Bytes that were put on the link for each byte of a value; what got lost on it counts.
    pub sent_per_byte: f64,
    /// CPU seconds of the near server for each GB of values.
    pub near_cpu_s_per_gb: f64,
    /// Of the far one.
    pub far_cpu_s_per_gb: f64,
    /// Of the process that copies, where that is one of its own.
    pub copier_cpu_s_per_gb: f64,
}

impl Goodput {
    /// The share of what the link carries.
    pub fn share(&self) -> f64 {
        self.mb_per_s / self.weather.rate_mb
    }
}

/// Writes more than the link carries, and counts what arrives in a window.
///
/// Errors: a client fails; the source ran dry before the window was over.
pub(super) fn measure(
    pair: &Pair,
    weather: Weather,
    partitions: i32,
    window: Duration,
) -> Result<Goodput, String> {
    let topic = if partitions == 1 { ONE } else { SIXTEEN };
    pair.prepare(weather)?;
    let bytes = AHEAD * weather.rate_mb * 1e6 * (WARM + window).as_secs_f64();
    let batches = (bytes / f64::from(BATCH_RECORDS) / RECORD_BYTES as f64) as u64;
    let begun = Instant::now();
    let filled = thread::scope(|scope| {
        let writers: Vec<_> = (0..partitions)
            .map(|partition| {
                let count = batches / u64::from(partitions.unsigned_abs()) + 1;
                scope.spawn(move || fill(pair, topic.0, partition, count))
            })
            .collect();
        let measured = window_of(pair, topic, begun, weather, window);
        let ended = writers.into_iter().map(|writer| {
            writer
                .join()
                .unwrap_or_else(|_| Err("a writer panicked".to_owned()))
        });
        ended.collect::<Result<(), String>>().and(measured)
    })?;
    let near: i64 = ends(&mut pair.near()?, topic)?.iter().sum();
    if filled.far_end >= near {
        return Err(format!(
            "the source ran dry: {near} records written, all arrived in the window"
        ));
    }
    Ok(filled.goodput)
}

/// Writes batches into one partition, one after the other.
fn fill(pair: &Pair, topic: &str, partition: i32, count: u64) -> Result<(), String> {
    let mut random = SmallRng::seed_from_u64(u64::from(partition.unsigned_abs()));
    let mut value = vec![0; RECORD_BYTES as usize];
    let batches: Vec<Vec<u8>> = (0..BATCHES)
        .map(|_| {
            let values: Vec<Vec<u8>> = (0..BATCH_RECORDS)
                .map(|_| {
                    random.fill_bytes(&mut value);
                    value.clone()
                })
                .collect();
            let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
            plain_batch(&values)
        })
        .collect();
    let mut client = pair.near()?;
    for batch in batches
        .iter()
        .cycle()
        .take(usize::try_from(count).unwrap_or(usize::MAX))
    {
        let produced = client.produce(topic, partition, batch);
        match produced.map_err(|e| format!("cannot write: {e}"))? {
            (0, _) => {}
            (error, _) => return Err(format!("error {error} to a write")),
        }
    }
    Ok(())
}

struct Window {
    goodput: Goodput,
    far_end: i64,
}

fn window_of(
    pair: &Pair,
    topic: (&str, i32),
    begun: Instant,
    weather: Weather,
    window: Duration,
) -> Result<Window, String> {
    let mut far = pair.far()?;
    let mut look = || -> Result<_, String> {
        let end: i64 = ends(&mut far, topic)?.iter().sum();
        let sent = pair.wan.link().counters(Direction::Forward).received_bytes;
        Ok((Instant::now(), end, sent, pair.cpu()?))
    };
    sleep(WARM.saturating_sub(begun.elapsed()));
    let (from, first, sent_before, before) = look()?;
    sleep(window);
    let (until, far_end, sent_after, after) = look()?;
    let values = (far_end - first) as f64 * RECORD_BYTES as f64;
    if values == 0.0 {
        return Err("nothing arrived".to_owned());
    }
    let gb = values / 1e9;
    let goodput = Goodput {
        system: pair.system,
        weather,
        partitions: topic.1,
        mb_per_s: values / 1e6 / (until - from).as_secs_f64(),
        sent_per_byte: (sent_after - sent_before) as f64 / values,
        near_cpu_s_per_gb: (after.near_s - before.near_s) / gb,
        far_cpu_s_per_gb: (after.far_s - before.far_s) / gb,
        copier_cpu_s_per_gb: (after.copier_s - before.copier_s) / gb,
    };
    Ok(Window { goodput, far_end })
}
