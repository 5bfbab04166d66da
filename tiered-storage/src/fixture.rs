//! Stored files of format versions, for tests.

/// Compares with a stored file. With `BLESS=1` in the environment it is written anew, for a review of the diff.
pub(crate) fn assert(name: &str, bytes: &[u8]) {
    let path = format!("{}/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    let stored = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert!(
        stored == bytes,
        "{name}: the format differs from what was stored; bump the version instead"
    );
}
