//! The systems that are compared, each one node on this machine.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use meridian_compat::kafka::KafkaOptions;
use meridian_compat::raw::{Body, RawClient, Reader};
use meridian_compat::{Server, ServerOptions};
use serde::{Deserialize, Serialize};

/// DeleteTopics.
const DELETE_TOPICS: i16 = 20;
/// How long a server may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a new topic may take until all its partitions answer.
const LEADERS_TIMEOUT: Duration = Duration::from_secs(30);

/// A system, with what its acknowledgement means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[value(rename_all = "UPPER")]
pub enum System {
    /// Apache Kafka as it is shipped: acknowledges what is in the page cache.
    K0,
    /// Apache Kafka with `log.flush.interval.messages=1`: acknowledges what is synced.
    K1,
    /// Meridian as it is shipped: acknowledges what is synced.
    F,
    /// Meridian with `journal.durability=memory`: acknowledges what is in memory.
    M,
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The heap of the facts this is compared with, and the flags of Kafka's own start script.
const JVM: [&str; 7] = [
    "-Xmx1500m",
    "-Xms1500m",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
];

impl System {
    /// All, in the order of a block.
    pub const ALL: [Self; 4] = [Self::K0, Self::F, Self::M, Self::K1];

    /// What it is, for people.
    pub fn description(self) -> &'static str {
        match self {
            Self::K0 => "Apache Kafka 4.3, one KRaft broker, no flush (its default)",
            Self::K1 => "Apache Kafka 4.3, one KRaft broker, log.flush.interval.messages=1",
            Self::F => "Meridian, one node, fsync before every acknowledgement (its default)",
            Self::M => "Meridian, one node, journal.durability=memory",
        }
    }

    /// Whether it is ours.
    pub fn is_meridian(self) -> bool {
        matches!(self, Self::F | Self::M)
    }

    fn options(self) -> ServerOptions {
        let kafka = |flush: bool| {
            let mut options = KafkaOptions {
                jvm: JVM.map(str::to_owned).to_vec(),
                // The data of one workload is gone before the next.
                properties: vec![("log.segment.delete.delay.ms".to_owned(), "1000".to_owned())],
            };
            if flush {
                let flush = ("log.flush.interval.messages".to_owned(), "1".to_owned());
                options.properties.push(flush);
            }
            ServerOptions::kafka(options)
        };
        match self {
            Self::K0 => kafka(false),
            Self::K1 => kafka(true),
            Self::F => ServerOptions::meridian(),
            Self::M => ServerOptions::meridian().env("MERIDIAN_JOURNAL__DURABILITY", "memory"),
        }
    }
}

/// A running system with data of its own. Dropping it kills the process and removes the data.
pub struct Running {
    /// Which.
    pub system: System,
    /// Its process.
    pub server: Server,
}

impl Running {
    /// Starts it on an empty directory. `name` is used once in a process. Errors: why it is not ready.
    pub fn start(system: System, name: &str) -> Result<Self, String> {
        let server = Server::try_start(&format!("bench-{name}"), system.options())?;
        Ok(Self { system, server })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.server.pid().expect("it runs and is ours")
    }

    fn client(&self) -> io::Result<RawClient> {
        let address: SocketAddr = self.server.bootstrap().parse().map_err(io::Error::other)?;
        RawClient::connect(address)
    }

    /// Creates a topic. Errors: the server refused it.
    pub fn create_topic(&self, topic: &str, partitions: u32, configs: &[(&str, &str)]) -> Result<(), String> {
        let count = i32::try_from(partitions).map_err(|_| format!("{partitions} partitions are too many"))?;
        let error = self
            .client()
            .and_then(|mut client| client.create_topic(topic, count, configs))
            .map_err(|e| format!("cannot create {topic}: {e}"))?;
        if error != 0 {
            return Err(format!(
                "{} answered error {error} to the creation of {topic}",
                self.system
            ));
        }
        self.await_leaders(topic, count)
            .map_err(|e| format!("{topic} is not ready: {e}"))
    }

    /// Waits until every partition of a new topic answers: Kafka's brokers learn of it after the client.
    fn await_leaders(&self, topic: &str, partitions: i32) -> io::Result<()> {
        let mut client = self.client()?;
        let deadline = Instant::now() + LEADERS_TIMEOUT;
        for partition in 0..partitions {
            loop {
                let (error, ..) = client.fetch(topic, partition, 0, 1)?;
                if error == 0 {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(io::Error::other(format!("partition {partition}: error {error}")));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    /// Deletes a topic (DeleteTopics v1). Errors: the server refused it.
    pub fn delete_topic(&self, topic: &str) -> Result<(), String> {
        let body = Body::default().i32(1).string(topic).i32(20_000);
        let ask = || -> io::Result<i16> {
            let response = self.client()?.request(DELETE_TOPICS, 1, &body.0)?;
            let mut reader = Reader(&response);
            reader.take(8)?;
            reader.string()?;
            reader.i16()
        };
        match ask() {
            Ok(0) => Ok(()),
            Ok(error) => Err(format!(
                "{} answered error {error} to the deletion of {topic}",
                self.system
            )),
            Err(e) => Err(format!("cannot delete {topic}: {e}")),
        }
    }

    /// Stops it. Errors: it did not end well.
    pub fn stop(mut self) -> Result<(), String> {
        self.server.stop(STOP_TIMEOUT)
    }
}
