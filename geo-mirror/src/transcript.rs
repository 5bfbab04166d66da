//! Plays the traces in `transcripts/`: what a line does stands indented below it. `BLESS=1` rewrites the indented lines.

use std::fs;
use std::path::Path;

/// Plays `file` of `folder`: `run` does what a line says, and tells what came of it, indented.
pub(crate) fn play(folder: &str, file: &str, mut run: impl FnMut(&str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("transcripts")
        .join(folder)
        .join(file);
    let expected = fs::read_to_string(&path).expect("the transcript can be read");
    let mut actual = String::new();
    for line in expected.lines().filter(|line| !line.starts_with(' ')) {
        actual.push_str(line);
        actual.push('\n');
        if !line.is_empty() && !line.starts_with('#') {
            actual.push_str(&run(line));
        }
    }
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, actual).expect("the transcript can be written");
    } else {
        assert_eq!(
            actual, expected,
            "{file} went differently; look at it, then run with BLESS=1"
        );
    }
}
