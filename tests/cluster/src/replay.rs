//! `meridian replay --brokers` reads a region of three out of its bucket and on to the present, while its leaders are killed one
//! after the other: every record comes exactly once, and none is another than was written.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use meridian_checker::Report;
use meridian_compat::load::create_topic;
use meridian_compat::process::wait_for;
use meridian_compat::s3::BucketAddress;
use meridian_compat::{LoadOptions, Process, Program, Random, program, workspace};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::lag::sum;
use crate::rounds::{RECOVERY, RunError};
use crate::session::{Session, Step};
use crate::system::{ClusterOptions, System};
use crate::view;

/// What is known beforehand: the records of each partition have their offsets as numbers.
const HISTORY: &str = "history";
/// What is written meanwhile.
const LOAD: &str = "load";
const PARTITIONS: u32 = 4;

/// Records of each partition of the history: a round of its shard comes for the first, and not for the others, which are
/// read from brokers. (`tier.round_bytes`, below.)
const FIRST: u64 = 3000;
const LATER: u64 = 1500;
const VALUE_BYTES: usize = 1000;

/// How long a replay may take in all, with its resumptions.
const REPLAY: Duration = Duration::from_secs(180);

/// ListOffsets' name for the end.
const LATEST: i64 = -1;

/// What is done.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// Replays from the beginning, with a leader's death in each.
    pub replays: u32,
    /// Of the choice of leaders and moments.
    pub seed: u64,
}

/// What was shown.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the checker says of what was written meanwhile.
    pub report: Report,
    /// One for each replay.
    pub steps: Vec<Step>,
    /// Of each replay: how long it took, how many leaders died meanwhile, how often it was resumed, and its records.
    pub replays: Vec<Replayed>,
}

/// One replay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Replayed {
    /// From its start to its end.
    pub took: Duration,
    /// Leaders that died meanwhile.
    pub kills: u32,
    /// How often it gave up, and was told to go on.
    pub resumed: u32,
    /// All of them.
    pub records: u64,
    /// Those of them that the bucket had when it began; a round may have brought more while it read.
    pub in_bucket: u64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.report)?;
        for (number, it) in self.replays.iter().enumerate() {
            writeln!(
                f,
                "  replay {}: {} records, {} of them in the bucket when it began, in {:.1} s, {} leaders died meanwhile, {} times resumed",
                number + 1,
                it.records,
                it.in_bucket,
                it.took.as_secs_f64(),
                it.kills,
                it.resumed
            )?;
        }
        write!(
            f,
            "  each record of every replay is the one that was written, and comes once"
        )
    }
}

/// Starts nodes and clients, and replays again and again.
pub fn run(name: &str, options: &ReplayOptions) -> Result<Outcome, RunError> {
    let clients = [Program::Franz, Program::Confluent];
    if let Some(reason) = clients.into_iter().find_map(Program::missing) {
        return Err(RunError::CannotRun(reason));
    }
    let directory = workspace::run_directory(&format!("{name}-work"));
    let path = directory.join("bucket");
    std::fs::create_dir_all(&path)
        .map_err(|e| RunError::CannotRun(format!("cannot make {}: {e}", path.display())))?;
    let bucket = BucketAddress::directory(&path);
    // Rounds come by bytes alone, so that there is a newest part that only brokers have.
    let rounds = [
        "tier.round_bytes=2097152",
        "tier.round_interval_ms=3600000",
        "tier.copy_interval_ms=200",
    ];
    let settings = bucket.settings().into_iter().chain(rounds.map(str::to_owned));
    let cluster = ClusterOptions {
        system: System::Meridian,
        settings: settings.collect(),
        ..ClusterOptions::plain(3)
    };
    let mut cluster = Cluster::start(name, &cluster).map_err(RunError::CannotRun)?;
    replays(&mut cluster, &bucket, &directory, options)
        .map_err(|reason| RunError::of(&cluster, name, options.seed, &reason))
}

