//! `meridian region restore`.

use std::path::PathBuf;

use clap::Args;
use meridian_node::{
    CopyUsed, RestoreDirectoryError, RestoreError, RestoreOptions, RestoreProgress, RestoreReport,
    ShardRestored, restore,
};
use meridian_types::{NodeId, TimestampMs};
use serde_json::{Value, json};

use crate::bucket;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Rows, count, moment_text, or_dash};
use crate::parse::parse_setting;

/// Make the data directory of a new first node from the region's bucket, when its nodes are lost
#[derive(Debug, Args)]
#[command(after_help = "\
The region begins anew with one node, at the last state that each of its shards has left in the bucket: topics, configs, \
offsets, idempotent producers and consumer groups. Records that were acknowledged and had not reached the bucket are lost. \
Start the node with `meridian serve --data DIR --bucket URL`; further nodes join with --seeds, under ids that none had \
before, and the shards are copied to them.

Only one region may own a bucket: with --take-over the bucket is taken from a region that may still live, which then \
writes nothing there any more. An interrupted restore is run again with the same bucket and directory.

Examples:
  meridian region restore --from s3://history/prod --data /var/lib/meridian
  meridian region restore --from /backup/bucket --data new --take-over --output json")]
pub(crate) struct RestoreArgs {
    /// The bucket: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or a directory
    #[arg(long, alias = "bucket", env = "MERIDIAN_BUCKET", value_name = "URL")]
    from: String,
    /// An option of the bucket, such as endpoint=http://127.0.0.1:9000 or region=eu-central-1; may be given several times
    #[arg(long = "bucket-option", value_name = "NAME=VALUE", value_parser = parse_setting)]
    options: Vec<(String, String)>,
    /// The data directory to make: a new or empty one
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Id of the cluster, where the bucket holds several
    #[arg(long, value_name = "ID")]
    cluster: Option<String>,
    /// Id of the new node; without it, one that no node had before
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2_147_483_647))]
    node_id: Option<u32>,
    /// The region that owns the bucket is gone, or must not write to it any more
    #[arg(long)]
    take_over: bool,
}

impl RestoreArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let options = RestoreOptions {
            store: bucket::open(&self.from, &self.options)?,
            data: self.data.clone(),
            cluster: self.cluster.clone(),
            node: self.node_id.map(NodeId),
            take_over: self.take_over,
        };
        let bar = context.output.progress(Some(0), "shards");
        let progress = |progress: RestoreProgress| {
            bar.set_length(progress.total_shards);
            bar.set_position(progress.shards);
            bar.set_message(format!("{} objects are there", progress.objects));
        };
        let report = restore(&options, &progress).await;
        bar.finish_and_clear();
        let report = report?;
        let next = format!(
            "meridian serve --data {} --bucket {}",
            self.data.display(),
            self.from
        );
        context
            .output
            .document("region.restore", json_of(&report, &self, &next), || {
                text_of(&report, &next)
            })
    }
}

impl From<RestoreDirectoryError> for CliError {
    fn from(error: RestoreDirectoryError) -> Self {
        let text = error.to_string();
        let RestoreDirectoryError::Restore(error) = error else {
            return Self::failed(text);
        };
        let advice = match error {
            RestoreError::Store(error) => return error.into(),
            RestoreError::Empty => "check the URL; a region writes to its bucket within seconds of its start",
            RestoreError::Several { .. } | RestoreError::NoCluster { .. } => "name one with --cluster",
            RestoreError::MayLive { .. } => {
                "if that region is gone for good, or must not write to the bucket any more, add --take-over"
            }
            RestoreError::TakenOver { .. } => "two restores ran at once; decide which one goes on",
            RestoreError::NoController { .. } => {
                "bring a copy back from a version of the bucket; `meridian replay` reads the records without it"
            }
            RestoreError::NoState { .. } | RestoreError::Missing { .. } => {
                return Self::check(text)
                    .advise("bring the objects back from a copy or an older version of the bucket, then restore again");
            }
            RestoreError::Unsound { .. } => return Self::check(text),
            RestoreError::Controller(_) | RestoreError::Write(_) => return Self::failed(text),
        };
        Self::failed(text).advise(advice)
    }
}

