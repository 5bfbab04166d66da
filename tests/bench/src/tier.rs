//! `bench tier`: what tiering costs producers, how fast history comes back from the bucket, and what that costs those who
//! read at the tail. One node; the bucket is a local directory on the same disk.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::sleep;
use std::time::{Duration, Instant};

use meridian_cluster::{Cluster, ClusterOptions, System, view};
use meridian_compat::load::{connect_any, create_topic};
use meridian_compat::process::wait_for;
use meridian_compat::{Process, program, workspace};
use serde::Serialize;

use crate::client;
use crate::generator::outcome::Outcome;
use crate::machine;

mod figure;
mod report;

pub use figure::{Figure, What};
pub use report::markdown;

/// Names of offsets in ListOffsets.
const LATEST: i64 = -1;
const EARLIEST_LOCAL: i64 = -4;

const PARTITIONS: u32 = 16;

/// Records at the tail while others catch up, per second.
const TAIL_RATE: u32 = 2_000;

/// How long producers go as fast as they can, at most: what they write then is less than half of [`JOURNAL_BYTES`] on the
/// machines that were seen.
const BURST_SECONDS: u32 = 3;

/// Room of a journal that producers write to.
const JOURNAL_BYTES: u64 = 24 << 30;

/// How long the bucket may take until it has everything.
const DRAIN: Duration = Duration::from_secs(300);

/// How long the journal may take to give up what the bucket has.
const COLD: Duration = Duration::from_secs(120);

/// Of the records that are read back at least this share must be in the bucket alone.
const COLD_SHARE_MIN: f64 = 0.9;

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// What tiering costs producers.
    Producers,
    /// How fast history comes back, and what readers at the tail feel of it.
    History,
    /// How fast frames become Arrow.
    Replay,
}

/// Options of `bench tier`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// A run of some minutes, to see what works: one block, short windows, little history.
    #[arg(long)]
    pub quick: bool,
    /// What is measured [everything].
    #[arg(long, value_enum, value_delimiter = ',')]
    pub parts: Vec<Part>,
    /// Blocks: everything once in each, with and without a bucket in turns [5, with --quick 1].
    #[arg(long)]
    pub blocks: Option<u32>,
    /// Seconds of a window [10, with --quick 3].
    #[arg(long)]
    pub seconds: Option<u32>,
    /// Records of 1 KiB per second at a fixed rate.
    #[arg(long, default_value_t = 20_000)]
    pub rate: u32,
    /// MB of history that is read back [3000, with --quick 300].
    #[arg(long)]
    pub history_mb: Option<u64>,
    /// Name of the report: docs/benchmarks/DATE-NAME.md and .json.
    #[arg(long, default_value = "tier")]
    pub name: String,
    /// Print the report, but do not store it.
    #[arg(long)]
    pub no_store: bool,
}

/// All that a run found.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Version of this structure.
    pub schema: u32,
    /// Day of the run.
    pub date: String,
    /// Source that was measured.
    pub commit: String,
    /// Machine it ran on.
    pub machine: String,
    /// Load averages before the first block.
    pub load_before: String,
    /// Load averages after the last block.
    pub load_after: String,
    /// Whether this was a quick run.
    pub quick: bool,
    /// Whether the programs were built without optimization: nothing here means anything then.
    pub is_debug: bool,
    /// Blocks.
    pub blocks: u32,
    /// Seconds of a window.
    pub seconds: u32,
    /// Records per second at a fixed rate.
    pub rate: u32,
    /// MB of history that is read back.
    pub history_mb: u64,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
}

impl Run {
    fn add(&mut self, what: What, value: f64) {
        eprintln!("  {:<44} {value:>10.2} {}", what.label(), what.unit());
        match self.figures.iter_mut().find(|figure| figure.what == what) {
            Some(figure) => figure.values.push(value),
            None => self.figures.push(Figure {
                what,
                values: vec![value],
            }),
        }
    }

    /// Takes in what a part found, or why it found nothing.
    fn take(&mut self, part: &str, block: u32, found: Result<Vec<(What, f64)>, String>) {
        match found {
            Ok(found) => found.into_iter().for_each(|(what, value)| self.add(what, value)),
            Err(reason) => {
                eprintln!("block {block}, {part}: failed: {reason}");
                let first = reason.lines().next().unwrap_or_default();
                self.missing.push(format!("{part}, block {block}: {first}"));
            }
        }
    }
}

