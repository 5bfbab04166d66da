//! The console tools of Apache Kafka 4.3, run as a user runs them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::kafka::{java, short_lived};
use crate::program::{Report, run};

const TIMEOUT: Duration = Duration::from_secs(180);

/// A tool, by the name of its script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `kafka-topics`.
    Topics,
    /// `kafka-console-producer`.
    ConsoleProducer,
    /// `kafka-console-consumer`.
    ConsoleConsumer,
    /// `kafka-consumer-groups`.
    ConsumerGroups,
    /// `kafka-configs`.
    Configs,
    /// `kafka-producer-perf-test`.
    ProducerPerformance,
    /// `kafka-consumer-perf-test`.
    ConsumerPerformance,
    /// `kafka-get-offsets`.
    GetOffsets,
    /// `kafka-delete-records`.
    DeleteRecords,
    /// `kafka-log-dirs`.
    LogDirs,
    /// `kafka-broker-api-versions`.
    BrokerApiVersions,
}

impl Tool {
    /// The main class.
    pub fn class(self) -> &'static str {
        match self {
            Self::Topics => "org.apache.kafka.tools.TopicCommand",
            Self::ConsoleProducer => "org.apache.kafka.tools.ConsoleProducer",
            Self::ConsoleConsumer => "org.apache.kafka.tools.consumer.ConsoleConsumer",
            Self::ConsumerGroups => "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
            Self::Configs => "kafka.admin.ConfigCommand",
            Self::ProducerPerformance => "org.apache.kafka.tools.ProducerPerformance",
            Self::ConsumerPerformance => "org.apache.kafka.tools.ConsumerPerformance",
            Self::GetOffsets => "org.apache.kafka.tools.GetOffsetShell",
            Self::DeleteRecords => "org.apache.kafka.tools.DeleteRecordsCommand",
            Self::LogDirs => "org.apache.kafka.tools.LogDirsCommand",
            Self::BrokerApiVersions => "org.apache.kafka.tools.BrokerApiVersionsCommand",
        }
    }
}

/// Runs tools against one server.
pub struct Console {
    directory: PathBuf,
    bootstrap: String,
    runs: std::cell::Cell<u32>,
}

impl Console {
    /// `directory` takes the output of the tools.
    pub fn new(directory: &Path, bootstrap: &str) -> Self {
        Self {
            directory: directory.to_path_buf(),
            bootstrap: bootstrap.to_owned(),
            runs: std::cell::Cell::new(0),
        }
    }

    /// Runs a tool with `--bootstrap-server` and `arguments`.
    ///
    /// # Panics
    /// When it fails or does not end.
    pub fn run(&self, tool: Tool, arguments: &[&str]) -> Report {
        self.run_with_input(tool, arguments, "")
    }

    /// As [`Console::run`], with text as standard input.
    ///
    /// # Panics
    /// As [`Console::run`].
    pub fn run_with_input(&self, tool: Tool, arguments: &[&str], input: &str) -> Report {
        self.try_run(tool, arguments, input)
            .unwrap_or_else(|message| panic!("{message}"))
    }

    /// As [`Console::run_with_input`], with the failure as an error.
    pub fn try_run(&self, tool: Tool, arguments: &[&str], input: &str) -> Result<Report, String> {
        self.runs.set(self.runs.get() + 1);
        let name = format!("tool-{}-{tool:?}", self.runs.get());
        let file = self.directory.join(format!("{name}.in"));
        std::fs::write(&file, input).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
        let mut command = java(tool.class(), &short_lived());
        // This one takes a producer's properties instead.
        if tool != Tool::ProducerPerformance {
            command.args(["--bootstrap-server", &self.bootstrap]);
        }
        command.args(arguments);
        run(&name, command, &self.directory, Some(&file), TIMEOUT)
    }
}

impl Report {
    /// Whether a line holds all these words, in this order.
    pub fn has_line(&self, words: &[&str]) -> bool {
        self.lines.iter().any(|line| {
            let mut rest = line.as_str();
            words.iter().all(|word| match rest.find(word) {
                Some(at) => {
                    rest = &rest[at + word.len()..];
                    true
                }
                None => false,
            })
        })
    }

    /// # Panics
    /// When no line holds all these words in this order.
    #[track_caller]
    pub fn must_have(&self, words: &[&str]) {
        assert!(
            self.has_line(words),
            "no line holds {words:?} in this output:\n{}",
            self.lines.join("\n")
        );
    }
}
