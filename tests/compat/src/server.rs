//! The broker under test, as a process: Meridian, a real Apache Kafka, or one that somebody else started.

use std::env;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::kafka::{self, KafkaOptions};
use crate::process::{Process, behind, tail, wait_for};
use crate::workspace;

/// How often a new Kafka is started before it is given up.
const KAFKA_STARTS_MAX: u32 = 3;

/// What to start, and how.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    kind: Kind,
    data: Option<PathBuf>,
    kafka_address: Option<SocketAddr>,
    admin_address: Option<SocketAddr>,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    wrapper: Vec<String>,
    ready_timeout: Duration,
}

#[derive(Clone, Debug)]
enum Kind {
    Meridian,
    Kafka(KafkaOptions),
    External(String),
}

impl ServerOptions {
    /// `meridian serve` from the binary under test.
    pub fn meridian() -> Self {
        Self::of(Kind::Meridian, Duration::from_secs(60))
    }

    /// A real single-broker Apache Kafka 4.3 (KRaft), from the jars that `setup.sh java` fetched.
    pub fn kafka(options: KafkaOptions) -> Self {
        Self::of(Kind::Kafka(options), Duration::from_secs(120))
    }

    /// What the environment asks for: `MERIDIAN_TEST_BOOTSTRAP=HOST:PORT` (a running server),
    /// `MERIDIAN_TEST_SERVER=kafka` (a real Kafka for each test), else `meridian serve`.
    pub fn from_environment() -> Self {
        if let Ok(bootstrap) = env::var("MERIDIAN_TEST_BOOTSTRAP") {
            return Self::of(Kind::External(bootstrap), Duration::from_secs(10));
        }
        match env::var("MERIDIAN_TEST_SERVER").as_deref() {
            Ok("kafka") => Self::kafka(KafkaOptions::from_environment()),
            Ok("meridian") | Err(_) => Self::meridian(),
            Ok(other) => {
                panic!("MERIDIAN_TEST_SERVER is '{other}': expected 'meridian' or 'kafka'")
            }
        }
    }

    fn of(kind: Kind, ready_timeout: Duration) -> Self {
        Self {
            kind,
            data: None,
            kafka_address: None,
            admin_address: None,
            environment: Vec::new(),
            arguments: Vec::new(),
            wrapper: Vec::new(),
            ready_timeout,
        }
    }

    /// Keeps the data here instead of in the run directory.
    #[must_use]
    pub fn data(mut self, path: &Path) -> Self {
        self.data = Some(path.to_path_buf());
        self
    }

    /// Where it listens for clients, instead of a free port of 127.0.0.1.
    #[must_use]
    pub fn kafka_address(mut self, address: SocketAddr) -> Self {
        self.kafka_address = Some(address);
        self
    }

    /// Where it answers `/ready` and `/metrics`, instead of a free port of 127.0.0.1; of no effect on Kafka.
    #[must_use]
    pub fn admin_address(mut self, address: SocketAddr) -> Self {
        self.admin_address = Some(address);
        self
    }

    /// Sets an environment variable of the server.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a command line argument of `meridian serve`; of no effect on Kafka.
    #[must_use]
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Adds several, as [`ServerOptions::arg`].
    #[must_use]
    pub fn args(self, arguments: &[&str]) -> Self {
        arguments
            .iter()
            .fold(self, |options, argument| options.arg(argument))
    }

    /// Runs the server under another program, such as `["fiu-run", "-x"]`, which must exec it.
    #[must_use]
    pub fn wrapper(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|w| (*w).to_owned()).collect();
        self
    }

    /// How long [`Server::start`] waits until the server answers.
    #[must_use]
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.ready_timeout = timeout;
        self
    }
}

/// A server that runs, or has run: it can be killed and started again on the same data and the same address.
/// Dropping it kills the process by its pid.
pub struct Server {
    options: ServerOptions,
    directory: PathBuf,
    data: PathBuf,
    kafka_address: Option<SocketAddr>,
    admin_address: Option<SocketAddr>,
    bootstrap: String,
    process: Option<Process>,
    starts: u32,
}

impl Server {
    /// Starts a server; its logs (and data, unless told otherwise) lie in the run directory of `name`
    /// ([`workspace::run_directory`]).
    ///
    /// # Panics
    /// When the server is not ready in time: the tail of its log is in the message.
    pub fn start(name: &str, options: ServerOptions) -> Self {
        Self::try_start(name, options).unwrap_or_else(|message| panic!("{message}"))
    }

