//! `meridian cluster ...`.

use std::time::Duration;

use clap::Subcommand;
use meridian_client::{AdminError, RequestCause};
use meridian_types::NodeId;

use crate::context::Context;
use crate::error::CliError;

mod balance;
mod broker_status;
mod drain;
mod remove;
mod status;
mod wait;

/// Pause between looks at something that goes on.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Nodes, and where the shards and their replicas are
    Status(status::StatusArgs),
    /// Move everything off a node, so that it can be removed or repaired
    Drain(drain::DrainArgs),
    /// Take a node out of the cluster for good
    Remove(remove::RemoveArgs),
    /// Even out replicas and leaders among the nodes, at once
    Balance(balance::BalanceArgs),
}

impl ClusterCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::Status(args) => args.run(context).await,
            Self::Drain(args) => args.run(context).await,
            Self::Remove(args) => args.run(context).await,
            Self::Balance(args) => args.run(context).await,
        }
    }
}

/// Whether the server is no Meridian, or one that is too old for this.
fn is_unsupported(error: &AdminError) -> bool {
    matches!(error, AdminError::Request(error) if matches!(error.cause, RequestCause::Unsupported { .. }))
}

/// Node ids for people.
fn ids_text(nodes: impl IntoIterator<Item = NodeId>) -> String {
    let ids: Vec<String> = nodes.into_iter().map(|id| id.to_string()).collect();
    match ids.is_empty() {
        true => "-".to_owned(),
        false => ids.join(","),
    }
}

/// Node ids for programs.
fn ids_json(nodes: impl IntoIterator<Item = NodeId>) -> Vec<u32> {
    nodes.into_iter().map(|id| id.0).collect()
}
