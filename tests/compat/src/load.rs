//! Load on servers that crash: idempotent producers of several client libraries that log what is acknowledged, and
//! consumers that follow. They are processes of their own, so that nothing of them dies with a server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use meridian_checker::History;
use rustix::process::Signal;

use crate::process::{Process, behind, wait_for};
use crate::program::Program;
use crate::raw::{Metadata, RawClient};

/// How much is written, by whom, and who reads.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The topic.
    pub topic: String,
    /// Its partitions.
    pub partitions: u32,
    /// Its replicas.
    pub replicas: u16,
    /// Producers of franz-go, each with its own codec and linger. The other programs have one each.
    pub producers: u32,
    /// Records per second and producer.
    pub records_per_second: u32,
    /// Who writes.
    pub writers: Vec<Program>,
    /// Who reads while the faults happen, and in which rack (KIP-392).
    pub readers: Vec<(Program, Option<String>)>,
    /// From which racks the whole log is read afterwards.
    pub final_racks: Vec<Option<String>>,
}

/// Producers and consumers that run.
pub struct Load {
    options: LoadOptions,
    /// The words before each client's command.
    place: Vec<String>,
    directory: PathBuf,
    /// Each with the file of its history.
    producers: Vec<(Process, PathBuf)>,
    consumers: Vec<(Process, PathBuf)>,
    is_sending: bool,
}

impl Load {
    /// Creates the topic and starts the clients, which log into `directory`.
    ///
    /// `bootstrap`: `HOST:PORT,..`. Errors: a client is not set up; the server refuses the topic.
    pub fn start(bootstrap: &str, directory: &Path, options: LoadOptions) -> Result<Self, String> {
        Self::start_at(&[], 0, bootstrap, directory, options)
    }

    /// As [`Load::start`], beside other loads on the same topic: the producers are counted from `first`. The clients run
    /// where the words `place` before their commands bring them.
    pub fn start_at(
        place: &[String],
        mut first: u32,
        bootstrap: &str,
        directory: &Path,
        options: LoadOptions,
    ) -> Result<Self, String> {
        // The whole log is read by franz-go.
        let readers = options.readers.iter().map(|(program, _)| program);
        let programs = options.writers.iter().chain(readers).chain([&Program::Franz]);
        if let Some(reason) = programs.copied().find_map(Program::missing) {
            return Err(reason);
        }
        create_topic(bootstrap, &options.topic, options.partitions, options.replicas)?;
        let start = |name: &str, program: Program, verb: &str, rack: Option<&str>, arguments: &[String]| {
            let file = directory.join(format!("{name}.jsonl"));
            let mut command = program.command();
            command
                .args([verb, bootstrap, &options.topic])
                .args(arguments)
                .arg(&file);
            if let Some(rack) = rack {
                command.env("MERIDIAN_TEST_RACK", rack);
            }
            let command = behind(place, command);
            let out = directory.join(format!("{name}.out"));
            let log = directory.join(format!("{name}.log"));
            (Process::start(name, command, &out, &log), file)
        };
        let mut producers = Vec::new();
        for program in &options.writers {
            let count = if *program == Program::Franz {
                options.producers
            } else {
                1
            };
            let numbers = [options.partitions, first, count, options.records_per_second];
            let name = format!("load-{}-{}", options.topic, program.name());
            producers.push(start(
                &name,
                *program,
                "load",
                None,
                &numbers.map(|n| n.to_string()),
            ));
            first += count;
        }
        let mut consumers = Vec::new();
        for (index, (program, rack)) in options.readers.iter().enumerate() {
            let name = format!("follow-{}-{index}-{}", options.topic, program.name());
            let partitions = [options.partitions.to_string()];
            consumers.push(start(&name, *program, "follow", rack.as_deref(), &partitions));
        }
        Ok(Self {
            options,
            place: place.to_vec(),
            directory: directory.to_path_buf(),
            producers,
            consumers,
            is_sending: true,
        })
    }

    /// The number of a producer that no program of the load has.
    pub fn free_producer(&self) -> u32 {
        1000
    }

    /// Bytes of acknowledgements so far, of each program: they grow while the server acknowledges.
    pub fn progress(&self) -> Vec<u64> {
        let bytes = |(_, file): &(Process, PathBuf)| std::fs::metadata(file).map_or(0, |m| m.len());
        self.producers.iter().map(bytes).collect()
    }

