//! `meridian tier describe TOPIC`.

use clap::Args;
use meridian_tiered_storage::replay::{Plan, Selection};
use serde_json::{Value, json};

use crate::bucket::{BucketArgs, open_reader};
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Rows, bytes_text, count};

/// Show where a topic's records lie
#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    #[command(flatten)]
    bucket: BucketArgs,
    /// The topic
    topic: String,
    /// Partitions to show, such as 0,2,5; all of them if not given
    #[arg(long = "partition", short, value_delimiter = ',', value_name = "N")]
    partitions: Vec<u32>,
}

impl DescribeArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let store = self.bucket.open()?;
        let catalog = self.bucket.catalog(&store).await?;
        let selection = Selection {
            topics: vec![self.topic.clone()],
            partitions: self.partitions,
            ..Selection::default()
        };
        let source = open_reader(store, 16 << 20).await?.into();
        let plan = Plan::new(&source, &catalog, &selection).await?;
        let topic = catalog.topics.file.topic(&self.topic);
        let fields = json!({
            "cluster": catalog.cluster,
            "topic": self.topic,
            "topic_id": topic.map(|topic| topic.id.to_string()),
            "configs": topic.map(|topic| &topic.configs),
            "partitions": plan.partitions.iter().map(partition_json).collect::<Vec<_>>(),
        });
        context.output.document("tier.describe", fields, || {
            let mut rows = Rows::new(&["PARTITION", "OFFSETS", "RECORDS", "BATCHES", "STORED", "OBJECT"]);
            for partition in &plan.partitions {
                for run in partition.runs.iter() {
                    rows.push([
                        partition.partition.index.to_string(),
                        format!("{}-{}", run.extent.base_offset, run.extent.end_offset),
                        run.extent.records.to_string(),
                        bytes_text(run.extent.raw_bytes),
                        bytes_text(run.extent.stored_bytes),
                        run.key.clone(),
                    ]);
                }
            }
            format!(
                "topic '{}', {} in the bucket\n\n{}",
                self.topic,
                count(plan.partitions.len(), "partition"),
                rows.render()
            )
        })
    }
}

fn partition_json(partition: &meridian_tiered_storage::replay::PartitionPlan) -> Value {
    let extents: Vec<Value> = partition
        .runs
        .iter()
        .map(|run| {
            json!({
                "base_offset": run.extent.base_offset.0,
                "end_offset": run.extent.end_offset.0,
                "records": run.extent.records,
                "raw_bytes": run.extent.raw_bytes,
                "stored_bytes": run.extent.stored_bytes,
                "max_timestamp_ms": run.extent.max_timestamp.0,
                "key": run.key,
                "frame": run.extent.frame,
            })
        })
        .collect();
    json!({
        "partition": partition.partition.index,
        "start_offset": partition.offsets.start.0,
        "end_offset": partition.offsets.end.0,
        "extents": extents,
    })
}
