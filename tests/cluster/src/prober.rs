//! One writer per partition that sends a small record again and again, never twice the same, and knows when each was
//! acknowledged: how long a partition was not served shows to the millisecond. Its history goes to the checker too, with
//! what no library tells: sends that failed for certain.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use meridian_checker::{Event, Value};
use meridian_compat::raw::{RawClient, plain_batch};
use parking_lot::Mutex;

use crate::view;

/// Errors of Produce after which the record is certainly not in the log: CORRUPT_MESSAGE, UNKNOWN_TOPIC_OR_PARTITION,
/// MESSAGE_TOO_LARGE, NOT_ENOUGH_REPLICAS, THROTTLING_QUOTA_EXCEEDED. A leader that steps down may answer
/// NOT_LEADER_OR_FOLLOWER for a record that its followers have.
const FAILED: [i16; 5] = [2, 3, 10, 19, 89];

/// Errors of Produce after which every client library tries again: those of Kafka's `RetriableException`. Any other reaches
/// the application.
const RETRIABLE: [i16; 13] = [2, 3, 5, 6, 7, 13, 19, 20, 56, 74, 75, 89, 100];

/// Producers of a prober have numbers from here: a million per partition, a new one after each unknown outcome, because a
/// request that nobody waits for any longer may still be served after the next one.
pub const FIRST_PRODUCER: u32 = 1_000_000;

/// How long a probe waits for its answer. Where a node falls silent, a partition counts as not served for as long, though
/// another client may be.
const PATIENCE: Duration = Duration::from_millis(1000);

/// Probes that run.
pub struct Prober {
    stopping: Arc<AtomicBool>,
    partitions: Vec<(Arc<Mutex<Partition>>, JoinHandle<()>)>,
}

/// What the probes of a partition have shown.
#[derive(Debug, Default)]
struct Partition {
    /// When a probe was sent, and when its acknowledgement came.
    acknowledged: Vec<(Instant, Instant)>,
    /// What became of all other attempts, and when.
    refusals: Vec<(Instant, String)>,
    /// Error codes that no client would retry.
    final_errors: BTreeSet<i16>,
    events: Vec<Event>,
}

impl Partition {
    fn served_after(&self, instant: Instant) -> Option<Duration> {
        let from = self.acknowledged.partition_point(|(sent, _)| *sent <= instant);
        let (_, acknowledged) = self.acknowledged.get(from)?;
        Some(*acknowledged - instant)
    }

    fn longest_silence(&self, from: Instant, now: Instant) -> Duration {
        let first = self.acknowledged.partition_point(|(_, at)| *at < from);
        let before = &self.acknowledged[first.saturating_sub(1)..];
        let gaps = before.windows(2).map(|pair| pair[1].1 - pair[0].1);
        let last = self.acknowledged.last().map_or(from, |(_, at)| *at);
        gaps.chain([now - last]).max().unwrap_or_default()
    }
}

/// How a probe ended.
enum Outcome {
    Acknowledged {
        offset: u64,
    },
    Failed {
        reason: String,
    },
    Unknown {
        reason: String,
    },
    /// It was never sent.
    Unsent {
        reason: String,
    },
}

impl Prober {
    /// Starts a probe of each partition every `interval`.
    pub fn start(nodes: &[SocketAddr], topic: &str, partitions: u32, interval: Duration) -> Self {
        Self::start_padded(nodes, topic, partitions, interval, 0)
    }

