//! Regions far apart, as often as asked: see `--help`.

use std::num::NonZeroU64;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use meridian_cluster::rounds::RunError;
use meridian_geo_test::kills::Blow;
use meridian_geo_test::{RegionsOptions, catch_up, check, kills, staleness, switchovers};
use meridian_wan_relay::{Conditions, Loss, Probability};

/// Regions of several nodes as real processes. Exit status: 0 all holds, 1 it cannot run, 3 a check does not hold.
///
/// Needs the clients of tests/compat/setup.sh; MERIDIAN_BIN names another binary of ours.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load in every region; then every node holds the same bytes, and every region tells the same group offsets
    Check {
        #[command(flatten)]
        regions: RegionArguments,
        /// Seconds of load
        #[arg(long, default_value_t = 20)]
        hold_s: u64,
    },
    /// Ownership is moved under load; no client is reconfigured; the write pause is measured
    Switchovers {
        #[command(flatten)]
        regions: RegionArguments,
        /// Switchovers
        #[arg(long, default_value_t = 30)]
        count: u32,
        /// Of who owns next, and when
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// A region is cut off until the owner's log no longer reaches back to it; leaders on both sides die while it catches up
    CatchUp {
        #[command(flatten)]
        regions: RegionArguments,
        /// Times that a region is cut off
        #[arg(long, default_value_t = 4)]
        rounds: u32,
        /// Of who is cut off and who dies, and when
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Mirrors are cut off from the owner; readers of a topic that bounds how old a copy may be go on at the owner, and come back
    Staleness {
        #[command(flatten)]
        regions: RegionArguments,
    },
    /// Processes die and links are cut in the middle of switchovers, which are repeated
    Kills {
        #[command(flatten)]
        regions: RegionArguments,
        /// Switchovers that are hit
        #[arg(long, default_value_t = 24)]
        rounds: u32,
        /// Of who is hit, and when
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

#[derive(Args)]
struct RegionArguments {
    /// Regions
    #[arg(long, default_value_t = 3)]
    regions: usize,
    /// Nodes of each
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Milliseconds there and back between regions 0 and 1, 0 and 2, 1 and 2, ..; the last one counts for the rest
    #[arg(long, value_delimiter = ',', default_value = "20,80")]
    rtt_ms: Vec<u64>,
    /// Milliseconds that a packet may take longer, one way
    #[arg(long, default_value_t = 0)]
    jitter_ms: u64,
    /// Packets in a hundred that get lost
    #[arg(long, default_value_t = 0.0)]
    loss_percent: f64,
    /// What each link carries in each direction, MB/s; 0: no bound
    #[arg(long, default_value_t = 0)]
    rate_mb: u64,
    /// Records per second of each producer
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// A network namespace for each region and its clients, so that all their packets to other regions pass the WAN; root
    #[arg(long)]
    places: bool,
    /// Setting of the nodes, SECTION.KEY=VALUE
    #[arg(long = "set")]
    settings: Vec<String>,
}

impl RegionArguments {
    fn options(&self) -> Result<RegionsOptions, RunError> {
        let share = Probability::new(self.loss_percent / 100.0);
        let share = share.ok_or_else(|| {
            let given = self.loss_percent;
            RunError::CannotRun(format!("--loss-percent is {given}: expected 0 to 100"))
        })?;
        let weather = Conditions {
            jitter: Duration::from_millis(self.jitter_ms),
            loss: Loss {
                share,
                burst_packets: 1,
            },
            rate_bytes_per_second: NonZeroU64::new(self.rate_mb * 1_000_000),
            ..Conditions::default()
        };
        Ok(RegionsOptions {
            weather,
            regions: self.regions,
            nodes: self.nodes,
            round_trips: self.rtt_ms.iter().map(|ms| Duration::from_millis(*ms)).collect(),
            settings: self.settings.clone(),
            have_buckets: false,
            have_places: self.places,
        })
    }
}

fn run(command: &Command) -> Result<String, RunError> {
    Ok(match command {
        Command::Check { regions, hold_s } => {
            let hold = Duration::from_secs(*hold_s);
            check::run("geo-check", &regions.options()?, regions.rate, hold)?.to_string()
        }
        Command::Switchovers { regions, count, seed } => {
            let options = regions.options()?;
            switchovers::run("geo-switchovers", &options, regions.rate, *count, *seed)?.to_string()
        }
        Command::CatchUp {
            regions,
            rounds,
            seed,
        } => catch_up::run("geo-catch-up", &regions.options()?, regions.rate, *rounds, *seed)?.to_string(),
        Command::Staleness { regions } => {
            staleness::run("geo-staleness", &regions.options()?, regions.rate)?.to_string()
        }
        Command::Kills {
            regions,
            rounds,
            seed,
        } => {
            let options = regions.options()?;
            kills::run("geo-kills", &options, regions.rate, &Blow::ALL, *rounds, *seed)?.to_string()
        }
    })
}

fn main() -> ExitCode {
    match run(&Arguments::parse().command) {
        Ok(shown) => {
            println!("{shown}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            match error {
                RunError::CannotRun(_) => ExitCode::FAILURE,
                RunError::DoesNotHold(_) => ExitCode::from(3),
            }
        }
    }
}