/// Measures everything. Errors: nothing could be measured; a part that fails is reported.
pub fn run(options: &Options) -> Result<Run, String> {
    let or = |given: Option<u32>, quick: u32, whole: u32| {
        given.unwrap_or(if options.quick { quick } else { whole })
    };
    let mut run = Run {
        schema: 1,
        date: machine::date(),
        commit: machine::commit(),
        machine: machine::description(),
        load_before: machine::load_average(),
        load_after: String::new(),
        quick: options.quick,
        is_debug: cfg!(debug_assertions),
        blocks: or(options.blocks, 1, 5),
        seconds: or(options.seconds, 3, 10),
        rate: options.rate,
        history_mb: options
            .history_mb
            .unwrap_or(if options.quick { 300 } else { 3000 }),
        figures: Vec::new(),
        missing: Vec::new(),
    };
    let is_asked = |part: Part| options.parts.is_empty() || options.parts.contains(&part);
    for block in 1..=run.blocks {
        // Slow changes of the machine hit both alike.
        let order = if block % 2 == 1 {
            [false, true]
        } else {
            [true, false]
        };
        for has_bucket in order.into_iter().filter(|_| is_asked(Part::Producers)) {
            eprintln!(
                "block {block}: producers, {}",
                if has_bucket { "tiering" } else { "without a bucket" }
            );
            let found = producers(&run, block, has_bucket);
            run.take("producers", block, found);
        }
        if is_asked(Part::History) {
            eprintln!("block {block}: history");
            let found = history(&run, block);
            run.take("history", block, found);
        }
        if is_asked(Part::Replay) {
            eprintln!("block {block}: replay");
            let found = replay(&run, block);
            run.take("replay", block, found);
        }
    }
    run.load_after = machine::load_average();
    if run.figures.is_empty() {
        return Err(format!("nothing was measured: {}", run.missing.join("; ")));
    }
    Ok(run)
}

/// A node of its own, with or without a bucket.
struct Node {
    cluster: Cluster,
    /// Behind the cluster, which ends first and writes nothing to it any more.
    _bucket: Option<BucketDirectory>,
}

impl Node {
    fn start(name: &str, has_bucket: bool, settings: &[String]) -> Result<Self, String> {
        let name = format!("bench-tier-{name}");
        let bucket = has_bucket.then(|| workspace::run_directory(&format!("{name}-bucket")));
        let mut settings = settings.to_vec();
        settings.extend(bucket.as_ref().map(|path| format!("tier.url={}", path.display())));
        let options = ClusterOptions {
            system: System::Meridian,
            settings,
            ..ClusterOptions::plain(1)
        };
        Ok(Self {
            cluster: Cluster::start(&name, &options)?,
            _bucket: bucket.map(BucketDirectory),
        })
    }

    fn directory(&self) -> &Path {
        self.cluster.directory()
    }

    fn topic(&self, name: &str, partitions: u32) -> Result<(), String> {
        create_topic(&self.cluster.bootstrap(), name, partitions, 1)
    }

    /// `meridian bench` with these words.
    fn bench(&self, words: &str) -> Result<Outcome, String> {
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        client::meridian_bench(self.directory(), &self.cluster.bootstrap(), &words)
    }

    fn metric(&self, name: &str, label: &str) -> f64 {
        let metrics = self.cluster.metrics(0).unwrap_or_default();
        view::labelled(&metrics, name, label).unwrap_or(0.0)
    }

    /// Waits until the bucket has everything.
    fn drain(&self) -> Result<(), String> {
        let waiting = || self.metric("meridian_tier_waiting_bytes", "");
        // A round finds out how much waits a little later than it is written.
        sleep(Duration::from_millis(500));
        wait_for(DRAIN, || (waiting() == 0.0).then_some(()))
            .ok_or_else(|| format!("{} bytes still wait for the bucket after {DRAIN:?}", waiting()))
    }

    /// How fast the bucket takes what waits for it, until next to nothing does: the end of each shard's log comes with a round of
    /// its own some seconds later.
    fn taken_mb_per_s(&self) -> Result<f64, String> {
        let now = || {
            let tiered = self.metric("meridian_tier_tiered_bytes_total", "");
            (
                Instant::now(),
                self.metric("meridian_tier_waiting_bytes", ""),
                tiered,
            )
        };
        let (began, waiting, tiered) = now();
        let (ended, _, tiered_all) = wait_for(DRAIN, || {
            let found = now();
            (found.1 <= waiting / 10.0).then_some(found)
        })
        .ok_or_else(|| format!("of {waiting} bytes more than a tenth wait after {DRAIN:?}"))?;
        self.drain()?;
        Ok((tiered_all - tiered) / 1e6 / (ended - began).as_secs_f64())
    }

