//! A region of three on a real S3 server, behind a proxy that fails as networks and clouds do: nothing acknowledged is
//! lost, nothing wrong is served, produce goes on, and the lag falls when the faults are over.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use meridian_checker::Report;
use meridian_compat::load::create_topic;
use meridian_compat::process::wait_for;
use meridian_compat::raw::{RawClient, batches};
use meridian_compat::s3::{BucketAddress, FaultProxy, ProxyFault, ProxyFigures};
use meridian_compat::{LoadOptions, Program};

use crate::bulk::Bulk;
use crate::cluster::Cluster;
use crate::faulty_store::{self, FaultyStore};
use crate::lag::{CATCH_UP, caught_up, drained, longest_lag, sum, verify};
use crate::rounds::RunError;
use crate::session::{Session, Step};
use crate::system::{ClusterOptions, System};
use crate::task::Task;
use crate::view;

const TOPIC: &str = "load";
const FILLER: &str = "filler";
const PARTITIONS: u32 = 4;

/// A record of the filler, which pushes older ones out of the journals; one in each pause.
const FILLER_BYTES: usize = 256 << 10;
const FILLER_PAUSE: Duration = Duration::from_millis(150);

/// How much longer an outage lasts at most, until the metrics show a lag.
const LAG_SHOWN: Duration = Duration::from_secs(30);

/// How long a reader that was told to end goes on to come through from offset 0 once.
const ONE_PASS: Duration = Duration::from_secs(60);

/// Of a thousand requests to the bucket so many fail while faults are on.
const OF_THOUSAND: u64 = 400;

/// What is done to the bucket.
#[derive(Clone, Debug)]
pub struct TierFaultOptions {
    /// Of what goes wrong when.
    pub seed: u64,
    /// Times that everything is gone through.
    pub rounds: u32,
    /// How long each fault is on.
    pub hold: Duration,
    /// How long the bucket is away in each round.
    pub outage: Duration,
    /// Each fault for itself, rather than several that belong together.
    pub each: bool,
}

impl TierFaultOptions {
    /// What a test run has time for.
    pub fn short(seed: u64) -> Self {
        Self {
            seed,
            rounds: 1,
            hold: Duration::from_secs(2),
            outage: Duration::from_secs(5),
            each: false,
        }
    }

    fn groups(&self) -> Vec<Vec<ProxyFault>> {
        if self.each {
            return ProxyFault::ALL.iter().map(|fault| vec![*fault]).collect();
        }
        vec![
            vec![ProxyFault::ServerError, ProxyFault::SlowDown, ProxyFault::Silence],
            vec![ProxyFault::LoseAnswer, ProxyFault::DoneAndError],
            vec![ProxyFault::Truncate, ProxyFault::FlipBit, ProxyFault::SlowAnswer],
        ]
    }
}

/// What was shown.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the checker says.
    pub report: Report,
    /// Each time of faults.
    pub steps: Vec<Step>,
    /// Of each outage: the longest lag in it, and how long it took to fall afterwards.
    pub outages: Vec<(f64, Duration)>,
    /// What the proxy did.
    pub proxy: ProxyFigures,
    /// Readers from offset 0 during the faults: whole passes, and answers that made them try again.
    pub passes: u64,
    /// Of these readers.
    pub retries: u64,
    /// Frames that nodes read from the bucket.
    pub cold_reads: f64,
    /// What `tier verify` says.
    pub verified: String,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.report)?;
        for step in &self.steps {
            writeln!(
                f,
                "  {:6.1} s, not served for {:5} ms at most: {}",
                step.took.as_secs_f64(),
                step.silence.as_millis(),
                step.name
            )?;
        }
        for (lag, took) in &self.outages {
            writeln!(
                f,
                "  an outage: records waited up to {lag:.1} s for the bucket, which had caught up {:.1} s after it",
                took.as_secs_f64()
            )?;
        }
        writeln!(f, "  the proxy: {}", self.proxy)?;
        writeln!(
            f,
            "  {} passes from offset 0 during faults, {} answers to try again; {} frames came from the bucket",
            self.passes, self.retries, self.cold_reads
        )?;
        write!(f, "  {}", self.verified)
    }
}

/// Starts store, proxy, nodes and clients, and lets everything go wrong.
pub fn run(name: &str, options: &TierFaultOptions) -> Result<Outcome, RunError> {
    if let Some(reason) = faulty_store::missing() {
        return Err(RunError::CannotRun(reason));
    }
    let store = FaultyStore::start(name, options.seed)?;
    let cluster = ClusterOptions {
        system: System::Meridian,
        settings: store.settings().collect(),
        ..ClusterOptions::plain(3)
    };
    let cluster = Cluster::start(name, &cluster).map_err(RunError::CannotRun)?;
    faults(&cluster, &store.proxy, &store.bucket, options).map_err(|reason| {
        let reason = format!("{reason}\nthe proxy: {}", store.proxy.figures());
        RunError::of(&cluster, name, options.seed, &reason)
    })
}

