//! A child process that never outlives its owner and never runs without end.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How often a waiting loop looks again.
const POLL: Duration = Duration::from_millis(5);

/// How long a killed process may take to be gone: one that waits for a disk cannot be killed.
const REAPED: Duration = Duration::from_secs(60);

/// A running child whose output goes to files. Dropping it kills it by its pid and reaps it.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// `command` behind words that decide where it runs, `nsenter ..`; itself, when there are none.
pub fn behind(words: &[String], command: Command) -> Command {
    let Some((first, rest)) = words.split_first() else {
        return command;
    };
    let mut outer = Command::new(first);
    outer
        .args(rest)
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        outer.current_dir(directory);
    }
    outer
}

impl Process {
    /// Starts `command` without input; standard output goes to `stdout`, standard error is appended to `log`.
    ///
    /// # Panics
    /// When the program cannot be started: a test cannot go on without it.
    pub fn start(name: &str, command: Command, stdout: &Path, log: &Path) -> Self {
        Self::start_with_input(name, command, None, stdout, log)
    }

    /// As [`Process::start`], with a file as standard input.
    ///
    /// # Panics
    /// As [`Process::start`].
    pub fn start_with_input(
        name: &str,
        mut command: Command,
        input: Option<&Path>,
        stdout: &Path,
        log: &Path,
    ) -> Self {
        let stdin = input.map_or_else(Stdio::null, |path| {
            File::open(path)
                .unwrap_or_else(|e| panic!("cannot open {}: {e}", path.display()))
                .into()
        });
        let out = File::create(stdout).unwrap_or_else(|e| panic!("cannot create {}: {e}", stdout.display()));
        let errors = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|e| panic!("cannot open {}: {e}", log.display()));
        let child = command
            .stdin(stdin)
            .stdout(out)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {name} ({command:?}): {e}"));
        Self {
            name: name.to_owned(),
            child,
            log: log.to_path_buf(),
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if it has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child
            .try_wait()
            .unwrap_or_else(|e| panic!("cannot wait for {}: {e}", self.name))
    }

    /// Waits for the end for at most `timeout`; `None` when it still runs then.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.try_wait() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(POLL);
        }
    }

    /// Kills it at once (SIGKILL) and reaps it. Does nothing when it has ended.
    ///
    /// # Panics
    /// When it is still there after a minute: the kernel waits for something on its behalf.
    pub fn kill(&mut self) {
        if self.try_wait().is_none() {
            // It may end between the two calls; the wait below settles both cases.
            drop(self.child.kill());
            let is_gone = self.wait(REAPED).is_some();
            assert!(
                is_gone || thread::panicking(),
                "{} (process {}) is still there {REAPED:?} after SIGKILL",
                self.name,
                self.child.id()
            );
        }
    }

    /// Sends a signal.
    ///
    /// Errors: the process has ended.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if self.try_wait().is_some() {
            return Err(io::Error::other(format!("{} has ended", self.name)));
        }
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a child has a positive pid");
        Ok(kill_process(pid, signal)?)
    }

    /// The last `lines` lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a tool that prints little to its end; one that takes longer than `timeout` is killed.
///
/// Errors: it cannot be started, or does not end. That it fails is in the output.
pub fn output_within(command: &mut Command, timeout: Duration) -> Result<Output, String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let spawned = command.spawn();
    let named = |e: io::Error| format!("cannot run {command:?}: {e}");
    let mut child = spawned.map_err(named)?;
    let ended = wait_for(timeout, || match child.try_wait() {
        Ok(None) => None,
        Ok(Some(_)) => Some(Ok(())),
        Err(e) => Some(Err(e)),
    });
    match ended {
        Some(Ok(())) => child.wait_with_output().map_err(named),
        Some(Err(e)) => Err(named(e)),
        None => {
            // It may be out of reach of signals; nobody waits for it here.
            drop(child.kill());
            Err(format!("{command:?} did not end within {timeout:?}"))
        }
    }
}

/// The last `lines` lines of a file, or why it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(e) => format!("(cannot read {}: {e})", path.display()),
    }
}

/// Calls `probe` until it gives a value, for at most `timeout`.
pub fn wait_for<T>(timeout: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(POLL * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_does_not_end_is_given_up() {
        let started = Instant::now();
        let error = output_within(Command::new("sleep").arg("60"), Duration::from_millis(50)).unwrap_err();
        assert!(error.contains("did not end within"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn what_a_tool_prints_is_given_with_its_status() {
        let timeout = Duration::from_secs(60);
        let output = output_within(Command::new("sh").args(["-c", "echo out; exit 3"]), timeout).unwrap();
        assert_eq!(
            (output.stdout.as_slice(), output.status.code()),
            (&b"out\n"[..], Some(3))
        );
    }
}