    /// The same, with so many spaces behind each record's content.
    pub fn start_padded(
        nodes: &[SocketAddr],
        topic: &str,
        partitions: u32,
        interval: Duration,
        padding_bytes: usize,
    ) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let start = |partition: u32| {
            let shown = Arc::new(Mutex::new(Partition::default()));
            let mut probe = Probe {
                nodes: nodes.to_vec(),
                topic: topic.to_owned(),
                partition,
                leader: None,
                asked: partition as usize,
                producer: FIRST_PRODUCER * (partition + 1),
                sequence: 0,
                padding_bytes,
                shown: shown.clone(),
            };
            let stopping = stopping.clone();
            let run = move || {
                while !stopping.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    probe.once();
                    thread::sleep(interval.saturating_sub(started.elapsed()));
                }
            };
            let thread = thread::Builder::new().name(format!("probe-{partition}"));
            (shown, thread.spawn(run).expect("a thread for each partition"))
        };
        Self {
            partitions: (0..partitions).map(start).collect(),
            stopping,
        }
    }

    /// How long after `instant` the first probe of a partition was acknowledged that was sent after it.
    pub fn served_after(&self, partition: usize, instant: Instant) -> Option<Duration> {
        self.partitions[partition].0.lock().served_after(instant)
    }

    /// Whether every partition was served by a probe sent after `instant`.
    pub fn all_served_after(&self, instant: Instant) -> bool {
        (0..self.partitions.len()).all(|partition| self.served_after(partition, instant).is_some())
    }

    /// For how long every partition has been without an acknowledgement by now.
    pub fn quiet_for(&self) -> Duration {
        let of = |(shown, _): &(Arc<Mutex<Partition>>, JoinHandle<()>)| {
            let last = shown.lock().acknowledged.last().map(|(_, at)| at.elapsed());
            last.unwrap_or_default()
        };
        self.partitions.iter().map(of).min().unwrap_or_default()
    }

    /// The longest time without an acknowledgement, over all partitions, that ended after `from` or has not ended.
    pub fn longest_silence(&self, from: Instant) -> Duration {
        self.silences(from).into_iter().max().unwrap_or_default()
    }

    /// Of each partition, the longest time without an acknowledgement that ended after `from` or has not ended.
    pub fn silences(&self, from: Instant) -> Vec<Duration> {
        let silence = |shown: &Partition| shown.longest_silence(from, Instant::now());
        let partitions = self.partitions.iter();
        partitions.map(|(shown, _)| silence(&shown.lock())).collect()
    }

    /// Errors that were answered and that a client does not retry: its application would see them.
    pub fn final_errors(&self) -> BTreeSet<i16> {
        let of = |(shown, _): &(Arc<Mutex<Partition>>, JoinHandle<()>)| shown.lock().final_errors.clone();
        self.partitions.iter().flat_map(of).collect()
    }

    /// What the partition that was silent for the longest time was told since `from`: lines for people.
    pub fn explain(&self, from: Instant) -> String {
        let silence = |shown: &Partition| shown.longest_silence(from, Instant::now());
        let longest =
            |(_, (shown, _)): &(usize, &(Arc<Mutex<Partition>>, JoinHandle<()>))| silence(&shown.lock());
        let Some((partition, (shown, _))) = self.partitions.iter().enumerate().max_by_key(longest) else {
            return String::new();
        };
        let shown = shown.lock();
        let since = shown.refusals.partition_point(|(at, _)| *at < from);
        let mut text = format!("partition {partition}:");
        let mut last = "";
        for (at, reason) in &shown.refusals[since..] {
            if reason != last {
                text.push_str(&format!("\n  {:6} ms {reason}", (*at - from).as_millis()));
                last = reason;
            }
        }
        text
    }

    /// Stops, and gives the history.
    pub fn finish(self) -> Vec<Event> {
        self.stopping.store(true, Ordering::Relaxed);
        let mut events = Vec::new();
        for (shown, thread) in self.partitions {
            drop(thread.join());
            events.append(&mut shown.lock().events);
        }
        events
    }
}

struct Probe {
    nodes: Vec<SocketAddr>,
    topic: String,
    partition: u32,
    /// Node id and connection.
    leader: Option<(i32, RawClient)>,
    /// Whom to ask for the leader next.
    asked: usize,
    producer: u32,
    sequence: u64,
    padding_bytes: usize,
    shown: Arc<Mutex<Partition>>,
}

impl Probe {
    fn once(&mut self) {
        let value = Value {
            producer: self.producer,
            partition: self.partition,
            sequence: self.sequence,
        };
        let sent = Instant::now();
        let outcome = self.send(value);
        let mut shown = self.shown.lock();
        match outcome {
            Outcome::Acknowledged { offset } => {
                self.sequence += 1;
                shown.events.push(Event::Ok { value, offset });
                shown.acknowledged.push((sent, Instant::now()));
            }
            Outcome::Failed { reason } => {
                self.sequence += 1;
                shown.events.push(Event::Fail { value });
                shown.refusals.push((Instant::now(), reason));
            }
            Outcome::Unknown { reason } => {
                self.producer += 1;
                self.sequence = 0;
                shown.events.push(Event::Unknown { value });
                shown.refusals.push((Instant::now(), reason));
            }
            Outcome::Unsent { reason } => shown.refusals.push((Instant::now(), reason)),
        }
    }

