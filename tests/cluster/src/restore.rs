//! A region of three nodes is destroyed while it is written to, and rebuilt from its bucket alone: every record up to the cut is
//! there, byte for byte where it was, with the offsets of its groups and the windows of its producers; two more nodes join.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use meridian_compat::process::{output_within, wait_for};
use meridian_compat::raw::{RawClient, of_producer, plain_batch};
use meridian_compat::s3::{BucketAddress, Gateway};
use meridian_compat::workspace;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::region::wait_until;
use crate::rounds::RunError;
use crate::system::{ClusterOptions, NodeOptions, System, id};
use crate::view;

mod records;

use records::{check, value};

const TOPIC: &str = "history";
const GONE: &str = "gone";
const GROUP: &str = "readers";
const PARTITIONS: i32 = 8;
const RECORDS_PER_BATCH: usize = 20;

/// Between two turns of writing after the last look.
const WRITE_PAUSE: Duration = Duration::from_millis(50);

/// Nodes of the region that is destroyed, and then of the one that follows it.
const NODES: usize = 3;

/// How long the region may take to bring everything into its bucket, to be whole again, to answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Until the copies that go to the bucket every half a second have been there, on a machine that stands still for seconds.
const COPIED: Duration = Duration::from_secs(6);

/// What is destroyed and restored.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// Batches for each partition before the first look at the bucket, and as many between later ones.
    pub batches: u32,
    /// How long it is written to after the last look.
    pub hold: Duration,
    /// The bucket lies on a real S3 server, not in a directory.
    pub on_s3: bool,
}

/// What was shown.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Records that were acknowledged.
    pub acknowledged: u64,
    /// Records that are there again.
    pub restored: u64,
    /// Attempts at the restore that were killed.
    pub killed: u32,
    /// Of those, attempts that left a directory which a node refused.
    pub refused: u32,
    /// From the start of the last attempt to its end.
    pub restore: Duration,
    /// From the start of the new node until it takes requests.
    pub start: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} records were acknowledged, {} are there again; restored in {:.1} s, served {:.1} s later",
            self.acknowledged,
            self.restored,
            self.restore.as_secs_f64(),
            self.start.as_secs_f64()
        )?;
        write!(
            f,
            "{} attempts were killed, {} of them left a directory that a node refused; the rebuilt region holds",
            self.killed, self.refused
        )
    }
}

/// The bucket, with the server that serves it.
struct Bucket {
    address: BucketAddress,
    _gateway: Option<Gateway>,
}

/// Destroys a region and restores it. `options.settings` are those of all nodes.
pub fn run(name: &str, options: &ClusterOptions, restore: &RestoreOptions) -> Result<Outcome, RunError> {
    if options.system == System::Kafka {
        return Err(RunError::CannotRun(
            "Kafka has no bucket to restore from".to_owned(),
        ));
    }
    let bucket = bucket(name, restore.on_s3)?;
    let mut settings = vec![
        "tier.round_interval_ms=300".to_owned(),
        "tier.copy_interval_ms=500".to_owned(),
        "shard.maintenance_interval_ms=300".to_owned(),
    ];
    settings.extend(bucket.address.settings());
    settings.extend(options.settings.iter().cloned());
    let options = ClusterOptions {
        nodes: 2 * NODES,
        founders: NODES,
        settings,
        ..options.clone()
    };
    let mut cluster = Cluster::start(name, &options).map_err(RunError::CannotRun)?;
    let mut run = Run {
        cluster: &mut cluster,
        bucket: &bucket.address,
        options: restore,
        expected: (0..PARTITIONS).map(|_| Expected::default()).collect(),
        producer: (0, 0),
    };
    run.everything().map_err(|reason| {
        let kept = cluster.keep_evidence(name);
        RunError::DoesNotHold(format!("{reason}\n{}({kept})", cluster.log_tails(15)))
    })
}

