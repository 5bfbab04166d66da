//! Load on a server that crashes: idempotent producers (franz-go, and librdkafka where it is set up) that log what is acknowledged, and a consumer that
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
    /// Each with the file of its acknowledgements.
    producers: Vec<(Process, PathBuf)>,
    consumer: Process,
    observations: PathBuf,
}

impl Load {
    /// Creates the topic and starts the clients, which log into `directory`.
    ///
    /// Errors: the Go client is not set up; the server refuses the topic.
    pub fn start(server: &Server, directory: &Path, options: LoadOptions) -> Result<Self, String> {
        if let Some(reason) = Program::Franz.missing() {
            return Err(reason);
        }
        create_topic(server, options.partitions)?;
        let start = |program: Program, verb: &str, arguments: &[String]| {
            let mut command = program.command();
            command.args([verb, server.bootstrap(), TOPIC]).args(arguments);
            let name = format!("{verb}-{}", program.name());
            let out = directory.join(format!("{name}.out"));
            let log = directory.join(format!("{name}.log"));
            Process::start(&name, command, &out, &log)
        };
        let producer = |program: Program, numbers: [u32; 3]| {
            let file = directory.join(format!("acknowledgements-{}", program.name()));
            let mut arguments: Vec<String> = numbers.iter().map(u32::to_string).collect();
            arguments.push(file.display().to_string());
            (start(program, "load", &arguments), file)
        };
        let LoadOptions {
            partitions,
            producers: count,
            records_per_second: rate,
        } = options;
        let mut producers = vec![producer(Program::Franz, [partitions, count, rate])];
        if Program::Confluent.missing().is_none() {
            // One more producer, with the next number.
            producers.push(producer(Program::Confluent, [partitions, count, rate]));
        }
        let observations = directory.join("observations");
        Ok(Self {
            producers,
            consumer: start(Program::Franz, "follow", &[observations.display().to_string()]),
            observations,
        })
    }

    /// Bytes of acknowledgements so far, of each program: they grow while the server acknowledges.
    pub fn progress(&self) -> Vec<u64> {
        let bytes = |(_, file): &(Process, PathBuf)| std::fs::metadata(file).map_or(0, |m| m.len());
        self.producers.iter().map(bytes).collect()
    }

    /// Waits until each program has more acknowledged than at `progress`.
    ///
    /// Errors: nothing is for `timeout`, or the producers have given up.
    pub fn wait_progress(&mut self, progress: &[u64], timeout: Duration) -> Result<(), String> {
        meridian_compat::process::wait_for(timeout, || {
            for (producer, _) in &mut self.producers {
                if let Some(status) = producer.try_wait() {
                    let log = producer.log_tail(20);
                    return Some(Err(format!("a producer ended with {status}:\n{log}")));
                }
            }
            let now = self.progress();
            now.iter()
                .zip(progress)
                .all(|(now, before)| now > before)
                .then_some(Ok(()))
        })
        .unwrap_or_else(|| {
            let now = self.progress();
            let logs: String = self.producers.iter().map(|(p, _)| p.log_tail(20)).collect();
            Err(format!(
                "a producer had nothing acknowledged for {timeout:?}: {progress:?}, then {now:?}\n{logs}"
            ))
        })
    }

    /// Stops sending, waits until everything in flight is settled, lets the consumer read to the end, and gives all
    /// that the clients know. The server must run.
    ///
    /// Errors: a producer gave up on a record; a client does not end.
    pub fn finish(mut self, server: &Server, directory: &Path) -> Result<History, String> {
        for (producer, _) in &mut self.producers {
            // They settle side by side; one that has ended by itself is seen below.
            drop(terminate(producer));
        }
        for (producer, _) in &mut self.producers {
            settled(producer, Duration::from_secs(90))?;
        }
        // The consumer sees the last records too, mostly; what it has committed is compared with what is read afterwards.
        std::thread::sleep(Duration::from_secs(1));
        drop(terminate(&mut self.consumer));
        settled(&mut self.consumer, Duration::from_secs(30))?;
        let arguments = ["log", server.bootstrap(), TOPIC];
        let log = Program::Franz.run(directory, &arguments, Duration::from_secs(120))?;
        let mut history = History::default();
        for (_, file) in &self.producers {
            history.add_acknowledgements(&read(file)?)?;
        }
        history.add_observations(&read(&self.observations)?)?;
        history.add_log(&log.lines.join("\n"))?;
        Ok(history)
    }
}

fn terminate(process: &mut Process) -> std::io::Result<()> {
    process.signal(Signal::TERM)
}

/// Waits for the good end of a client.
fn settled(process: &mut Process, timeout: Duration) -> Result<(), String> {
    match process.wait(timeout) {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("a client ended with {status}:\n{}", process.log_tail(20))),
        None => Err(format!(
            "a client did not end within {timeout:?}:\n{}",
            process.log_tail(20)
        )),
    }
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
