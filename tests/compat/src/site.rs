//! Where the suite runs: one server, or the nodes of a cluster.

use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::wait_for;
use crate::program::{self, Program, Report};
use crate::raw::RawClient;
use crate::server::Server;

/// How long a client program may take for all that it does.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(900);

/// How long a topic may be without a leader after its creation.
const LEADERLESS: Duration = Duration::from_secs(60);

/// Servers that act as one.
#[derive(Clone, Debug)]
pub struct Site {
    /// Takes the output of the clients.
    pub directory: PathBuf,
    /// The nodes as they advertise themselves. Clients are told of the first alone.
    pub nodes: Vec<SocketAddr>,
    /// How many replicas a topic gets.
    pub replicas: u16,
    /// Whether it is a real Apache Kafka.
    pub is_kafka: bool,
    /// Which checks of the client programs are made: parts of their names, with commas between them. All when it is empty.
    pub only: String,
}

impl Site {
    /// A server that runs. One that somebody else started may have more nodes: `MERIDIAN_TEST_REPLICAS` says how many
    /// replicas a topic gets there.
    ///
    /// # Panics
    /// When its address is not `IP:PORT`.
    pub fn of(server: &Server) -> Self {
        let told = env::var("MERIDIAN_TEST_REPLICAS").ok();
        let told = told.filter(|_| server.is_external());
        Self {
            directory: server.directory().to_path_buf(),
            nodes: vec![
                server
                    .bootstrap()
                    .parse()
                    .expect("the bootstrap address is IP:PORT"),
            ],
            replicas: told.map_or(1, |text| {
                text.parse().expect("MERIDIAN_TEST_REPLICAS is a number")
            }),
            is_kafka: server.is_kafka(),
            only: only_from_environment(),
        }
    }

    /// What clients are told: the first node.
    pub fn bootstrap(&self) -> String {
        self.nodes[0].to_string()
    }

    /// Where files of the clients lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Topics of this run, on a server that may have seen others.
    pub fn prefix(&self, name: &str) -> String {
        format!("{name}-{}", std::process::id())
    }

    /// Runs a client program to its good end.
    ///
    /// # Panics
    /// When it fails or does not end.
    pub fn run(&self, program: Program, arguments: &[&str]) -> Report {
        let mut command = program.command();
        command
            .args(arguments)
            .env("MERIDIAN_TEST_REPLICAS", self.replicas.to_string())
            .env("MERIDIAN_TEST_ONLY", &self.only);
        let verb = arguments.first().copied().unwrap_or("run");
        let name = format!("{}-{verb}", program.name());
        program::run(&name, command, &self.directory, None, PROGRAM_TIMEOUT)
            .unwrap_or_else(|message| panic!("{message}"))
    }

    /// A connection to the first node.
    ///
    /// # Panics
    /// When it takes none.
    pub fn connect(&self) -> RawClient {
        RawClient::connect(self.nodes[0]).expect("the server accepts connections")
    }

    /// A connection to the leader of a partition.
    ///
    /// # Panics
    /// When it has none for a minute.
    pub fn connect_to_leader(&self, topic: &str, partition: i32) -> RawClient {
        let find = || {
            let metadata = self.connect().metadata(topic).ok()?;
            let found = metadata.partitions.iter().find(|p| p.partition == partition)?;
            let address = metadata.address(found.leader)?.parse().ok()?;
            RawClient::connect(address).ok()
        };
        wait_for(LEADERLESS, find).unwrap_or_else(|| {
            panic!("partition {partition} of {topic} has no leader that takes connections")
        })
    }

    /// Creates a topic of one partition that takes the large records of the suite.
    ///
    /// # Panics
    /// When it is refused.
    pub fn create_topic(&self, topic: &str) {
        let configs = [("max.message.bytes", "2097152"), ("retention.ms", "-1")];
        let replicas = i16::try_from(self.replicas).expect("few replicas");
        let error = self
            .connect()
            .create_replicated_topic(topic, 1, replicas, &configs)
            .expect("the server takes CreateTopics");
        assert_eq!(error, 0, "creating {topic}");
    }
}

/// The checks that `MERIDIAN_TEST_ONLY` asks for, as in [`Site::only`].
pub fn only_from_environment() -> String {
    env::var("MERIDIAN_TEST_ONLY").unwrap_or_default()
}