fn bucket(name: &str, on_s3: bool) -> Result<Bucket, RunError> {
    if !on_s3 {
        let directory = workspace::run_directory(&format!("{name}-bucket"));
        return Ok(Bucket {
            address: BucketAddress::directory(&directory),
            _gateway: None,
        });
    }
    if let Some(reason) = Gateway::missing() {
        return Err(RunError::CannotRun(reason));
    }
    let directory = workspace::run_directory(&format!("{name}-s3"));
    let gateway = Gateway::start(&directory).map_err(RunError::CannotRun)?;
    Ok(Bucket {
        address: gateway.bucket("restore"),
        _gateway: Some(gateway),
    })
}

/// What a partition holds.
#[derive(Clone, Debug, Default)]
struct Expected {
    /// Offsets that were acknowledged, from 0 on.
    acknowledged: i64,
    /// Of those, the ones that are in the bucket for certain.
    tiered: i64,
    /// Where the group was put, in the order in which it was.
    committed: Vec<i64>,
    /// The record that the producer began with.
    begun: i64,
}

struct Run<'a> {
    cluster: &'a mut Cluster,
    bucket: &'a BucketAddress,
    options: &'a RestoreOptions,
    expected: Vec<Expected>,
    /// Id and epoch.
    producer: (i64, i16),
}