    /// As [`Server::start`], with the reason as an error.
    pub fn try_start(name: &str, options: ServerOptions) -> Result<Self, String> {
        let mut server = Self::new(name, options);
        let mut started = server.try_start_again();
        // Kafka must be told its ports: those that were free before it was started may be taken by now.
        while started.is_err() && server.is_kafka() && server.starts < KAFKA_STARTS_MAX {
            server.kafka_address = server.options.kafka_address;
            started = server.try_start_again();
        }
        started.map(|()| server)
    }

    /// A server that does not run yet: [`Server::launch`] or [`Server::try_start_again`] start it.
    pub fn new(name: &str, options: ServerOptions) -> Self {
        let directory = workspace::run_directory(name);
        let data = options.data.clone().unwrap_or_else(|| directory.join("data"));
        Self {
            kafka_address: options.kafka_address,
            admin_address: options.admin_address,
            options,
            directory,
            data,
            bootstrap: String::new(),
            process: None,
            starts: 0,
        }
    }

    /// What it is started with from now on, on the data and the addresses that it has.
    ///
    /// # Panics
    /// When it runs.
    pub fn set_options(&mut self, options: ServerOptions) {
        assert!(
            self.process.is_none(),
            "the server runs with other options: kill or stop it first"
        );
        self.options = options;
    }

    /// Starts it again after [`Server::kill`] or [`Server::stop`], on the same data and address.
    ///
    /// # Panics
    /// When it is not ready in time.
    pub fn start_again(&mut self) {
        self.try_start_again()
            .unwrap_or_else(|message| panic!("{message}"));
    }

    /// As [`Server::start_again`], with the reason as an error. The process is gone after an error.
    pub fn try_start_again(&mut self) -> Result<(), String> {
        self.launch()?;
        self.wait_until_ready()
    }

    /// Starts the process and does not wait: a node of a cluster is not ready before others are.
    ///
    /// Errors: there is nothing to start.
    pub fn launch(&mut self) -> Result<(), String> {
        assert!(
            self.process.is_none(),
            "the server runs already: kill or stop it first"
        );
        self.starts += 1;
        match self.options.kind.clone() {
            Kind::External(bootstrap) => {
                self.bootstrap = bootstrap;
                Ok(())
            }
            Kind::Meridian => self.launch_meridian(),
            Kind::Kafka(options) => self.launch_kafka(&options),
        }
    }

    /// Waits until a launched server answers. The process is gone after an error.
    pub fn wait_until_ready(&mut self) -> Result<(), String> {
        let ready = match self.options.kind {
            Kind::External(_) => return Ok(()),
            Kind::Meridian => self.meridian_ready(),
            Kind::Kafka(_) => {
                let address = self.kafka_address.ok_or("it was not launched")?;
                self.bootstrap = address.to_string();
                self.wait_ready(|_| kafka::answers(address).then_some(()))
            }
        };
        ready.map_err(|reason| {
            let tail = self.log_tail(40);
            self.process = None;
            format!("the server is not ready: {reason}\n--- end of its log\n{tail}\n---")
        })
    }

    fn launch_meridian(&mut self) -> Result<(), String> {
        let address =
            |known: Option<SocketAddr>| known.map_or_else(|| "127.0.0.1:0".to_owned(), |a| a.to_string());
        let mut command = self.command(&workspace::meridian_binary()?);
        command
            .arg("serve")
            .arg("--data")
            .arg(&self.data)
            .args(["--kafka", &address(self.kafka_address)])
            .args(["--admin", &address(self.admin_address)])
            .args(["--output", "json"])
            .args(&self.options.arguments)
            .current_dir(&self.directory);
        self.launch_process(command, &self.events_path());
        Ok(())
    }

    /// Standard output of `meridian serve`, anew with each start.
    fn events_path(&self) -> PathBuf {
        self.directory.join("stdout.jsonl")
    }

    fn meridian_ready(&mut self) -> Result<(), String> {
        let stdout = self.events_path();
        let ready = self.wait_ready(|_| ready_event(&stdout))?;
        let field = |name: &str| {
            ready[name]
                .as_str()
                .and_then(|text| text.parse::<SocketAddr>().ok())
                .ok_or_else(|| format!("the ready event has no address '{name}': {ready}"))
        };
        self.kafka_address = Some(field("kafka")?);
        self.admin_address = Some(field("admin")?);
        self.bootstrap = field("kafka")?.to_string();
        Ok(())
    }

