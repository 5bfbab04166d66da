//! What is done to each system, and what is aimed at.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::client::{self, JavaProduce};
use crate::generator::outcome::Outcome;
use crate::machine::{self, MachineCpu};
use crate::system::{Running, System};

/// Bytes of every record.
const RECORD_BYTES: u64 = 1024;
/// Records per second, for two seconds, that consumers read then: 410 MB, below the 512 MiB that a node of ours keeps in
/// memory, and below any page cache.
const FILL_RATE: u64 = 200_000;
/// Records per second of the latency workloads.
const RATE: u64 = 20_000;

/// One thing to do, always with records of 1 KiB and acks=all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// librdkafka, one producer, 16 partitions, 64 KiB batches, linger 5 ms, 5 in flight.
    Rdkafka,
    /// 64 producers with prepared 64 KiB batches, 16 partitions, 5 in flight each.
    Prepared16,
    /// The same over 1000 partitions.
    Prepared1000,
    /// 20,000 records/s, one record in each request, open loop over 16 connections.
    Paced,
    /// Java's `ProducerPerformance`, 20,000 records/s, linger 0.
    JavaPaced,
    /// Java's `ProducerPerformance`, 16 partitions, 64 KiB batches, linger 5 ms.
    Java,
    /// Two consumers of `meridian bench` read 410 MB that were just produced, over and over.
    Consume,
    /// Java's `ConsumerPerformance` reads the same.
    JavaConsume,
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
    /// Records of a Java producer that goes as fast as it can.
    pub java_records: u64,
}

/// One workload on one system in one block.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Number of the block, from 1.
    pub block: u32,
    /// Which system.
    pub system: System,
    /// Which workload.
    pub workload: Workload,
    /// What the client saw.
    pub outcome: Outcome,
    /// 10^6 record bytes per second within the window.
    pub mb_per_s: f64,
    /// CPU seconds of the server's process per 10^9 record bytes, the client's warm-up included.
    pub server_cpu_s_per_gb: f64,
    /// The same of the client.
    pub client_cpu_s_per_gb: f64,
    /// Share of all cores that neither server nor client used but others did, steal included.
    pub outside_share: f64,
}

/// A number of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// [`Sample::mb_per_s`].
    MbPerS,
    /// [`Sample::server_cpu_s_per_gb`].
    CpuSPerGb,
    /// Median latency.
    P50Ms,
    /// 99th percentile.
    P99Ms,
    /// 99.9th percentile.
    P999Ms,
}

impl Metric {
    /// All, in the order of the tables.
    pub const ALL: [Self; 5] = [
        Self::MbPerS,
        Self::CpuSPerGb,
        Self::P50Ms,
        Self::P99Ms,
        Self::P999Ms,
    ];

    /// What stands in the tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::MbPerS => "MB/s",
            Self::CpuSPerGb => "server CPU s/GB",
            Self::P50Ms => "p50 ms",
            Self::P99Ms => "p99 ms",
            Self::P999Ms => "p99.9 ms",
        }
    }

    /// Its value, where the sample has one.
    pub fn of(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::MbPerS => Some(sample.mb_per_s),
            Self::CpuSPerGb => Some(sample.server_cpu_s_per_gb),
            Self::P50Ms => sample.outcome.p50_ms,
            Self::P99Ms => sample.outcome.p99_ms,
            Self::P999Ms => sample.outcome.p999_ms,
        }
    }
}

/// What Meridian with fsync is to reach, as a ratio to a Kafka.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Aim {
    /// Of which number.
    pub metric: Metric,
    /// To which system.
    pub to: System,
    /// The ratio.
    pub ratio: f64,
}

impl Aim {
    /// Whether `ratio` reaches it: throughput is to be at least the aim, all else at most.
    pub fn is_met_by(&self, ratio: f64) -> bool {
        match self.metric {
            Metric::MbPerS => ratio >= self.ratio,
            _ => ratio <= self.ratio,
        }
    }
}

impl Workload {
    /// What is aimed at.
    pub fn aims(self) -> Vec<Aim> {
        let aim = |metric, to, ratio| Aim { metric, to, ratio };
        match self {
            Self::Rdkafka => vec![
                aim(Metric::MbPerS, System::K0, 1.3),
                aim(Metric::MbPerS, System::K1, 4.0),
                aim(Metric::CpuSPerGb, System::K0, 0.35),
            ],
            Self::Prepared16 | Self::Prepared1000 => vec![aim(Metric::MbPerS, System::K0, 2.0)],
            Self::Paced | Self::JavaPaced => vec![aim(Metric::P99Ms, System::K0, 0.25)],
            Self::Consume | Self::JavaConsume => vec![aim(Metric::MbPerS, System::K0, 1.5)],
            Self::Java => Vec::new(),
        }
    }

