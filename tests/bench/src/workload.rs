//! What is done to each system.

use std::fmt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::client::{self, JavaProduce};
use crate::generator::outcome::Outcome;
use crate::machine::{self, MachineCpu};
use crate::sample::{Found, Sample};
use crate::system::{Running, System};

/// Bytes of every record.
const RECORD_BYTES: u64 = 1024;
/// Records per second, for two seconds, that consumers read then: 410 MB, below the 512 MiB that a node of ours keeps in
/// memory, and below any page cache.
const FILL_RATE: u64 = 200_000;
/// Topics of one partition each in a system that idles.
const IDLE_TOPICS: u32 = 1000;
/// How long what creating topics set off may go on.
const IDLE_SETTLE: Duration = Duration::from_secs(15);
/// Seconds of a portion of the warm-up; its topic is gone before the next.
pub const WARM_PORTION_S: f64 = 3.0;

/// One thing to do, always with records of 1 KiB and acks=all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// librdkafka, one producer, 16 partitions, 64 KiB batches, linger 5 ms, 5 in flight.
    Rdkafka,
    /// The same with 1 MB batches and linger 50 ms.
    Rdkafka1m,
    /// 64 producers with prepared 64 KiB batches, 16 partitions, 5 in flight each on each broker.
    Prepared16,
    /// The same over 1000 partitions.
    Prepared1000,
    /// 20,000 records/s (10,000 on several nodes), one record in each request, open loop, 16 partitions, a connection for each.
    Paced,
    /// Java's `ProducerPerformance` at the same rate, linger 0.
    JavaPaced,
    /// Java's `ProducerPerformance`, 16 partitions, 64 KiB batches, linger 5 ms.
    Java,
    /// Two consumers of `meridian bench` read 410 MB that were just produced, over and over.
    Consume,
    /// Java's `ConsumerPerformance` reads the same.
    JavaConsume,
    /// 1000 topics, and nobody asks for anything.
    Idle,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no workload is skipped");
        f.write_str(value.get_name())
    }
}

/// How long each takes.
#[derive(Clone, Debug, Serialize)]
pub struct Length {
    /// Seconds of a window.
    pub seconds: f64,
    /// Seconds of a client before its window.
    pub warm_s: f64,
    /// Record bytes that a freshly started system takes in before anything is measured.
    pub warm_bytes: u64,
    /// Seconds over which an idle system is watched.
    pub idle_s: f64,
}

impl Length {
    /// As long as it takes; `quick`: long enough to see what works.
    pub fn of(nodes: usize, quick: bool) -> Self {
        Self {
            // Three nodes write all three times, on one disk.
            seconds: match (nodes, quick) {
                (1, false) => 10.0,
                (1, true) => 4.0,
                (_, false) => 6.0,
                (_, true) => 3.0,
            },
            warm_s: if nodes == 1 && !quick { 2.0 } else { 1.0 },
            warm_bytes: if quick { 1_000_000_000 } else { 5_000_000_000 },
            idle_s: if quick { 20.0 } else { 60.0 },
        }
    }

    /// Records of a Java producer that goes as fast as it can.
    fn java_records(&self) -> u64 {
        (self.seconds * 100_000.0) as u64
    }
}

impl Workload {
    /// Those of a run, in order.
    pub fn all(nodes: usize) -> Vec<Self> {
        if nodes == 1 {
            vec![
                Self::Rdkafka,
                Self::Prepared16,
                Self::Prepared1000,
                Self::Paced,
                Self::JavaPaced,
                Self::Java,
                Self::Consume,
                Self::JavaConsume,
            ]
        } else {
            vec![
                Self::Rdkafka,
                Self::Rdkafka1m,
                Self::Prepared16,
                Self::Prepared1000,
                Self::Paced,
                Self::Idle,
            ]
        }
    }

    /// Whether its client is librdkafka.
    pub fn needs_rdkafka(self) -> bool {
        matches!(self, Self::Rdkafka | Self::Rdkafka1m)
    }

    /// Partitions of each of its topics.
    fn partitions(self) -> u32 {
        match self {
            Self::Prepared1000 => 1000,
            Self::Idle => 1,
            _ => 16,
        }
    }

