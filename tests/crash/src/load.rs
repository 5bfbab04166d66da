//! Load on a server that crashes: idempotent producers (franz-go) that log what is acknowledged, and a consumer that
//! follows. They are processes of their own, so that nothing of them dies with the server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use meridian_compat::raw::RawClient;
use meridian_compat::{Process, Program, Server};
use rustix::process::Signal;

use crate::history::History;

/// The topic that is written.
pub const TOPIC: &str = "crash";

/// How much is written.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Partitions of the topic.
    pub partitions: u32,
    /// Producers, each with its own codec and linger.
    pub producers: u32,
    /// Records per second and producer.
    pub records_per_second: u32,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            partitions: 4,
            producers: 5,
            records_per_second: 400,
        }
    }
}

/// Producers and a consumer that run.
pub struct Load {
    producers: Process,
    consumer: Process,
    acknowledgements: PathBuf,
    observations: PathBuf,
}

impl Load {
    /// Creates the topic and starts the clients. They work through `bootstrap` and log into `directory`.
    ///
    /// Errors: the client is not set up; the server refuses the topic.
    pub fn start(server: &Server, directory: &Path, options: LoadOptions) -> Result<Self, String> {
        if let Some(reason) = Program::Franz.missing() {
            return Err(reason);
        }
        create_topic(server, options.partitions)?;
        let acknowledgements = directory.join("acknowledgements");
        let observations = directory.join("observations");
        let start = |verb: &str, arguments: &[String]| {
            let mut command = Program::Franz.command();
            command.args([verb, server.bootstrap(), TOPIC]).args(arguments);
            let out = directory.join(format!("{verb}.out"));
            let log = directory.join(format!("{verb}.log"));
            Process::start(verb, command, &out, &log)
        };
        let numbers = [options.partitions, options.producers, options.records_per_second];
        let mut arguments: Vec<String> = numbers.iter().map(u32::to_string).collect();
        arguments.push(acknowledgements.display().to_string());
        Ok(Self {
            producers: start("load", &arguments),
            consumer: start("follow", &[observations.display().to_string()]),
            acknowledgements,
            observations,
        })
    }

    /// Bytes of acknowledgements so far: grows while the server acknowledges.
    pub fn progress(&self) -> u64 {
        std::fs::metadata(&self.acknowledgements).map_or(0, |m| m.len())
    }

    /// Waits until more is acknowledged than at `progress`.
    ///
    /// Errors: nothing is for `timeout`, or the producers have given up.
    pub fn wait_progress(&mut self, progress: u64, timeout: Duration) -> Result<(), String> {
        meridian_compat::process::wait_for(timeout, || {
            if let Some(status) = self.producers.try_wait() {
                let log = self.producers.log_tail(20);
                return Some(Err(format!("the producers ended with {status}:\n{log}")));
            }
            (self.progress() > progress).then_some(Ok(()))
        })
        .unwrap_or_else(|| {
            let log = self.producers.log_tail(20);
            Err(format!("nothing was acknowledged for {timeout:?}\n{log}"))
        })
    }

    /// Stops sending, waits until everything in flight is settled, lets the consumer read to the end, and gives all
    /// that the clients know. The server must run.
    ///
    /// Errors: a producer gave up on a record; a client does not end.
    pub fn finish(mut self, server: &Server, directory: &Path) -> Result<History, String> {
        let producers = end(&mut self.producers, Duration::from_secs(90))?;
        let log = Program::Franz.run(
            directory,
            &["log", server.bootstrap(), TOPIC],
            Duration::from_secs(120),
        )?;
        let consumer = end(&mut self.consumer, Duration::from_secs(30))?;
        for (name, status) in [("producers", producers), ("consumer", consumer)] {
            if !status.success() {
                let log = self.producers.log_tail(20) + &self.consumer.log_tail(20);
                return Err(format!("the {name} ended with {status}:\n{log}"));
            }
        }
        let mut history = History::default();
        history.add_acknowledgements(&read(&self.acknowledgements)?)?;
        history.add_observations(&read(&self.observations)?)?;
        history.add_log(&log.lines.join("\n"))?;
        Ok(history)
    }
}

/// SIGTERM, and its status.
fn end(process: &mut Process, timeout: Duration) -> Result<std::process::ExitStatus, String> {
    if process.try_wait().is_none() {
        // It may end by itself in between; then the wait below gives its status.
        drop(process.signal(Signal::TERM));
    }
    process.wait(timeout).ok_or_else(|| {
        format!(
            "a client did not end within {timeout:?}:\n{}",
            process.log_tail(20)
        )
    })
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

/// Creates the topic, and waits until every partition answers.
pub fn create_topic(server: &Server, partitions: u32) -> Result<(), String> {
    let address = server
        .bootstrap()
        .parse()
        .map_err(|_| format!("'{}' is not IP:PORT", server.bootstrap()))?;
    let mut client = RawClient::connect(address).map_err(|e| format!("cannot connect: {e}"))?;
    let count = i32::try_from(partitions).map_err(|_| "too many partitions")?;
    let error = client
        .create_topic(TOPIC, count, &[("retention.ms", "-1")])
        .map_err(|e| format!("cannot create the topic: {e}"))?;
    if error != 0 {
        return Err(format!("creating the topic failed with error {error}"));
    }
    for partition in 0..count {
        let answers = || {
            let answer = client.fetch(TOPIC, partition, 0, 1024).ok()?;
            (answer.0 == 0).then_some(())
        };
        meridian_compat::process::wait_for(Duration::from_secs(20), answers)
            .ok_or_else(|| format!("partition {partition} of the new topic does not answer"))?;
    }
    Ok(())
}
