//! Where a demo keeps its data.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::CliError;

/// Names of temporary directories begin so.
const PREFIX: &str = "meridian-demo-";

/// Locked in a temporary directory by the demo that it belongs to, as long as that lives.
const LOCK: &str = "demo.lock";

/// A directory for everything, gone with the demo unless it is to be kept.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// Removes it when dropped.
    temporary: Option<(TempDir, File)>,
}

impl Place {
    /// `named` must be new or empty. Without it a temporary one is made.
    pub(super) fn take(named: Option<&Path>, keep: bool) -> Result<Self, CliError> {
        let Some(path) = named else {
            let cannot = |error| CliError::failed(format!("cannot make a temporary directory: {error}"));
            let parent = std::env::temp_dir();
            remove_leftovers(&parent);
            let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent);
            let made = made.map_err(cannot)?;
            if keep {
                return Ok(Self {
                    path: made.keep(),
                    temporary: None,
                });
            }
            let lock = lock(made.path()).map_err(cannot)?;
            return Ok(Self {
                path: made.path().to_owned(),
                temporary: Some((made, lock)),
            });
        };
        let cannot = |error| CliError::failed(format!("--data {}: {error}", path.display()));
        fs::create_dir_all(path).map_err(cannot)?;
        // Nodes are started with this name, from wherever they are.
        let path = fs::canonicalize(path).map_err(cannot)?;
        if fs::read_dir(&path).map_err(cannot)?.next().is_some() {
            return Err(CliError::usage(format!("--data {} is not empty", path.display()))
                .advise("a demo begins anew each time: name a new directory"));
        }
        Ok(Self {
            path,
            temporary: None,
        })
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it stays when the demo ends.
    pub(super) fn is_kept(&self) -> bool {
        self.temporary.is_none()
    }
}

fn lock(directory: &Path) -> io::Result<File> {
    let file = File::create(directory.join(LOCK))?;
    file.try_lock()?;
    Ok(file)
}

/// Removes the temporary directories of demos that were killed. What cannot be removed stays.
fn remove_leftovers(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // Without the file it is to be kept, or being made.
        let file = is_ours.then(|| File::open(entry.path().join(LOCK)));
        if let Some(Ok(file)) = file
            && file.try_lock().is_ok()
        {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_demo_left_goes_and_what_a_running_one_has_stays() {
        let parent = tempfile::tempdir().expect("made");
        let directory = |name: &str| {
            let path = parent.path().join(name);
            fs::create_dir(&path).expect("made");
            path
        };
        let (killed, running) = (directory("meridian-demo-a"), directory("meridian-demo-b"));
        let (kept, other) = (directory("meridian-demo-c"), directory("other"));
        drop(lock(&killed).expect("locked"));
        drop(lock(&other).expect("locked"));
        let _held = lock(&running).expect("locked");
        remove_leftovers(parent.path());
        assert!(!killed.exists());
        assert!(running.exists() && kept.exists() && other.exists());
    }

    #[test]
    fn a_temporary_place_goes_and_a_kept_one_stays() {
        let place = Place::take(None, false).expect("made");
        let gone = place.path().to_owned();
        assert!(gone.is_dir() && !place.is_kept());
        drop(place);
        assert!(!gone.exists());
        let place = Place::take(None, true).expect("made");
        let stays = place.path().to_owned();
        drop(place);
        assert!(stays.is_dir());
        fs::remove_dir_all(stays).expect("removed");
    }

    #[test]
    fn a_directory_with_something_in_it_is_refused() {
        let directory = tempfile::tempdir().expect("made");
        fs::write(directory.path().join("x"), "").expect("written");
        assert!(Place::take(Some(directory.path()), false).is_err());
        let new = directory.path().join("a/b");
        let place = Place::take(Some(&new), false).expect("taken");
        assert!(place.is_kept());
    }
}