fn replays(
    cluster: &mut Cluster,
    bucket: &BucketAddress,
    directory: &Path,
    options: &ReplayOptions,
) -> Result<Outcome, String> {
    create_topic(&cluster.bootstrap(), HISTORY, PARTITIONS, 3)?;
    write_history(cluster, directory, 0..FIRST)?;
    let led = || sum(cluster, "meridian_tier_objects", "");
    // Which shards the partitions are in is the region's affair: at least one, and the last bundle is told within a copy interval.
    wait_for(RECOVERY, || (led() > 0.0).then_some(())).ok_or("no round has come")?;
    thread::sleep(Duration::from_secs(2));
    write_history(cluster, directory, FIRST..FIRST + LATER)?;
    let load = LoadOptions {
        topic: LOAD.to_owned(),
        partitions: PARTITIONS,
        replicas: 3,
        producers: 2,
        records_per_second: 200,
        writers: vec![Program::Franz, Program::Confluent],
        readers: vec![(Program::Franz, None)],
        final_racks: vec![None],
    };
    let mut session = Session::start(cluster, load)?;
    let mut random = Random::seeded(options.seed);
    let mut done = Vec::new();
    let mut disturbed = 0;
    // When the first leader dies: within the first moments, those of its start and of the bucket.
    let mut first_death = Duration::from_millis(900);
    let mut number = 0;
    while disturbed < options.replays {
        number += 1;
        if number > 4 * options.replays {
            return Err("replays end before a leader dies".to_owned());
        }
        let ends = ends(cluster)?;
        let into = directory.join(format!("replay-{number}"));
        let in_bucket = in_bucket(bucket, directory)?;
        let mut replayed = replay(cluster, bucket, directory, &into, first_death, &mut random)?;
        replayed.in_bucket = in_bucket;
        if replayed.kills > 0 {
            disturbed += 1;
        } else {
            // This machine reads all of it in less: earlier.
            first_death = first_death.min(replayed.took / 2);
        }
        cluster.wait_all_ready()?;
        session.served(&format!(
            "replay {number}, {} leaders killed meanwhile",
            replayed.kills
        ))?;
        done.push((into, ends, replayed));
    }
    let (report, steps) = session.finish(cluster)?;
    let load = consumed(cluster)?;
    let mut all = Vec::new();
    for (into, ends, mut replayed) in done {
        replayed.records = compare(&into, &ends, &load).map_err(|e| format!("{}: {e}", into.display()))?;
        all.push(replayed);
    }
    if all.iter().all(|it| it.records <= it.in_bucket) {
        return Err("all records were in the bucket: there was no seam".to_owned());
    }
    Ok(Outcome {
        report,
        steps,
        replays: all,
    })
}

/// The value of a record of the history.
fn value(partition: u32, number: u64) -> String {
    let filling = [b'a' + (number % 26) as u8; VALUE_BYTES];
    format!("{partition} {number} {}", String::from_utf8_lossy(&filling))
}

fn write_history(cluster: &Cluster, directory: &Path, numbers: std::ops::Range<u64>) -> Result<(), String> {
    let mut lines = String::new();
    for number in numbers {
        for partition in 0..PARTITIONS {
            let record = json!({
                "partition": partition,
                "timestamp_ms": 1_795_000_000_000_u64 + number,
                "key": (!number.is_multiple_of(3)).then(|| format!("key-{number}")),
                "value": value(partition, number),
                "headers": [{ "key": "number", "value": number.to_string() }],
            });
            lines += &format!("{record}\n");
        }
    }
    let file = directory.join("history.jsonl");
    std::fs::write(&file, lines).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    let mut command = Command::new(workspace::meridian_binary()?);
    command
        .args([
            "produce",
            HISTORY,
            "--format",
            "json",
            "--keep-partitions",
            "--server",
        ])
        .arg(cluster.bootstrap())
        .arg(&file);
    program::run("produce", command, directory, None, REPLAY)?;
    Ok(())
}

/// Where each partition ends now: whatever begins from now on must come as far.
fn ends(cluster: &Cluster) -> Result<BTreeMap<(String, u32), u64>, String> {
    let nodes = cluster.kafka_addresses();
    let mut ends = BTreeMap::new();
    for topic in [HISTORY, LOAD] {
        for partition in 0..PARTITIONS {
            let number = i32::try_from(partition).map_err(|_| "too many partitions")?;
            let end = wait_for(RECOVERY, || {
                let (error, _, end) = view::leader(&nodes, topic, number)?
                    .list_offset(topic, number, LATEST)
                    .ok()?;
                (error == 0).then_some(u64::try_from(end).ok()?)
            });
            let end = end.ok_or_else(|| format!("{topic} {partition} does not tell its end"))?;
            ends.insert((topic.to_owned(), partition), end);
        }
    }
    Ok(ends)
}

/// Replays both topics while leaders are killed, and goes on with it when it gives up.
fn replay(
    cluster: &mut Cluster,
    bucket: &BucketAddress,
    directory: &Path,
    into: &Path,
    first_death: Duration,
    random: &mut Random,
) -> Result<Replayed, String> {
    let began = Instant::now();
    let mut replayed = Replayed::default();
    let pauses = u64::try_from(first_death.as_millis()).map_err(|e| e.to_string())? + 1;
    loop {
        let mut command = Command::new(workspace::meridian_binary()?);
        command
            .args(["replay", "--topic", HISTORY, "--topic", LOAD])
            .args(["--format", "jsonl", "--file-bytes", "1MiB", "--parallel", "1"])
            .args(["--timeout", "20s", "--output", "json"])
            .args(bucket.arguments())
            .args(["--brokers", &cluster.bootstrap()])
            .arg("--out")
            .arg(into);
        if into.join("replay-state.json").exists() {
            command.arg("--resume");
        }
        let (out, log) = (directory.join("replay.out"), directory.join("replay.log"));
        let mut process = Process::start("replay", command, &out, &log);
        let status = loop {
            let pause = Duration::from_millis(random.within(0..pauses));
            if let Some(status) = process.wait(pause) {
                break status;
            }
            if began.elapsed() > REPLAY {
                return Err(format!("a replay has not ended after {REPLAY:?}"));
            }
            replayed.kills += u32::from(kill_a_leader(cluster, random)?);
        };
        if status.success() {
            replayed.took = began.elapsed();
            return Ok(replayed);
        }
        if status.code() != Some(1) || began.elapsed() > REPLAY {
            return Err(format!("a replay ended with {status}: {}", process.log_tail(20)));
        }
        println!("a replay gave up, and goes on: {}", process.log_tail(2));
        replayed.resumed += 1;
        cluster.wait_all_ready()?;
    }
}

