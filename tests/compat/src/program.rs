//! A client program with its checks: `ok NAME` or `FAIL NAME reason`, one line each, and its exit status.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::kafka::{java, short_lived};
use crate::process::{Process, tail};
use crate::workspace;

/// A client program of `tests/compat`: knows how to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// librdkafka through confluent-kafka.
    Confluent,
    /// kafka-python.
    KafkaPython,
    /// Apache Kafka's own Java client.
    Java,
    /// franz-go.
    Franz,
}

/// What a program printed, once it has ended well.
#[derive(Clone, Debug)]
pub struct Report {
    /// All lines of standard output.
    pub lines: Vec<String>,
}

impl Program {
    /// All programs.
    pub const ALL: [Self; 4] = [Self::Confluent, Self::KafkaPython, Self::Java, Self::Franz];

    /// The name in topics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Confluent => "confluent",
            Self::KafkaPython => "kafka-python",
            Self::Java => "java",
            Self::Franz => "franz",
        }
    }

    /// Why it cannot run here, if it cannot.
    pub fn missing(self) -> Option<String> {
        workspace::missing(match self {
            Self::Confluent | Self::KafkaPython => "python",
            Self::Java => "java",
            Self::Franz => "go",
        })
    }

    /// The command without arguments.
    pub fn command(self) -> Command {
        let python = |file: &str| {
            let mut command = Command::new(workspace::clients().join("python/bin/python"));
            command
                .arg("-u")
                .arg(workspace::root().join("tests/compat/python").join(file))
                .env("PYTHONDONTWRITEBYTECODE", "1");
            command
        };
        match self {
            Self::Confluent => python("confluent_client.py"),
            Self::KafkaPython => python("kafka_python_client.py"),
            Self::Java => java("meridian.compat.Main", &short_lived()),
            Self::Franz => Command::new(workspace::clients().join("go/franz")),
        }
    }
}

/// Runs any command to its end, its input from a file, its output in `directory/NAME.out` and `.log`.
///
/// Errors: it failed, or took longer than `timeout` (it is killed then); what it printed is in the message.
pub fn run(
    name: &str,
    command: Command,
    directory: &Path,
    input: Option<&Path>,
    timeout: Duration,
) -> Result<Report, String> {
    let out: PathBuf = directory.join(format!("{name}.out"));
    let log = directory.join(format!("{name}.log"));
    let described = format!("{command:?}");
    let mut process = Process::start_with_input(name, command, input, &out, &log);
    let status = process.wait(timeout);
    process.kill();
    let text = String::from_utf8_lossy(&std::fs::read(&out).unwrap_or_default()).into_owned();
    let ended = match status {
        Some(status) if status.success() => {
            return Ok(Report {
                lines: text.lines().map(str::to_owned).collect(),
            });
        }
        Some(status) => format!("ended with {status}"),
        None => format!("did not end within {timeout:?}"),
    };
    let printed: Vec<&str> = text.lines().collect();
    let printed = printed[printed.len().saturating_sub(60)..].join("\n");
    Err(format!(
        "{name} {ended}: {described}\n--- it printed\n{printed}\n--- end of its log\n{}\n---",
        tail(&log, 40)
    ))
}

impl Report {
    /// The names of the checks that held.
    ///
    /// # Panics
    /// When a check failed (a program that reports one must not exit with success), or none was made.
    pub fn passed(&self) -> Vec<&str> {
        let failed: Vec<&String> = self.lines.iter().filter(|l| l.starts_with("FAIL ")).collect();
        assert!(
            failed.is_empty(),
            "the program failed checks and exited with success: {failed:?}"
        );
        let passed: Vec<&str> = self.lines.iter().filter_map(|l| l.strip_prefix("ok ")).collect();
        assert!(!passed.is_empty(), "the program made no check");
        passed
    }
}
