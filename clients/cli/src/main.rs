//! The `meridian` binary: server and command line.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Requests and batches come in many sizes and are freed on other threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long freed memory stays with the process, in milliseconds.
const PURGE_DELAY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "1000");

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|noun| noun == "serve") {
        keep_freed_memory_for_a_while();
    }
    meridian_cli::run(std::env::args_os())
}

/// mimalloc gives freed pages back after 10 ms, and the next request faults them in again: a quarter of the
/// server's CPU time under load (docs/benchmarks). It reads its options before `main`, so the process starts
/// itself once more, under the same id, with the option set.
fn keep_freed_memory_for_a_while() {
    if std::env::var_os(PURGE_DELAY.0).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let Some(name) = arguments.next() else { return };
    let failed = Command::new("/proc/self/exe")
        .arg0(name)
        .args(arguments)
        .env(PURGE_DELAY.0, PURGE_DELAY.1)
        .exec();
    // Without it everything works, only slower.
    eprintln!("warning: cannot set {}: {failed}", PURGE_DELAY.0);
}
