//! The `meridian` binary: server and command line.

use std::process::ExitCode;

/// Requests and batches come in many sizes and are freed on other threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    meridian_cli::run(std::env::args_os())
}
