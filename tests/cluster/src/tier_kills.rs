//! Nodes that die at a named step of what the tier does, one step after the other, as by kill -9: others go on, nothing
//! acknowledged is lost, and the bucket ends up with what its manifests name and nothing else.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use meridian_checker::{Event, History, Report, check};
use meridian_compat::load::connect_any;
use meridian_compat::process::wait_for;
use meridian_compat::raw::{PlainRecord, RawClient, keyed_batch, plain_records};
use meridian_compat::{program, workspace};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::prober::Prober;
use crate::rounds::{RECOVERY, RunError};
use crate::system::{ClusterOptions, NodeOptions, id};
use crate::view;

/// Every step at which a node can be told to die, in the order in which a record comes by.
pub const STEPS: [&str; 22] = [
    "round-made",
    "round-uploaded",
    "round-verified",
    "round-proposed",
    "round-answered",
    "merge-made",
    "merge-uploaded",
    "merge-verified",
    "merge-proposed",
    "merge-answered",
    "compaction-made",
    "compaction-uploaded",
    "compaction-verified",
    "compaction-proposed",
    "compaction-answered",
    "copy-made",
    "copy-written",
    "deletion-due",
    "object-deleted",
    "deletion-told",
    "orphans-due",
    "orphan-deleted",
];

/// All records of it are kept, and read from the bucket.
const KEPT: &str = "kept";
/// The latest record of each key is kept of it.
const TABLE: &str = "table";

/// As many as a region has shards, so that every node leads some of them.
const PARTITIONS: u32 = 16;

/// Each partition gets a record of this size so often.
const RECORD_BYTES: usize = 4000;
const RECORD_INTERVAL: Duration = Duration::from_millis(60);

/// Keys of a partition of the table.
const KEYS: u64 = 5;

/// How long it may take until a node comes to its step.
const DEATH: Duration = Duration::from_secs(180);

/// How long the bucket may take to have everything, and no more than that, after the last death.
const CALM: Duration = Duration::from_secs(120);

/// What a run has shown.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Steps, and how long it took until the node died there.
    pub deaths: Vec<(String, Duration)>,
    /// What the checker says.
    pub report: Report,
    /// Records of the table that were acknowledged, and those that are left.
    pub table: (u64, u64),
    /// What `meridian tier verify` printed.
    pub verified: Value,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (step, took) in &self.deaths {
            writeln!(f, "  {step}: died after {} ms", took.as_millis())?;
        }
        writeln!(f, "{} deaths: {}", self.deaths.len(), self.report)?;
        let (sent, left) = self.table;
        writeln!(f, "  table: {sent} records acknowledged, {left} left")?;
        write!(
            f,
            "  bucket: {} objects, {} extents, {} records, all whole, no orphan",
            self.verified["objects"], self.verified["extents"], self.verified["records"]
        )
    }
}

/// Lets nodes die at `steps`, one after the other, under load; then reads everything from offset 0.
pub fn run(name: &str, options: &ClusterOptions, steps: &[String]) -> Result<Outcome, RunError> {
    if let Some(step) = steps.iter().find(|step| !STEPS.contains(&step.as_str())) {
        return Err(RunError::CannotRun(format!(
            "there is no step {step:?}; there are {}",
            STEPS.join(", ")
        )));
    }
    let bucket = workspace::run_directory(&format!("{name}-bucket"));
    let mut options = options.clone();
    let own = settings(&bucket);
    options.settings = own.into_iter().chain(options.settings).collect();
    let mut cluster = Cluster::start(name, &options).map_err(RunError::CannotRun)?;
    let result = kill_and_check(&mut cluster, &options, &bucket, steps);
    let result = result.map_err(|reason| {
        let tails = cluster.log_tails(15);
        let kept = cluster.keep_evidence(name);
        RunError::DoesNotHold(format!("{reason}\n{tails}({kept})"))
    });
    drop(cluster);
    drop(std::fs::remove_dir_all(&bucket));
    result
}

