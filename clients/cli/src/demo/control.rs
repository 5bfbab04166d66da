//! The control port of a running demo, and the commands that speak to it from another terminal.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::action::Action;
use super::network::ask;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Rows, bytes_text, or_dash, time_text};

mod listener;

pub(super) use self::listener::{Command, bind, serve};

/// Where a demo listens unless it is told otherwise.
pub(super) const DEFAULT: &str = "127.0.0.1:9640";

/// A switchover may take this long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Subcommand)]
pub(super) enum DemoVerb {
    /// Show what the running demo shows
    Status(StatusArgs),
    /// kill -9 of a node of the running demo
    Kill(NodeArgs),
    /// Start a node of the running demo again
    Start(NodeArgs),
    /// Cut the link between two regions of the running demo
    Cut(LinkArgs),
    /// Heal the link between two regions of the running demo, or all of them
    Heal(HealArgs),
    /// Move ownership of the running demo to another region
    Switchover(RegionArgs),
    /// End the running demo
    Stop(StatusArgs),
}

#[derive(Debug, Args)]
pub(super) struct ControlArg {
    /// Control port of the running demo
    #[arg(long, default_value = DEFAULT, value_name = "HOST:PORT")]
    control: SocketAddr,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    at: ControlArg,
}

#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// The node, such as us/1
    #[arg(value_name = "REGION/NUMBER")]
    node: String,
    #[command(flatten)]
    at: ControlArg,
}

#[derive(Debug, Args)]
pub(super) struct LinkArgs {
    /// The link, such as us-eu
    #[arg(value_name = "REGION-REGION")]
    link: String,
    #[command(flatten)]
    at: ControlArg,
}

#[derive(Debug, Args)]
pub(super) struct HealArgs {
    /// The link, such as us-eu; all of them unless it is given
    #[arg(value_name = "REGION-REGION")]
    link: Option<String>,
    #[command(flatten)]
    at: ControlArg,
}

#[derive(Debug, Args)]
pub(super) struct RegionArgs {
    /// The region that is to own, such as eu
    #[arg(long, value_name = "REGION")]
    to: String,
    #[command(flatten)]
    at: ControlArg,
}

impl DemoVerb {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let (verb, what, at) = match self {
            Self::Status(args) => return status(context, args.at.control).await,
            Self::Kill(args) => ("kill", Some(args.node), args.at),
            Self::Start(args) => ("start", Some(args.node), args.at),
            Self::Cut(args) => ("cut", Some(args.link), args.at),
            Self::Heal(args) => ("heal", args.link, args.at),
            Self::Switchover(args) => ("switchover", Some(args.to), args.at),
            Self::Stop(args) => ("stop", None, args.at),
        };
        let action = Action::parse(verb, what.as_deref()).map_err(CliError::usage)?;
        let body = json!({ "do": action.verb(), "what": action.what() }).to_string();
        let answer = call(at.control, "/actions", Some(&body)).await?;
        let said = answer["said"].as_str().unwrap_or_default().to_owned();
        let fields = json!({ "do": verb, "what": action.what(), "said": said });
        context.output.document("demo.action", fields, || said)
    }
}

/// Asks the running demo. Errors: there is none, or it refuses, with its reason.
async fn call(control: SocketAddr, path: &str, body: Option<&str>) -> Result<Value, CliError> {
    let answer = ask(control, path, body, ANSWER_TIMEOUT).await;
    let (status, body) = answer.map_err(|error| {
        CliError::failed(format!("no demo answers on {control}: {error}")).advise(
            "start one with `meridian demo`, or name its control port with --control: the demo prints it",
        )
    })?;
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    match (status, answer["error"].as_str()) {
        (200, _) => Ok(answer),
        (_, Some(reason)) => Err(CliError::failed(reason)),
        (status, None) => Err(CliError::failed(format!(
            "what listens on {control} is no demo: it answers with status {status}"
        ))),
    }
}

async fn status(context: &Context, control: SocketAddr) -> Result<(), CliError> {
    let mut status = call(control, "/status", None).await?;
    let text = text(&status);
    if let Some(fields) = status.as_object_mut() {
        fields.remove("schema");
    }
    context.output.document("demo.status", status, || text)
}

/// The status for people.
fn text(status: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut nodes = Rows::new(&["NODE", "KAFKA", "PID", "STATE", "LEADS"]);
    let mut regions = Rows::new(&["REGION", "OWNS", "WRITTEN/S", "READ/S", "DELAY", "BUCKET"]);
    for region in list(&status["regions"]) {
        let load = &region["load"];
        let rate = |name: &str| format!("{:.0}", load[name].as_f64().unwrap_or_default());
        regions.push([
            word(&region["name"]),
            match region["owner"].as_bool() {
                Some(true) => "yes".to_owned(),
                Some(false) => "no".to_owned(),
                None => "-".to_owned(),
            },
            rate("produced_per_second"),
            rate("consumed_per_second"),
            or_dash(load["delay_ms"].as_f64().map(|ms| format!("{ms:.0} ms"))),
            bytes_text(region["tier"]["object_bytes"].as_u64().unwrap_or_default()),
        ]);
        for node in list(&region["nodes"]) {
            nodes.push([
                word(&node["node"]),
                word(&node["kafka"]),
                or_dash(node["pid"].as_u64()),
                word(&node["state"]),
                or_dash(node["shards_led"].as_u64()),
            ]);
        }
    }
    let mut links = Rows::new(&["LINK", "ROUND TRIP", "STATE", "BYTES/S", "BEHIND"]);
    for link in list(&status["links"]) {
        let ms = |name: &str| {
            let ms = link[name].as_f64()?;
            Some(time_text(Duration::try_from_secs_f64(ms / 1e3).ok()?))
        };
        links.push([
            word(&link["link"]),
            or_dash(ms("measured_ms").or_else(|| ms("round_trip_ms"))),
            if link["is_cut"] == true { "cut" } else { "whole" }.to_owned(),
            bytes_text(link["bytes_per_second"].as_f64().unwrap_or_default() as u64),
            or_dash(ms("staleness_ms")),
        ]);
    }
    let mut tables = vec![regions.render(), nodes.render()];
    if !list(&status["links"]).is_empty() {
        tables.push(links.render());
    }
    tables.join("\n\n")
}