    fn partitions(self) -> u32 {
        if self == Self::Prepared1000 { 1000 } else { 16 }
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
        let topic = format!("{self}-{block}");
        on.create_topic(&topic, self.partitions(), &[])?;
        let work = Work {
            workload: self,
            bootstrap: on.server.bootstrap(),
            directory: on.server.directory().join(format!("{topic}.client")),
            topic: &topic,
            length,
            rdkafka,
        };
        std::fs::create_dir_all(&work.directory).map_err(|e| format!("cannot make a directory: {e}"))?;
        let filled = work.prepare()?;
        // What an earlier workload left unwritten is not this one's burden.
        rustix::fs::sync();
        let before = (machine::process_cpu_s(on.pid()), machine::ended_children_cpu_s());
        let (machine_before, start) = (MachineCpu::now(), std::time::Instant::now());
        let outcome = work.measure(filled)?;
        let server_s = machine::process_cpu_s(on.pid()) - before.0;
        let client_s = machine::ended_children_cpu_s() - before.1;
        let (machine_after, elapsed_s) = (MachineCpu::now(), start.elapsed().as_secs_f64());
        let outside_s = machine_after.busy_s - machine_before.busy_s - server_s - client_s
            + (machine_after.steal_s - machine_before.steal_s);
        on.delete_topic(&topic)?;
        let gb = outcome.bytes as f64 / 1e9;
        Ok(Sample {
            block,
            system: on.system,
            workload: self,
            mb_per_s: outcome.mb_per_s(),
            server_cpu_s_per_gb: server_s / gb,
            client_cpu_s_per_gb: client_s / gb,
            outside_share: (outside_s / elapsed_s / machine::cores() as f64).max(0.0),
            outcome,
        })
    }
}

/// Takes at least `bytes` of records into a running system, as [`Workload::Prepared16`] does; gives the last seconds of it.
///
/// Errors: as [`Workload::run`].
pub fn warm(on: &Running, topic: &str, bytes: u64) -> Result<Outcome, String> {
    // Kafka with a flush for every message would take minutes; its flushing is warmed by the workloads themselves.
    let unflushed = [("flush.messages", "9223372036854775807")];
    let configs: &[(&str, &str)] = if on.system == System::K1 { &unflushed } else { &[] };
    on.create_topic(topic, 16, configs)?;
    let mut taken = 0;
    loop {
        let arguments = format!("{PREPARED} --topic {topic} --partitions 16 --duration 3s");
        let outcome =
            client::meridian_bench(on.server.directory(), on.server.bootstrap(), &words(&arguments))?;
        taken += outcome.bytes;
        if taken >= bytes {
            on.delete_topic(topic)?;
            return Ok(outcome);
        }
    }
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
                // Kafka makes the files of a partition when it is first written to: a thousand take seconds.
                let rounds = if self.workload == Workload::Prepared1000 {
                    5.0
                } else {
                    1.0
                };
                let warm_s = self.length.warm_s * rounds;
                format!("{PREPARED} --topic {topic} --partitions {partitions} --duration {warm_s}s")
            }
            _ => return Ok(0),
        };
        client::meridian_bench(&self.directory, self.bootstrap, &words(&arguments))
            .map(|outcome| outcome.bytes)
    }

    fn measure(&self, filled: u64) -> Result<Outcome, String> {
        let Length {
            seconds,
            warm_s,
            java_records,
            ..
        } = *self.length;
        let partitions = self.workload.partitions();
        let common = format!(
            "--bootstrap {} --topic {} --partitions {partitions} --warm-s {warm_s} --seconds {seconds}",
            self.bootstrap, self.topic
        );
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
            Workload::Rdkafka => {
                let program = self.rdkafka.ok_or("librdkafka is not set up")?;
                let text = format!(
                    "{} {} {warm_s} {seconds} {RECORD_BYTES}",
                    self.bootstrap, self.topic
                );
                client::rdkafka(program, &self.directory, &words(&text))
            }
            Workload::Prepared16 | Workload::Prepared1000 => {
                let topic = self.topic;
                let text =
                    format!("{PREPARED} --topic {topic} --partitions {partitions} --duration {seconds}s");
                client::meridian_bench(&self.directory, self.bootstrap, &words(&text))
            }
            Workload::Paced => {
                client::generator(&self.directory, &words(&format!("paced {common} --rate {RATE}")))
            }
            Workload::Consume => {
                let text = format!(
                    "consume --again --consumers 2 --topic {} --duration {seconds}s",
                    self.topic
                );
                client::meridian_bench(&self.directory, self.bootstrap, &words(&text))
            }
            Workload::JavaPaced => java((seconds * RATE as f64) as u64, Some(RATE), 0),
            Workload::Java => java(java_records, None, 5),
            Workload::JavaConsume => client::java_consume(
                &self.directory,
                self.bootstrap,
                self.topic,
                filled / RECORD_BYTES,
                RECORD_BYTES,
            ),
        }
    }
}