/// Many small rounds, and journals that give up what is in the bucket.
fn settings(bucket: &Path) -> Vec<String> {
    let mut settings: Vec<String> = [
        "tier.round_bytes=32768",
        "tier.round_interval_ms=200",
        "tier.bundle_bytes=1048576",
        "tier.copy_interval_ms=300",
        "tier.delete_grace_seconds=1",
        "tier.sweep_interval_seconds=1",
        "tier.merge_extents_min=4",
        "tier.compaction_interval_ms=300",
        "shard.maintenance_interval_ms=300",
        "shard.checkpoint_entries=200",
        "journal.file_bytes=8388608",
        "journal.bytes_max=33554432",
        "journal.cache_bytes=1048576",
    ]
    .map(str::to_owned)
    .into();
    settings.push(format!("tier.url={}", bucket.display()));
    settings
}

fn kill_and_check(
    cluster: &mut Cluster,
    options: &ClusterOptions,
    bucket: &Path,
    steps: &[String],
) -> Result<Outcome, String> {
    create_topics(cluster)?;
    let nodes = cluster.kafka_addresses();
    let prober = Prober::start_padded(&nodes, KEPT, PARTITIONS, RECORD_INTERVAL, RECORD_BYTES);
    let table = Table::start(&nodes);
    let mut deaths = Vec::new();
    // One node dies a few times in a row, then the next one: starting a node anew is what takes time.
    let turns = steps.chunks(steps.len().div_ceil(cluster.len()).max(1));
    for (victim, steps) in turns.enumerate() {
        cluster.stop(victim)?;
        for step in steps {
            let launched = Instant::now();
            cluster.launch_as(victim, &with(options, victim, Some(step)))?;
            let (status, log) = wait_for(DEATH, || {
                if step.starts_with("orphan")
                    && let Err(e) = leave_orphans(bucket)
                {
                    println!("{e}");
                }
                cluster.wait_ended(victim, Duration::from_secs(1))
            })
            .ok_or_else(|| format!("node {} never came to {step}", id(victim)))?;
            let is_there = log.contains("the process ends here") && log.contains(step.as_str());
            if status.success() || !is_there {
                return Err(format!(
                    "node {} ended with {status} and not at {step}:\n{log}",
                    id(victim)
                ));
            }
            println!("node {} died at {step}", id(victim));
            deaths.push((step.clone(), launched.elapsed()));
            let now = Instant::now();
            if cluster.len() > 1 {
                // The others do without it, and finish what it has left.
                served_after(&prober, now)?;
            }
        }
        cluster.launch_as(victim, &with(options, victim, None))?;
        cluster.wait_ready(victim)?;
        served_after(&prober, Instant::now())?;
    }
    let final_errors = prober.final_errors();
    let mut history = History::default();
    history.add("probes", prober.finish());
    let written = table.finish();
    until_calm(cluster)?;
    let mut reads = Vec::new();
    for partition in 0..PARTITIONS {
        reads.extend(read_kept(cluster, partition)?);
    }
    history.add("reader", reads);
    let report = check(&history);
    if !report.is_sound() || !final_errors.is_empty() {
        return Err(format!(
            "{report}\nerrors that clients do not retry: {final_errors:?}"
        ));
    }
    let left = check_table(cluster, &written)?;
    let verified = verify(cluster, bucket)?;
    Ok(Outcome {
        deaths,
        report,
        table: (written.acknowledged, left),
        verified,
    })
}

fn with(options: &ClusterOptions, node: usize, step: Option<&str>) -> NodeOptions {
    NodeOptions {
        settings: step
            .map(|step| format!("tier.abort_at={step}"))
            .into_iter()
            .collect(),
        ..options.node(node)
    }
}

fn served_after(prober: &Prober, now: Instant) -> Result<(), String> {
    wait_for(RECOVERY, || prober.all_served_after(now).then_some(()))
        .ok_or_else(|| format!("a partition is not served\n{}", prober.explain(now)))
}

fn create_topics(cluster: &Cluster) -> Result<(), String> {
    let replicas = i16::try_from(cluster.len().min(3)).expect("few nodes");
    let count = i32::try_from(PARTITIONS).expect("few partitions");
    let cold = ("local.retention.ms", "1");
    let kept = [("retention.ms", "-1"), cold];
    let table = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0"),
        cold,
    ];
    for (topic, configs) in [(KEPT, &kept[..]), (TABLE, &table[..])] {
        let mut last = "nobody listens".to_owned();
        let created = wait_for(RECOVERY, || {
            let mut client = connect_any(&cluster.bootstrap())?;
            match client.create_replicated_topic(topic, count, replicas, configs) {
                // 36: an attempt before this one was not in vain.
                Ok(0 | 36) => return Some(()),
                Ok(error) => last = format!("error {error}"),
                Err(e) => last = e.to_string(),
            }
            None
        });
        created.ok_or_else(|| format!("topic {topic} cannot be created: {last}"))?;
    }
    Ok(())
}