    fn launch_kafka(&mut self, options: &KafkaOptions) -> Result<(), String> {
        if let Some(reason) = workspace::missing("java") {
            return Err(reason);
        }
        let address = *self
            .kafka_address
            .get_or_insert_with(|| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let controller = free_port();
        let config = kafka::prepare(&self.directory, &self.data, address, controller, options)?;
        let java = kafka::java("kafka.Kafka", &options.jvm);
        let mut command = self.command(Path::new(java.get_program()));
        command
            .args(java.get_args())
            .arg(config)
            .current_dir(&self.directory);
        self.launch_process(command, &self.directory.join("stdout.log"));
        Ok(())
    }

    /// The program, below the wrapper if there is one, with the environment set.
    fn command(&self, program: &Path) -> Command {
        let mut command = behind(&self.options.wrapper, Command::new(program));
        command.envs(
            self.options
                .environment
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str())),
        );
        command
    }

    fn launch_process(&mut self, command: Command, stdout: &Path) {
        self.process = Some(Process::start("server", command, stdout, &self.log_path()));
    }

    fn wait_ready<T>(&mut self, mut probe: impl FnMut(&Self) -> Option<T>) -> Result<T, String> {
        let timeout = self.options.ready_timeout;
        wait_for(timeout, || {
            if let Some(value) = probe(self) {
                return Some(Ok(value));
            }
            let ended = self.process.as_mut()?.try_wait()?;
            Some(Err(format!("it ended with {ended}")))
        })
        .unwrap_or_else(|| Err(format!("no answer within {timeout:?}")))
    }

    /// `HOST:PORT` for a client's `bootstrap.servers`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The address of the admin endpoint (`/live`, `/ready`, `/metrics`); `None` for Kafka.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// The process id; `None` when it does not run or is not ours.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Whether this is a server that somebody else started, which cannot be killed or measured.
    pub fn is_external(&self) -> bool {
        matches!(self.options.kind, Kind::External(_))
    }

    /// Whether this is a real Apache Kafka of ours.
    pub fn is_kafka(&self) -> bool {
        matches!(self.options.kind, Kind::Kafka(_))
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The directory with the logs.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the process still runs.
    pub fn is_alive(&mut self) -> bool {
        self.process.as_mut().is_some_and(|p| p.try_wait().is_none())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// SIGTERM, and waits for the graceful end. Errors: it does not end in time (it is killed then) or fails.
    pub fn stop(&mut self, timeout: Duration) -> Result<(), String> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        process
            .signal(Signal::TERM)
            .map_err(|e| format!("cannot send SIGTERM: {e}"))?;
        match process.wait(timeout) {
            // The JVM reports a SIGTERM it handled as 128 + 15.
            Some(status) if status.success() || (self.is_kafka() && status.code() == Some(143)) => Ok(()),
            Some(status) => Err(format!(
                "ended with {status} after SIGTERM\n{}",
                process.log_tail(20)
            )),
            None => Err(format!(
                "still running {timeout:?} after SIGTERM\n{}",
                process.log_tail(20)
            )),
        }
    }

    /// Sends a signal, such as STOP. Errors: it does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<(), String> {
        let process = self.process.as_mut().ok_or("the server does not run")?;
        process
            .signal(signal)
            .map_err(|e| format!("cannot send {signal:?}: {e}"))
    }

    /// Waits until the process ends by itself (after a fault); `None` when it still runs after `timeout`.
    pub fn wait_ended(&mut self, timeout: Duration) -> Option<std::process::ExitStatus> {
        let status = self.process.as_mut()?.wait(timeout)?;
        self.process = None;
        Some(status)
    }

    /// The file with everything the server has logged, over all its starts.
    pub fn log_path(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    /// The last `lines` lines of the log (and of what Kafka prints on standard output).
    pub fn log_tail(&self, lines: usize) -> String {
        let mut text = tail(&self.log_path(), lines);
        if self.is_kafka() {
            text.push('\n');
            text.push_str(&tail(&self.directory.join("stdout.log"), lines));
        }
        text
    }

    /// How often it was started.
    pub fn starts(&self) -> u32 {
        self.starts
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process = None;
        if std::thread::panicking() && !self.is_external() {
            eprintln!(
                "--- end of {}\n{}\n---",
                self.log_path().display(),
                self.log_tail(40)
            );
        } else if self.options.data.is_none() {
            // The logs stay, the data of a passed test does not.
            drop(std::fs::remove_dir_all(&self.data));
        }
    }
}

/// The ready event that `meridian serve --output json` prints, once it is there.
fn ready_event(stdout: &Path) -> Option<serde_json::Value> {
    let text = std::fs::read_to_string(stdout).ok()?;
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find(|event| event["event"] == "ready")
}

/// A port that was free a moment ago.
///
/// # Panics
/// When loopback has none left.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("loopback has a free port")
        .port()
}
