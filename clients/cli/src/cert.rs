//! `meridian cert ...`: an authority of one's own, and the certificates by which nodes and regions know one another.

use clap::Subcommand;

use crate::context::Context;
use crate::error::CliError;

mod ca;
mod disk;
mod driver;
pub(crate) mod files;
pub(crate) mod make;
pub(crate) mod node;
mod renew;

/// Days that an authority is good for.
const CA_DAYS: u32 = 3650;
/// Days that a node's certificate is good for.
pub(crate) const NODE_DAYS: u32 = 365;

#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Make an authority, which signs the certificates of nodes
    Ca(ca::CaArgs),
    /// Make a node's certificate
    Node(node::NodeArgs),
    /// Make a certificate for the same names and key, good for a longer time
    Renew(renew::RenewArgs),
}

impl CertCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::Ca(args) => args.run(context),
            Self::Node(args) => args.run(context),
            Self::Renew(args) => args.run(context),
        }
    }
}

/// The moment and the chance that a new certificate needs.
pub(crate) fn moment() -> make::Moment {
    driver::moment()
}
