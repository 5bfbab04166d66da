//! Consumers read from the replica in their rack (KIP-392), and what replicas show never goes back while leaders are killed.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use meridian_checker::{Report, check};
use meridian_compat::process::wait_for;
use meridian_compat::{Load, LoadOptions, Process, Program, Random};
use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::prober::Prober;
use crate::region::{RegionView, wait_until};
use crate::rounds::{PROBE_INTERVAL, RECOVERY, RunError};
use crate::system::{ClusterOptions, System, id};
use crate::view;
use crate::watcher::{Seen, Watcher};

const TOPIC: &str = "followers";
/// Spread over all leaders, so that a reader in any rack has some of them elsewhere.
const PARTITIONS: u32 = 8;

/// How long a client may take to read everything.
const READ: Duration = Duration::from_secs(60);

/// For how long a client is left alone once it was given everything, which it still has to write down: it says only at its
/// end what it has read. One that was stopped before that begins anew, and is given more time.
const WRITTEN: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(20),
];

/// The share of what a consumer reads that must come from its rack. The rest are fetches at leaders before these have
/// pointed it to its replica.
const NEAR_MIN: f64 = 0.9;

/// A client that read everything, and who served it.
#[derive(Clone, Debug)]
pub struct Served {
    /// The client library.
    pub program: Program,
    /// The node in its rack, by place.
    pub near: usize,
    /// How many partitions have their leader elsewhere.
    pub led_elsewhere: usize,
    /// Bytes of record batches that each node gave it.
    pub bytes: Vec<f64>,
}

impl Served {
    fn near_share(&self) -> f64 {
        self.bytes[self.near] / self.bytes.iter().sum::<f64>()
    }
}

/// What a run has shown.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the checker says of the time when leaders were killed.
    pub report: Report,
    /// Leaders that were killed.
    pub kills: u32,
    /// The longest time without service.
    pub longest_silence: Duration,
    /// Of each node: answers with a high watermark, and bytes, to one who asked this node alone.
    pub watched: Vec<(u64, u64)>,
    /// Each client library, in another rack each.
    pub served: Vec<Served>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} leaders killed: {}", self.kills, self.report)?;
        writeln!(
            f,
            "  a partition was not served for {} ms at most; high watermarks never went back in {} answers",
            self.longest_silence.as_millis(),
            self.watched.iter().map(|(answers, _)| answers).sum::<u64>()
        )?;
        for served in &self.served {
            writeln!(
                f,
                "  {} in the rack of node {}: {} of {PARTITIONS} partitions led elsewhere, {:.1} % of {:.0} bytes from its rack",
                served.program.name(),
                id(served.near),
                served.led_elsewhere,
                100.0 * served.near_share(),
                served.bytes.iter().sum::<f64>()
            )?;
        }
        write!(f, "follower reads hold")
    }
}

/// Kills leaders under load from clients in racks, then lets each client library read everything from each rack's side.
pub fn run(name: &str, options: &ClusterOptions, kills: u32, seed: u64) -> Result<Outcome, RunError> {
    if options.system == System::Kafka {
        return Err(RunError::CannotRun(
            "Kafka does not say how many bytes of a replica went to consumers".to_owned(),
        ));
    }
    let mut cluster = Cluster::start(name, options).map_err(RunError::CannotRun)?;
    both(&mut cluster, kills, seed).map_err(|reason| RunError::of(&cluster, name, seed, &reason))
}

fn both(cluster: &mut Cluster, kills: u32, seed: u64) -> Result<Outcome, String> {
    let readers: Vec<(Program, usize)> = [Program::Confluent, Program::Java, Program::Franz]
        .into_iter()
        .zip((0..cluster.len()).cycle())
        .collect();
    let racks = cluster.racks();
    let load = LoadOptions {
        topic: TOPIC.to_owned(),
        partitions: PARTITIONS,
        replicas: u16::try_from(cluster.len().min(3)).expect("few nodes"),
        producers: 3,
        records_per_second: 300,
        writers: vec![Program::Franz, Program::Confluent],
        readers: readers
            .iter()
            .map(|(program, near)| (*program, Some(racks[*near].clone())))
            .collect(),
        final_racks: racks.iter().cloned().map(Some).collect(),
    };
    let mut load = Load::start(&cluster.bootstrap(), cluster.directory(), load)?;
    let nodes = cluster.kafka_addresses();
    let prober = Prober::start(&nodes, TOPIC, PARTITIONS, PROBE_INTERVAL);
    let watcher = Watcher::start(cluster, TOPIC, PARTITIONS);
    let started = Instant::now();
    load.wait_progress(&load.progress(), RECOVERY)?;
    let mut random = Random::seeded(seed);
    for kill in 1..=kills {
        kill_a_leader(cluster, &mut load, &prober, &mut random).map_err(|e| format!("kill {kill}: {e}"))?;
    }
    let longest_silence = prober.longest_silence(started);
    let final_errors = prober.final_errors();
    let Seen {
        answers, findings, ..
    } = watcher.finish();
    let probes = prober.finish();
    let mut history = load.finish(&cluster.bootstrap())?;
    history.add("probes", probes);
    let report = check(&history);
    if !report.is_sound() || !findings.is_empty() || !final_errors.is_empty() {
        return Err(format!(
            "{report}\nerrors that clients do not retry: {final_errors:?}\nreplicas showed: {findings:#?}"
        ));
    }
    if let Some(node) = answers
        .iter()
        .position(|(count, bytes)| *count == 0 || *bytes == 0)
    {
        return Err(format!("node {} has answered nobody: {answers:?}", id(node)));
    }
    // Leaders that still move would send the readers elsewhere, or be all at one place. Where they do not come to rest in
    // time, the readers show whether that matters.
    if let Err(e) = wait_until(cluster, 0, RECOVERY, RegionView::unsettled) {
        println!("leaders still move: {e}");
    }
    let served = readers
        .into_iter()
        .map(|(program, near)| read_everything(cluster, program, near, report.stored))
        .collect::<Result<_, _>>()?;
    Ok(Outcome {
        report,
        kills,
        longest_silence,
        watched: answers,
        served,
    })
}

