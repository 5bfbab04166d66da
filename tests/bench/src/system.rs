//! The systems that are compared, each one node or a region of three on this machine.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use meridian_cluster::{Cluster, ClusterOptions};
use meridian_compat::kafka::KafkaOptions;
use meridian_compat::load::connect_any;
use meridian_compat::raw::{Body, RawClient, Reader};
use serde::{Deserialize, Serialize};

use crate::machine;
use crate::space;

/// DeleteTopics.
const DELETE_TOPICS: i16 = 20;

/// How long a new topic may take until all its partitions answer.
const LEADERS_TIMEOUT: Duration = Duration::from_secs(60);

/// A system, with what its acknowledgement means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[value(rename_all = "UPPER")]
pub enum System {
    /// Apache Kafka as it is shipped: acknowledges what is in the page cache.
    K0,
    /// Apache Kafka with `log.flush.interval.messages=1`: acknowledges what is synced.
    K1,
    /// Meridian with a bounded journal ([`space::journal_bytes_max`]), else as it is shipped: acknowledges what is synced.
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
    /// In the order of a block: all for one node; M, whose setting is meant for one, is left out of a region.
    pub fn all(nodes: usize) -> Vec<Self> {
        if nodes == 1 {
            vec![Self::K0, Self::F, Self::M, Self::K1]
        } else {
            vec![Self::K0, Self::F, Self::K1]
        }
    }

    /// What it is, for people.
    pub fn description(self, nodes: usize) -> String {
        let what = match self {
            Self::K0 => "no flush (its default)",
            Self::K1 => "log.flush.interval.messages=1",
            Self::F => "fsync before every acknowledgement (its default)",
            Self::M => "journal.durability=memory",
        };
        let journal = space::journal_bytes_max(nodes) >> 30;
        match (self.is_meridian(), nodes) {
            (true, 1) => format!("Meridian, one node, {what}, {journal} GiB of journal"),
            (true, _) => {
                format!("Meridian, a region of {nodes} nodes, {what} on each, {journal} GiB of journal each")
            }
            (false, 1) => format!("Apache Kafka 4.3, one KRaft broker, {what}"),
            (false, _) => format!(
                "Apache Kafka 4.3, {nodes} KRaft nodes, each broker and controller, replication factor 3, \
                 min.insync.replicas=2, {what}"
            ),
        }
    }

    /// Whether it is ours.
    pub fn is_meridian(self) -> bool {
        matches!(self, Self::F | Self::M)
    }

    fn options(self, nodes: usize) -> ClusterOptions {
        let mut settings = vec![format!("journal.bytes_max={}", space::journal_bytes_max(nodes))];
        if self == Self::M {
            settings.push("journal.durability=memory".to_owned());
        }
        // The data of one workload is gone before the next.
        let mut properties = vec![("log.segment.delete.delay.ms".to_owned(), "1000".to_owned())];
        if self == Self::K1 {
            properties.push(("log.flush.interval.messages".to_owned(), "1".to_owned()));
        }
        ClusterOptions {
            system: if self.is_meridian() {
                meridian_cluster::System::Meridian
            } else {
                meridian_cluster::System::Kafka
            },
            nodes,
            founders: nodes,
            has_network: false,
            disk_mib: None,
            settings,
            kafka: KafkaOptions {
                jvm: JVM.map(str::to_owned).to_vec(),
                properties,
            },
            region: None,
        }
    }
}

/// A running system with data of its own. Dropping it kills its processes and removes the data.
pub struct Running {
    /// Which.
    pub system: System,
    bootstrap: String,
    cluster: Cluster,
}

impl Running {
    /// Starts it on empty directories. `name` is used once in a process. Errors: why it is not ready.
    pub fn start(system: System, nodes: usize, name: &str) -> Result<Self, String> {
        let cluster = Cluster::start(&format!("bench-{name}"), &system.options(nodes))?;
        Ok(Self {
            system,
            bootstrap: cluster.bootstrap(),
            cluster,
        })
    }

    /// `HOST:PORT,..` of its nodes.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Where the clients write.
    pub fn directory(&self) -> &Path {
        self.cluster.directory()
    }

    /// How many nodes it has.
    pub fn nodes(&self) -> usize {
        self.cluster.len()
    }

    /// The process ids of its nodes.
    pub fn pids(&self) -> Vec<u32> {
        (0..self.nodes())
            .map(|node| {
                self.cluster
                    .pid(node)
                    .expect("no node is stopped while it is measured")
            })
            .collect()
    }

