//! `meridian tier verify`.

use clap::Args;
use meridian_tiered_storage::verify::{Depth, Problem, Report, VerifySettings, verify};
use serde_json::{Value, json};

use crate::bucket::BucketArgs;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{bytes_text, count};

/// Problems and orphans that a table shows; JSON has them all.
const SHOWN_MAX: usize = 100;

/// Check that everything is there and whole
#[derive(Debug, Args)]
#[command(after_help = "\
Reads every byte of every object that the region's manifests name, and checks that offsets follow one another without \
gaps, that directories, frames and batches are intact, and that they hold what the manifests say. With --quick, only \
that every object is there with its directory.

Examples:
  meridian tier verify --bucket s3://history/prod
  meridian tier verify --bucket meridian-data/bucket --quick --output json")]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    bucket: BucketArgs,
    /// Read the objects' directories only, not what they hold
    #[arg(long)]
    quick: bool,
    /// Objects that are read at the same time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,
}

impl VerifyArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let store = self.bucket.open()?;
        let settings = VerifySettings {
            depth: if self.quick {
                Depth::Directories
            } else {
                Depth::Contents
            },
            parallel: self.parallel.into(),
        };
        let bar = context.output.progress(Some(0), "bytes");
        let progress = |progress: meridian_tiered_storage::verify::VerifyProgress| {
            bar.set_length(progress.total_bytes.max(progress.bytes));
            bar.set_position(progress.bytes);
            bar.set_message(format!(
                "{} of {} objects",
                progress.objects, progress.total_objects
            ));
        };
        let report = verify(&store, self.bucket.cluster(), settings, &progress).await;
        bar.finish_and_clear();
        let report = report?;
        context
            .output
            .document("tier.verify", json_of(&report), || text_of(&report))?;
        if report.is_whole() {
            return Ok(());
        }
        Err(CliError::check(format!(
            "the bucket is damaged: {}",
            count(report.problem_count as usize, "problem")
        ))
        .advise("bring the objects named above back from a copy of the bucket; nodes that still hold the records locally serve them"))
    }
}

fn json_of(report: &Report) -> Value {
    let problem = |problem: &Problem| {
        json!({
            "kind": problem.kind.name(),
            "key": problem.key,
            "shard": problem.shard.map(|shard| shard.0),
            "topic": problem.topic,
            "partition": problem.partition,
            "base_offset": problem.offsets.as_ref().map(|offsets| offsets.start.0),
            "end_offset": problem.offsets.as_ref().map(|offsets| offsets.end.0),
            "what": problem.what,
        })
    };
    let orphans: Vec<Value> = report
        .orphans
        .iter()
        .map(|orphan| json!({ "key": orphan.key, "bytes": orphan.bytes, "modified_ms": orphan.modified.0 }))
        .collect();
    json!({
        "is_whole": report.is_whole(),
        "cluster": report.cluster,
        "shards": report.shards,
        "partitions": report.partitions,
        "extents": report.extents,
        "records": report.records,
        "objects": report.objects,
        "frames": report.frames,
        "bytes_read": report.bytes,
        "problem_count": report.problem_count,
        "problems": report.problems.iter().map(problem).collect::<Vec<_>>(),
        "orphans": orphans,
        "notes": report.notes,
    })
}

fn text_of(report: &Report) -> String {
    let mut lines: Vec<String> = report
        .problems
        .iter()
        .take(SHOWN_MAX)
        .map(|problem| format!("PROBLEM {problem}"))
        .collect();
    if report.problem_count > SHOWN_MAX as u64 {
        lines.push(format!("and {} more", report.problem_count - SHOWN_MAX as u64));
    }
    lines.extend(
        report
            .notes
            .iter()
            .take(SHOWN_MAX)
            .map(|note| format!("note: {note}")),
    );
    if !report.orphans.is_empty() {
        let bytes: u64 = report.orphans.iter().map(|orphan| orphan.bytes).sum();
        lines.push(format!(
            "note: {} that no manifest names, {}: uploads under way, or left behind and removed in time",
            count(report.orphans.len(), "bundle"),
            bytes_text(bytes)
        ));
    }
    lines.push(format!(
        "cluster {}: {}, {}, {}, {}, {} read: {}",
        report.cluster,
        count(report.partitions as usize, "partition"),
        count(report.records as usize, "record"),
        count(report.objects as usize, "object"),
        count(report.frames as usize, "frame"),
        bytes_text(report.bytes),
        if report.is_whole() { "all whole" } else { "DAMAGED" }
    ));
    lines.join("\n")
}
