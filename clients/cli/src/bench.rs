//! `meridian bench ...`: load for any Kafka-protocol server.
//!
//! With `--rate` the load is an open loop: requests have scheduled times, and latency counts from there, so that a
//! server that stalls cannot slow the clock down (coordinated omission). Without it, it is as much as goes through.

use clap::Subcommand;

use crate::context::Context;
use crate::error::CliError;

mod consume;
mod content;
mod driver;
mod end_to_end;
mod prepare;
mod prepared;
mod produce;
mod replay;
mod report;
mod target;
mod verify;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Write as fast as it goes, or at a rate
    Produce(produce::ProduceArgs),
    /// Read from the logs' starts as fast as it goes
    Consume(consume::ConsumeArgs),
    /// Measure the time from when a record is due until a consumer has it
    EndToEnd(end_to_end::EndToEndArgs),
    /// Measure how fast one processor turns history into Arrow; needs no server
    Replay(replay::ReplayArgs),
}

impl BenchCommand {
    /// Whether it sends what was built beforehand.
    pub(crate) fn is_prepared(&self) -> bool {
        matches!(self, Self::Produce(args) if args.is_prepared())
    }

    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::Produce(args) => args.run(context).await,
            Self::Consume(args) => args.run(context).await,
            Self::EndToEnd(args) => args.run(context).await,
            Self::Replay(args) => args.run(context),
        }
    }
}
