//! What every command needs: the server, the form of the output, and consent.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use meridian_client::{Admin, Cluster, ClusterSettings, ConnectionSettings, Endpoint};

use crate::error::CliError;
use crate::output::{Format, Output};
use crate::parse::parse_duration;

/// The options that every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalArgs {
    /// Server to begin with, or several: HOST:PORT,HOST:PORT
    #[arg(
        long,
        global = true,
        env = "MERIDIAN_SERVER",
        default_value = "127.0.0.1:9092",
        value_name = "HOST:PORT"
    )]
    server: String,
    /// Form of the output; JSON documents carry a `schema`
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Go ahead with what destroys something, without asking
    #[arg(long, global = true)]
    yes: bool,
    /// How long to go on trying, such as 500ms, 10s or 2m
    #[arg(long, global = true, default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    timeout: Duration,
}

/// What a command works with.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    servers: Vec<Endpoint>,
    timeout: Duration,
    is_agreed: bool,
    pub(crate) output: Output,
}

impl GlobalArgs {
    pub(crate) fn context(&self) -> Result<Context, CliError> {
        let servers =
            Endpoint::parse_list(&self.server).map_err(|error| CliError::usage(error.to_string()))?;
        Ok(Context {
            servers,
            timeout: self.timeout,
            is_agreed: self.yes,
            output: Output::new(self.output),
        })
    }
}

impl Context {
    /// How to reach the cluster; topics are never made by asking for them.
    pub(crate) fn cluster_settings(&self) -> ClusterSettings {
        ClusterSettings {
            connection: ConnectionSettings {
                client_id: "meridian-cli".to_owned(),
                connect_timeout: self.timeout.min(Duration::from_secs(10)),
            },
            request_timeout: self.timeout.max(Duration::from_secs(1)),
            operation_timeout: self.timeout,
            allow_topic_creation: false,
            ..ClusterSettings::new(self.servers.clone())
        }
    }

    /// Connects.
    pub(crate) async fn connect(&self) -> Result<Cluster, CliError> {
        Ok(Cluster::connect(self.cluster_settings()).await?)
    }

    /// Connects to another cluster than `--server` names.
    pub(crate) async fn connect_to(&self, servers: Vec<Endpoint>) -> Result<Cluster, CliError> {
        let settings = ClusterSettings {
            bootstrap: servers,
            ..self.cluster_settings()
        };
        Ok(Cluster::connect(settings).await?)
    }

    /// Connects, for administration.
    pub(crate) async fn admin(&self) -> Result<Admin, CliError> {
        Ok(Admin::new(&self.connect().await?))
    }

    /// The first server, as it was given.
    pub(crate) fn server(&self) -> &Endpoint {
        self.servers
            .first()
            .expect("an address list that was read has an address")
    }

    /// How long to go on trying.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether `--yes` was given.
    pub(crate) fn is_agreed(&self) -> bool {
        self.is_agreed
    }

    /// Goes on only with `--yes` or a person's consent. `what` is a sentence such as "delete topic 'a'".
    pub(crate) fn confirm(&self, what: &str) -> Result<(), CliError> {
        if self.is_agreed {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return Err(CliError::usage(format!("to {what} needs consent")).advise("add --yes"));
        }
        eprint!("{what}? This cannot be undone. Type yes: ");
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if answer.trim() == "yes" {
            Ok(())
        } else {
            Err(CliError::failed("not done: consent was not given"))
        }
    }
}
