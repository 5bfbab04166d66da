//! A well-behaved client: writes and reads steadily, and measures how long each takes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use meridian_compat::raw::{RawClient, plain_batch};

/// Time between two round trips.
const PACE: Duration = Duration::from_millis(4);

/// A probe at work.
pub struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Vec<Duration>>>,
}

/// What a probe has seen.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// Writes, each followed by a read of what was written.
    pub round_trips: usize,
    /// Of a write and a read.
    pub p50: Duration,
    /// Of a write and a read.
    pub p99: Duration,
    /// Of a write and a read.
    pub longest: Duration,
}

impl Probe {
    /// Starts writing to, and reading from, partition 0 of `topic`.
    pub fn start(address: SocketAddr, topic: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let topic = topic.to_owned();
        let thread = std::thread::Builder::new()
            .name("probe".into())
            .spawn(move || work(address, &topic, &stopped))
            .expect("a thread can be started");
        Self { stop, thread }
    }

    /// Stops it. Errors: one of its requests failed: it noticed something.
    pub fn finish(self) -> io::Result<Latency> {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = self.thread.join().expect("the probe does not panic")?;
        times.sort_unstable();
        let at = |part: usize| times[(times.len() - 1) * part / 1000];
        if times.is_empty() {
            return Err(io::Error::other("the probe made no round trip"));
        }
        Ok(Latency {
            round_trips: times.len(),
            p50: at(500),
            p99: at(990),
            longest: at(1000),
        })
    }

    /// Works for `time` with nothing else going on.
    pub fn alone(address: SocketAddr, topic: &str, time: Duration) -> io::Result<Latency> {
        let probe = Self::start(address, topic);
        std::thread::sleep(time);
        probe.finish()
    }
}

fn work(address: SocketAddr, topic: &str, stop: &AtomicBool) -> io::Result<Vec<Duration>> {
    let mut client = RawClient::connect(address)?;
    let mut times = Vec::new();
    // Once at least, however busy the machine is.
    while !stop.load(Ordering::Relaxed) || times.is_empty() {
        let value = times.len().to_be_bytes();
        let started = Instant::now();
        let (error, offset) = client.produce(topic, 0, &plain_batch(&[&value]))?;
        if error != 0 {
            return Err(io::Error::other(format!("produce: error {error}")));
        }
        let (error, _, records) = client.fetch(topic, 0, offset, 64 << 10)?;
        if error != 0 || !records.windows(value.len()).any(|w| w == value) {
            let message = format!("fetch of offset {offset}: error {error}, {} bytes", records.len());
            return Err(io::Error::other(message));
        }
        times.push(started.elapsed());
        std::thread::sleep(PACE);
    }
    Ok(times)
}
