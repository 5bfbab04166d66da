//! A region of three whose bucket is away until its disks are full. Producers are told to try again, consumers read on, the
//! metrics and `cluster status` say what waits; and when the bucket is back everything goes on by itself, with nothing
//! lost that was acknowledged.

use std::collections::BTreeMap;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use meridian_checker::Report;
use meridian_compat::load::create_topic;
use meridian_compat::process::wait_for;
use meridian_compat::raw::batches;
use meridian_compat::s3::{BucketAddress, FaultProxy};
use meridian_compat::{LoadOptions, Program, image};
use serde_json::Value;

use crate::bulk::Bulk;
use crate::cluster::Cluster;
use crate::faulty_store::{self, FaultyStore};
use crate::lag::{CATCH_UP, caught_up, drained, longest_lag, sum, verify};
use crate::rounds::RunError;
use crate::session::{Session, Step};
use crate::system::{ClusterOptions, System, id};
use crate::view;

const TOPIC: &str = "load";
const FILLER: &str = "filler";
const PARTITIONS: u32 = 4;

/// Small, so that what is not in the bucket soon fills the disks.
const DISK_MIB: u32 = 48;
const FILE_BYTES: u64 = 4 << 20;
const BUDGET_BYTES: u64 = 16 << 20;

/// What fills the disks, at most 6 MB/s.
const FILLER_BYTES: usize = 32 << 10;
const FILLER_PAUSE: Duration = Duration::from_millis(5);

/// Nobody served for so long, on any partition: the disks are full.
const REFUSED: Duration = Duration::from_secs(3);

/// How long filling them may take.
const FILLING: Duration = Duration::from_secs(180);

/// How long what must be told may take to be told.
const TOLD: Duration = Duration::from_secs(20);

/// KAFKA_STORAGE_ERROR, after which every client tries again.
const STORAGE_ERROR: i16 = 56;

/// ListOffsets' name for the end.
const LATEST: i64 = -1;

/// What is done.
#[derive(Clone, Debug)]
pub struct TierOutageOptions {
    /// Of the proxy.
    pub seed: u64,
    /// How long the disks stay full.
    pub full_for: Duration,
    /// Every node is killed and started again while the disks are full.
    pub kills: bool,
}

/// What was shown.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the checker says.
    pub report: Report,
    /// Before, full, and afterwards.
    pub steps: Vec<Step>,
    /// From the beginning of the outage until nobody was served.
    pub filled: Duration,
    /// How often the filler was told each error code, up to the end of the outage.
    pub told: BTreeMap<i16, u64>,
    /// What waited for the bucket then, and for how long.
    pub waiting_bytes: f64,
    /// In seconds.
    pub waiting_s: f64,
    /// What `/ready` of the first full node says.
    pub not_ready: String,
    /// From the end of the outage until everybody was served, and until the bucket had caught up.
    pub served: Duration,
    /// From the end of the outage.
    pub caught_up: Duration,
    /// Bytes of journal files on each node: while full, and in the end.
    pub journal_bytes: [Vec<f64>; 2],
    /// What `tier verify` says.
    pub verified: String,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.report)?;
        for step in &self.steps {
            let (took, silence) = (step.took.as_secs_f64(), step.silence.as_secs_f64());
            writeln!(
                f,
                "  {took:6.1} s, not served for {silence:5.1} s at most: {}",
                step.name
            )?;
        }
        writeln!(
            f,
            "  full {:.1} s after the bucket was away; {:.1} MB waited for it, the oldest for {:.0} s",
            self.filled.as_secs_f64(),
            self.waiting_bytes / 1e6,
            self.waiting_s
        )?;
        writeln!(f, "  the filler was told (error code: times): {:?}", self.told)?;
        writeln!(f, "  /ready: {}", self.not_ready)?;
        writeln!(
            f,
            "  served again {:.1} s after the end of the outage, the bucket had caught up after {:.1} s",
            self.served.as_secs_f64(),
            self.caught_up.as_secs_f64()
        )?;
        let [full, end] = &self.journal_bytes;
        writeln!(
            f,
            "  bytes of journal files: {full:?} when full, {end:?} in the end"
        )?;
        write!(f, "  {}", self.verified)
    }
}

