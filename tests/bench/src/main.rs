//! `bench run`, `bench partitions`, `bench profile`; `bench generate` is what the first three start as a client.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use meridian_bench::generator::{outcome::Outcome, paced};
use meridian_bench::{compare, partitions, profile, report};

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
    println!("{}", report::markdown(&run));
    if !options.no_store {
        let path = report::store(&run, &options.name)?;
        eprintln!("stored {}", path.display());
    }
    if run.samples.is_empty() {
        return Err("nothing was measured".to_owned());
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