fn json_of(report: &RestoreReport, args: &RestoreArgs, next: &str) -> Value {
    let ms = |time: Option<TimestampMs>| time.map(|time| time.0);
    let copy = |copy: &CopyUsed| {
        json!({
            "key": copy.key,
            "index": copy.position.index.0,
            "term": copy.position.term.0,
            "written_at_ms": copy.written_at.0,
        })
    };
    let shard = |shard: &ShardRestored| {
        json!({
            "shard": shard.shard.0,
            "copy": shard.copy.as_ref().map(copy),
            "partitions": shard.partitions,
            "records": shard.records,
            "newest_timestamp_ms": ms(shard.newest_timestamp),
            "lost_records_known": shard.lost_records,
            "lost_producers": shard.lost_producers,
            "groups": shard.groups,
            "clamped_offsets": shard.clamped_offsets,
        })
    };
    let renamed =
        |(id, name): &(meridian_types::TopicId, String)| json!({ "id": id.to_string(), "name": name });
    json!({
        "cluster": report.cluster,
        "region": report.region,
        "region_epoch": report.region_epoch.0,
        "node": report.node.0,
        "data": args.data.display().to_string(),
        "topics": report.topics,
        "objects": report.objects,
        "records": report.records(),
        "newest_timestamp_ms": ms(report.newest_timestamp()),
        "complete_until_ms": ms(report.complete_until()),
        "lost_records_known": report.lost_records(),
        "controller_copy": copy(&report.controller),
        "shards": report.shards.iter().map(shard).collect::<Vec<_>>(),
        "renamed_topics": report.renamed.iter().map(renamed).collect::<Vec<_>>(),
        "grown_topics": report.grown,
        "deleted_topics": report.deleted,
        "retired_nodes": report.retired.iter().map(|node| node.0).collect::<Vec<_>>(),
        "warnings": report.warnings,
        "next": next,
    })
}

fn text_of(report: &RestoreReport, next: &str) -> String {
    let mut rows = Rows::new(&[
        "SHARD",
        "COPIED AT",
        "PARTITIONS",
        "RECORDS",
        "NEWEST RECORD",
        "LOST",
        "GROUPS",
    ]);
    for shard in &report.shards {
        rows.push([
            shard.shard.to_string(),
            or_dash(shard.copy.as_ref().map(|copy| moment_text(copy.written_at))),
            shard.partitions.to_string(),
            shard.records.to_string(),
            or_dash(shard.newest_timestamp.map(moment_text)),
            shard.lost_records.to_string(),
            shard.groups.to_string(),
        ]);
    }
    let mut lines = vec![rows.render(), String::new()];
    lines.extend(
        report
            .warnings
            .iter()
            .map(|warning| format!("warning: {warning}")),
    );
    for (id, name) in &report.renamed {
        lines.push(format!(
            "warning: the name of topic {id} is lost, it is called {name}"
        ));
    }
    let clamped: u64 = report.shards.iter().map(|shard| shard.clamped_offsets).sum();
    lines.push(format!(
        "region {} of cluster {}: {}, {}, {} that are all there",
        report.region,
        report.cluster,
        count(report.topics, "topic"),
        count(report.records() as usize, "record"),
        count(report.objects as usize, "object"),
    ));
    lines.push(format!(
        "{} lost that the states name; whatever was acknowledged after {} and had not reached the bucket is lost too, and \
         nobody can say how much that is",
        count(report.lost_records() as usize, "record"),
        report.complete_until().map_or_else(|| "the start".to_owned(), moment_text),
    ));
    if clamped > 0 {
        lines.push(format!(
            "{} of consumer groups taken back to the end of their partition",
            count(clamped as usize, "offset")
        ));
    }
    lines.push(format!(
        "node {} begins as the region's only one, under region epoch {}; the ids of the lost nodes are never given again",
        report.node, report.region_epoch
    ));
    lines.push(format!("next: {next}"));
    lines.join("\n")
}
