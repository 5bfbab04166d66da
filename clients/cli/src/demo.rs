//! `meridian demo`: regions on one machine, and what happens to them.
//!
//! Every node is a process of its own (`meridian serve`), which ends with this one. Between the regions stands a relay
//! ([`meridian_wan_relay`]) with the delays of real distances. Producers and consumers work in each region.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use self::control::{DEFAULT, DemoVerb};
use self::distance::{Latency, REGION_NAMES};
use crate::context::Context;
use crate::error::CliError;

mod action;
mod control;
mod distance;
mod load;
mod mirror;
mod network;
mod node;
mod picture;
mod place;
mod plan;
mod run;
mod say;
mod screen;
mod stage;
mod watch;

/// Start regions on this machine, with producers, consumers and a live view; or act on a demo that runs
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples: meridian demo --regions 1 --nodes 3\n          \
                        meridian demo kill us/2       (from another terminal)")]
pub(crate) struct DemoArgs {
    #[command(subcommand)]
    verb: Option<DemoVerb>,
    #[command(flatten)]
    start: StartArgs,
}

#[derive(Debug, Args)]
struct StartArgs {
    /// Regions
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=REGION_NAMES.len() as i64))]
    regions: u16,
    /// Nodes in each region
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=9))]
    nodes: u32,
    /// Round trips between the regions: us-eu-ap (us-eu 80 ms, eu-ap 160 ms, us-ap 220 ms), none, or one time for all, such as 80ms
    #[arg(long, default_value_t = Latency::UsEuAp, value_name = "LATENCY")]
    latency: Latency,
    /// No live view: lines of text, or with --output json one object per line
    #[arg(long)]
    headless: bool,
    /// A new directory for all data; without it a temporary one, which goes with the demo
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Keep the data when the demo ends
    #[arg(long)]
    keep: bool,
    /// Kafka port of the first node; the others follow, each region ten later. Taken ports are left out; 0 takes any that are free
    #[arg(long, default_value_t = 9092, value_name = "PORT")]
    kafka_port: u16,
    /// Where `meridian demo kill` and the others find this demo; port 0 takes a free one
    #[arg(long, default_value = DEFAULT, value_name = "HOST:PORT")]
    control: SocketAddr,
}

impl DemoArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self.verb {
            Some(verb) => verb.run(context).await,
            None => run::run(&self.start, context).await,
        }
    }
}
