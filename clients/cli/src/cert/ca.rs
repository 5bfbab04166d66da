//! `meridian cert ca`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{CA_DAYS, files, make, moment};
use crate::context::Context;
use crate::error::CliError;

/// Make an authority, which signs the certificates of nodes
#[derive(Debug, Args)]
#[command(after_help = "Example: meridian cert ca --out ca")]
pub(crate) struct CaArgs {
    /// Directory for ca.pem and ca-key.pem; whoever has the key can make nodes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name of the authority
    #[arg(long, default_value = "Meridian", value_name = "NAME")]
    name: String,
    /// Days that it is good for
    #[arg(long, default_value_t = CA_DAYS, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

impl CaArgs {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        let there = files::authority_there(&self.out);
        if !there.is_empty() {
            let (there, out) = (there.join(" and "), self.out.display());
            context.confirm(&format!(
                "replace {there} in {out}, so that what it has signed is not trusted any more"
            ))?;
        }
        let moment = moment();
        let authority = make::authority(&self.name, self.days, moment)?;
        files::write_authority(&self.out, &authority)?;
        let out = self.out.display();
        let fields = json!({
            "certificate": self.out.join("ca.pem"),
            "key": self.out.join("ca-key.pem"),
            "days": self.days,
        });
        context.output.document("cert.ca", fields, || {
            format!(
                "{out}/ca.pem      the authority's certificate, for every node\n\
                 {out}/ca-key.pem  its key: keep it secret, no node needs it\n\n\
                 Next: meridian cert node --ca {out} --region NAME --node N --out DIR"
            )
        })
    }
}
