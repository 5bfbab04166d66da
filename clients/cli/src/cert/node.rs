//! `meridian cert node`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::files::NodeFiles;
use super::make::NodeNames;
use super::{NODE_DAYS, files, make, moment};
use crate::context::Context;
use crate::error::CliError;

/// Node ids of a region lie this far from those of the next.
pub(crate) const NODES_PER_REGION: u32 = 100_000;

/// Make a node's certificate
#[derive(Debug, Args)]
#[command(
    after_help = "Example: meridian cert node --ca ca --region us --node 1 --host node-1.example --out node-1\n\n\
                  Then: meridian serve --region us --node-id 1 --set peer.tls_cert=node-1/node.pem \
                  --set peer.tls_key=node-1/node-key.pem --set peer.tls_ca=node-1/ca.pem"
)]
pub(crate) struct NodeArgs {
    /// Directory of the authority, made by `meridian cert ca`
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// Name of the node's region
    #[arg(long, value_name = "NAME")]
    region: String,
    /// Number of the node, as `serve --node-id` has it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    node: u32,
    /// Number of the node's region, as `serve --region-number` has it
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=999))]
    region_number: u32,
    /// Name or address under which others reach the node; may be given several times [default: localhost]
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// Directory for node.pem, node-key.pem and ca.pem
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Days that it is good for; it ends with its authority at the latest
    #[arg(long, default_value_t = NODE_DAYS, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

impl NodeArgs {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        let authority = files::read_authority(&self.ca)?;
        let names = NodeNames {
            broker: broker_id(self.region_number, self.node)?,
            region: self.region,
            hosts: if self.hosts.is_empty() {
                local_hosts()
            } else {
                self.hosts
            },
        };
        let there = files::node_there(&self.out);
        if !there.is_empty() {
            let (there, out) = (there.join(" and "), self.out.display());
            context.confirm(&format!("replace {there} in {out}"))?;
        }
        let pair = make::node(&authority, &names, self.days, moment())?;
        let facts = make::node_facts(&pair.certificate)?;
        files::write_node(&self.out, &pair, &authority.certificate)?;
        let written = NodeFiles::of(&self.out);
        let fields = json!({
            "certificate": written.certificate,
            "key": written.key,
            "ca": written.ca,
            "names": facts.names,
            "expires_ms": facts.expires_s * 1000,
        });
        context.output.document("cert.node", fields, || {
            let out = self.out.display();
            format!(
                "{out}/node.pem      for {}\n\
                 {out}/node-key.pem  its key: keep it secret, on this node only\n\
                 {out}/ca.pem        whom the node trusts\n\n\
                 Next: meridian serve ... --set peer.tls_cert={out}/node.pem --set peer.tls_key={out}/node-key.pem \
                 --set peer.tls_ca={out}/ca.pem",
                facts.names.join(", "),
            )
        })
    }
}

/// The id under which the node is known everywhere.
fn broker_id(region_number: u32, node: u32) -> Result<u32, CliError> {
    if region_number > 0 && node >= NODES_PER_REGION {
        return Err(CliError::usage(format!(
            "--node {node} is too large: a region's nodes have the numbers 1 to {}",
            NODES_PER_REGION - 1
        )));
    }
    Ok(region_number * NODES_PER_REGION + node)
}

/// How a node on this machine is reached.
pub(crate) fn local_hosts() -> Vec<String> {
    ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec()
}
