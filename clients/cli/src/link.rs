//! `meridian link ...`: what carries content between regions.

use clap::{Args, Subcommand};
use meridian_client::admin::{LinkDirection, MirrorDescription, MirrorLink};
use meridian_types::NodeId;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::CliError;
use crate::output::{Rows, bytes_text, or_dash, time_text};
use crate::parse::parse_bytes;

#[derive(Debug, Subcommand)]
pub(crate) enum LinkCommand {
    /// List every node's links to other regions
    List(ListArgs),
    /// Show what the links have carried, and how
    Status(StatusArgs),
    /// Bound what travels to a region, or from it, until the nodes are started again
    Throttle(ThrottleArgs),
}

impl LinkCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::List(args) => args.run(context).await,
            Self::Status(args) => args.run(context).await,
            Self::Throttle(args) => args.run(context).await,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {}

impl ListArgs {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let mirror = context.admin().await?.describe_mirror(false).await?;
        show(context, "link.list", &mirror, || {
            let mut rows = Rows::new(&["NODE", "REGION", "ADDRESS", "TRANSPORT", "RTT", "STATE"]);
            for link in &mirror.links {
                rows.push([
                    link.node.to_string(),
                    or_dash(link.region.map(|region| mirror.name_of(region))),
                    link.address.clone(),
                    or_dash(link.transport.as_ref()),
                    or_dash(link.rtt.map(time_text)),
                    link.state.clone(),
                ]);
            }
            rows.render()
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {}

impl StatusArgs {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let mirror = context.admin().await?.describe_mirror(false).await?;
        show(context, "link.status", &mirror, || {
            let mut rows = Rows::new(&[
                "NODE",
                "REGION",
                "TRANSPORT",
                "RTT",
                "SENT",
                "RECEIVED",
                "LOST",
                "RATIO",
                "LIMIT",
                "LAG",
                "STALENESS",
                "STATE",
            ]);
            for link in &mirror.links {
                rows.push([
                    link.node.to_string(),
                    or_dash(link.region.map(|region| mirror.name_of(region))),
                    or_dash(link.transport.as_ref()),
                    or_dash(link.rtt.map(time_text)),
                    bytes_text(link.sent_bytes),
                    bytes_text(link.received_bytes),
                    or_dash(lost_percent(link).map(|percent| format!("{percent:.2} %"))),
                    or_dash(ratio(link).map(|ratio| format!("{ratio:.2}"))),
                    or_dash(
                        link.bytes_per_second_max
                            .map(|bytes| format!("{}/s", bytes_text(bytes))),
                    ),
                    or_dash(link.lag_bytes.map(bytes_text)),
                    or_dash(link.staleness.map(time_text)),
                    link.state.clone(),
                ]);
            }
            rows.render()
        })
    }
}

fn show(
    context: &Context,
    name: &str,
    mirror: &MirrorDescription,
    text: impl FnOnce() -> String,
) -> Result<(), CliError> {
    let links: Vec<Value> = mirror.links.iter().map(|link| link_json(mirror, link)).collect();
    context.output.document(name, json!({ "links": links }), || {
        if mirror.links.is_empty() {
            return "no node has a link to another region".to_owned();
        }
        text()
    })
}

fn link_json(mirror: &MirrorDescription, link: &MirrorLink) -> Value {
    json!({
        "node": link.node.0,
        "region": link.region,
        "region_name": link.region.map(|region| mirror.name_of(region)),
        "address": link.address,
        "transport": link.transport,
        "state": link.state,
        "rtt_us": link.rtt.map(|rtt| rtt.as_micros()),
        "sent_bytes": link.sent_bytes,
        "received_bytes": link.received_bytes,
        "sent_packets": link.sent_packets,
        "lost_packets": link.lost_packets,
        "frame_bytes": link.frame_bytes,
        "compressed_bytes": link.compressed_bytes,
        "bytes_per_second_max": link.bytes_per_second_max,
        "lag_sequences": link.lag_sequences,
        "lag_bytes": link.lag_bytes,
        "staleness_ms": link.staleness.map(|it| it.as_millis()),
    })
}

fn lost_percent(link: &MirrorLink) -> Option<f64> {
    (link.sent_packets > 0).then(|| link.lost_packets as f64 * 100.0 / link.sent_packets as f64)
}

/// How many times smaller frames become.
fn ratio(link: &MirrorLink) -> Option<f64> {
    (link.compressed_bytes > 0).then(|| link.frame_bytes as f64 / link.compressed_bytes as f64)
}

#[derive(Debug, Args)]
pub(crate) struct ThrottleArgs {
    /// Name or number of the region that is sent to, or with --received of the one that sends
    #[arg(value_name = "REGION")]
    region: String,
    /// Bytes per second at most, such as 10MiB: of all that one node sends, or of each link that brings; `none` takes the
    /// limit away
    #[arg(value_name = "RATE")]
    rate: String,
    /// Bound what the nodes of other regions let come from REGION, instead of what they send there
    #[arg(long)]
    received: bool,
}

impl ThrottleArgs {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let rate = match self.rate.as_str() {
            "none" => None,
            text => Some(parse_bytes(text).map_err(|error| {
                CliError::usage(format!("RATE is {text:?}: {error}")).advise("or `none` for no limit")
            })?),
        };
        if rate == Some(0) {
            return Err(CliError::usage("RATE is 0, which would stop the mirror")
                .advise("give a rate such as 10MiB, or `none` for no limit"));
        }
        let admin = context.admin().await?;
        let mirror = admin.describe_mirror(false).await?;
        let region = mirror.region(&self.region).ok_or_else(|| {
            CliError::failed(format!("there is no region {}", self.region))
                .advise("`meridian region list` lists the regions")
        })?;
        let direction = match self.received {
            true => LinkDirection::Received,
            false => LinkDirection::Sent,
        };
        // Whoever has a link sends; a mirror's nodes are sent to by nodes of the owner.
        let others = mirror
            .regions
            .iter()
            .filter(|it| it.number != region.number && it.has_answered);
        let nodes: Vec<NodeId> = others.flat_map(|it| it.nodes.iter().map(|(id, _)| *id)).collect();
        admin
            .throttle_link(&nodes, &region.number.to_string(), direction, rate)
            .await?;
        let fields = json!({
            "region": region.number,
            "direction": if self.received { "received" } else { "sent" },
            "bytes_per_second_max": rate,
            "nodes": nodes.iter().map(|id| id.0).collect::<Vec<_>>(),
        });
        let name = &region.name;
        context
            .output
            .document("link.throttle", fields, || match (direction, rate) {
                (LinkDirection::Sent, Some(rate)) => {
                    format!("each node sends at most {}/s to region {name}", bytes_text(rate))
                }
                (LinkDirection::Received, Some(rate)) => {
                    format!(
                        "each link brings at most {}/s from region {name}",
                        bytes_text(rate)
                    )
                }
                (LinkDirection::Sent, None) => format!("what is sent to region {name} is not limited"),
                (LinkDirection::Received, None) => {
                    format!("what comes from region {name} is not limited")
                }
            })
    }
}
