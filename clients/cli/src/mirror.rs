//! `meridian mirror ...`: how far the regions are, and whether they hold the same.

use clap::Subcommand;

use crate::context::Context;
use crate::error::CliError;

mod partitions;
mod status;
#[cfg(test)]
mod testing;
mod verify;

#[derive(Debug, Subcommand)]
pub(crate) enum MirrorCommand {
    /// Show who owns, and how far every region is behind
    Status(status::StatusArgs),
    /// Compare the digests of every partition in all regions: status 3 where two differ
    Verify(verify::VerifyArgs),
}

impl MirrorCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::Status(args) => args.run(context).await,
            Self::Verify(args) => args.run(context).await,
        }
    }
}
