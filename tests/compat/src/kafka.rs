//! A real Apache Kafka 4.3, one KRaft broker from the Maven jars: the tests are proved on it, the benchmark compares with it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::workspace;

/// How the broker runs.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// Options of the JVM, heap first.
    pub jvm: Vec<String>,
    /// Lines `key=value` of `server.properties`, after (and so above) our own.
    pub properties: Vec<(String, String)>,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            jvm: ["-Xmx512m", "-Xms256m", "-XX:+UseSerialGC"]
                .map(str::to_owned)
                .to_vec(),
            properties: Vec::new(),
        }
    }
}

impl KafkaOptions {
    /// The default, with the properties of `MERIDIAN_TEST_KAFKA_PROPERTIES=key=value,key=value`.
    ///
    /// # Panics
    /// When the variable is in another form.
    pub fn from_environment() -> Self {
        let text = std::env::var("MERIDIAN_TEST_KAFKA_PROPERTIES").unwrap_or_default();
        let properties = text
            .split(',')
            .filter(|word| !word.is_empty())
            .map(|word| {
                let (key, value) = word.split_once('=').unwrap_or_else(|| {
                    panic!("MERIDIAN_TEST_KAFKA_PROPERTIES holds '{word}': expected key=value")
                });
                (key.to_owned(), value.to_owned())
            })
            .collect();
        Self {
            properties,
            ..Self::default()
        }
    }
}

/// JVM options for a tool or client that lives a few seconds: quick start matters more than peak speed.
pub fn short_lived() -> Vec<String> {
    ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        .map(str::to_owned)
        .to_vec()
}

/// A `java` command that runs a class of the Kafka jars (and of our own client program).
pub fn java(class: &str, jvm: &[String]) -> Command {
    let java = workspace::clients().join("java");
    let mut command = Command::new("java");
    command
        .args(jvm)
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        .arg("-cp")
        .arg(format!("{0}/classes:{0}/lib/*", java.display()))
        .arg(class);
    command
}

/// Writes `server.properties`, formats the data directory when it is new, and gives the path of the properties.
pub(crate) fn prepare(
    directory: &Path,
    data: &Path,
    address: SocketAddr,
    controller_port: u16,
    options: &KafkaOptions,
) -> Result<PathBuf, String> {
    let mut text = format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller_port}\n\
         listeners=PLAINTEXT://{address},CONTROLLER://127.0.0.1:{controller_port}\n\
         advertised.listeners=PLAINTEXT://{address}\n\
         controller.listener.names=CONTROLLER\n\
         log.dirs={data}\n\
         num.partitions=1\n\
         default.replication.factor=1\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         share.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n\
         group.min.session.timeout.ms=1000\n\
         auto.create.topics.enable=true\n\
         log.cleaner.dedupe.buffer.size=16777216\n",
        data = data.display(),
    );
    for (key, value) in &options.properties {
        text.push_str(&format!("{key}={value}\n"));
    }
    let config = directory.join("server.properties");
    std::fs::write(&config, text).map_err(|e| format!("cannot write {}: {e}", config.display()))?;
    if data.join("meta.properties").exists() {
        return Ok(config);
    }
    let output = java("kafka.tools.StorageTool", &short_lived())
        .args(["format", "-t", "5nGYxzhKQ0iKqRTv6Xw5gQ", "-c"])
        .arg(&config)
        .output()
        .map_err(|e| format!("cannot run java: {e}"))?;
    if !output.status.success() {
        return Err(format!(
            "formatting the data directory failed: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(config)
}

/// Whether a broker at `address` answers an ApiVersions request (key 18, version 0).
pub(crate) fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<()> {
        let timeout = Duration::from_millis(1000);
        let mut stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        // Size, api key, version, correlation id, null client id.
        stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff])?;
        stream.read_exact(&mut [0u8; 10])
    };
    ask().is_ok()
}
