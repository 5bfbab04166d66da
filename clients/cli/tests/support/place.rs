//! A directory with a bucket in it, and the commands that are run there.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Where commands run: they find the bucket below it, and a server if there is one. The directory goes with it.
pub(crate) struct Place {
    directory: tempfile::TempDir,
    server: Option<String>,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            server: None,
        }
    }

    /// From now on this is the server of commands that are not told of another.
    pub(crate) fn speak_to(&mut self, server: &str) {
        self.server = Some(server.to_owned());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn bucket(&self) -> PathBuf {
        self.path("bucket")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
        command
            .args(arguments)
            .env_remove("MERIDIAN_SERVER")
            .env("MERIDIAN_BUCKET", self.bucket())
            .envs(self.server.iter().map(|server| ("MERIDIAN_SERVER", server)))
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed; gives what it prints.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{arguments:?}: {}",
            stderr(&output)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must succeed with JSON of this schema; gives the document.
    pub(crate) fn json(&self, schema: &str, arguments: &[&str]) -> Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--output", "json"]).collect();
        let document: Value = serde_json::from_str(&self.ok(&arguments)).unwrap();
        assert_eq!(document["schema"], format!("meridian.{schema}/1"));
        document
    }
}

/// What a command said beside its answer.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
