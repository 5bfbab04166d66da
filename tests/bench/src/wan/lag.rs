//! How long a record takes from its sending until a consumer at the far place can read it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use meridian_compat::raw::{RawClient, plain_batch, plain_records};
use serde::Serialize;

use super::pair::{Pair, System, TIMED};
use super::wait_for;
use super::weather::Weather;

/// Of each partition.
const RECORDS_PER_SECOND: f64 = 100.0;

/// A value: the time of its sending, and as much as makes a kilobyte.
const RECORD_BYTES: usize = 1024;

/// Between two looks at the far place.
const LOOK: Duration = Duration::from_millis(2);

/// Before the window.
const WARM: Duration = Duration::from_secs(2);

/// How long after a cut everything must be as before.
const RECOVERY: Duration = Duration::from_secs(120);

/// How long records took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Lag {
    /// Who copied.
    pub system: System,
    /// Over which link.
    pub weather: Weather,
    /// Records.
    pub records: usize,
    /// Milliseconds.
    pub p50_ms: f64,
    /// Milliseconds.
    pub p99_ms: f64,
    /// Milliseconds.
    pub max_ms: f64,
}

impl Lag {
    /// What the 99th percentile is to be at most: half the round trip and 100 ms.
    pub fn aim_ms(weather: Weather) -> f64 {
        weather.rtt_ms as f64 / 2.0 + 100.0
    }
}

/// What a cut did.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cut {
    /// Who copied.
    pub system: System,
    /// Over which link.
    pub weather: Weather,
    /// Seconds without a link.
    pub cut_s: f64,
    /// Seconds after its return until every record came in time again ([`Lag::aim_ms`]).
    pub recovered_s: f64,
    /// Records that were written in all.
    pub written: usize,
    /// Records that had arrived in the end, each counted once.
    pub arrived: usize,
    /// Records that arrived more than once.
    pub doubled: usize,
}

/// A record at the far place: its partition and number, when it was sent, and when it was seen.
#[derive(Clone, Copy)]
struct Seen {
    partition: i32,
    number: u64,
    sent_ns: u64,
    seen_ns: u64,
}

impl Seen {
    fn lag_ms(&self) -> f64 {
        self.seen_ns.saturating_sub(self.sent_ns) as f64 / 1e6
    }
}

