//! A child process that never outlives its owner and never runs without end.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How often a waiting loop looks again.
const POLL: Duration = Duration::from_millis(5);

/// A running child whose output goes to files. Dropping it kills it by its pid and reaps it.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
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
    pub fn kill(&mut self) {
        if self.try_wait().is_none() {
            // It may end between the two calls; the wait below settles both cases.
            drop(self.child.kill());
            drop(self.child.wait());
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
