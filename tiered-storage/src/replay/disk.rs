//! The files of an export.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::error::ReplayError;
use super::state::{ReplayState, StateError};

/// Ending of files that are not whole yet.
const UNFINISHED: &str = "unfinished";

const BUFFER_BYTES: usize = 1 << 20;

/// A file that gets its name when it is whole.
pub(super) struct PartFile {
    unfinished: PathBuf,
    path: PathBuf,
}

impl PartFile {
    /// Begins the file `name`, with `/`, below `directory`; what an interrupted run left of it is overwritten.
    pub(super) fn create(directory: &Path, name: &str) -> Result<(Self, BufWriter<File>), ReplayError> {
        let path = directory.join(name);
        let unfinished = directory.join(format!("{name}.{UNFINISHED}"));
        let parent = path.parent().unwrap_or(directory);
        std::fs::create_dir_all(parent).map_err(|error| cannot_write(parent, &error))?;
        let file = File::create(&unfinished).map_err(|error| cannot_write(&unfinished, &error))?;
        Ok((
            Self { unfinished, path },
            BufWriter::with_capacity(BUFFER_BYTES, file),
        ))
    }

    /// What cannot be written to it.
    pub(super) fn failed(&self, error: &std::io::Error) -> ReplayError {
        cannot_write(&self.unfinished, error)
    }

    /// Makes the file durable under its name; returns its size.
    pub(super) fn finish(self, out: BufWriter<File>) -> Result<u64, ReplayError> {
        let finish = || {
            let file = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            file.sync_all()?;
            let bytes = file.metadata()?.len();
            std::fs::rename(&self.unfinished, &self.path)?;
            sync_directory(&self.path)?;
            Ok(bytes)
        };
        finish().map_err(|error: std::io::Error| cannot_write(&self.path, &error))
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        // Not finished, or renamed already. Left behind, it would be overwritten by the next run.
        drop(std::fs::remove_file(&self.unfinished));
    }
}

impl ReplayState {
    /// Name of the state's file in the directory of an export.
    pub const FILE_NAME: &'static str = "replay-state.json";

    /// Reads a state; `None` when there is none.
    pub fn load(path: &Path) -> Result<Option<Self>, StateError> {
        match std::fs::read(path) {
            Ok(bytes) => Self::decode(&bytes).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StateError::Value(format!("it cannot be read: {error}"))),
        }
    }

    /// Writes the state, at once or not at all. The directory is made if it is not there.
    pub fn save(&self, path: &Path) -> Result<(), ReplayError> {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(format!(".{UNFINISHED}"));
        let save = || {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            let mut file = File::create(&unfinished)?;
            file.write_all(&self.encode())?;
            file.sync_all()?;
            std::fs::rename(&unfinished, path)?;
            sync_directory(path)
        };
        save().map_err(|error| cannot_write(path, &error))
    }
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> ReplayError {
    ReplayError::Write {
        path: path.to_owned(),
        message: error.to_string(),
    }
}