    /// Which share of a topic's records only the bucket has.
    fn cold_share(&self, topic: &str, partitions: u32) -> Result<f64, String> {
        let mut client = connect_any(&self.cluster.bootstrap()).ok_or("the node takes no connection")?;
        let (mut cold, mut all) = (0, 0);
        for partition in 0..partitions {
            let partition = i32::try_from(partition).expect("few partitions");
            let mut offset = |timestamp| match client.list_offset(topic, partition, timestamp) {
                Ok((0, _, offset)) => Ok(offset),
                Ok((error, ..)) => Err(format!("ListOffsets of {topic}-{partition}: error {error}")),
                Err(e) => Err(format!("ListOffsets of {topic}-{partition}: {e}")),
            };
            cold += offset(EARLIEST_LOCAL)?;
            all += offset(LATEST)?;
        }
        Ok(cold as f64 / (all as f64).max(1.0))
    }
}

/// A bucket that goes with its node: the next one needs the room.
struct BucketDirectory(PathBuf);

impl Drop for BucketDirectory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A burst, then latency at a rate, on a node of its own. The burst is what the journal has room for: beyond half of that
/// producers go no faster than the bucket takes records, which is a figure of its own.
fn producers(run: &Run, block: u32, has_bucket: bool) -> Result<Vec<(What, f64)>, String> {
    let name = format!("producers-{block}-{}", if has_bucket { "on" } else { "off" });
    let node = Node::start(&name, has_bucket, &[format!("journal.bytes_max={JOURNAL_BYTES}")])?;
    node.topic("warm", PARTITIONS)?;
    let produce = |topic: &str, seconds: u32| {
        node.bench(&format!(
            "produce --prepared --producers 64 --warmup 0s --topic {topic} --partitions {PARTITIONS} --duration {seconds}s"
        ))
    };
    let paced = |topic: &str| {
        node.topic(topic, PARTITIONS)?;
        let words = format!(
            "paced --bootstrap {} --topic {topic} --warm-s 2 --seconds {} --rate {}",
            node.cluster.bootstrap(),
            run.seconds,
            run.rate
        );
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        let outcome = client::generator(node.directory(), &words)?;
        outcome
            .p99_ms
            .ok_or_else(|| "the generator gives no latency".to_owned())
    };
    produce("warm", BURST_SECONDS)?;
    let taken_mb_per_s = if has_bucket { node.taken_mb_per_s()? } else { 0.0 };
    node.topic("fast", PARTITIONS)?;
    let fast = produce("fast", run.seconds.min(BURST_SECONDS))?;
    let behind_ms = paced("behind")?;
    if !has_bucket {
        return Ok(vec![
            (What::ProduceOff, fast.mb_per_s()),
            (What::PacedP99Off, paced("paced")?),
        ]);
    }
    node.drain()?;
    let p99_ms = paced("paced")?;
    node.drain()?;
    let tiered_gb = node.metric("meridian_tier_tiered_bytes_total", "") / 1e9;
    if tiered_gb == 0.0 {
        return Err("nothing came into the bucket".to_owned());
    }
    let requests = |operation: &str| {
        let label = format!("operation=\"{operation}\"");
        node.metric("meridian_tier_requests_total", &label) / tiered_gb
    };
    let moved = |operation: &str| {
        let label = format!("operation=\"{operation}\"");
        node.metric("meridian_tier_request_bytes_total", &label) / 1e6 / tiered_gb
    };
    Ok(vec![
        (What::ProduceOn, fast.mb_per_s()),
        (What::PacedP99On, p99_ms),
        (What::PacedP99Behind, behind_ms),
        (What::Taken, taken_mb_per_s),
        (What::PutsPerGb, requests("put")),
        (What::GetsPerGb, requests("get") + requests("head")),
        (What::ListsPerGb, requests("list")),
        (What::PutMbPerGb, moved("put")),
        (What::GetMbPerGb, moved("get")),
    ])
}