impl Run<'_> {
    fn everything(&mut self) -> Result<Outcome, String> {
        let old: Vec<usize> = (0..NODES).collect();
        self.create()?;
        self.write(self.options.batches)?;
        self.commit()?;
        self.cluster.tool(0, &["topic", "delete", GONE])?;
        self.wait_tiered()?;
        // What follows may reach the bucket, or not.
        let until = Instant::now() + self.options.hold;
        while Instant::now() < until {
            self.write(1)?;
            sleep(WRITE_PAUSE);
        }
        self.commit()?;
        let acknowledged = self.expected.iter().map(|it| it.acknowledged).sum::<i64>();
        let old_epochs = self.epochs(&old)?;
        for node in &old {
            self.cluster.kill(*node);
        }
        for node in &old {
            self.cluster.wipe(*node)?;
        }

        let first = NODES;
        let (killed, refused, restore, report) = self.restore(first)?;
        let begun = Instant::now();
        let alone = NodeOptions::default();
        self.cluster.launch_as(first, &alone)?;
        self.cluster.wait_ready(first)?;
        let start = begun.elapsed();
        let ends = self.compare(first, &report)?;
        self.retry(first, &ends)?;
        let new_epochs = self.epochs(&[first])?;
        let higher = old_epochs
            .iter()
            .all(|(partition, epoch)| new_epochs.get(partition) > Some(epoch));
        if !higher {
            return Err(format!(
                "leader epochs were {old_epochs:?} and are {new_epochs:?}"
            ));
        }
        let new: Vec<usize> = (first..first + NODES).collect();
        for node in &new[1..] {
            let joining = NodeOptions {
                seeds: vec![first],
                ..NodeOptions::default()
            };
            self.cluster.launch_as(*node, &joining)?;
        }
        for node in &new[1..] {
            self.cluster.wait_ready(*node)?;
        }
        wait_until(self.cluster, first, PATIENCE, |region| region.lacks(&new, NODES))?;
        for (expected, end) in self.expected.iter_mut().zip(&ends) {
            (expected.acknowledged, expected.begun) = (*end, *end);
        }
        self.producer = self.new_producer(first)?;
        self.write(3)?;
        self.cluster.kill(first);
        let ends: Vec<i64> = self.expected.iter().map(|it| it.acknowledged).collect();
        for (partition, end) in (0..).zip(&ends) {
            self.read(partition, *end)?;
        }
        Ok(Outcome {
            acknowledged: acknowledged.unsigned_abs(),
            restored: report["records"].as_u64().unwrap_or(0),
            killed,
            refused,
            restore,
            start,
        })
    }

    fn create(&mut self) -> Result<(), String> {
        let addresses = self.cluster.kafka_addresses();
        let made = wait_for(PATIENCE, || {
            let mut client = RawClient::connect_within(addresses[0], view::PATIENCE).ok()?;
            let kept = client
                .create_replicated_topic(TOPIC, PARTITIONS, 3, &[("retention.ms", "-1")])
                .ok()?;
            let gone = client.create_replicated_topic(GONE, 2, 3, &[]).ok()?;
            // 36: it was made by the attempt before.
            ([0, 36].contains(&kept) && [0, 36].contains(&gone)).then_some(())
        });
        made.ok_or("the topics are not created")?;
        self.producer = self.new_producer(0)?;
        Ok(())
    }

    fn new_producer(&self, node: usize) -> Result<(i64, i16), String> {
        let address = self.cluster.kafka_addresses()[node];
        let producer = wait_for(PATIENCE, || {
            let mut client = RawClient::connect_within(address, view::PATIENCE).ok()?;
            let (error, id, epoch) = client.init_producer().ok()?;
            (error == 0).then_some((id, epoch))
        });
        producer.ok_or_else(|| "no producer id is dealt".to_owned())
    }

    /// Appends batches to each partition. Each is acknowledged before the next is sent.
    fn write(&mut self, batches: u32) -> Result<(), String> {
        let nodes = self.cluster.kafka_addresses();
        for partition in 0..PARTITIONS {
            for _ in 0..batches {
                let at = self.expected[partition as usize].acknowledged;
                let base = self.append(&nodes, partition, at)?;
                if base != at {
                    return Err(format!(
                        "partition {partition}: a batch went to {base}, expected {at}"
                    ));
                }
                self.expected[partition as usize].acknowledged = at + RECORDS_PER_BATCH as i64;
            }
        }
        Ok(())
    }

    /// Sends the batch that begins with record `at`, until it is acknowledged.
    fn append(&self, nodes: &[SocketAddr], partition: i32, at: i64) -> Result<i64, String> {
        let values: Vec<Vec<u8>> = (at..at + RECORDS_PER_BATCH as i64)
            .map(|n| value(partition, n))
            .collect();
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let begun = self.expected[partition as usize].begun;
        let sequence = i32::try_from(at - begun).map_err(|_| "too many records".to_owned())?;
        let batch = of_producer(plain_batch(&values), self.producer.0, self.producer.1, sequence);
        let mut last = String::new();
        let sent = wait_for(PATIENCE, || {
            let mut client = view::leader(nodes, TOPIC, partition)?;
            match client.produce(TOPIC, partition, &batch) {
                Ok((0, base)) => return Some(base),
                Ok((error, _)) => last = format!("error {error}"),
                Err(error) => last = error.to_string(),
            }
            None
        });
        sent.ok_or_else(|| format!("partition {partition}: record {at} is not acknowledged: {last}"))
    }

    /// Puts the group to where each partition ends.
    fn commit(&mut self) -> Result<(), String> {
        self.cluster
            .tool(0, &["group", "reset", GROUP, "--topic", TOPIC, "--to-latest"])?;
        for expected in &mut self.expected {
            expected.committed.push(expected.acknowledged);
        }
        Ok(())
    }

    /// Waits until the bucket says that it holds everything that was written so far, and until the states that say so are
    /// there too.
    fn wait_tiered(&mut self) -> Result<(), String> {
        let mut last = String::new();
        wait_for(PATIENCE, || {
            match self.tiered_ends() {
                Ok(ends)
                    if ends
                        .iter()
                        .zip(&self.expected)
                        .all(|(end, it)| *end >= it.acknowledged) =>
                {
                    return Some(());
                }
                Ok(ends) => last = format!("{ends:?}"),
                Err(error) => last = error,
            }
            sleep(Duration::from_millis(200));
            None
        })
        .ok_or_else(|| format!("the bucket lacks records: {last}"))?;
        // A copy of the manifest is followed by that of the state within the same moment, the group's offsets with the
        // next.
        sleep(COPIED);
        for expected in &mut self.expected {
            expected.tiered = expected.acknowledged;
        }
        Ok(())
    }

    fn tiered_ends(&self) -> Result<Vec<i64>, String> {
        let listed = self.meridian(&["tier", "list", "--partitions"], &self.bucket.arguments())?;
        let listed: Value = json(&listed)?;
        let mut ends = vec![0; PARTITIONS as usize];
        for partition in listed["partitions"].as_array().into_iter().flatten() {
            let (Some(index), Some(end)) =
                (partition["partition"].as_u64(), partition["end_offset"].as_i64())
            else {
                continue;
            };
            if partition["topic"] == TOPIC {
                ends[index as usize] = end;
            }
        }
        Ok(ends)
    }

    /// Runs a command without brokers.
    fn meridian(&self, words: &[&str], arguments: &[String]) -> Result<Output, String> {
        let mut command = Command::new(workspace::meridian_binary()?);
        command.args(words).args(arguments).args(["--output", "json"]);
        output_within(&mut command, PATIENCE)
    }

    fn restore_arguments(&self, data: &Path) -> Vec<String> {
        let mut arguments = self.bucket.arguments();
        arguments.extend(["--data".to_owned(), data.display().to_string()]);
        arguments
    }

    /// Restores into the directory of a node; the first attempts are killed in the middle.
    fn restore(&mut self, node: usize) -> Result<(u32, u32, Duration, Value), String> {
        let data = self.cluster.data(node).to_owned();
        let mut arguments = self.restore_arguments(&data);
        let words = ["region", "restore"];
        let cautious = self.meridian(&words, &arguments)?;
        let told = String::from_utf8_lossy(&cautious.stderr).into_owned();
        if cautious.status.success() || !told.contains("--take-over") {
            return Err(format!(
                "a region that wrote a moment ago is taken for gone: {told}"
            ));
        }
        arguments.push("--take-over".to_owned());
        let (mut killed, mut refused) = (0, 0);
        for delay_ms in [15, 30, 45, 60, 80, 100, 130, 170] {
            let mut command = Command::new(workspace::meridian_binary()?);
            command.args(words).args(&arguments);
            let mut child = command
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .map_err(|e| format!("cannot restore: {e}"))?;
            sleep(Duration::from_millis(delay_ms));
            let ended = child.try_wait().map_err(|e| e.to_string())?;
            drop(child.kill());
            child.wait().map_err(|e| e.to_string())?;
            if ended.is_some() {
                break;
            }
            killed += 1;
            if data.join("restoring.json").exists() {
                refused += 1;
                self.cluster.launch_as(node, &NodeOptions::default())?;
                let (status, log) = self
                    .cluster
                    .wait_ended(node, PATIENCE)
                    .ok_or("a node runs on a half restored directory")?;
                if status.success() || !log.contains("half restored") {
                    return Err(format!("a half restored directory: {status}\n{log}"));
                }
            }
        }
        // One that ended well before it could be killed leaves a whole directory, which is not written over.
        if data.join("identity.json").exists() && !data.join("restoring.json").exists() {
            self.cluster.wipe(node)?;
        }
        let begun = Instant::now();
        let output = self.meridian(&words, &arguments)?;
        let took = begun.elapsed();
        let report = json(&output)?;
        if report["node"].as_u64() != Some(id(node) as u64) {
            return Err(format!(
                "the region was to begin with node {}: {report}",
                id(node)
            ));
        }
        Ok((killed, refused, took, report))
    }

    /// Reads everything from the rebuilt region and holds it against what was written. Gives where the partitions end.
    fn compare(&self, node: usize, report: &Value) -> Result<Vec<i64>, String> {
        let mut ends = Vec::new();
        for (partition, expected) in (0..PARTITIONS).zip(&self.expected) {
            let end = self.end(node, partition)?;
            if end < expected.tiered || end > expected.acknowledged {
                return Err(format!(
                    "partition {partition} ends at {end}; {} were in the bucket and {} were acknowledged",
                    expected.tiered, expected.acknowledged
                ));
            }
            self.read(partition, end)?;
            ends.push(end);
        }
        let records = report["records"].as_i64();
        if records != Some(ends.iter().sum()) {
            return Err(format!(
                "the restore told of {records:?} records, partitions end at {ends:?}"
            ));
        }
        let committed = self.committed(node)?;
        for ((partition, end), expected) in (0..).zip(&ends).zip(&self.expected) {
            // Each of the positions may be the newest that reached the bucket, cut to what is there.
            let may: Vec<i64> = expected.committed.iter().map(|at| *at.min(end)).collect();
            if !committed.get(&partition).is_some_and(|at| may.contains(at)) {
                return Err(format!(
                    "partition {partition} ends at {end}, the group is at {committed:?}, expected {may:?}"
                ));
            }
        }
        let described = self
            .cluster
            .tool(node, &["topic", "describe", TOPIC])?
            .to_string();
        if !described.contains("retention.ms") {
            return Err(format!("the topic's configs are gone: {described}"));
        }
        let listed = self.cluster.tool(node, &["topic", "list"])?.to_string();
        if listed.contains(GONE) {
            return Err(format!("a deleted topic is back: {listed}"));
        }
        Ok(ends)
    }

    fn committed(&self, node: usize) -> Result<BTreeMap<i32, i64>, String> {
        let described = self.cluster.tool(node, &["group", "describe", GROUP])?;
        let partitions = described["partitions"].as_array().into_iter().flatten();
        let committed = partitions.filter_map(|it| {
            let partition = i32::try_from(it["partition"].as_i64()?).ok()?;
            Some((partition, it["committed_offset"].as_i64()?))
        });
        Ok(committed.collect())
    }

    /// The last batch that is there is a duplicate; one that is lost goes behind it.
    fn retry(&self, node: usize, ends: &[i64]) -> Result<(), String> {
        let nodes = [self.cluster.kafka_addresses()[node]];
        for ((partition, end), expected) in (0..).zip(ends).zip(&self.expected) {
            // Five batches are remembered of a producer. No client repeats one that lies further back.
            if expected.acknowledged - end >= 5 * RECORDS_PER_BATCH as i64 {
                continue;
            }
            let last = end - RECORDS_PER_BATCH as i64;
            let again = self.append(&nodes, partition, last)?;
            if again != last || self.end(node, partition)? != *end {
                return Err(format!(
                    "partition {partition}: the batch of {last} was appended again, at {again}"
                ));
            }
        }
        Ok(())
    }

    fn end(&self, node: usize, partition: i32) -> Result<i64, String> {
        let address = self.cluster.kafka_addresses()[node];
        let end = wait_for(PATIENCE, || {
            let mut client = RawClient::connect_within(address, view::PATIENCE).ok()?;
            let (error, _, offset) = client.list_offset(TOPIC, partition, -1).ok()?;
            (error == 0).then_some(offset)
        });
        end.ok_or_else(|| format!("partition {partition} does not say where it ends"))
    }

    /// Reads the records up to `end`, from whoever leads, and holds each against what was written.
    fn read(&self, partition: i32, end: i64) -> Result<(), String> {
        let nodes = self.cluster.kafka_addresses();
        let mut next = 0;
        let mut last = String::new();
        wait_for(PATIENCE, || {
            let mut client = view::leader(&nodes, TOPIC, partition)?;
            while next < end {
                match client.fetch(TOPIC, partition, next, 1 << 20) {
                    Ok((0, _, bytes)) => match check(partition, next, &bytes) {
                        Ok(behind) if behind > next => next = behind,
                        Ok(_) => return None,
                        Err(reason) => return Some(Err(reason)),
                    },
                    Ok((error, _, _)) => {
                        last = format!("error {error}");
                        return None;
                    }
                    Err(error) => {
                        last = error.to_string();
                        return None;
                    }
                }
            }
            Some(Ok(()))
        })
        .unwrap_or_else(|| {
            Err(format!(
                "partition {partition} cannot be read from {next} on: {last}"
            ))
        })
    }

    fn epochs(&self, nodes: &[usize]) -> Result<BTreeMap<i32, i32>, String> {
        let all = self.cluster.kafka_addresses();
        let asked: Vec<SocketAddr> = nodes.iter().map(|node| all[*node]).collect();
        let metadata = wait_for(PATIENCE, || {
            let metadata = view::metadata(&asked, TOPIC)?;
            metadata.has_leaders(PARTITIONS as usize).then_some(metadata)
        });
        let metadata = metadata.ok_or("not every partition has a leader")?;
        let partitions = metadata.partitions.iter();
        Ok(partitions.map(|it| (it.partition, it.leader_epoch)).collect())
    }
}

fn json(output: &Output) -> Result<Value, String> {
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{}: {told}", output.status));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("no JSON: {e}; {told}"))
}