    fn send(&mut self, value: Value) -> Outcome {
        let (node, mut client) = match self.leader.take().map_or_else(|| self.find_leader(), Ok) {
            Ok(leader) => leader,
            Err(reason) => return Outcome::Unsent { reason },
        };
        let padding = " ".repeat(self.padding_bytes);
        let content = format!(
            "{} {} {}{padding}",
            value.producer, value.partition, value.sequence
        );
        let batch = plain_batch(&[content.as_bytes()]);
        let partition = i32::try_from(self.partition).expect("few partitions");
        let told = client.produce(&self.topic, partition, &batch);
        let reason = match &told {
            Ok((error, offset)) => format!("node {node} answers error {error}, offset {offset}"),
            Err(e) => format!("node {node}: {e}"),
        };
        match told {
            Ok((0, offset)) => {
                self.leader = Some((node, client));
                match u64::try_from(offset) {
                    Ok(offset) => Outcome::Acknowledged { offset },
                    // Acknowledged nowhere: the checker shall not take it for a success.
                    Err(_) => Outcome::Unknown { reason },
                }
            }
            Ok((error, _)) => {
                if !RETRIABLE.contains(&error) {
                    self.shown.lock().final_errors.insert(error);
                }
                match FAILED.contains(&error) {
                    true => Outcome::Failed { reason },
                    false => Outcome::Unknown { reason },
                }
            }
            Err(_) => Outcome::Unknown { reason },
        }
    }

    /// Asks one node after the other, a different one first each time: one that is cut off keeps believing in itself.
    fn find_leader(&mut self) -> Result<(i32, RawClient), String> {
        self.asked += 1;
        let first = self.asked % self.nodes.len();
        let (before, from) = self.nodes.split_at(first);
        let order: Vec<SocketAddr> = from.iter().chain(before).copied().collect();
        let partition = i32::try_from(self.partition).expect("few partitions");
        let metadata = view::metadata(&order, &self.topic).ok_or("no node answers")?;
        let found = metadata.partitions.iter().find(|p| p.partition == partition);
        let leader = found.map_or(-1, |p| p.leader);
        let address = metadata
            .address(leader)
            .and_then(|address| address.parse().ok())
            .ok_or_else(|| format!("{} names node {leader} as leader", order[0]))?;
        let client = RawClient::connect_within(address, PATIENCE)
            .map_err(|e| format!("cannot connect to node {leader}: {e}"))?;
        Ok((leader, client))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probes that were acknowledged a millisecond after they were sent.
    fn acknowledged_at(start: Instant, times_ms: &[u64]) -> Partition {
        let at = |ms: &u64| start + Duration::from_millis(*ms);
        Partition {
            acknowledged: times_ms.iter().map(|ms| (at(&(ms - 1)), at(ms))).collect(),
            ..Partition::default()
        }
    }

    #[test]
    fn the_longest_silence_is_that_around_the_fault() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let shown = acknowledged_at(start, &[10, 900, 910, 920, 1320, 1330]);
        let silence = |from, now| shown.longest_silence(at(from), at(now)).as_millis();
        // The first long one was over before the fault.
        assert_eq!(silence(915, 1340), 400);
        assert_eq!(silence(915, 2330), 1000);
        assert_eq!(silence(500, 1340), 890);
        let none = Partition::default();
        assert_eq!(none.longest_silence(at(100), at(300)).as_millis(), 200);
    }

    #[test]
    fn an_answer_that_was_under_way_is_no_service_after_the_fault() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let shown = acknowledged_at(start, &[100, 500]);
        assert_eq!(shown.served_after(at(99)), Some(Duration::from_millis(401)));
        assert_eq!(shown.served_after(at(98)), Some(Duration::from_millis(2)));
        assert_eq!(shown.served_after(at(499)), None);
    }
}