/// Bundles that no manifest names, in every shard.
fn leave_orphans(bucket: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("cannot leave orphans in {}: {e}", bucket.display());
    for shard in shard_directories(bucket).map_err(failed)? {
        let count = std::fs::read_dir(&shard).map_err(failed)?.count();
        let name = format!("{:016x}-00000000-0000-4000-8000-{count:012x}.bundle", 1);
        std::fs::write(shard.join(name), b"left").map_err(failed)?;
    }
    Ok(())
}

/// `<cluster>/<shard>` of every shard that has anything.
fn shard_directories(bucket: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for cluster in std::fs::read_dir(bucket)? {
        let cluster = cluster?.path();
        for shard in std::fs::read_dir(&cluster).into_iter().flatten() {
            let shard = shard?.path();
            let name = shard.file_name().unwrap_or_default().to_string_lossy();
            if name.parse::<u32>().is_ok() {
                found.push(shard);
            }
        }
    }
    Ok(found)
}

/// Waits until the bucket has everything.
fn until_calm(cluster: &Cluster) -> Result<(), String> {
    let waiting = || -> Option<f64> {
        let nodes = (0..cluster.len()).map(|node| {
            let text = cluster.metrics(node)?;
            view::metric(&text, "meridian_tier_waiting_bytes").or(Some(0.0))
        });
        nodes.sum()
    };
    let mut last = None;
    wait_for(CALM, || {
        sleep(Duration::from_millis(200));
        last = waiting();
        (last == Some(0.0)).then_some(())
    })
    .ok_or_else(|| format!("{last:?} bytes still wait for the bucket {CALM:?} after the last death"))
}

/// Everything of a partition from offset 0 on, from its leader.
fn read_partition(cluster: &Cluster, topic: &str, partition: u32) -> Result<(Vec<PlainRecord>, i64), String> {
    let number = i32::try_from(partition).expect("few partitions");
    let mut all = Vec::new();
    let mut next = 0;
    let started = Instant::now();
    let mut client: Option<RawClient> = None;
    loop {
        let read = client
            .take()
            .or_else(|| view::leader(&cluster.kafka_addresses(), topic, number))
            .ok_or("nobody leads it".to_owned())
            .and_then(|mut found| {
                let read = found
                    .fetch(topic, number, next, 1 << 20)
                    .map_err(|e| e.to_string())?;
                client = Some(found);
                Ok(read)
            });
        match read {
            Ok((0, high_watermark, batches)) => {
                let (records, end) = plain_records(&batches)
                    .map_err(|e| format!("{topic} {partition} at offset {next}: {e}"))?;
                all.extend(records.into_iter().filter(|record| record.offset >= next));
                if end.is_none() {
                    sleep(Duration::from_millis(20));
                }
                next = end.unwrap_or(next).max(next);
                if next >= high_watermark {
                    return Ok((all, high_watermark));
                }
            }
            refused if started.elapsed() > RECOVERY => {
                return Err(format!(
                    "{topic} {partition} cannot be read at {next}: {refused:?}"
                ));
            }
            _ => {
                client = None;
                sleep(Duration::from_millis(50));
            }
        }
        if started.elapsed() > 2 * RECOVERY {
            return Err(format!("{topic} {partition} has no end; read up to {next}"));
        }
    }
}

fn read_kept(cluster: &Cluster, partition: u32) -> Result<Vec<Event>, String> {
    let (records, end) = read_partition(cluster, KEPT, partition)?;
    let mut events = vec![Event::Position { partition, offset: 0 }];
    for record in records {
        let value = String::from_utf8_lossy(&record.value.unwrap_or_default()).into_owned();
        events.push(Event::Read {
            partition,
            offset: u64::try_from(record.offset).unwrap_or(u64::MAX),
            value: value.trim_end().to_owned(),
        });
    }
    events.push(Event::Complete {
        partition,
        start: 0,
        end: u64::try_from(end).unwrap_or(0),
    });
    Ok(events)
}

