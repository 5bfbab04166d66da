//! `meridian cluster remove`.

use clap::Args;
use meridian_types::NodeId;
use serde_json::json;

use crate::context::Context;
use crate::error::CliError;

/// Take a node out of the cluster for good. A node that is alive must be drained first. One that is lost goes as it
/// is: its replicas are made anew on other nodes, if there are enough of them.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Id of the node
    #[arg(value_name = "NODE", value_parser = clap::value_parser!(u32).range(..=i64::from(i32::MAX)))]
    node: u32,
}

impl RemoveArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let node = NodeId(self.node);
        context.confirm(&format!("remove node {node} from the cluster for good"))?;
        let admin = context.admin().await?;
        admin.remove_node(node).await?;
        let fields = json!({ "node": self.node });
        context.output.document("cluster.remove", fields, || {
            format!("node {node} is removed; give a new node an id that no node had before")
        })
    }
}
