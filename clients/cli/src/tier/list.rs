//! `meridian tier list`.

use std::collections::BTreeMap;

use clap::Args;
use meridian_tiered_storage::inventory::{PartitionUsage, partitions};
use serde_json::{Value, json};

use crate::bucket::BucketArgs;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Rows, bytes_text, count};

/// List what the bucket holds of every topic
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    bucket: BucketArgs,
    /// A line for every partition
    #[arg(long, short)]
    partitions: bool,
}

/// What the bucket holds of a topic.
#[derive(Default)]
struct Topic {
    id: String,
    partitions: u64,
    records: u64,
    raw_bytes: u64,
    stored_bytes: u64,
    extents: u64,
    max_timestamp: i64,
}

impl ListArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let store = self.bucket.open()?;
        let catalog = self.bucket.catalog(&store).await?;
        let usages = partitions(&catalog);
        let mut topics: BTreeMap<&str, Topic> = BTreeMap::new();
        for usage in &usages {
            let topic = topics.entry(&usage.topic).or_default();
            topic.id = usage.partition.topic.to_string();
            topic.partitions += 1;
            topic.records += usage.records;
            topic.raw_bytes += usage.raw_bytes;
            topic.stored_bytes += usage.stored_bytes;
            topic.extents += usage.extents;
            topic.max_timestamp = topic.max_timestamp.max(usage.max_timestamp.0);
        }
        let fields = json!({
            "cluster": catalog.cluster,
            "region": catalog.topics.file.region,
            "topics": topics.iter().map(|(name, topic)| topic_json(name, topic)).collect::<Vec<_>>(),
            "partitions": self.partitions.then(|| usages.iter().map(partition_json).collect::<Vec<_>>()),
        });
        context.output.document("tier.list", fields, || {
            let table = if self.partitions {
                partition_rows(&usages)
            } else {
                topic_rows(&topics)
            };
            format!(
                "cluster {}, region {}, {}\n\n{}",
                catalog.cluster,
                catalog.topics.file.region,
                count(topics.len(), "topic"),
                table.render()
            )
        })
    }
}

fn topic_json(name: &str, topic: &Topic) -> Value {
    json!({
        "topic": name,
        "topic_id": topic.id,
        "partitions": topic.partitions,
        "records": topic.records,
        "raw_bytes": topic.raw_bytes,
        "stored_bytes": topic.stored_bytes,
        "extents": topic.extents,
        "max_timestamp_ms": topic.max_timestamp,
    })
}

fn partition_json(usage: &PartitionUsage) -> Value {
    json!({
        "topic": usage.topic,
        "partition": usage.partition.index,
        "shard": usage.shard.0,
        "start_offset": usage.start.0,
        "end_offset": usage.end.0,
        "records": usage.records,
        "raw_bytes": usage.raw_bytes,
        "stored_bytes": usage.stored_bytes,
        "extents": usage.extents,
        "max_timestamp_ms": usage.max_timestamp.0,
    })
}

fn topic_rows(topics: &BTreeMap<&str, Topic>) -> Rows {
    let mut rows = Rows::new(&["TOPIC", "PARTITIONS", "RECORDS", "EXTENTS", "BATCHES", "STORED"]);
    for (name, topic) in topics {
        rows.push([
            (*name).to_owned(),
            topic.partitions.to_string(),
            topic.records.to_string(),
            topic.extents.to_string(),
            bytes_text(topic.raw_bytes),
            bytes_text(topic.stored_bytes),
        ]);
    }
    rows
}

fn partition_rows(usages: &[PartitionUsage]) -> Rows {
    let mut rows = Rows::new(&[
        "TOPIC",
        "PARTITION",
        "SHARD",
        "START",
        "END",
        "RECORDS",
        "EXTENTS",
        "BATCHES",
        "STORED",
    ]);
    for usage in usages {
        rows.push([
            usage.topic.clone(),
            usage.partition.index.to_string(),
            usage.shard.to_string(),
            usage.start.to_string(),
            usage.end.to_string(),
            usage.records.to_string(),
            usage.extents.to_string(),
            bytes_text(usage.raw_bytes),
            bytes_text(usage.stored_bytes),
        ]);
    }
    rows
}
