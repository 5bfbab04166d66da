//! `bench run`, `bench partitions`, `bench profile`, `bench tier`, `bench wan`; `bench generate` is what the others start as a client.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use meridian_bench::generator::{outcome::Outcome, paced};
use meridian_bench::{compare, partitions, profile, report, tier, wan};
use serde::Serialize;

/// Meridian beside Apache Kafka on this machine.
#[derive(Parser)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compare the systems, print a report and store it under docs/benchmarks.
    Run(compare::Options),
    /// Put very many partitions on one node: creation, memory, restart.
    Partitions(partitions::Options),
    /// Run a workload under `perf record`, and list where the server spent its time.
    Profile(profile::Options),
    /// Measure what tiering costs, and how fast history comes back; print a report and store it.
    Tier(tier::Options),
    /// Measure what arrives over a WAN, beside MirrorMaker 2; print a report and store it. Needs root.
    Wan(wan::Options),
    /// Be a client: prints one line of JSON.
    #[command(subcommand)]
    Generate(Generate),
}

#[derive(Subcommand)]
enum Generate {
    /// One record per request on a fixed schedule.
    Paced(paced::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(options) => run(&options),
        Command::Partitions(options) => partitions::run(&options),
        Command::Profile(options) => profile::run(&options),
        Command::Tier(options) => run_tier(&options),
        Command::Wan(options) => run_wan(&options),
        Command::Generate(Generate::Paced(options)) => print(paced::run(&options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("bench: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &compare::Options) -> Result<(), String> {
    let run = compare::run(options)?;
    let name = (!options.no_store).then(|| options.name());
    show(&run, &report::markdown(&run), &run.date, name.as_deref())?;
    if run.samples.is_empty() {
        return Err("nothing was measured".to_owned());
    }
    Ok(())
}

fn run_tier(options: &tier::Options) -> Result<(), String> {
    let run = tier::run(options)?;
    let name = (!options.no_store).then_some(&*options.name);
    show(&run, &tier::markdown(&run), &run.date, name)
}

fn run_wan(options: &wan::Options) -> Result<(), String> {
    let run = wan::run(options)?;
    let name = (!options.no_store).then_some(&*options.name);
    show(&run, &wan::markdown(&run), &run.date, name)
}

/// Prints the report of a run, and stores it where it has a name.
fn show(run: &impl Serialize, markdown: &str, date: &str, name: Option<&str>) -> Result<(), String> {
    println!("{markdown}");
    if let Some(name) = name {
        let path = report::store(run, markdown, date, name)?;
        eprintln!("stored {}", path.display());
    }
    Ok(())
}

fn print(outcome: std::io::Result<Outcome>) -> Result<(), String> {
    let outcome = outcome.map_err(|e| e.to_string())?;
    println!(
        "{}",
        serde_json::to_string(&outcome).expect("an outcome is plain data")
    );
    Ok(())
}