    /// Does it to a running system: topic, data to read, then what is measured, then the topic goes.
    ///
    /// Errors: a client failed or the server refused something.
    pub fn run(
        self,
        on: &Running,
        block: u32,
        length: &Length,
        rdkafka: Option<&Path>,
    ) -> Result<Sample, String> {
        on.settle()?;
        let topics = match self {
            Self::Idle => (0..IDLE_TOPICS).map(|n| format!("{self}-{block}-{n}")).collect(),
            _ => vec![format!("{self}-{block}")],
        };
        let found = topics
            .iter()
            .try_for_each(|topic| on.create_topic(topic, self.partitions(), &[]))
            .and_then(|()| match self {
                Self::Idle => idle(on, length),
                _ => self.load(on, &topics[0], length, rdkafka),
            });
        // Also after a failure: the disk is for the next one.
        let deleted = on.delete_topics(&topics);
        let (found, outside_share) = found?;
        deleted?;
        Ok(Sample {
            block,
            system: on.system,
            workload: self,
            outside_share,
            found,
        })
    }

    fn load(
        self,
        on: &Running,
        topic: &str,
        length: &Length,
        rdkafka: Option<&Path>,
    ) -> Result<(Found, f64), String> {
        let work = Work {
            workload: self,
            bootstrap: on.bootstrap(),
            directory: on.directory().join(format!("{topic}.client")),
            topic,
            length,
            rate: if on.nodes() == 1 { 20_000 } else { 10_000 },
            rdkafka,
        };
        std::fs::create_dir_all(&work.directory).map_err(|e| format!("cannot make a directory: {e}"))?;
        let filled = work.prepare()?;
        let (outcome, used) = watch(on, || work.measure(filled))?;
        let gb = outcome.bytes as f64 / 1e9;
        let found = Found::Load {
            mb_per_s: outcome.mb_per_s(),
            server_cpu_s_per_gb: used.server_s / gb,
            client_cpu_s_per_gb: used.client_s / gb,
            outcome,
        };
        Ok((found, used.outside_share))
    }
}

/// Nothing happens, for a while.
fn idle(on: &Running, length: &Length) -> Result<(Found, f64), String> {
    sleep(IDLE_SETTLE);
    let ((), used) = watch(on, || {
        sleep(Duration::from_secs_f64(length.idle_s));
        Ok(())
    })?;
    let core_percent = used.server_s * 100.0 / used.elapsed_s;
    Ok((Found::Idle { core_percent }, used.outside_share))
}

/// CPU time that went by while something was measured.
struct Used {
    server_s: f64,
    client_s: f64,
    elapsed_s: f64,
    outside_share: f64,
}

/// Measures what the servers, the clients and others use meanwhile.
fn watch<T>(on: &Running, measured: impl FnOnce() -> Result<T, String>) -> Result<(T, Used), String> {
    // What an earlier workload left unwritten is not this one's burden.
    rustix::fs::sync();
    let before = (on.cpu_s()?, machine::ended_children_cpu_s());
    let (machine_before, start) = (MachineCpu::now(), Instant::now());
    let result = measured();
    let elapsed_s = start.elapsed().as_secs_f64();
    let machine_after = MachineCpu::now();
    // A node that ended explains why the client failed.
    let server_s = on.cpu_s()? - before.0;
    let value = result?;
    let client_s = machine::ended_children_cpu_s() - before.1;
    let outside_s = machine_after.busy_s - machine_before.busy_s - server_s - client_s
        + (machine_after.steal_s - machine_before.steal_s);
    let used = Used {
        server_s,
        client_s,
        elapsed_s,
        outside_share: (outside_s / elapsed_s / machine::cores() as f64).max(0.0),
    };
    Ok((value, used))
}

/// Takes at least `bytes` of records into a running system, as [`Workload::Prepared16`] does; gives the last seconds of it.
///
/// Errors: as [`Workload::run`].
pub fn warm(on: &Running, bytes: u64) -> Result<Outcome, String> {
    // Kafka with a flush for every message would take minutes; its flushing is warmed by the workloads themselves.
    let unflushed = [("flush.messages", "9223372036854775807")];
    let configs: &[(&str, &str)] = if on.system == System::K1 { &unflushed } else { &[] };
    let mut taken = 0;
    for portion in 1.. {
        let topic = format!("warm-{portion}");
        on.settle()?;
        on.create_topic(&topic, 16, configs)?;
        let arguments = format!("{PREPARED} --topic {topic} --partitions 16 --duration {WARM_PORTION_S}s");
        let outcome = client::meridian_bench(on.directory(), on.bootstrap(), &words(&arguments));
        on.delete_topics(&[topic])?;
        let outcome = outcome?;
        taken += outcome.bytes;
        if taken >= bytes {
            return Ok(outcome);
        }
    }
    unreachable!("there are more portions than bytes")
}