fn kill_a_leader(
    cluster: &mut Cluster,
    load: &mut Load,
    prober: &Prober,
    random: &mut Random,
) -> Result<(), String> {
    sleep(Duration::from_millis(random.within(300..1000)));
    let partition = i32::try_from(random.within(0..PARTITIONS.into())).expect("few partitions");
    // It may be on its way to another node, long after the last death.
    let leader = wait_for(RECOVERY, || cluster.leader(TOPIC, partition))
        .ok_or_else(|| format!("partition {partition} has no leader"))?;
    let progress = load.progress();
    let killed = Instant::now();
    cluster.kill(leader);
    sleep(Duration::from_millis(random.within(100..1200)));
    cluster.launch(leader)?;
    cluster.wait_ready(leader)?;
    wait_for(RECOVERY, || prober.all_served_after(killed).then_some(())).ok_or_else(|| {
        let told = prober.explain(killed);
        format!(
            "a partition is not served {RECOVERY:?} after the death of node {}\n{told}",
            id(leader)
        )
    })?;
    load.wait_progress(&progress, RECOVERY)?;
    println!(
        "node {} was killed: a partition was not served for {} ms",
        id(leader),
        prober.longest_silence(killed).as_millis()
    );
    Ok(())
}

/// Lets a client in the rack of a node read `records` from the start, while nobody else reads.
fn read_everything(cluster: &Cluster, program: Program, near: usize, records: u64) -> Result<Served, String> {
    let metadata = wait_for(RECOVERY, || {
        let metadata = cluster.metadata(TOPIC)?;
        metadata.has_leaders(PARTITIONS as usize).then_some(metadata)
    });
    let metadata = metadata.ok_or("not every partition has a leader")?;
    let near_id = i32::try_from(id(near)).expect("few nodes");
    let led_elsewhere = metadata.partitions.iter().filter(|p| p.leader != near_id);
    let led_elsewhere = led_elsewhere.count();
    if led_elsewhere == 0 {
        return Err(format!("node {near_id} leads every partition: nothing is shown"));
    }
    let name = format!("near-{}", program.name());
    let mut read = 0;
    for written in WRITTEN {
        let (lines, bytes) = follow(cluster, program, near, records, &name, written)?;
        read = lines;
        if read > records {
            break;
        }
        if read == records {
            let served = Served {
                program,
                near,
                led_elsewhere,
                bytes,
            };
            if served.near_share() < NEAR_MIN {
                return Err(format!(
                    "{name} was to read from node {near_id} and was served by all nodes: {:?} bytes",
                    served.bytes
                ));
            }
            return Ok(served);
        }
    }
    Err(format!("{name} read {read} of {records} records"))
}

/// Lets a client follow the topic until it was given `records`, and for `written` more. Gives how many it has written down,
/// and the bytes that each node gave.
fn follow(
    cluster: &Cluster,
    program: Program,
    near: usize,
    records: u64,
    name: &str,
    written: Duration,
) -> Result<(u64, Vec<f64>), String> {
    let before = fetched(cluster)?;
    let file = cluster.directory().join(format!("{name}.jsonl"));
    let mut command: Command = program.command();
    command
        .args(["follow", &cluster.bootstrap(), TOPIC, &PARTITIONS.to_string()])
        .arg(&file)
        .env("MERIDIAN_TEST_RACK", &cluster.racks()[near]);
    let out = |suffix: &str| cluster.directory().join(format!("{name}.{suffix}"));
    let mut process = Process::start(name, command, &out("out"), &out("log"));
    let given = |now: &[(f64, f64)]| -> f64 { now.iter().zip(&before).map(|(n, b)| n.1 - b.1).sum() };
    wait_for(READ, || {
        sleep(Duration::from_millis(100));
        let now = fetched(cluster).ok()?;
        (given(&now) >= records as f64).then_some(())
    })
    .ok_or_else(|| {
        let log = process.log_tail(20);
        format!("{name}: not all of {records} records were fetched within {READ:?}\n{log}")
    })?;
    sleep(written);
    process
        .signal(Signal::TERM)
        .map_err(|e| format!("{name}: {e}\n{}", process.log_tail(20)))?;
    match process.wait(READ) {
        Some(status) if status.success() => {}
        other => return Err(format!("{name} ended with {other:?}\n{}", process.log_tail(20))),
    }
    let read = lines_with(&file, "\"type\":\"read\"")? + lines_with(&file, "\"type\": \"read\"")?;
    let after = fetched(cluster)?;
    let bytes = after.iter().zip(&before).map(|(a, b)| a.0 - b.0).collect();
    Ok((read, bytes))
}

/// Bytes and records of fetches that each node has answered so far.
fn fetched(cluster: &Cluster) -> Result<Vec<(f64, f64)>, String> {
    (0..cluster.len())
        .map(|node| {
            let text = cluster
                .metrics(node)
                .ok_or_else(|| format!("node {} gives no metrics", id(node)))?;
            let of = |name| view::metric(&text, name).unwrap_or(0.0);
            Ok((
                of("meridian_fetch_bytes_total"),
                of("meridian_fetch_records_total"),
            ))
        })
        .collect()
}

fn lines_with(file: &Path, word: &str) -> Result<u64, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
    Ok(text.lines().filter(|line| line.contains(word)).count() as u64)
}