/// Starts store, proxy, nodes on small disks and clients, and takes the store away until no disk takes a record.
pub fn run(name: &str, options: &TierOutageOptions) -> Result<Outcome, RunError> {
    if let Some(reason) = missing() {
        return Err(RunError::CannotRun(reason));
    }
    let store = FaultyStore::start(name, options.seed)?;
    let small = [
        format!("journal.file_bytes={FILE_BYTES}"),
        format!("journal.bytes_max={BUDGET_BYTES}"),
    ];
    let cluster = ClusterOptions {
        system: System::Meridian,
        disk_mib: Some(DISK_MIB),
        settings: store.settings().chain(small).collect(),
        ..ClusterOptions::plain(3)
    };
    let mut cluster = Cluster::start(name, &cluster).map_err(RunError::CannotRun)?;
    outage(&mut cluster, &store.proxy, &store.bucket, options)
        .map_err(|reason| RunError::of(&cluster, name, options.seed, &reason))
}

/// Why it cannot run here, if it cannot.
pub fn missing() -> Option<String> {
    image::unavailable().or_else(faulty_store::missing)
}

fn outage(
    cluster: &mut Cluster,
    proxy: &FaultProxy,
    bucket: &BucketAddress,
    options: &TierOutageOptions,
) -> Result<Outcome, String> {
    let nodes = cluster.kafka_addresses();
    create_topic(&cluster.bootstrap(), FILLER, 1, 3)?;
    let load = LoadOptions {
        topic: TOPIC.to_owned(),
        partitions: PARTITIONS,
        replicas: 3,
        producers: 2,
        records_per_second: 200,
        writers: vec![Program::Franz, Program::Confluent],
        readers: vec![(Program::Franz, None), (Program::Confluent, None)],
        final_racks: cluster.racks().into_iter().map(Some).collect(),
    };
    let mut session = Session::start(cluster, load)?;
    let objects = || sum(cluster, "meridian_tier_objects", "");
    wait_for(CATCH_UP, || (objects() > 0.0).then_some(())).ok_or("nothing came into the bucket")?;
    caught_up(cluster)?;
    session.served("with its bucket")?;

    proxy.outage(true);
    let began = Instant::now();
    let filler = Bulk::on(&nodes, FILLER, FILLER_BYTES, FILLER_PAUSE);
    wait_for(FILLING, || {
        thread::sleep(Duration::from_millis(50));
        (session.quiet_for() >= REFUSED).then_some(())
    })
    .ok_or_else(|| {
        format!(
            "{FILLING:?} without a bucket, and records are still taken; journals have {:?} bytes",
            each(cluster, "meridian_journal_disk_bytes")
        )
    })?;
    let filled = began.elapsed() - REFUSED;
    println!("full after {:.1} s: {}", filled.as_secs_f64(), session.told());
    let not_ready = is_told(cluster, began)?;
    is_readable(cluster)?;
    let journals_full = each(cluster, "meridian_journal_disk_bytes");
    if options.kills {
        restart_all(cluster)?;
        println!("every node was killed, and has come back with a full disk");
    }
    thread::sleep(options.full_for);
    is_readable(cluster)?;
    for node in 0..cluster.len() {
        if !cluster.is_alive(node) {
            return Err(format!("node {} has ended because its disk is full", id(node)));
        }
    }
    if session.quiet_for() < REFUSED {
        return Err("records were taken again though nothing had made room".to_owned());
    }
    let (waiting_bytes, waiting_s) = (
        sum(cluster, "meridian_tier_waiting_bytes", ""),
        longest_lag(cluster),
    );
    let told = filler.told();
    drop(filler);
    if !told.contains_key(&STORAGE_ERROR) {
        return Err(format!(
            "producers were not told of a storage error, but (code: times) {told:?}"
        ));
    }

    proxy.outage(false);
    let back = Instant::now();
    session.served("without it until the disks were full, and with it again")?;
    let served = back.elapsed();
    caught_up(cluster)?;
    let caught_up = back.elapsed();
    wait_for(CATCH_UP, || is_small_again(cluster).then_some(())).ok_or_else(|| {
        format!(
            "the journals do not shrink though the bucket has everything: {:?} bytes, full {:?}",
            each(cluster, "meridian_journal_disk_bytes"),
            each(cluster, "meridian_journal_full")
        )
    })?;
    session.served("with room again")?;
    let journals_end = each(cluster, "meridian_journal_disk_bytes");
    let (report, steps) = session.finish(cluster)?;
    drained(cluster)?;
    Ok(Outcome {
        report,
        steps,
        filled,
        told,
        waiting_bytes,
        waiting_s,
        not_ready,
        served,
        caught_up,
        journal_bytes: [journals_full, journals_end],
        verified: verify(bucket, cluster.directory())?,
    })
}

/// A metric of each node; -1 where it does not answer.
fn each(cluster: &Cluster, metric: &str) -> Vec<f64> {
    let of_node = |node| view::metric(&cluster.metrics(node)?, metric);
    (0..cluster.len())
        .map(|node| of_node(node).unwrap_or(-1.0))
        .collect()
}