/// 64 producers with prepared batches; every second counts.
const PREPARED: &str = "produce --prepared --producers 64 --warmup 0s";

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// A workload with all it needs.
struct Work<'a> {
    workload: Workload,
    bootstrap: &'a str,
    directory: PathBuf,
    topic: &'a str,
    length: &'a Length,
    /// Records per second of the latency workloads.
    rate: u64,
    rdkafka: Option<&'a Path>,
}

impl Work<'_> {
    /// What does not count. Gives the bytes that consumers will find.
    fn prepare(&self) -> Result<u64, String> {
        let (topic, partitions) = (self.topic, self.workload.partitions());
        let arguments = match self.workload {
            Workload::Consume | Workload::JavaConsume => {
                format!(
                    "{PREPARED} --topic {topic} --partitions {partitions} --rate {FILL_RATE} --duration 2s"
                )
            }
            // `meridian bench` has no bytes of its warm-up to divide the server's CPU time by.
            Workload::Prepared16 | Workload::Prepared1000 => {
                let warm_s = self.length.warm_s;
                let thousand = format!("--duration {}s --rate {FILL_RATE}", warm_s * 5.0);
                // Kafka makes the files of a partition when it is first written to: a thousand take seconds.
                let how = match self.workload {
                    Workload::Prepared1000 => thousand,
                    _ => format!("--duration {warm_s}s"),
                };
                format!("{PREPARED} --topic {topic} --partitions {partitions} {how}")
            }
            _ => return Ok(0),
        };
        client::meridian_bench(&self.directory, self.bootstrap, &words(&arguments))
            .map(|outcome| outcome.bytes)
    }

    fn measure(&self, filled: u64) -> Result<Outcome, String> {
        let Length { seconds, warm_s, .. } = *self.length;
        let java = |records: u64, rate: Option<u64>, linger_ms: u32| {
            let work = JavaProduce {
                bootstrap: self.bootstrap,
                topic: self.topic,
                warm_records: records / 3,
                records,
                record_bytes: RECORD_BYTES,
                rate,
                linger_ms,
            };
            client::java_produce(&self.directory, &work)
        };
        match self.workload {
            Workload::Rdkafka | Workload::Rdkafka1m => {
                let program = self.rdkafka.ok_or("librdkafka is not set up")?;
                let batches = match self.workload {
                    Workload::Rdkafka => "batch.size=65536 linger.ms=5",
                    _ => "batch.size=1000000 linger.ms=50",
                };
                let text = format!(
                    "{} {} {warm_s} {seconds} {RECORD_BYTES} {batches}",
                    self.bootstrap, self.topic
                );
                client::rdkafka(program, &self.directory, &words(&text))
            }
            Workload::Prepared16 | Workload::Prepared1000 => {
                let (topic, partitions) = (self.topic, self.workload.partitions());
                let text =
                    format!("{PREPARED} --topic {topic} --partitions {partitions} --duration {seconds}s");
                client::meridian_bench(&self.directory, self.bootstrap, &words(&text))
            }
            Workload::Paced => {
                let text = format!(
                    "paced --bootstrap {} --topic {} --warm-s {warm_s} --seconds {seconds} --rate {}",
                    self.bootstrap, self.topic, self.rate
                );
                client::generator(&self.directory, &words(&text))
            }
            Workload::Consume => {
                let text = format!(
                    "consume --again --consumers 2 --topic {} --duration {seconds}s",
                    self.topic
                );
                client::meridian_bench(&self.directory, self.bootstrap, &words(&text))
            }
            Workload::JavaPaced => java((seconds * self.rate as f64) as u64, Some(self.rate), 0),
            Workload::Java => java(self.length.java_records(), None, 5),
            Workload::JavaConsume => client::java_consume(
                &self.directory,
                self.bootstrap,
                self.topic,
                filled / RECORD_BYTES,
                RECORD_BYTES,
            ),
            Workload::Idle => unreachable!("nobody works on an idle system"),
        }
    }
}
