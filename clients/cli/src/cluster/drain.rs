//! `meridian cluster drain`.

use clap::Args;
use meridian_client::admin::{RegionDescription, RegionShard};
use meridian_types::NodeId;
use serde_json::json;

use super::wait::until_done;
use crate::context::Context;
use crate::error::CliError;
use crate::output::count;

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Id of the node
    #[arg(value_name = "NODE", value_parser = clap::value_parser!(u32).range(..=i64::from(i32::MAX)))]
    node: u32,
    /// Take it back: the node gets shards again
    #[arg(long)]
    undo: bool,
    /// Return as soon as it is decided, and let it go on
    #[arg(long)]
    no_wait: bool,
}

impl DrainArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let admin = context.admin().await?;
        let node = NodeId(self.node);
        admin.drain_node(node, self.undo).await?;
        let is_waiting = !self.undo && !self.no_wait;
        let moved = if is_waiting {
            let is_left = |_: &_, shard: &RegionShard| shard.is_held_by(node);
            let stuck = |region: &RegionDescription| stuck(region, node);
            Some(until_done(context, &admin, "moved", is_left, stuck).await?)
        } else {
            None
        };
        let fields = json!({
            "node": self.node,
            "is_draining": !self.undo,
            "is_done": is_waiting,
            "shards_moved": moved,
        });
        context.output.document("cluster.drain", fields, || match moved {
            _ if self.undo => format!("node {node} is no longer drained"),
            Some(moved) => format!(
                "node {node} is drained: {} moved. Stop it, then `meridian cluster remove {node}`, or `--undo` to use it again",
                count(moved, "shard")
            ),
            None => format!("node {node} is being drained; `meridian cluster status --watch` shows how far it is"),
        })
    }
}

/// Why nothing more will move, if that is so.
fn stuck(region: &RegionDescription, id: NodeId) -> Option<String> {
    let node = region.node(id)?;
    let held = region.shards.iter().filter(|shard| shard.is_held_by(id)).count();
    (node.is_alive && node.stuck as usize == held && held > 0).then(|| {
        format!(
            "{} have nowhere to go: {} copies of each are wanted, and there are too few other nodes",
            count(held, "shard"),
            region.copies
        )
    })
}