fn faults(
    cluster: &Cluster,
    proxy: &FaultProxy,
    bucket: &BucketAddress,
    options: &TierFaultOptions,
) -> Result<Outcome, String> {
    create_topic(&cluster.bootstrap(), FILLER, 1, 3)?;
    let filler = Bulk::on(&cluster.kafka_addresses(), FILLER, FILLER_BYTES, FILLER_PAUSE);
    let load = LoadOptions {
        topic: TOPIC.to_owned(),
        partitions: PARTITIONS,
        replicas: 3,
        producers: 2,
        records_per_second: 200,
        writers: vec![Program::Franz, Program::Confluent],
        readers: vec![
            (Program::Franz, None),
            (Program::Confluent, cluster.racks().pop()),
        ],
        final_racks: cluster.racks().into_iter().map(Some).collect(),
    };
    let mut session = Session::start(cluster, load)?;
    let objects = || sum(cluster, "meridian_tier_objects", "");
    wait_for(CATCH_UP, || (objects() > 0.0).then_some(())).ok_or("nothing came into the bucket")?;
    let scanner = Task::start("scanner", {
        let nodes = cluster.kafka_addresses();
        move |stopping: &AtomicBool| scan(&nodes, stopping)
    });
    let mut outages = Vec::new();
    for round in 1..=options.rounds {
        for group in options.groups() {
            let names: Vec<&str> = group.iter().map(|fault| fault.name()).collect();
            let name = format!("round {round}: {}", names.join(", "));
            proxy.fail(&group, OF_THOUSAND);
            thread::sleep(options.hold);
            // Served while the bucket fails.
            session.served(&name)?;
            proxy.calm();
        }
        outages.push(outage(cluster, proxy, &mut session, round, options.outage)?);
    }
    let cold_reads = || sum(cluster, "meridian_tier_reads_total", "from=\"bucket\"");
    // On a machine that was quick so far the nodes may still have everything.
    wait_for(CATCH_UP, || (cold_reads() > 0.0).then_some(())).ok_or("no record was read from the bucket")?;
    let scanned = scanner.end()?;
    drop(filler);
    let (report, steps) = session.finish(cluster)?;
    drained(cluster)?;
    if scanned.passes == 0 {
        return Err(format!("nobody came through from offset 0: {scanned:?}"));
    }
    Ok(Outcome {
        report,
        steps,
        outages,
        proxy: proxy.figures(),
        passes: scanned.passes,
        retries: scanned.retries,
        cold_reads: cold_reads(),
        verified: verify(bucket, cluster.directory())?,
    })
}

/// The bucket is away for a while. Gives the longest lag, and how long it took to fall.
fn outage(
    cluster: &Cluster,
    proxy: &FaultProxy,
    session: &mut Session,
    round: u32,
    length: Duration,
) -> Result<(f64, Duration), String> {
    caught_up(cluster)?;
    proxy.outage(true);
    let began = Instant::now();
    thread::sleep(length);
    session.served(&format!(
        "round {round}: {:.0} s without a bucket",
        length.as_secs_f64()
    ))?;
    // What is written at the end of the outage waits for less. A new leader counts from its own first look: the longer the
    // outage, the less that matters.
    let mut shown = (0.0, 0.0);
    let is_shown = wait_for(LAG_SHOWN, || {
        shown = (longest_lag(cluster), began.elapsed().as_secs_f64());
        (shown.0 >= shown.1 / 2.0).then_some(())
    });
    proxy.outage(false);
    let (lag, lasted) = shown;
    is_shown.ok_or_else(|| {
        format!("after {lasted:.1} s without a bucket the metrics show a lag of {lag:.1} s")
    })?;
    Ok((lag, caught_up(cluster)?))
}

/// What a reader from offset 0 has seen.
#[derive(Clone, Copy, Debug, Default)]
struct Scanned {
    passes: u64,
    retries: u64,
}

/// Reads every partition from offset 0 to its end, again and again; once at least, however busy the machine is. Errors: a
/// batch is damaged, or one is missing.
fn scan(nodes: &[SocketAddr], stopping: &AtomicBool) -> Result<Scanned, String> {
    let mut scanned = Scanned::default();
    let mut told = None;
    let mut is_over = |passes| {
        stopping.load(Ordering::Relaxed)
            && (passes > 0 || told.get_or_insert_with(Instant::now).elapsed() > ONE_PASS)
    };
    while !is_over(scanned.passes) {
        for partition in 0..PARTITIONS as i32 {
            let mut next = 0;
            let mut client = None;
            while !is_over(scanned.passes) {
                client = client.or_else(|| view::leader(nodes, TOPIC, partition));
                let answer = client
                    .as_mut()
                    .map(|client: &mut RawClient| client.fetch(TOPIC, partition, next, 1 << 20));
                let Some(Ok((0, end, records))) = answer else {
                    // Storage error: the bucket is away. Or another leads.
                    scanned.retries += 1;
                    client = None;
                    thread::sleep(Duration::from_millis(50));
                    continue;
                };
                for batch in batches(&records) {
                    if !batch.crc_holds || batch.base_offset > next {
                        return Err(format!(
                            "partition {partition} was served wrong: {next} was asked for, and {batch:?} came"
                        ));
                    }
                    next = batch.base_offset + i64::from(batch.record_count);
                }
                if next >= end {
                    break;
                }
            }
        }
        scanned.passes += u64::from(!is_over(scanned.passes));
    }
    Ok(scanned)
}