    /// CPU seconds of all its processes. Errors: one has ended; the end of its log.
    pub fn cpu_s(&self) -> Result<f64, String> {
        let mut sum = 0.0;
        for (node, pid) in self.pids().into_iter().enumerate() {
            sum += machine::process_cpu_s(pid)
                .ok_or_else(|| format!("node {} has ended\n{}", node + 1, self.cluster.log_tails(10)))?;
        }
        Ok(sum)
    }

    fn client(&self) -> io::Result<RawClient> {
        connect_any(&self.bootstrap).ok_or_else(|| io::Error::other("no node takes a connection"))
    }

    /// Creates a topic with a copy on each node, at most three. Errors: the server refused it.
    pub fn create_topic(&self, topic: &str, partitions: u32, configs: &[(&str, &str)]) -> Result<(), String> {
        let count = i32::try_from(partitions).map_err(|_| format!("{partitions} partitions are too many"))?;
        let copies = space::copies(self.nodes());
        let copies = i16::try_from(copies).expect("at most three");
        let error = self
            .client()
            .and_then(|mut client| client.create_replicated_topic(topic, count, copies, configs))
            .map_err(|e| format!("cannot create {topic}: {e}"))?;
        if error != 0 {
            return Err(format!(
                "{} answered error {error} to the creation of {topic}",
                self.system
            ));
        }
        self.await_leaders(topic, partitions as usize)
    }

    /// Waits until the leader of every partition of a new topic answers: brokers learn of it after the client.
    fn await_leaders(&self, topic: &str, partitions: usize) -> Result<(), String> {
        let deadline = Instant::now() + LEADERS_TIMEOUT;
        loop {
            let waiting_for = match self.not_ready(topic, partitions) {
                Ok(None) => return Ok(()),
                Ok(Some(what)) => what,
                Err(e) => e.to_string(),
            };
            if Instant::now() > deadline {
                return Err(format!(
                    "{topic} is not ready {} s after its creation: {waiting_for}",
                    LEADERS_TIMEOUT.as_secs()
                ));
            }
            sleep(Duration::from_millis(20));
        }
    }

    fn not_ready(&self, topic: &str, partitions: usize) -> io::Result<Option<String>> {
        let metadata = self.client()?.metadata(topic)?;
        if !metadata.has_leaders(partitions) {
            return Ok(Some(format!("not all of {partitions} partitions have a leader")));
        }
        let mut leaders = BTreeMap::new();
        for it in &metadata.partitions {
            let client = match leaders.entry(it.leader) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let address = metadata.address(it.leader).and_then(connect_any);
                    new.insert(address.ok_or_else(|| io::Error::other("a leader takes no connection"))?)
                }
            };
            let (error, ..) = client.fetch(topic, it.partition, 0, 1)?;
            if error != 0 {
                return Ok(Some(format!("partition {}: error {error}", it.partition)));
            }
        }
        Ok(None)
    }

    /// Deletes topics (DeleteTopics v1). Errors: the server refused one.
    pub fn delete_topics(&self, topics: &[String]) -> Result<(), String> {
        let count = i32::try_from(topics.len()).expect("few topics");
        let mut body = Body::default().i32(count);
        for topic in topics {
            body = body.string(topic);
        }
        let body = body.i32(20_000);
        let ask = || -> io::Result<Option<(String, i16)>> {
            let response = self.client()?.request(DELETE_TOPICS, 1, &body.0)?;
            let mut reader = Reader(&response);
            reader.take(4)?;
            for _ in 0..reader.i32()? {
                let (topic, error) = (reader.string()?, reader.i16()?);
                if error != 0 {
                    return Ok(Some((topic, error)));
                }
            }
            Ok(None)
        };
        match ask() {
            Ok(None) => Ok(()),
            Ok(Some((topic, error))) => Err(format!(
                "{} answered error {error} to the deletion of {topic}",
                self.system
            )),
            Err(e) => Err(format!("cannot delete {} topics: {e}", topics.len())),
        }
    }

    /// Waits until the data of deleted topics is gone. Errors: it stays.
    pub fn settle(&self) -> Result<(), String> {
        let data: Vec<&Path> = (0..self.nodes()).map(|node| self.cluster.data(node)).collect();
        space::settle(&data)
    }

    /// Ends it. Errors: a node had ended before.
    pub fn end(mut self) -> Result<(), String> {
        let ended: Vec<String> = (0..self.nodes())
            .filter(|node| !self.cluster.is_alive(*node))
            .map(|node| (node + 1).to_string())
            .collect();
        if ended.is_empty() {
            return Ok(());
        }
        Err(format!(
            "node {} had ended\n{}",
            ended.join(", "),
            self.cluster.log_tails(20)
        ))
    }
}
