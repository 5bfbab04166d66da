//! The directory of a store that is one.

use std::io;
use std::path::Path;

/// Makes the directory and those above it, unless they are there.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)
}
