//! `meridian replay --out`.

use std::path::Path;

use meridian_tiered_storage::replay::{
    ExportSettings, Format, Plan, Progress, ReplayState, Rest, Source, Summary, export, export_to,
};
use serde_json::json;

use super::{ReplayArgs, warn_of_deleted};
use crate::context::Context;
use crate::error::CliError;
use crate::output::{bytes_text, count};

/// How much of a partition is worked on at once.
const CHUNK_BYTES: usize = 4 << 20;

impl ReplayArgs {
    /// To standard output; nothing else goes there.
    pub(super) async fn stream(&self, source: &Source, plan: &Plan) -> Result<(), CliError> {
        let format = Format::from(self.format);
        if !format.is_streamable() {
            return Err(CliError::usage("parquet cannot be written to standard output")
                .advise("choose --format arrow or jsonl, or a directory"));
        }
        if self.resume {
            return Err(CliError::usage(
                "--resume needs a directory: what went to standard output is not known",
            ));
        }
        let summary = export_to(source, plan, format, CHUNK_BYTES, std::io::stdout(), &|_| {}).await?;
        warn_of_deleted(summary.deleted_offsets);
        Ok(())
    }

    /// To files in a directory.
    pub(super) async fn files(
        &self,
        context: &Context,
        source: &Source,
        plan: Plan,
        directory: &Path,
    ) -> Result<(), CliError> {
        let format = Format::from(self.format);
        let (mut state, rest) = self.state_of(plan, format, directory)?;
        let plan = rest.plan;
        let settings = ExportSettings {
            file_bytes: self.file_bytes.max(1),
            parallel: self.parallel(),
            // A file is cut behind a chunk.
            chunk_bytes: usize::try_from(self.file_bytes).map_or(CHUNK_BYTES, |bytes| bytes.min(CHUNK_BYTES)),
            ..ExportSettings::new(directory)
        };
        let bar = context.output.progress(Some(plan.offsets()), "offsets");
        let progress = |progress: Progress| {
            bar.set_position(progress.offsets);
            bar.set_message(format!(
                "{}, {}, {}",
                bytes_text(progress.read_bytes),
                count(progress.records as usize, "record"),
                count(progress.files as usize, "file")
            ));
        };
        let interrupted = async {
            // Without a handler there is nothing to wait for.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let result = tokio::select! {
            result = export(source, &plan, format, &mut state, &settings, &progress) => result.map_err(CliError::from),
            () = interrupted => Err(CliError::failed("interrupted").advise("the same command with --resume goes on")),
        };
        bar.finish_and_clear();
        let summary = result?;
        let deleted_offsets = rest.deleted_offsets + summary.deleted_offsets;
        warn_of_deleted(deleted_offsets);
        self.say(context, &summary, &state, directory, deleted_offsets)
    }

    /// The state to begin with, and what is left to do.
    fn state_of(
        &self,
        plan: Plan,
        format: Format,
        directory: &Path,
    ) -> Result<(ReplayState, Rest), CliError> {
        let path = directory.join(ReplayState::FILE_NAME);
        let stored = ReplayState::load(&path)
            .map_err(|error| CliError::failed(format!("{}: {error}", path.display())))?;
        match stored {
            None if self.resume => Err(CliError::failed(format!(
                "there is nothing to resume: {} has no {}",
                directory.display(),
                ReplayState::FILE_NAME
            ))
            .advise("leave --resume out to begin")),
            None => Ok((ReplayState::new(&plan, format.name()), plan.into())),
            Some(_) if !self.resume => Err(CliError::failed(format!(
                "{} holds a replay already",
                directory.display()
            ))
            .advise("go on with it by --resume, or name another directory")),
            Some(state) if state.output != format.name() => Err(CliError::usage(format!(
                "{} holds a replay in another form: {}",
                directory.display(),
                state.output
            ))),
            Some(mut state) => {
                let rest = state.rest_of(&plan).map_err(|error| {
                    CliError::failed(format!("{} cannot be resumed: {error}", directory.display()))
                })?;
                Ok((state, rest))
            }
        }
    }

    fn say(
        &self,
        context: &Context,
        summary: &Summary,
        state: &ReplayState,
        directory: &Path,
        deleted_offsets: u64,
    ) -> Result<(), CliError> {
        let files: Vec<_> = state.files().collect();
        let bytes: u64 = files.iter().map(|file| file.bytes).sum();
        let fields = json!({
            "cluster": state.cluster,
            "directory": directory.display().to_string(),
            "format": state.output,
            "is_done": state.is_done(),
            "records": files.iter().map(|file| file.records).sum::<u64>(),
            "bytes": bytes,
            "files": files,
            "records_now": summary.records,
            "record_bytes_now": summary.record_bytes,
            "deleted_offsets_now": deleted_offsets,
        });
        context.output.document("replay", fields, || {
            format!(
                "{} in {}, {}, in {}",
                count(files.iter().map(|file| file.records as usize).sum(), "record"),
                count(files.len(), "file"),
                bytes_text(bytes),
                directory.display()
            )
        })
    }
}