/// kill -9 of the node that leads some partition, and its start; whether there was one.
fn kill_a_leader(cluster: &mut Cluster, random: &mut Random) -> Result<bool, String> {
    let topic = if random.within(0..4) == 0 { LOAD } else { HISTORY };
    let partition = i32::try_from(random.within(0..u64::from(PARTITIONS))).map_err(|e| e.to_string())?;
    let Some(leader) = cluster.leader(topic, partition) else {
        return Ok(false);
    };
    cluster.kill(leader);
    thread::sleep(Duration::from_millis(random.within(0..500)));
    cluster.launch(leader)?;
    cluster.wait_ready(leader)?;
    Ok(true)
}

/// The records of the load, as a client reads them in the end.
fn consumed(cluster: &Cluster) -> Result<BTreeMap<u32, Vec<Value>>, String> {
    let mut command = Command::new(workspace::meridian_binary()?);
    command
        .args(["consume", LOAD, "--output", "json", "--server"])
        .arg(cluster.bootstrap());
    let read = program::run("consume", command, cluster.directory(), None, REPLAY)?;
    let mut partitions: BTreeMap<u32, Vec<Value>> = BTreeMap::new();
    for line in &read.lines {
        let (_, partition, record) = record(line)?;
        partitions.entry(partition).or_default().push(record);
    }
    Ok(partitions)
}

/// Topic, partition, and what else is in a line.
fn record(line: &str) -> Result<(String, u32, Value), String> {
    let mut record: Value = serde_json::from_str(line).map_err(|e| format!("{e}: {line}"))?;
    let fields = record.as_object_mut().ok_or("a line is no object")?;
    fields.remove("schema");
    let topic = fields
        .remove("topic")
        .and_then(|it| it.as_str().map(str::to_owned));
    let partition = fields.remove("partition").and_then(|it| it.as_u64());
    let partition = partition.and_then(|it| u32::try_from(it).ok());
    match (topic, partition) {
        (Some(topic), Some(partition)) => Ok((topic, partition, record)),
        _ => Err(format!("a line without a topic or a partition: {line}")),
    }
}

/// Compares what a replay wrote with what is known: every offset from 0 to the end, once, in order, with its record. Gives
/// how many they are.
fn compare(
    into: &Path,
    ends: &BTreeMap<(String, u32), u64>,
    load: &BTreeMap<u32, Vec<Value>>,
) -> Result<u64, String> {
    let mut count = 0;
    for ((topic, partition), end) in ends {
        let mut next = 0;
        for file in files(&into.join(topic).join(partition.to_string()))? {
            let text =
                std::fs::read_to_string(&file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
            for line in text.lines() {
                let (of, number, found) = record(line)?;
                let wanted = match topic.as_str() {
                    LOAD => load
                        .get(partition)
                        .and_then(|all| all.get(next as usize))
                        .cloned(),
                    _ => Some(history(*partition, next)),
                };
                if (of.as_str(), number) != (topic.as_str(), *partition) || Some(&found) != wanted.as_ref() {
                    return Err(format!(
                        "{topic} {partition}: expected {wanted:?} at offset {next}, found {found}"
                    ));
                }
                next += 1;
            }
        }
        if next < *end {
            return Err(format!(
                "{topic} {partition} ended at {end} when the replay began, and it has {next} records"
            ));
        }
        count += next;
    }
    Ok(count)
}

/// The line of a record of the history, but for topic and partition.
fn history(partition: u32, number: u64) -> Value {
    json!({
        "offset": number,
        "timestamp_ms": 1_795_000_000_000_u64 + number,
        "key": (!number.is_multiple_of(3)).then(|| format!("key-{number}")),
        "value": value(partition, number),
        "headers": [{ "key": "number", "value": number.to_string() }],
    })
}

/// The files of a partition; their names are their first offsets.
fn files(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |e: std::io::Error| format!("cannot read {}: {e}", directory.display());
    let entries = std::fs::read_dir(directory).map_err(failed)?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    // What an attempt that gave up had not finished is made anew under another name.
    files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    Ok(files)
}

/// Records of both topics in the bucket.
fn in_bucket(bucket: &BucketAddress, directory: &Path) -> Result<u64, String> {
    let mut command = Command::new(workspace::meridian_binary()?);
    command
        .args(["tier", "list", "--output", "json"])
        .args(bucket.arguments());
    let listed = program::run("tier-list", command, directory, None, REPLAY)?
        .lines
        .join("\n");
    let listed: Value =
        serde_json::from_str(&listed).map_err(|e| format!("tier list printed {listed}: {e}"))?;
    let topics = listed["topics"]
        .as_array()
        .ok_or("tier list tells of no topics")?;
    Ok(topics.iter().filter_map(|topic| topic["records"].as_u64()).sum())
}
