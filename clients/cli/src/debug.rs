//! `meridian debug ...`: tools for those who work on Meridian.

use clap::Subcommand;

use crate::context::Context;
use crate::error::CliError;

mod relay;

#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    /// Put a WAN between two addresses: delay, jitter, loss and rate, for UDP and TCP
    Relay(Box<relay::RelayArgs>),
}

impl DebugCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::Relay(args) => args.run(context).await,
        }
    }
}
