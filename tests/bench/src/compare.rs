//! `bench run`: the systems in alternating blocks, A B C D D C B A.., each freshly started on its own data.

use std::path::PathBuf;

use serde::Serialize;

use crate::client;
use crate::machine;
use crate::report;
use crate::system::{Running, System};
use crate::workload::{self, Length, Sample, Workload};

/// Options of `bench run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// A run of about a quarter of an hour: shorter windows, 1 GB of warm-up.
    #[arg(long)]
    pub quick: bool,
    /// Blocks of each system.
    #[arg(long, default_value_t = 3)]
    pub blocks: u32,
    /// Seconds of a window [10, with --quick 4].
    #[arg(long)]
    pub seconds: Option<f64>,
    /// MB that each freshly started system takes in before anything is measured [5000, with --quick 1000].
    #[arg(long)]
    pub warm_mb: Option<u64>,
    /// Systems, in the order of the first block.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = System::ALL)]
    pub systems: Vec<System>,
    /// Workloads [all].
    #[arg(long, value_enum, value_delimiter = ',')]
    pub workloads: Vec<Workload>,
    /// Name of the report: docs/benchmarks/DATE-NAME.md and .json.
    #[arg(long, default_value = "kafka")]
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
    let seconds = options.seconds.unwrap_or(if options.quick { 4.0 } else { 10.0 });
    let warm_mb = options.warm_mb.unwrap_or(if options.quick { 1000 } else { 5000 });
    let length = Length {
        seconds,
        warm_s: if options.quick { 1.0 } else { 2.0 },
        warm_bytes: warm_mb * 1_000_000,
        java_records: (seconds * 100_000.0) as u64,
    };
    let workloads = if options.workloads.is_empty() {
        all_workloads()
    } else {
        options.workloads.clone()
    };
    let mut run = Run {
        schema: 1,
        date: machine::date(),
        commit: machine::commit(),
        machine: machine::description(),
        load_before: machine::load_average(),
        load_after: String::new(),
        quick: options.quick,
        blocks: options.blocks,
        length,
        systems: options.systems.clone(),
        workloads,
        samples: Vec::new(),
        missing: Vec::new(),
    };
    let rdkafka = match client::build_rdkafka() {
        Ok(program) => Some(program),
        Err(reason) => {
            run.workloads.retain(|workload| *workload != Workload::Rdkafka);
            run.missing.push(format!("rdkafka: {reason}"));
            None
        }
    };
    for block in 1..=options.blocks {
        let mut order = options.systems.clone();
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

fn all_workloads() -> Vec<Workload> {
    vec![
        Workload::Rdkafka,
        Workload::Prepared16,
        Workload::Prepared1000,
        Workload::Paced,
        Workload::JavaPaced,
        Workload::Java,
        Workload::Consume,
        Workload::JavaConsume,
    ]
}

fn run_block(run: &mut Run, system: System, block: u32, rdkafka: Option<&PathBuf>) -> Result<(), String> {
    let running = Running::start(system, &format!("{system}-{block}"))?;
    let warmed = workload::warm(&running, "warm", run.length.warm_bytes)?;
    eprintln!("block {block}, {system}: warmed at {:.0} MB/s", warmed.mb_per_s());
    for workload in run.workloads.clone() {
        match workload.run(&running, block, &run.length, rdkafka.map(PathBuf::as_path)) {
            Ok(sample) => {
                eprintln!("  {}", report::line(&sample));
                run.samples.push(sample);
            }
            Err(reason) => {
                eprintln!("  {workload}: failed: {reason}");
                let first = reason.lines().next().unwrap_or_default();
                run.missing
                    .push(format!("{workload} on {system}, block {block}: {first}"));
            }
        }
    }
    if let Err(reason) = running.stop() {
        run.missing
            .push(format!("{system}, block {block}, at its end: {reason}"));
    }
    Ok(())
}
