//! `bench wan`: what is written in one place arrives in another, over a WAN that loses packets. Meridian's mirror beside
//! Kafka's MirrorMaker 2, each over the same link of two network interfaces, which the kernel's own TCP passes too.

use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use meridian_cluster::network;
use serde::Serialize;

use crate::machine;

mod acks;
mod goodput;
mod lag;
mod mirror_maker;
mod pair;
mod report;
mod weather;

pub use acks::Acks;
pub use goodput::Goodput;
pub use lag::{Cut, Lag};
pub use pair::System;
pub use report::markdown;
pub use weather::Weather;

use pair::Pair;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// How much arrives of more than the link carries, in 16 partitions.
    Goodput,
    /// The same in one partition.
    One,
    /// How long a record takes, below saturation.
    Lag,
    /// What `geo.acks=1` adds to the time of an acknowledgement.
    Acks,
    /// How soon records are as fast as before after the link was cut.
    Cut,
}

/// Options of `bench wan`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Systems, one after the other.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [System::Meridian, System::Tuned])]
    pub systems: Vec<System>,
    /// What is measured [everything].
    #[arg(long, value_enum, value_delimiter = ',')]
    pub parts: Vec<Part>,
    /// Milliseconds that a packet takes there and back.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 20, 100, 150])]
    pub rtt_ms: Vec<u64>,
    /// Percent of the packets that get lost, in each direction.
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 0.1, 1.0])]
    pub loss: Vec<f64>,
    /// What the link carries, in MB/s.
    #[arg(long, default_value_t = 25.0)]
    pub rate_mb: f64,
    /// Seconds of a window.
    #[arg(long, default_value_t = 8.0)]
    pub seconds: f64,
    /// Seconds that the link is cut.
    #[arg(long, default_value_t = 60.0)]
    pub cut_s: f64,
    /// Name of the report: docs/benchmarks/DATE-NAME.md and .json.
    #[arg(long, default_value = "wan")]
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
    /// The kernel's congestion control for TCP.
    pub tcp: String,
    /// Load averages before.
    pub load_before: String,
    /// Load averages after.
    pub load_after: String,
    /// What the link carries, in MB/s.
    pub rate_mb: f64,
    /// Seconds of a window.
    pub seconds: f64,
    /// How much arrived.
    pub goodput: Vec<Goodput>,
    /// How long records took.
    pub lag: Vec<Lag>,
    /// What waiting for another region costs.
    pub acks: Vec<Acks>,
    /// What a cut did.
    pub cuts: Vec<Cut>,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
}

/// Runs everything. Errors: namespaces cannot be made here. What fails is reported, not fatal.
pub fn run(options: &Options) -> Result<Run, String> {
    if let Some(reason) = network::unavailable() {
        return Err(reason);
    }
    let mut run = Run {
        schema: 2,
        date: machine::date(),
        commit: machine::commit(),
        machine: machine::description(),
        tcp: machine::tcp_congestion_control(),
        load_before: machine::load_average(),
        load_after: String::new(),
        rate_mb: options.rate_mb,
        seconds: options.seconds,
        goodput: Vec::new(),
        lag: Vec::new(),
        acks: Vec::new(),
        cuts: Vec::new(),
        missing: Vec::new(),
    };
    for system in &options.systems {
        match Pair::start(*system) {
            Ok(pair) => measure(&pair, options, &mut run),
            Err(reason) => run.missing.push(format!("{system}: {reason}")),
        }
    }
    run.load_after = machine::load_average();
    Ok(run)
}

fn measure(pair: &Pair, options: &Options, run: &mut Run) {
    let is_asked = |part: Part| options.parts.is_empty() || options.parts.contains(&part);
    let window = Duration::from_secs_f64(options.seconds);
    for rtt_ms in &options.rtt_ms {
        for loss in &options.loss {
            let weather = Weather {
                rtt_ms: *rtt_ms,
                loss_percent: *loss,
                rate_mb: options.rate_mb,
            };
            let told = format!("{}, {weather}", pair.system);
            eprintln!("{told}");
            for (part, partitions) in [(Part::Goodput, 16), (Part::One, 1)] {
                if is_asked(part) {
                    keep(&mut run.goodput, &mut run.missing, &told, || {
                        goodput::measure(pair, weather, partitions, window)
                    });
                }
            }
            if is_asked(Part::Lag) {
                keep(&mut run.lag, &mut run.missing, &told, || {
                    lag::measure(pair, weather, window)
                });
            }
        }
        let weather = Weather {
            rtt_ms: *rtt_ms,
            loss_percent: 0.0,
            rate_mb: options.rate_mb,
        };
        if is_asked(Part::Acks) && pair.system == System::Meridian {
            let told = format!("{}, geo.acks, {weather}", pair.system);
            keep(&mut run.acks, &mut run.missing, &told, || {
                acks::measure(pair, weather, window)
            });
        }
    }
    if is_asked(Part::Cut) {
        let weather = Weather {
            rtt_ms: options.rtt_ms.iter().copied().max().unwrap_or(100),
            loss_percent: 0.0,
            rate_mb: options.rate_mb,
        };
        let told = format!("{}, cut, {weather}", pair.system);
        eprintln!("{told}");
        keep(&mut run.cuts, &mut run.missing, &told, || {
            lag::cut(pair, weather, Duration::from_secs_f64(options.cut_s))
        });
    }
}

fn keep<T: std::fmt::Debug>(
    found: &mut Vec<T>,
    missing: &mut Vec<String>,
    told: &str,
    measure: impl FnOnce() -> Result<T, String>,
) {
    match measure() {
        Ok(value) => {
            eprintln!("  {value:?}");
            found.push(value);
        }
        Err(reason) => {
            eprintln!("  {reason}");
            missing.push(format!("{told}: {reason}"));
        }
    }
}

/// Looks until there is something. Errors: there is nothing within `timeout`; `what` was waited for.
fn wait_for<T>(
    what: &str,
    timeout: Duration,
    mut look: impl FnMut() -> Result<Option<T>, String>,
) -> Result<T, String> {
    let deadline = Instant::now() + timeout;
    loop {
        let found = look();
        if let Ok(Some(found)) = found {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            let reason = found.err().map_or(String::new(), |reason| format!(": {reason}"));
            return Err(format!(
                "{what} did not come within {} s{reason}",
                timeout.as_secs()
            ));
        }
        sleep(Duration::from_millis(20));
    }
}
