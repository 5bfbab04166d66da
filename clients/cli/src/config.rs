//! `meridian config`: what is in force, and where it comes from. Also the settings that `serve` takes.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use meridian_node::{Config, ConfigError, variable};
use serde_json::json;

use crate::context::Context;
use crate::error::CliError;
use crate::output::Rows;

/// Settings on the command line; every other one through `--set`, the file or the environment.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Settings of the node")]
pub(crate) struct SettingArgs {
    /// Configuration file (TOML)
    #[arg(long, env = "MERIDIAN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the journal and the checkpoints
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address for Kafka clients; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    kafka: Option<SocketAddr>,
    /// HOST:PORT that clients are told to connect to
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Address for health and metrics; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Address for the other nodes of the region; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    peer: Option<SocketAddr>,
    /// Address for nodes of other regions; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    geo: Option<SocketAddr>,
    /// Name of the region
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// Number of the region, unique among the regions of one cluster
    #[arg(long, value_name = "N")]
    region_number: Option<u16>,
    /// Peer addresses of nodes of the region, with commas between them
    #[arg(long, value_name = "HOST:PORT,..")]
    seeds: Option<String>,
    /// The region's bucket: s3://, gs://, az://, file:// or a directory; `none` for no bucket
    #[arg(long, value_name = "URL")]
    bucket: Option<String>,
    /// Number of this node
    #[arg(long, value_name = "N")]
    node_id: Option<u32>,
    /// Rack or zone of this node
    #[arg(long, value_name = "NAME")]
    rack: Option<String>,
    /// Let listeners be reached from other machines without TLS
    #[arg(long)]
    insecure: bool,
    /// Any setting, as SECTION.KEY=VALUE; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl SettingArgs {
    /// Merges all sources.
    pub(crate) fn load(&self) -> Result<Config, CliError> {
        let mut flags: Vec<(&str, String)> = Vec::new();
        let mut flag = |key, value: Option<String>| flags.extend(value.map(|value| (key, value)));
        flag(
            "node.data",
            self.data.as_ref().map(|path| path.display().to_string()),
        );
        flag("kafka.listen", self.kafka.map(|address| address.to_string()));
        flag("kafka.advertise", self.advertise.clone());
        flag("admin.listen", self.admin.map(|address| address.to_string()));
        flag("peer.listen", self.peer.map(|address| address.to_string()));
        flag("geo.listen", self.geo.map(|address| address.to_string()));
        flag("region.name", self.region.clone());
        flag(
            "region.number",
            self.region_number.map(|number| number.to_string()),
        );
        flag("region.seeds", self.seeds.clone());
        flag("tier.url", self.bucket.clone());
        flag("node.id", self.node_id.map(|id| id.to_string()));
        flag("node.rack", self.rack.clone());
        flag("node.insecure", self.insecure.then(|| "true".to_owned()));
        for setting in &self.set {
            let (key, value) = setting.split_once('=').ok_or_else(|| {
                CliError::usage(format!("--set {setting:?} is no setting")).advise("write SECTION.KEY=VALUE")
            })?;
            flags.push((key, value.to_owned()));
        }
        Config::load(self.config.as_deref(), &flags).map_err(|error| refused(&error))
    }
}

fn refused(error: &ConfigError) -> CliError {
    let advice = match error {
        ConfigError::File { .. } => "name a file that can be read with --config, or leave it out",
        _ => "`meridian config explain` lists every setting with its meaning",
    };
    CliError::usage(error.to_string()).advise(advice)
}

/// Check the configuration, and explain it.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check file, environment and options without starting anything
    Check(SettingArgs),
    /// Show every setting with its value, and where that comes from
    Explain(SettingArgs),
}

impl ConfigCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::Check(args) => {
                args.load()?;
                context
                    .output
                    .document("config.check", json!({ "good": true }), || {
                        "the configuration is good".to_owned()
                    })
            }
            Self::Explain(args) => {
                let settings = args.load()?.explain();
                context
                    .output
                    .document("config.explain", json!({ "settings": settings }), || {
                        let mut rows = Rows::new(&["SETTING", "VALUE", "FROM", "MEANING"]);
                        for setting in &settings {
                            let value = match &setting.value {
                                serde_json::Value::Null => "-".to_owned(),
                                serde_json::Value::String(text) => text.clone(),
                                other => other.to_string(),
                            };
                            let from = match setting.source.as_str() {
                                "environment" => variable(setting.key),
                                source => source.to_owned(),
                            };
                            rows.push([setting.key.to_owned(), value, from, setting.doc.to_owned()]);
                        }
                        rows.render()
                    })
            }
        }
    }
}