/// The budget, and what is kept beside it: the file being written and the next one, and one that is not released yet.
fn is_small_again(cluster: &Cluster) -> bool {
    let bytes_max = (BUDGET_BYTES + 3 * FILE_BYTES) as f64;
    let bytes = each(cluster, "meridian_journal_disk_bytes");
    let full = each(cluster, "meridian_journal_full");
    bytes.iter().all(|bytes| (0.0..=bytes_max).contains(bytes)) && full.iter().all(|full| *full == 0.0)
}

/// What an operator must find: full journals in the metrics and in `/ready`, and in `cluster status` whose disks are full, what
/// waits for the bucket, since when, and why. Gives what `/ready` of one of the full nodes says.
fn is_told(cluster: &Cluster, began: Instant) -> Result<String, String> {
    let mut last = String::new();
    wait_for(TOLD, || {
        let found = tells(cluster, began);
        match found {
            Ok(not_ready) => Some(not_ready),
            Err(reason) => {
                last = reason;
                thread::sleep(Duration::from_millis(200));
                None
            }
        }
    })
    .ok_or(last)
}

fn tells(cluster: &Cluster, began: Instant) -> Result<String, String> {
    let full = each(cluster, "meridian_journal_full");
    // With one that takes records more there would be a quorum.
    if full.iter().filter(|full| **full == 1.0).count() < 2 {
        return Err(format!("meridian_journal_full is {full:?}"));
    }
    let first = full.iter().position(|full| *full == 1.0).unwrap_or_default();
    let (code, ready) = cluster
        .admin(first, "/ready")
        .ok_or_else(|| format!("node {} does not answer", id(first)))?;
    if code != 503 || !ready.contains("takes no more records") {
        return Err(format!("/ready of a full node says {code}: {ready}"));
    }
    let status = cluster.tool(0, &["cluster", "status"])?;
    let brokers = status["brokers"].as_array().map_or(&[][..], Vec::as_slice);
    let named = brokers.iter().filter(|broker| broker["disk_full"].is_string());
    if named.count() < 2 {
        return Err(format!("cluster status says of the nodes: {}", status["brokers"]));
    }
    let bucket = &status["region"]["bucket"];
    let lag = bucket["waiting_seconds"].as_f64().unwrap_or(0.0);
    let has_reason = |node: &Value| node["last_error"].is_string();
    let nodes = bucket["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    // What is written at the end waits for less.
    let is_told = bucket["waiting_bytes"].as_u64() > Some(0)
        && lag > began.elapsed().as_secs_f64() / 2.0
        && nodes.iter().any(has_reason);
    if !is_told {
        return Err(format!("cluster status says of the bucket: {bucket}"));
    }
    Ok(ready.trim().to_owned())
}

/// Consumers at the end are served: each partition's last records come from its leader.
fn is_readable(cluster: &Cluster) -> Result<(), String> {
    let nodes = cluster.kafka_addresses();
    for partition in 0..PARTITIONS as i32 {
        let mut last = "no leader".to_owned();
        wait_for(TOLD, || {
            let mut client = view::leader(&nodes, TOPIC, partition)?;
            let (error, _, end) = client.list_offset(TOPIC, partition, LATEST).ok()?;
            let read = client.fetch(TOPIC, partition, (end - 5).max(0), 1 << 20);
            last = match read {
                Ok((0, high_watermark, records)) => {
                    let found = batches(&records);
                    let is_sound = found.iter().all(|batch| batch.crc_holds);
                    if error == 0 && end > 0 && is_sound && !found.is_empty() {
                        return Some(());
                    }
                    format!("end {end} (error {error}), high watermark {high_watermark}, batches {found:?}")
                }
                other => format!("fetch from {end} answers {other:?}"),
            };
            thread::sleep(Duration::from_millis(100));
            None
        })
        .ok_or_else(|| format!("partition {partition} cannot be read while the disks are full: {last}"))?;
    }
    Ok(())
}

/// kill -9 of every node, one after the other; none is ready with a full disk, but each serves.
fn restart_all(cluster: &mut Cluster) -> Result<(), String> {
    for node in 0..cluster.len() {
        cluster.kill(node);
        cluster.launch(node)?;
        wait_for(CATCH_UP, || cluster.metrics(node)).ok_or_else(|| {
            let tail = cluster.log_tail(node, 20);
            format!("node {} does not come back with a full disk\n{tail}", id(node))
        })?;
    }
    is_readable(cluster)
}
