//! `meridian cluster status`.

use clap::Subcommand;
use serde_json::json;

use crate::context::Context;
use crate::error::CliError;
use crate::output::{Rows, bytes_text, or_dash};

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Brokers, controller, and counts of topics and partitions
    Status,
}

impl ClusterCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::Status => status(context).await,
        }
    }
}

async fn status(context: &Context) -> Result<(), CliError> {
    let admin = context.admin().await?;
    let cluster = admin.describe_cluster().await?;
    let mut brokers = Vec::new();
    let mut rows = Rows::new(&["BROKER", "ADDRESS", "RACK", "PARTITIONS", "SIZE", "STATE"]);
    for broker in &cluster.brokers {
        let dirs = admin.describe_log_dirs(broker.id).await;
        // A broker that does not answer is a line of the answer, not the end of it.
        let (partitions, size_bytes, state) = match &dirs {
            Ok(dirs) => {
                let held = || dirs.iter().flat_map(|dir| &dir.partitions);
                let size: u64 = held().map(|it| it.size_bytes).sum();
                (Some(held().count()), Some(size), "up".to_owned())
            }
            Err(meridian_client::AdminError::Request(error))
                if !matches!(error.cause, meridian_client::RequestCause::Unsupported { .. }) =>
            {
                (None, None, format!("away: {error}"))
            }
            Err(_) => (None, None, "up".to_owned()),
        };
        let is_controller = cluster.controller == Some(broker.id);
        rows.push([
            format!("{}{}", broker.id, if is_controller { " *" } else { "" }),
            broker.endpoint.to_string(),
            or_dash(broker.rack.as_ref()),
            or_dash(partitions),
            or_dash(size_bytes.map(bytes_text)),
            state.clone(),
        ]);
        brokers.push(json!({
            "id": broker.id.0,
            "address": broker.endpoint.to_string(),
            "rack": broker.rack,
            "partitions": partitions,
            "size_bytes": size_bytes,
            "is_up": state == "up",
            "state": state,
        }));
    }
    let fields = json!({
        "cluster_id": cluster.cluster_id,
        "controller": cluster.controller.map(|id| id.0),
        "brokers": brokers,
        "topics": cluster.topics,
        "partitions": cluster.partitions,
        "partitions_without_leader": cluster.partitions_without_leader,
        "partitions_under_replicated": cluster.partitions_under_replicated,
    });
    context.output.document("cluster.status", fields, || {
        format!(
            "cluster {}: {} topics, {} partitions, {} without leader, {} under-replicated (* controller)\n\n{}",
            or_dash(cluster.cluster_id.as_ref()),
            cluster.topics,
            cluster.partitions,
            cluster.partitions_without_leader,
            cluster.partitions_under_replicated,
            rows.render(),
        )
    })
}
