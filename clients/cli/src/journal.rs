//! `meridian journal ...`: looks at a node's log on disk. Never writes.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use meridian_journal::inspect::{Finding, FrameInfo, FrameKind, Summary, walk};
use meridian_journal::{RealDisk, ShardLog};
use meridian_types::{LogPosition, ShardId};
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::CliError;
use crate::output::{Rows, bytes_text, count, or_dash, with_schema};

#[derive(Debug, Subcommand)]
pub(crate) enum JournalCommand {
    /// Show every shard's log, or with --frames every frame
    Inspect(InspectArgs),
    /// Check every frame: status 3 if something is damaged
    Verify(WhereArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WhereArgs {
    /// Directory of the data, as `serve` has it
    #[arg(long, default_value = "meridian-data", value_name = "DIR")]
    data: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    place: WhereArgs,
    /// Show every frame, one line each
    #[arg(long)]
    frames: bool,
    /// Only frames of this shard
    #[arg(long, requires = "frames")]
    shard: Option<u32>,
}

impl JournalCommand {
    pub(crate) fn run(&self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::Inspect(args) => args.run(context),
            Self::Verify(args) => verify(args, context),
        }
    }
}

/// Opens the journal below a data directory, or the directory itself if it is one.
fn open(place: &WhereArgs) -> Result<RealDisk, CliError> {
    let below = place.data.join("journal");
    let directory = if below.is_dir() { below } else { place.data.clone() };
    // Opening would make a directory that is not there.
    if !directory.is_dir() {
        return Err(
            CliError::failed(format!("{} is not a directory", directory.display()))
                .advise("name the directory that `meridian serve --data DIR` writes to"),
        );
    }
    // A node may be running on it.
    RealDisk::open_unlocked(&directory)
        .map_err(|error| CliError::failed(format!("cannot open {}: {error}", directory.display())))
}

fn run_walk(
    place: &WhereArgs,
    context: &Context,
    mut each: impl FnMut(Finding),
) -> Result<Summary, CliError> {
    let disk = open(place)?;
    let bar = context.output.progress(Some(0), "bytes");
    let result = walk(&disk, &mut each, &mut |progress| {
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.done_bytes);
    });
    bar.finish_and_clear();
    result.map_err(|error| CliError::failed(format!("cannot read the journal: {error}")))
}

impl InspectArgs {
    fn run(&self, context: &Context) -> Result<(), CliError> {
        let mut broken = None;
        let is_json = context.output.is_json();
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let summary = run_walk(&self.place, context, |finding| {
            if !self.frames || broken.is_some() {
                return;
            }
            let Some(line) = self.line(&finding, is_json) else {
                return;
            };
            broken = writeln!(out, "{line}").err();
        })?;
        if let Some(error) = broken {
            return Err(error.into());
        }
        out.flush()?;
        drop(out);
        if self.frames {
            return Ok(());
        }
        context
            .output
            .document("journal.inspect", summary_json(&summary), || {
                summary_text(&summary)
            })
    }

    fn line(&self, finding: &Finding, is_json: bool) -> Option<String> {
        match finding {
            Finding::Frame(frame) => {
                let is_wanted = self.shard.is_none_or(|shard| frame.shard == Some(ShardId(shard)));
                is_wanted.then(|| {
                    if is_json {
                        with_schema("journal.frame", frame_json(frame)).to_string()
                    } else {
                        frame_text(frame)
                    }
                })
            }
            Finding::File {
                name, bytes, sealed, ..
            } if !is_json => {
                let state = if *sealed { "sealed" } else { "open" };
                Some(format!("{name}: {}, {state}", bytes_text(*bytes)))
            }
            Finding::Problem(problem) if !is_json => Some(format!("PROBLEM {problem}")),
            Finding::Problem(problem) => Some(
                with_schema(
                    "journal.problem",
                    json!({ "problem": problem.to_string(), "is_harmless": problem.is_harmless() }),
                )
                .to_string(),
            ),
            Finding::File { .. } => None,
        }
    }
}

