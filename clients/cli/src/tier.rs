//! `meridian tier ...`: looks at a bucket, without brokers. Never writes.

use clap::Subcommand;

use crate::context::Context;
use crate::error::CliError;

mod cost;
mod describe;
mod list;
mod verify;

#[derive(Debug, Subcommand)]
pub(crate) enum TierCommand {
    /// Check that everything is there and whole: status 3 if not
    Verify(verify::VerifyArgs),
    /// List what the bucket holds of every topic
    List(list::ListArgs),
    /// Show where a topic's records lie
    Describe(describe::DescribeArgs),
    /// Show what the bucket holds, and what storage and requests cost
    Cost(cost::CostArgs),
}

impl TierCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::Verify(args) => args.run(context).await,
            Self::List(args) => args.run(context).await,
            Self::Describe(args) => args.run(context).await,
            Self::Cost(args) => args.run(context).await,
        }
    }
}
