//! `meridian serve` in a process of its own, for the tests that need a server.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

#[allow(dead_code, reason = "not every test program has a bucket")]
pub(crate) mod place;

/// A node on free ports, with its data in a directory that goes with it.
pub(crate) struct Node {
    process: Child,
    pub(crate) server: String,
    #[allow(dead_code, reason = "only one of the test programs looks into it")]
    pub(crate) data: tempfile::TempDir,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more arguments of `serve`.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_meridian"))
            .args([
                "serve",
                "--kafka",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
                "--output",
                "json",
            ])
            .args(["--set", "journal.file_bytes=8MiB"])
            .args(arguments)
            .arg("--data")
            .arg(data.path())
            .env("MERIDIAN_LOG__FILTER", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(
            (&ready["schema"], &ready["event"]),
            (&"meridian.serve/1".into(), &"ready".into())
        );
        let server = ready["kafka"].as_str().unwrap().to_owned();
        Self {
            process,
            server,
            data,
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