fn verify(place: &WhereArgs, context: &Context) -> Result<(), CliError> {
    let mut problems = Vec::new();
    let mut harmless = Vec::new();
    let summary = run_walk(place, context, |finding| {
        if let Finding::Problem(problem) = finding {
            // A damaged disk may have more than anyone reads.
            let list = if problem.is_harmless() {
                &mut harmless
            } else {
                &mut problems
            };
            if list.len() < 1000 {
                list.push(problem.to_string());
            }
        }
    })?;
    let damaged: Vec<u32> = summary
        .shards
        .iter()
        .filter(|(_, log)| log.damaged.is_some())
        .map(|(shard, _)| shard.0)
        .collect();
    let is_whole = summary.problems == 0 && summary.damaged.is_none() && damaged.is_empty();
    let fields = json!({
        "is_whole": is_whole,
        "files": summary.files,
        "bytes": summary.bytes,
        "frames": summary.frames,
        "problems": problems,
        "harmless": harmless,
        "damaged_shards": damaged,
    });
    context.output.document("journal.verify", fields, || {
        let mut lines: Vec<String> = problems.iter().chain(&harmless).cloned().collect();
        lines.push(format!(
            "{}, {}, {}: {}",
            count(summary.files as usize, "file"),
            bytes_text(summary.bytes),
            count(summary.frames as usize, "frame"),
            if is_whole { "all whole" } else { "DAMAGED" }
        ));
        lines.join("\n")
    })?;
    if is_whole {
        Ok(())
    } else {
        Err(CliError::check(format!(
            "the journal is damaged: {}",
            count(summary.problems as usize, "problem")
        ))
        .advise(
            "the shards named above will not be served from this node until they are repaired from others",
        ))
    }
}

fn kind_name(kind: FrameKind) -> String {
    format!("{kind:?}").to_lowercase()
}

fn frame_text(frame: &FrameInfo) -> String {
    format!(
        "{:016x} {:>10}  {:<10} shard {:<10} #{:<8} {}  {} bytes{}",
        frame.file,
        frame.at,
        kind_name(frame.kind),
        shard_name(frame.shard),
        frame.sequence,
        frame.position,
        frame.payload_bytes,
        if frame.payload_ok { "" } else { "  BAD CHECKSUM" }
    )
}

fn frame_json(frame: &FrameInfo) -> Value {
    json!({
        "file": frame.file,
        "at": frame.at,
        "kind": kind_name(frame.kind),
        "shard": shard_name(frame.shard),
        "sequence": frame.sequence,
        "term": frame.position.term.0,
        "index": frame.position.index.0,
        "payload_bytes": frame.payload_bytes,
        "generation": frame.generation,
        "synced_to": frame.synced_to,
        "payload_ok": frame.payload_ok,
    })
}

fn shard_name(shard: Option<ShardId>) -> String {
    match shard {
        None => "-".to_owned(),
        Some(ShardId::CONTROLLER) => "controller".to_owned(),
        Some(shard) => shard.to_string(),
    }
}

fn summary_json(summary: &Summary) -> Value {
    let position =
        |position: Option<LogPosition>| position.map(|it| json!({ "term": it.term.0, "index": it.index.0 }));
    let shards: Vec<Value> = summary
        .shards
        .iter()
        .map(|(shard, log)| {
            json!({
                "shard": shard_name(Some(*shard)),
                "first": position(log.first),
                "last": position(log.last),
                "purged": position(log.purged),
                "durable_index": log.durable.map(|index| index.0),
                "damage": log.damaged.as_ref().map(|damage| format!("{damage:?}")),
            })
        })
        .collect();
    json!({
        "files": summary.files,
        "bytes": summary.bytes,
        "frames": summary.frames,
        "problems": summary.problems,
        "shards": shards,
    })
}

fn summary_text(summary: &Summary) -> String {
    let mut rows = Rows::new(&["SHARD", "FIRST", "LAST", "PURGED", "DURABLE", "STATE"]);
    for (shard, log) in &summary.shards {
        let ShardLog {
            first,
            last,
            purged,
            durable,
            damaged,
            ..
        } = log;
        rows.push([
            shard_name(Some(*shard)),
            or_dash(*first),
            or_dash(*last),
            or_dash(*purged),
            or_dash(*durable),
            damaged
                .as_ref()
                .map_or_else(|| "whole".to_owned(), |damage| format!("DAMAGED: {damage:?}")),
        ]);
    }
    format!(
        "{}, {}, {}, {} (positions are index@term)\n\n{}",
        count(summary.files as usize, "file"),
        bytes_text(summary.bytes),
        count(summary.frames as usize, "frame"),
        count(summary.problems as usize, "problem"),
        rows.render()
    )
}