/// What was written to the table: of each partition and key the last number that was acknowledged.
#[derive(Clone, Debug, Default)]
struct Written {
    acknowledged: u64,
    latest: BTreeMap<(u32, String), u64>,
}

/// Writes rising numbers under few keys, one request at a time.
struct Table {
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<Written>,
}

impl Table {
    fn start(nodes: &[SocketAddr]) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let (nodes, stop) = (nodes.to_vec(), Arc::clone(&stopping));
        let run = move || {
            let mut written = Written::default();
            let mut leaders: BTreeMap<u32, RawClient> = BTreeMap::new();
            for number in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let partition = (number % u64::from(PARTITIONS)) as u32;
                let key = format!("key-{}", number / u64::from(PARTITIONS) % KEYS);
                let at = i32::try_from(partition).expect("few partitions");
                let leader = leaders
                    .remove(&partition)
                    .or_else(|| view::leader(&nodes, TABLE, at));
                let Some(mut leader) = leader else {
                    sleep(Duration::from_millis(20));
                    continue;
                };
                let value = number.to_string();
                let batch = keyed_batch(&[(key.as_bytes(), Some(value.as_bytes()))]);
                if let Ok((0, _)) = leader.produce(TABLE, at, &batch) {
                    written.acknowledged += 1;
                    written.latest.insert((partition, key), number);
                    leaders.insert(partition, leader);
                }
                sleep(Duration::from_millis(2));
            }
            written
        };
        let thread = thread::Builder::new().name("table".to_owned());
        Self {
            stopping,
            thread: thread.spawn(run).expect("a thread"),
        }
    }

    fn finish(self) -> Written {
        self.stopping.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic")
    }
}

/// Holds the table against what was acknowledged; gives how many records are left.
fn check_table(cluster: &Cluster, written: &Written) -> Result<u64, String> {
    let mut left = 0;
    for partition in 0..PARTITIONS {
        let (records, _) = read_partition(cluster, TABLE, partition)?;
        let mut found: BTreeMap<String, u64> = BTreeMap::new();
        for record in records {
            left += 1;
            let text = |bytes: Option<Vec<u8>>| String::from_utf8(bytes.unwrap_or_default());
            let (key, value) = (text(record.key), text(record.value));
            let number = value.ok().and_then(|value| value.parse().ok());
            let (Ok(key), Some(number)) = (key, number) else {
                return Err(format!("a strange record at {} of {partition}", record.offset));
            };
            if found
                .insert(key.clone(), number)
                .is_some_and(|before| before >= number)
            {
                return Err(format!("{key} of {partition} goes back at {}", record.offset));
            }
        }
        for ((_, key), last) in written
            .latest
            .range((partition, String::new())..(partition + 1, String::new()))
        {
            // A later one that was never acknowledged may have been done.
            if found.get(key).is_none_or(|number| number < last) {
                return Err(format!(
                    "{key} of {partition} is {:?}, and {last} was acknowledged",
                    found.get(key)
                ));
            }
        }
    }
    if left >= written.acknowledged {
        return Err(format!(
            "nothing was compacted: {left} records of {}",
            written.acknowledged
        ));
    }
    Ok(left)
}

/// `meridian tier verify`, until it knows no orphan; deletion comes some time after the grace period.
fn verify(cluster: &Cluster, bucket: &Path) -> Result<Value, String> {
    let mut last = Err("it was not asked".to_owned());
    let found = wait_for(CALM, || {
        let mut command = Command::new(workspace::meridian_binary().ok()?);
        command
            .args(["tier", "verify", "--output", "json", "--bucket"])
            .arg(bucket);
        let printed = program::run("verify", command, cluster.directory(), None, CALM);
        let document = printed.and_then(|printed| {
            serde_json::from_str::<Value>(&printed.lines.join("\n")).map_err(|e| format!("no JSON: {e}"))
        });
        let is_clean = document.as_ref().is_ok_and(|document| {
            document["is_whole"] == true && document["orphans"].as_array().is_some_and(Vec::is_empty)
        });
        last = document;
        if !is_clean {
            sleep(Duration::from_millis(500));
        }
        is_clean.then_some(())
    });
    match found {
        Some(()) => last,
        None => Err(format!(
            "the bucket is not as it should be {CALM:?} after the last death: {last:?}"
        )),
    }
}
