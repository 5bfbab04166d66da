//! Where things are: the target directory, the clients that `setup.sh` installed, the binary under test.

use std::env;
use std::path::{Path, PathBuf};

/// The workspace root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("tests/compat is two levels below the root")
        .to_path_buf()
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Where `tests/compat/setup.sh` installs the clients.
pub fn clients() -> PathBuf {
    target().join("clients")
}

/// A new directory for the logs and data of one run, `target/runs/NAME.PID`. `name` says who asks and is not used twice
/// in a process: `clients-kcat`. The directories of ended processes under the same name are removed.
///
/// # Panics
/// When the directory cannot be made.
pub fn run_directory(name: &str) -> PathBuf {
    let runs = target().join("runs");
    let path = runs.join(format!("{name}.{}", std::process::id()));
    for entry in std::fs::read_dir(&runs).into_iter().flatten().flatten() {
        let file_name = entry.file_name();
        let owner = file_name
            .to_str()
            .and_then(|n| n.strip_prefix(name)?.strip_prefix('.')?.parse::<u32>().ok());
        let ended = owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists());
        if ended || entry.path() == path {
            // What cannot be removed now is removed the next time.
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
    std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
    path
}

/// The binary under test: `MERIDIAN_BIN`, else `meridian` of the profile that the running executable was built with.
///
/// Errors: a sentence that says where it was looked for and how to build it.
pub fn meridian_binary() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os("MERIDIAN_BIN") {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!(
                "MERIDIAN_BIN names {}, which is not a file",
                path.display()
            ))
        };
    }
    let exe = env::current_exe().map_err(|e| format!("cannot tell where this executable is: {e}"))?;
    // A test lies in PROFILE/deps, a program in PROFILE.
    for directory in exe.ancestors().skip(1).take(2) {
        let candidate = directory.join("meridian");
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    Err(format!(
        "no `meridian` beside {}: build it first (cargo build -p meridian-cli), or set MERIDIAN_BIN",
        exe.display()
    ))
}

/// Why a client of `setup.sh` (`python`, `java`, `go`, `kcat`, `strace`) cannot be used here; `None` when it can.
pub fn missing(client: &str) -> Option<String> {
    let reason = clients().join(format!("{client}.missing"));
    if let Ok(text) = std::fs::read_to_string(reason) {
        return Some(text.trim().to_owned());
    }
    let installed = match client {
        "python" => clients().join("python/bin/python").exists(),
        "java" => clients().join("java.stamp").exists(),
        "go" => clients().join("go/franz").exists(),
        "kcat" | "strace" => on_path(client).is_some(),
        other => panic!("no client is called {other}"),
    };
    (!installed).then(|| format!("{client} is not set up: run tests/compat/setup.sh"))
}

/// Whether a test skips for want of something; prints why.
///
/// # Panics
/// When something is missing and `MERIDIAN_TEST_REQUIRE_CLIENTS` is set: then nothing may be.
pub fn skips(missing: Option<String>) -> bool {
    let Some(reason) = missing else { return false };
    assert!(
        env::var_os("MERIDIAN_TEST_REQUIRE_CLIENTS").is_none(),
        "nothing may be skipped, and this would be: {reason}"
    );
    println!("SKIPPED: {reason}");
    true
}

/// The executable `name`, when there is one on the path.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
