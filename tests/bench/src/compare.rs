//! `bench run`: the systems in alternating blocks, A B C D D C B A.., each freshly started on its own data.

use std::path::PathBuf;

use meridian_compat::workspace;
use serde::Serialize;

use crate::client;
use crate::machine;
use crate::report;
use crate::sample::Sample;
use crate::space;
use crate::system::{Running, System};
use crate::workload::{self, Length, Workload};

/// Options of `bench run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// A run of about a quarter of an hour: shorter windows, 1 GB of warm-up.
    #[arg(long)]
    pub quick: bool,
    /// Nodes of each system: 1, or 3 for a region with three copies of everything beside a Kafka cluster.
    #[arg(long, default_value_t = 1, value_parser = parse_nodes)]
    pub nodes: usize,
    /// Blocks of each system.
    #[arg(long, default_value_t = 3)]
    pub blocks: u32,
    /// Seconds of a window [10, with --quick 4; on three nodes 6 and 3].
    #[arg(long)]
    pub seconds: Option<f64>,
    /// MB that each freshly started system takes in before anything is measured [5000, with --quick 1000].
    #[arg(long)]
    pub warm_mb: Option<u64>,
    /// Systems, in the order of the first block [all; on three nodes all but M].
    #[arg(long, value_enum, value_delimiter = ',')]
    pub systems: Vec<System>,
    /// Workloads [all].
    #[arg(long, value_enum, value_delimiter = ',')]
    pub workloads: Vec<Workload>,
    /// Name of the report: docs/benchmarks/DATE-NAME.md and .json [kafka, on three nodes kafka-3].
    #[arg(long)]
    pub name: Option<String>,
    /// Print the report, but do not store it.
    #[arg(long)]
    pub no_store: bool,
}

impl Options {
    /// Name of the report.
    pub fn name(&self) -> String {
        match (&self.name, self.nodes) {
            (Some(name), _) => name.clone(),
            (None, 1) => "kafka".to_owned(),
            (None, nodes) => format!("kafka-{nodes}"),
        }
    }
}

/// How many nodes a system may have here. Errors: another number.
pub fn parse_nodes(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("expected 1 or 3".to_owned()),
    }
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
    /// Nodes of each system.
    pub nodes: usize,
    /// Blocks of each system.
    pub blocks: u32,
    /// How long each workload took.
    pub length: Length,
    /// Systems, in the order of the first block.
    pub systems: Vec<System>,
    /// Workloads, in order.
    pub workloads: Vec<Workload>,
    /// What was measured.
    pub samples: Vec<Sample>,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
}

/// Runs everything and stores the report.
///
/// Errors: a system does not start, or the report cannot be written. A workload that fails is reported, not fatal.
pub fn run(options: &Options) -> Result<Run, String> {
    let mut length = Length::of(options.nodes, options.quick);
    if let Some(seconds) = options.seconds {
        length.seconds = seconds;
    }
    if let Some(warm_mb) = options.warm_mb {
        length.warm_bytes = warm_mb * 1_000_000;
    }
    let mut systems = options.systems.clone();
    if systems.is_empty() {
        systems = System::all(options.nodes);
    }
    let mut workloads = options.workloads.clone();
    if workloads.is_empty() {
        workloads = Workload::all(options.nodes);
    }
    let mut run = Run {
        schema: 2,
        date: machine::date(),
        commit: machine::commit(),
        machine: machine::description(),
        load_before: machine::load_average(),
        load_after: String::new(),
        quick: options.quick,
        nodes: options.nodes,
        blocks: options.blocks,
        length,
        systems,
        workloads,
        samples: Vec::new(),
        missing: Vec::new(),
    };
    let rdkafka = match client::build_rdkafka() {
        Ok(program) => Some(program),
        Err(reason) => {
            run.workloads.retain(|workload| !workload.needs_rdkafka());
            run.missing.push(format!("rdkafka: {reason}"));
            None
        }
    };
    for block in 1..=options.blocks {
        let mut order = run.systems.clone();
        if block % 2 == 0 {
            order.reverse();
        }
        for system in order {
            run_block(&mut run, system, block, rdkafka.as_ref())?;
        }
    }
    run.load_after = machine::load_average();
    Ok(run)
}

fn run_block(run: &mut Run, system: System, block: u32, rdkafka: Option<&PathBuf>) -> Result<(), String> {
    if let Err(reason) = space::require(&workspace::target(), run.nodes, &run.length) {
        eprintln!("block {block}, {system}: left out: {reason}");
        run.missing.push(format!("{system}, block {block}: {reason}"));
        return Ok(());
    }
    let running = Running::start(system, run.nodes, &format!("{system}-{block}"))?;
    match workload::warm(&running, run.length.warm_bytes) {
        Ok(warmed) => eprintln!("block {block}, {system}: warmed at {:.0} MB/s", warmed.mb_per_s()),
        Err(reason) => {
            eprintln!("block {block}, {system}: left out: it cannot be warmed: {reason}");
            let first = first_line(&reason);
            run.missing
                .push(format!("{system}, block {block}, warm-up: {first}"));
            return Ok(());
        }
    }
    for workload in run.workloads.clone() {
        match workload.run(&running, block, &run.length, rdkafka.map(PathBuf::as_path)) {
            Ok(sample) => {
                eprintln!("  {}", report::line(&sample));
                run.samples.push(sample);
            }
            Err(reason) => {
                eprintln!("  {workload}: failed: {reason}");
                let first = first_line(&reason);
                run.missing
                    .push(format!("{workload} on {system}, block {block}: {first}"));
            }
        }
    }
    if let Err(reason) = running.end() {
        eprintln!("block {block}, {system}: at its end: {reason}");
        let first = first_line(&reason);
        run.missing
            .push(format!("{system}, block {block}, at its end: {first}"));
    }
    Ok(())
}

fn first_line(reason: &str) -> &str {
    reason.lines().next().unwrap_or_default()
}
