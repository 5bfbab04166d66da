//! `meridian cert renew`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{NODE_DAYS, files, make, moment};
use crate::context::Context;
use crate::error::CliError;

/// Make a certificate for the same names and key, good for a longer time
#[derive(Debug, Args)]
#[command(after_help = "Example: meridian cert renew --ca ca --cert node-1 --yes\n\n\
                        The key stays, and one file is replaced as a whole. For another key or other names: \
                        `meridian cert node` with the same --out.")]
pub(crate) struct RenewArgs {
    /// Directory of the authority, made by `meridian cert ca`
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// Directory of the certificate, made by `meridian cert node`
    #[arg(long, value_name = "DIR")]
    cert: PathBuf,
    /// Days that it is good for from now on; it ends with its authority at the latest
    #[arg(long, default_value_t = NODE_DAYS, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

impl RenewArgs {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        let authority = files::read_authority(&self.ca)?;
        let old = files::read_node(&self.cert)?;
        let now = moment();
        let certificate = make::renewed(&authority, &old, self.days, now)?;
        let (before, after) = (
            make::node_facts(&old.certificate)?,
            make::node_facts(&certificate)?,
        );
        let path = self.cert.join("node.pem");
        context.confirm(&format!("replace {}", path.display()))?;
        files::write_renewed(&self.cert, &certificate)?;
        let fields = json!({
            "certificate": path,
            "names": after.names,
            "expired_ms": before.expires_s * 1000,
            "expires_ms": after.expires_s * 1000,
        });
        context.output.document("cert.renew", fields, || {
            let days = |at_s: i64| (at_s - now.now_s) / 86_400;
            let left = match days(before.expires_s) {
                left @ 0.. => format!("it had {left} days left"),
                ago => format!("it had expired {} days ago", -ago),
            };
            format!(
                "{} is good for {} days; {left}",
                path.display(),
                days(after.expires_s)
            )
        })
    }
}