    /// Records that the readers have noted, fewer than they have read: they write to their files now and then.
    pub fn noted(&self) -> usize {
        let records = |(_, file): &(Process, PathBuf)| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            text.lines().filter(|line| line.contains("\"read\"")).count()
        };
        self.consumers.iter().map(records).sum()
    }

    /// The reason, when a client has ended by itself: each runs until it is told to stop.
    pub fn ended(&mut self) -> Option<String> {
        self.producers
            .iter_mut()
            .chain(&mut self.consumers)
            .find_map(|(client, file)| {
                let status = client.try_wait()?;
                let log = client.log_tail(20);
                Some(format!(
                    "a client ended with {status} ({}):\n{log}",
                    file.display()
                ))
            })
    }

    /// Waits until each program has more acknowledged than at `progress`.
    ///
    /// Errors: nothing is for `timeout`, or a client has given up.
    pub fn wait_progress(&mut self, progress: &[u64], timeout: Duration) -> Result<(), String> {
        wait_for(timeout, || {
            if let Some(reason) = self.ended() {
                return Some(Err(reason));
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

    /// Stops sending, and waits until everything in flight is settled. The servers must run.
    ///
    /// Errors: a producer gave up on a record; a client had ended by itself.
    pub fn stop_sending(&mut self) -> Result<(), String> {
        if !self.is_sending {
            return Ok(());
        }
        if let Some(reason) = self.ended() {
            return Err(reason);
        }
        self.is_sending = false;
        for (producer, _) in &mut self.producers {
            // They settle side by side; one that has ended by itself is seen below.
            drop(producer.signal(Signal::TERM));
        }
        for (producer, _) in &mut self.producers {
            settled(producer, Duration::from_secs(90))?;
        }
        Ok(())
    }

    /// Stops sending if it does not stand yet ([`Load::stop_sending`]), lets the consumers read on for a moment, reads the
    /// whole log, and gives all that the clients know. The servers must run.
    ///
    /// Errors: a producer gave up on a record; a client does not end.
    pub fn finish(mut self, bootstrap: &str) -> Result<History, String> {
        self.stop_sending()?;
        // The consumers see the last records too, mostly; what they saw is compared with what is read afterwards.
        std::thread::sleep(Duration::from_secs(1));
        for (consumer, _) in &mut self.consumers {
            drop(consumer.signal(Signal::TERM));
        }
        for (consumer, _) in &mut self.consumers {
            settled(consumer, Duration::from_secs(60))?;
        }
        let mut history = History::default();
        let mut add = |name: &str, text: &str| history.add_lines(name, text).map_err(|e| e.to_string());
        for (_, file) in self.producers.iter().chain(&self.consumers) {
            add(&stem(file), &read(file)?)?;
        }
        for (index, rack) in self.options.final_racks.iter().enumerate() {
            let name = format!("log-{}-{index}", self.options.topic);
            let mut command = Program::Franz.command();
            command.args(["log", bootstrap, &self.options.topic]);
            if let Some(rack) = rack {
                command.env("MERIDIAN_TEST_RACK", rack);
            }
            // Longer than it waits itself, so that it says what it misses.
            let timeout = Duration::from_secs(360);
            let command = behind(&self.place, command);
            crate::program::run(&name, command, &self.directory, None, timeout)?;
            add(&name, &read(&self.directory.join(format!("{name}.out")))?)?;
        }
        Ok(history)
    }
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

fn stem(path: &Path) -> String {
    path.file_stem()
        .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

/// Creates a topic, and waits until every partition has a leader that answers.
///
/// `bootstrap`: `IP:PORT,..`. Errors: it is refused, or does not answer for a minute.
pub fn create_topic(bootstrap: &str, topic: &str, partitions: u32, replicas: u16) -> Result<(), String> {
    let count = i32::try_from(partitions).map_err(|_| "too many partitions")?;
    let replicas = i16::try_from(replicas).map_err(|_| "too many replicas")?;
    let mut last = "nobody listens".to_owned();
    let created = wait_for(Duration::from_secs(60), || {
        let mut client = connect_any(bootstrap)?;
        match client.create_replicated_topic(topic, count, replicas, &[("retention.ms", "-1")]) {
            // 36: an attempt before this one was not in vain.
            Ok(0 | 36) => return Some(()),
            // 41: another region's controller is to be asked. Somebody has asked it, if the topic is there.
            Ok(41) if client.metadata(topic).ok()?.has_leaders(partitions as usize) => return Some(()),
            Ok(error) => last = format!("error {error}"),
            Err(e) => last = e.to_string(),
        }
        None
    });
    created.ok_or_else(|| format!("topic {topic} cannot be created: {last}"))?;
    wait_for(Duration::from_secs(60), || {
        let metadata = connect_any(bootstrap)?.metadata(topic).ok()?;
        (metadata.has_leaders(partitions as usize) && all_answer(&metadata, topic)).then_some(())
    })
    .ok_or_else(|| format!("not every partition of the new topic {topic} answers"))
}

/// Connects to the first server of `IP:PORT,..` that takes the connection.
pub fn connect_any(bootstrap: &str) -> Option<RawClient> {
    bootstrap
        .split(',')
        .filter_map(|address| address.parse::<SocketAddr>().ok())
        .find_map(|address| RawClient::connect(address).ok())
}

/// Whether every partition's leader answers a fetch.
fn all_answer(metadata: &Metadata, topic: &str) -> bool {
    let answers = |partition: i32, leader: i32| {
        let address = metadata.address(leader)?.parse().ok()?;
        let mut client = RawClient::connect(address).ok()?;
        client.fetch(topic, partition, 0, 1024).ok()
    };
    metadata
        .partitions
        .iter()
        .all(|p| answers(p.partition, p.leader).is_some_and(|(error, ..)| error == 0))
}