/// Writes for a window at a low rate. Errors: a client fails; a record does not arrive.
pub(super) fn measure(pair: &Pair, weather: Weather, window: Duration) -> Result<Lag, String> {
    pair.prepare(weather)?;
    let begun = now_ns();
    let (written, seen) = traffic(pair, || {
        sleep(WARM + window);
        Ok(())
    })?;
    let after = begun + u64::try_from(WARM.as_nanos()).expect("seconds");
    let mut lags: Vec<f64> = seen
        .iter()
        .filter(|it| it.sent_ns >= after)
        .map(Seen::lag_ms)
        .collect();
    if seen.len() < written || lags.is_empty() {
        return Err(format!("{written} records written, {} arrived", seen.len()));
    }
    lags.sort_by(f64::total_cmp);
    let at = |share: f64| lags[((lags.len() - 1) as f64 * share) as usize];
    Ok(Lag {
        system: pair.system,
        weather,
        records: lags.len(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        max_ms: at(1.0),
    })
}

/// Cuts the link while records are written. Errors: a client fails; nothing is as before within two minutes.
pub(super) fn cut(pair: &Pair, weather: Weather, length: Duration) -> Result<Cut, String> {
    pair.prepare(weather)?;
    let mut healed = 0;
    let (written, seen) = traffic(pair, || {
        sleep(WARM);
        pair.wan.link().cut();
        sleep(length);
        pair.wan.link().heal();
        healed = now_ns();
        let mut far = pair.far()?;
        // Then as long again as it takes to see that it stays so.
        wait_for("a record sent after the cut", RECOVERY, || {
            let sent_ns = newest(&mut far)?;
            Ok(sent_ns.filter(|sent_ns| *sent_ns > healed))
        })?;
        sleep(Duration::from_secs(10));
        Ok(())
    })?;
    let late = seen
        .iter()
        .filter(|it| it.seen_ns > healed && it.lag_ms() > Lag::aim_ms(weather));
    let recovered = late.map(|it| it.seen_ns).max().unwrap_or(healed);
    let mut numbers: Vec<(i32, u64)> = seen.iter().map(|it| (it.partition, it.number)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    Ok(Cut {
        system: pair.system,
        weather,
        cut_s: length.as_secs_f64(),
        recovered_s: (recovered - healed) as f64 / 1e9,
        written,
        arrived: numbers.len(),
        doubled: seen.len() - numbers.len(),
    })
}

/// When the newest record of the first partition was sent.
fn newest(far: &mut RawClient) -> Result<Option<u64>, String> {
    let told = |e: std::io::Error| e.to_string();
    let end = far.fetch_from_any(TIMED.0, 0, 0, 1).map_err(told)?.high_watermark;
    let answer = far
        .fetch_from_any(TIMED.0, 0, (end - 1).max(0), 1 << 20)
        .map_err(told)?;
    let (records, _) = plain_records(&answer.records).map_err(told)?;
    let value = records.last().and_then(|record| record.value.clone());
    Ok(value.and_then(|value| parse(&value)).map(|(_, sent_ns)| sent_ns))
}

/// Writes to all partitions and watches the far place while `meanwhile` lasts, and then until everything has arrived
/// or has had time to. Gives how many records were written, and all that were seen.
fn traffic(
    pair: &Pair,
    meanwhile: impl FnOnce() -> Result<(), String>,
) -> Result<(usize, Vec<Seen>), String> {
    let (writing, watching) = (AtomicBool::new(true), AtomicBool::new(true));
    thread::scope(|scope| {
        let watchers: Vec<_> = (0..TIMED.1)
            .map(|partition| {
                let watching = &watching;
                scope.spawn(move || watch(pair, partition, watching))
            })
            .collect();
        let writers: Vec<_> = (0..TIMED.1)
            .map(|partition| {
                let writing = &writing;
                scope.spawn(move || write(pair, partition, writing))
            })
            .collect();
        let ended = meanwhile();
        writing.store(false, Ordering::Relaxed);
        let mut written = 0;
        let mut result = ended;
        for writer in writers {
            match writer
                .join()
                .unwrap_or_else(|_| Err("a writer panicked".to_owned()))
            {
                Ok(count) => written += count,
                Err(reason) => result = result.and(Err(reason)),
            }
        }
        // What is still under way.
        sleep(Duration::from_secs(3));
        watching.store(false, Ordering::Relaxed);
        let mut seen = Vec::new();
        for watcher in watchers {
            match watcher
                .join()
                .unwrap_or_else(|_| Err("a watcher panicked".to_owned()))
            {
                Ok(some) => seen.extend(some),
                Err(reason) => result = result.and(Err(reason)),
            }
        }
        result.map(|()| (written, seen))
    })
}

fn write(pair: &Pair, partition: i32, goes_on: &AtomicBool) -> Result<usize, String> {
    let mut client = pair.near()?;
    let begun = Instant::now();
    let mut count = 0_u64;
    while goes_on.load(Ordering::Relaxed) {
        let due = begun + Duration::from_secs_f64(count as f64 / RECORDS_PER_SECOND);
        sleep(due.saturating_duration_since(Instant::now()));
        let mut value = vec![0x5a; RECORD_BYTES];
        value[..8].copy_from_slice(&count.to_be_bytes());
        value[8..16].copy_from_slice(&now_ns().to_be_bytes());
        let produced = client.produce(TIMED.0, partition, &plain_batch(&[&value]));
        match produced.map_err(|e| format!("cannot write: {e}"))? {
            (0, _) => count += 1,
            (error, _) => return Err(format!("error {error} to a write")),
        }
    }
    Ok(usize::try_from(count).expect("few records"))
}

fn watch(pair: &Pair, partition: i32, goes_on: &AtomicBool) -> Result<Vec<Seen>, String> {
    let told = |e: std::io::Error| format!("cannot watch: {e}");
    let mut client = pair.far()?;
    let first = client.fetch_from_any(TIMED.0, partition, 0, 1).map_err(told)?;
    let mut offset = first.high_watermark;
    let mut seen = Vec::new();
    while goes_on.load(Ordering::Relaxed) {
        let answer = client
            .fetch_from_any(TIMED.0, partition, offset, 1 << 20)
            .map_err(told)?;
        let seen_ns = now_ns();
        let (records, end) = plain_records(&answer.records).map_err(told)?;
        let Some(end) = end else {
            sleep(LOOK);
            continue;
        };
        for record in records.iter().filter(|record| record.offset >= offset) {
            if let Some((number, sent_ns)) = record.value.as_deref().and_then(parse) {
                seen.push(Seen {
                    partition,
                    number,
                    sent_ns,
                    seen_ns,
                });
            }
        }
        offset = end;
    }
    Ok(seen)
}

/// Number and time of a value; `None` for one that is too short.
fn parse(value: &[u8]) -> Option<(u64, u64)> {
    let number = value.get(..8)?.try_into().ok()?;
    let sent_ns = value.get(8..16)?.try_into().ok()?;
    Some((u64::from_be_bytes(number), u64::from_be_bytes(sent_ns)))
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.expect("the clock is past 1970").as_nanos()).expect("before the year 2500")
}
