//! Small files beside the journal.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// The file's content; `None` when there is no such file.
pub(crate) fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether nothing is there yet, or an empty directory.
pub(crate) fn is_free(directory: &Path) -> io::Result<bool> {
    match std::fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Removes files and directories of these names, as far as they are there.
pub(crate) fn remove_all(directory: &Path, names: &[&str]) -> io::Result<()> {
    for name in names {
        let path = directory.join(name);
        let removed = match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => std::fs::remove_dir_all(&path),
            Ok(_) => std::fs::remove_file(&path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    File::open(directory)?.sync_all()
}

/// Removes a file, so that it stays removed after a crash.
pub(crate) fn remove_durably(directory: &Path, name: &str) -> io::Result<()> {
    std::fs::remove_file(directory.join(name))?;
    File::open(directory)?.sync_all()
}

/// Writes a file so that after a crash it is there whole, or not at all.
pub(crate) fn write_whole(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let unfinished = directory.join(format!("{name}.unfinished"));
    let mut file = File::create(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, directory.join(name))?;
    File::open(directory)?.sync_all()
}
