//! `meridian serve`: one node of a region.

use std::io::{IsTerminal, Write};

use clap::Args;
use meridian_node::{Config, Durability, Server, start_logging};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::SettingArgs;
use crate::context::Context;
use crate::error::CliError;

mod driver;

/// Serve Kafka clients. Without any option: a region of one node on 127.0.0.1:9092, data in
/// ./meridian-data.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    settings: SettingArgs,
    /// Stop when standard input ends, as it does when the process that started this one is gone
    #[arg(long, hide = true)]
    end_with_stdin: bool,
}

impl ServeArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let config = self.settings.load()?;
        let settings = config.settings();
        start_logging(&settings.log).map_err(|error| CliError::usage(error.to_string()))?;
        // Handlers stand before the start: a signal during recovery ends it too.
        let (mut terminate, mut interrupt) =
            (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        let mut orphaned = std::pin::pin!(orphaned(self.end_with_stdin)?);
        let server = tokio::select! {
            started = Server::start(settings) => {
                started.map_err(|error| CliError::failed(format!("the node does not start: {error}")))?
            }
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            () = &mut orphaned => return Ok(()),
        };
        announce(context, &config, &server)?;
        let reason = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = orphaned => "standard input has ended",
        };
        tracing::info!(reason, "stopping");
        server.stop().await;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Resolves when standard input ends, if that is to be watched.
fn orphaned(is_watched: bool) -> Result<impl Future<Output = ()>, CliError> {
    let end = is_watched
        .then(driver::end_of_stdin)
        .transpose()
        .map_err(|error| CliError::failed(format!("cannot watch standard input: {error}")))?;
    Ok(async move {
        match end {
            Some(end) => drop(end.await),
            None => std::future::pending().await,
        }
    })
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, CliError> {
    signal(kind).map_err(|error| CliError::failed(format!("cannot listen for signals: {error}")))
}

/// Says where the node is reached, once it takes requests.
fn announce(context: &Context, config: &Config, server: &Server) -> Result<(), CliError> {
    let settings = config.settings();
    let (kafka, admin) = (server.kafka_address(), server.admin_address());
    if settings.journal.durability == Durability::Memory {
        tracing::warn!("journal.durability = memory: a power cut loses acknowledged records");
    }
    if context.output.is_json() {
        let ready = json!({
            "schema": "meridian.serve/1",
            "event": "ready",
            "kafka": kafka.to_string(),
            "admin": admin.to_string(),
            "data": settings.node.data.display().to_string(),
            "node": server.broker_id().0,
            "region": settings.region.name.0,
            "geo": server.geo_address(),
            "pid": std::process::id(),
        });
        let mut out = std::io::stdout().lock();
        writeln!(out, "{ready}")?;
        out.flush()?;
        return Ok(());
    }
    let bold = |text: &str| {
        if std::io::stdout().is_terminal() {
            format!("\x1b[1m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    };
    println!("{}", bold("Meridian is ready."));
    println!("  Kafka clients   {kafka}");
    println!("  health, metrics http://{admin}/ready  http://{admin}/metrics");
    println!("  data            {}", settings.node.data.display());
    if let Some(geo) = server.geo_address() {
        println!("  other regions   {geo}");
    }
    println!();
    let is_default = kafka.to_string() == "127.0.0.1:9092";
    let server = if is_default {
        String::new()
    } else {
        format!(" --server {kafka}")
    };
    println!("Try, in another terminal:");
    println!("  meridian topic create greetings{server}");
    println!("  echo hello | meridian produce greetings{server}");
    println!("  meridian consume greetings{server}");
    println!("  kcat -b {kafka} -C -t greetings -e");
    println!();
    println!("Stop with Ctrl-C.");
    Ok(())
}
