//! `meridian region ...`.

use clap::Subcommand;

use crate::context::Context;
use crate::error::CliError;

mod change;
mod list;
mod restore;

#[derive(Debug, Subcommand)]
pub(crate) enum RegionCommand {
    /// List the regions of the cluster
    List(list::ListArgs),
    /// Register a region of the cluster
    Add(change::AddArgs),
    /// Forget a region of the cluster
    Remove(change::RemoveArgs),
    /// Make the data directory of a new first node from the region's bucket, when its nodes are lost
    Restore(restore::RestoreArgs),
}

impl RegionCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::List(args) => args.run(context).await,
            Self::Add(args) => args.run(context).await,
            Self::Remove(args) => args.run(context).await,
            Self::Restore(args) => args.run(context).await,
        }
    }
}