/// History that the node has given up is read back, and what readers at the tail feel of it.
fn history(run: &Run, block: u32) -> Result<Vec<(What, f64)>, String> {
    let settings = [
        "journal.file_bytes=33554432",
        "journal.bytes_max=134217728",
        "journal.cache_bytes=134217728",
        "shard.checkpoint_bytes=16777216",
        "shard.maintenance_interval_ms=500",
        "tier.round_interval_ms=1000",
    ]
    .map(str::to_owned);
    let node = Node::start(&format!("history-{block}"), true, &settings)?;
    fill(&node, "cold", run.history_mb)?;
    node.drain()?;
    // The hot ones come behind it, and push it out.
    fill(&node, "hot", HOT_MB)?;
    node.drain()?;
    let mut share = 0.0;
    let is_cold = wait_for(COLD, || {
        share = node.cold_share("cold", PARTITIONS).unwrap_or(0.0);
        // Entries go on, so that checkpoints do.
        drop(node.bench(&format!(
            "produce --topic tick --partitions {PARTITIONS} --rate 1000 --duration 1s"
        )));
        (share >= COLD_SHARE_MIN).then_some(())
    });
    if is_cold.is_none() {
        return Err(format!(
            "only {:.0} % of the history is out of the journal after {COLD:?}",
            share * 100.0
        ));
    }
    // What was just written is in memory, where the tail is read from.
    fill(&node, "hot-again", HOT_MB)?;
    let hot = node.bench(&format!(
        "consume --again --topic hot-again --duration {}s",
        run.seconds
    ))?;
    let cold = node.bench("consume --topic cold --duration 300s")?;

    let tail = |topic: &str| -> Result<f64, String> {
        let outcome = node.bench(&format!(
            "end-to-end --topic {topic} --partitions 4 --rate {TAIL_RATE} --duration {}s",
            run.seconds.max(5)
        ))?;
        outcome.p99_ms.ok_or_else(|| "no latency is given".to_owned())
    };
    let alone_ms = tail("tail-alone")?;
    let busy_ms = beside_busy_processors(|| tail("tail-busy"));
    let catching_up = catch_up(&node, 4)?;
    sleep(Duration::from_secs(1));
    let beside_ms = tail("tail-beside");
    drop(catching_up);
    Ok(vec![
        (What::ColdShare, share * 100.0),
        (What::Hot, hot.mb_per_s()),
        (What::CatchUp, cold.mb_per_s()),
        (What::TailP99Alone, alone_ms),
        (What::TailP99Busy, busy_ms?),
        (What::TailP99Beside, beside_ms?),
    ])
}

/// However long that takes, the processors are free again then.
const BUSY_MAX: Duration = Duration::from_secs(120);

/// Measures while as many threads compute as there are processors.
fn beside_busy_processors<T>(measure: impl FnOnce() -> T) -> T {
    let (is_over, began) = (AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !is_over.load(Relaxed) && began.elapsed() < BUSY_MAX {
                    std::hint::spin_loop();
                }
            });
        }
        let measured = measure();
        is_over.store(true, Relaxed);
        measured
    })
}

/// MB of records that fit into the journal's memory.
const HOT_MB: u64 = 96;

fn fill(node: &Node, topic: &str, mb: u64) -> Result<(), String> {
    node.topic(topic, PARTITIONS)?;
    // 1 KiB each; at a rate that the machine keeps, so that the bytes are known.
    let rate = 100_000;
    let seconds = (mb * 1_000_000).div_ceil(1024 * rate).max(1);
    node.bench(&format!(
        "produce --prepared --producers 16 --warmup 0s --topic {topic} --partitions {PARTITIONS} --rate {rate} --duration \
         {seconds}s"
    ))?;
    Ok(())
}

/// Readers that begin at the start of the history again and again; they end with the value.
fn catch_up(node: &Node, readers: u32) -> Result<Process, String> {
    let mut command = Command::new(workspace::meridian_binary()?);
    command
        .args([
            "--server",
            &node.cluster.bootstrap(),
            "--output",
            "json",
            "bench",
            "consume",
            "--again",
        ])
        .args([
            "--topic",
            "cold",
            "--duration",
            "300s",
            "--consumers",
            &readers.to_string(),
        ]);
    let file = |ending: &str| node.directory().join(format!("catch-up.{ending}"));
    Ok(Process::start("catch-up", command, &file("out"), &file("log")))
}

/// `meridian bench replay`: one processor makes Arrow of frames.
fn replay(run: &Run, block: u32) -> Result<Vec<(What, f64)>, String> {
    let directory = workspace::run_directory(&format!("bench-tier-replay-{block}"));
    let mut command = Command::new(workspace::meridian_binary()?);
    command
        .args(["--output", "json", "bench", "replay", "--compression", "lz4,zstd"])
        .args([
            "--batch-records",
            "64",
            "--duration",
            &format!("{}s", run.seconds.min(5)),
        ]);
    let report = program::run("replay", command, &directory, None, Duration::from_secs(120))?;
    let text = report.lines.join("\n");
    let found: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| format!("meridian bench replay printed '{text}': {e}"))?;
    let of = |compression: &str| {
        let results = found["results"].as_array()?;
        let result = results
            .iter()
            .find(|result| result["compression"] == compression)?;
        Some(result["bytes_per_second"].as_f64()? / 1e9)
    };
    let needed =
        |compression: &str| of(compression).ok_or_else(|| format!("no figure of {compression}: {text}"));
    Ok(vec![
        (What::ReplayLz4, needed("lz4")?),
        (What::ReplayZstd, needed("zstd")?),
    ])
}
