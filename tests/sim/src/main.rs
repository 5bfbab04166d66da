//! `sim run` tries many seeds, each in a process of its own; `sim replay SEED` runs one of them again, exactly.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use meridian_mutants::Mutant;
use meridian_sim::many::{self, Many};
use meridian_sim::{RunSettings, run};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run many seeds; ends with status 3 when one is broken
    Run {
        /// The first seed
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// How many
        #[arg(long, default_value_t = 50)]
        seeds: u64,
        /// Runs at the same time
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        #[command(flatten)]
        size: Size,
    },
    /// Switch each deliberate defect on in turn, and count the seeds until a run is broken; ends with status 3 when
    /// one goes unnoticed
    Mutants {
        /// The first seed
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// How many at most for each defect
        #[arg(long, default_value_t = 40)]
        seeds: u64,
        /// Runs at the same time
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        #[command(flatten)]
        size: Size,
    },
    /// Run one seed, and show the faults as they come; ends with status 3 when it is broken
    Replay {
        /// The seed
        seed: u64,
        /// Filter of the log, in the syntax of `RUST_LOG`
        #[arg(long)]
        log: Option<String>,
        /// Show the verdict only
        #[arg(long)]
        quiet: bool,
        #[command(flatten)]
        size: Size,
    },
}

#[derive(clap::Args)]
struct Size {
    /// Simulated seconds with faults
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Everything comes so much later and lasts so much longer: 60 makes an hour of a minute
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    stretch: u32,
    /// Regions that mirror one another
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=5))]
    regions: u16,
    /// Nodes of each region; 3 unless it is said, and where there are several regions by the seed
    #[arg(long)]
    nodes: Option<u32>,
    /// Partitions of the topic
    #[arg(long, default_value_t = 4)]
    partitions: u32,
    /// A deliberate defect, which the run must notice
    #[arg(long)]
    mutant: Option<Mutant>,
    /// Whether the region has a bucket; unless it is said, by the seed, and with a defect of the tier always
    #[arg(long)]
    bucket: Option<bool>,
}

impl Size {
    fn arguments(&self) -> Vec<String> {
        let Self {
            seconds,
            stretch,
            regions,
            nodes,
            partitions,
            mutant,
            bucket,
        } = self;
        let mut arguments = Vec::new();
        let mut argument = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        argument("--seconds", seconds.to_string());
        argument("--stretch", stretch.to_string());
        argument("--regions", regions.to_string());
        if let Some(nodes) = nodes {
            argument("--nodes", nodes.to_string());
        }
        argument("--partitions", partitions.to_string());
        if let Some(mutant) = mutant {
            argument("--mutant", mutant.name().to_owned());
        }
        if let Some(bucket) = bucket {
            argument("--bucket", bucket.to_string());
        }
        arguments
    }
}

fn main() -> ExitCode {
    let is_sound = match Cli::parse().command {
        Command::Run {
            first,
            seeds,
            jobs,
            size,
        } => {
            let many = Many {
                first,
                seeds,
                jobs,
                arguments: size.arguments(),
            };
            let outcome = std::env::current_exe().and_then(|program| {
                many::run(&program, &many, &mut |verdict| println!("{}", verdict.trim_end()))
            });
            match outcome {
                Ok(broken) => {
                    println!("{seeds} seeds, {} broken: {broken:?}", broken.len());
                    broken.is_empty()
                }
                Err(error) => {
                    eprintln!("cannot run a seed: {error}");
                    return ExitCode::FAILURE;
                }
            }
        }
        Command::Mutants {
            first,
            seeds,
            jobs,
            mut size,
        } => {
            let mut unnoticed = Vec::new();
            for mutant in Mutant::ALL {
                size.mutant = Some(*mutant);
                let many = Many {
                    first,
                    seeds,
                    jobs,
                    arguments: size.arguments(),
                };
                let outcome = std::env::current_exe().and_then(|program| many::first_broken(&program, &many));
                match outcome {
                    Ok(Some(seed)) => println!("{}: noticed by seed {seed}", mutant.name()),
                    Ok(None) => unnoticed.push(mutant.name()),
                    Err(error) => {
                        eprintln!("cannot run a seed: {error}");
                        return ExitCode::FAILURE;
                    }
                }
            }
            println!("{} defects, unnoticed: {unnoticed:?}", Mutant::ALL.len());
            unnoticed.is_empty()
        }
        Command::Replay {
            seed,
            log,
            quiet,
            size,
        } => {
            if let Some(log) = log {
                tracing_subscriber::fmt()
                    .with_env_filter(tracing_subscriber::EnvFilter::new(log))
                    .with_ansi(false)
                    .without_time()
                    .init();
            }
            let settings = RunSettings {
                regions: size.regions,
                nodes: size.nodes,
                partitions: size.partitions,
                length: Duration::from_secs(size.seconds),
                stretch: size.stretch,
                verbose: !quiet,
                mutant: size.mutant.unwrap_or(Mutant::None),
                has_bucket: size
                    .bucket
                    .or(size.mutant.filter(|mutant| mutant.is_of_tier()).map(|_| true)),
            };
            // In a thread of its own: whatever this one did before, the log's filter say, has drawn keys for hash maps.
            let verdict = std::thread::scope(|scope| scope.spawn(|| run(seed, &settings)).join());
            let verdict = verdict.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            println!("{verdict}");
            verdict.is_sound()
        }
    };
    if is_sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(3)
    }
}
