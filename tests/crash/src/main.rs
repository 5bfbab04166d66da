//! Crashes a server as often as asked, and checks that nothing acknowledged is lost.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use meridian_compat::{ServerOptions, image};
use meridian_crash::faults::{self, DiskFault};
use meridian_crash::rounds::{self, Crash, RoundOptions};

/// Crashes a server under load and checks that every acknowledged record is there once, in order.
///
/// Needs the franz-go client (tests/compat/setup.sh go); the modes but `kill` need root, for a loop image.
/// MERIDIAN_TEST_SERVER=kafka crashes a real Apache Kafka instead, MERIDIAN_TEST_KAFKA_PROPERTIES=k=v,k=v sets it up.
#[derive(Parser)]
struct Arguments {
    /// How the server goes down.
    #[arg(long, value_enum, default_value = "kill")]
    mode: Mode,
    /// Crashes in the modes kill and power.
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    /// Of the moments of the crashes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// SIGKILL.
    Kill,
    /// Everything that was not synced is gone.
    Power,
    /// No space is left on the disk.
    DiskFull,
    /// The block layer fails below the file system.
    WriteBack,
    /// One fsync fails, and those after it report success (needs strace).
    FsyncError,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(shown) => {
            println!("{shown}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<String, String> {
    let server = ServerOptions::from_environment();
    let options = RoundOptions::new(arguments.rounds, arguments.seed);
    if !matches!(arguments.mode, Mode::Kill)
        && let Some(reason) = image::unavailable()
    {
        return Err(format!("this mode cannot run here: {reason}"));
    }
    Ok(match arguments.mode {
        Mode::Kill => format!("{:?}", rounds::run("crash-kill", server, Crash::Kill, &options)?),
        Mode::Power => format!(
            "{:?}",
            rounds::run("crash-power", server, Crash::Power, &options)?
        ),
        Mode::DiskFull => format!("{:?}", faults::run("crash-disk-full", server, DiskFault::Full)?),
        Mode::WriteBack => {
            format!(
                "{:?}",
                faults::run("crash-write-back", server, DiskFault::WriteBack)?
            )
        }
        Mode::FsyncError => {
            format!(
                "{:?}",
                faults::run("crash-fsync-error", server, DiskFault::FsyncError)?
            )
        }
    })
}
