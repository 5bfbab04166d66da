//! The nodes of one cluster: started, hit, and brought back.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use meridian_compat::image::Backing;
use meridian_compat::process::wait_for;
use meridian_compat::raw::Metadata;
use meridian_compat::{Image, Server, ServerOptions, program, workspace};
use rustix::process::Signal;

use crate::network::{End, Network};
use crate::system::{Addresses, ClusterOptions, NodeOptions, System, id};
use crate::view;

/// How long a node may take from its start until it takes requests.
pub const READY: Duration = Duration::from_secs(120);

/// One node.
struct Node {
    server: Server,
    image: Option<Image>,
    /// Whether it is to run: not before it is launched, and not after it is retired.
    is_wanted: bool,
    is_stopped: bool,
    filler: Option<PathBuf>,
}

/// Nodes that act as one. Dropping it ends them by their pids, and removes their disks and networks.
pub struct Cluster {
    options: ClusterOptions,
    // Before the network: namespaces are removed when nobody is in them.
    nodes: Vec<Node>,
    network: Option<Network>,
    addresses: Vec<Addresses>,
    /// Of each node, how many of its processes have ended.
    lives: Arc<[AtomicU64]>,
    directory: PathBuf,
}

impl Cluster {
    /// Starts the nodes and waits until all are ready. `name` is that of the run directories.
    ///
    /// Errors: what went wrong, with the end of the log.
    pub fn start(name: &str, options: &ClusterOptions) -> Result<Self, String> {
        let directory = workspace::run_directory(&format!("{name}-clients"));
        let network = options
            .has_network
            .then(|| Network::create(options.nodes))
            .transpose()?;
        let addresses: Vec<Addresses> = (0..options.nodes)
            .map(|node| Addresses::of(node, network.as_ref(), options.region.as_ref()))
            .collect();
        let mut cluster = Self {
            options: options.clone(),
            nodes: Vec::new(),
            network,
            lives: addresses.iter().map(|_| AtomicU64::new(0)).collect(),
            addresses,
            directory,
        };
        for index in 0..options.nodes {
            let node = cluster.node(name, index)?;
            cluster.nodes.push(node);
        }
        (0..options.founders).try_for_each(|node| cluster.launch(node))?;
        (0..options.founders).try_for_each(|node| cluster.wait_ready(node))?;
        if options.system == System::Kafka {
            // Kafka does not sync what `format` writes, and does not start without it.
            for image in cluster.nodes.iter().filter_map(|node| node.image.as_ref()) {
                image.sync()?;
            }
        }
        Ok(cluster)
    }

    fn node(&self, name: &str, index: usize) -> Result<Node, String> {
        let own = format!("{name}-node{}", index + 1);
        let image = match self.options.disk_mib {
            Some(size_mib) => {
                let directory = workspace::run_directory(&format!("{own}-disk"));
                Some(Image::create(&directory, size_mib, Backing::Disk)?)
            }
            None => None,
        };
        let server = self.server(index, &self.options.node(index), image.as_ref());
        Ok(Node {
            server: Server::new(&own, server),
            image,
            is_wanted: false,
            is_stopped: false,
            filler: None,
        })
    }

    fn server(&self, index: usize, node: &NodeOptions, image: Option<&Image>) -> ServerOptions {
        let mut server = self
            .options
            .server(&self.addresses, index, node)
            .ready_timeout(READY);
        if let Some(network) = &self.network {
            let words = network.enter(index);
            server = server.wrapper(&words.each_ref().map(String::as_str));
        }
        match image {
            Some(image) => server.data(&image.path().join("data")),
            None => server,
        }
    }

    /// How many nodes it has.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether it has no node; it always has one.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// What runs.
    pub fn system(&self) -> System {
        self.options.system
    }

    /// Where the clients write.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `IP:PORT,..` of all nodes.
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(|a| a.kafka.to_string()).collect();
        addresses.join(",")
    }

    /// The address for clients of each node.
    pub fn kafka_addresses(&self) -> Vec<SocketAddr> {
        self.addresses.iter().map(|a| a.kafka).collect()
    }

    /// The racks of the nodes.
    pub fn racks(&self) -> Vec<String> {
        (0..self.nodes.len())
            .map(|node| self.options.rack(node))
            .collect()
    }

    /// The metrics of a node, when it answers.
    pub fn metrics(&self, node: usize) -> Option<String> {
        let (status, body) = self.admin(node, "/metrics")?;
        (status == 200).then_some(body)
    }

    /// The status and body that a node's admin endpoint answers for a path, when it answers.
    pub fn admin(&self, node: usize, path: &str) -> Option<(u16, String)> {
        view::admin(self.addresses[node].admin, path)
    }

    /// What a node that runs and answers knows of a topic.
    pub fn metadata(&self, topic: &str) -> Option<Metadata> {
        let asked: Vec<SocketAddr> = self
            .nodes
            .iter()
            .zip(&self.addresses)
            .filter(|(node, _)| !node.is_stopped && node.server.pid().is_some())
            .map(|(_, at)| at.kafka)
            .collect();
        view::metadata(&asked, topic)
    }

    /// The place of the leader of a partition.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<usize> {
        let metadata = self.metadata(topic)?;
        let found = metadata.partitions.iter().find(|p| p.partition == partition)?;
        self.place(u64::try_from(found.leader).ok()?)
    }

    /// The place of the node that everybody knows by this id; `None` where it is of another region.
    pub fn place(&self, broker: u64) -> Option<usize> {
        self.options.place(broker)
    }

    /// The process id of a node that runs.
    pub fn pid(&self, node: usize) -> Option<u32> {
        self.nodes[node].server.pid()
    }

    /// The data directory of a node.
    pub fn data(&self, node: usize) -> &Path {
        self.nodes[node].server.data()
    }

    /// Whether a node's process runs.
    pub fn is_alive(&mut self, node: usize) -> bool {
        self.nodes[node].server.is_alive()
    }

    /// Of each node, how many of its processes have ended: what a replica has shown binds its process.
    pub fn lives(&self) -> Arc<[AtomicU64]> {
        Arc::clone(&self.lives)
    }

    /// kill -9.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].is_stopped = false;
        self.nodes[node].server.kill();
        self.lives[node].fetch_add(1, Ordering::SeqCst);
    }

    /// SIGTERM, and waits for the graceful end; a node that does not end within 60 s is an error.
    pub fn stop(&mut self, node: usize) -> Result<(), String> {
        let stopped = self.nodes[node].server.stop(Duration::from_secs(60));
        self.lives[node].fetch_add(1, Ordering::SeqCst);
        stopped.map_err(|e| format!("node {}: {e}", id(node)))
    }

    /// Starts a node that does not run; does not wait.
    pub fn launch(&mut self, node: usize) -> Result<(), String> {
        self.nodes[node].is_wanted = true;
        self.nodes[node].server.launch()
    }

    /// As [`Cluster::launch`], in another way than before from now on. The node does not run.
    pub fn launch_as(&mut self, node: usize, options: &NodeOptions) -> Result<(), String> {
        let server = self.server(node, options, self.nodes[node].image.as_ref());
        self.nodes[node].server.set_options(server);
        self.launch(node)
    }

    /// Stops a node for good.
    pub fn retire(&mut self, node: usize) -> Result<(), String> {
        self.nodes[node].is_wanted = false;
        self.stop(node)
    }

    /// Throws away the data of a node that does not run: its disk was replaced.
    pub fn wipe(&mut self, node: usize) -> Result<(), String> {
        let data = self.nodes[node].server.data();
        match std::fs::remove_dir_all(data) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("cannot remove {}: {e}", data.display()))
            }
            _ => Ok(()),
        }
    }

    /// Waits until a launched node ends by itself, and gives the end of its log; `None` when it still runs after
    /// `timeout`.
    pub fn wait_ended(&mut self, node: usize, timeout: Duration) -> Option<(ExitStatus, String)> {
        let status = self.nodes[node].server.wait_ended(timeout)?;
        self.lives[node].fetch_add(1, Ordering::SeqCst);
        self.nodes[node].is_wanted = false;
        Some((status, self.nodes[node].server.log_tail(20)))
    }

    /// Runs `meridian ARGUMENTS` against a node and gives the JSON that it prints.
    ///
    /// Errors: it does not end well within 5 minutes.
    pub fn tool(&self, node: usize, arguments: &[&str]) -> Result<serde_json::Value, String> {
        let mut command = Command::new(workspace::meridian_binary()?);
        command
            .args(arguments)
            .args(["--server", &self.addresses[node].kafka.to_string()])
            .args(["--output", "json", "--yes"]);
        let report = program::run("tool", command, &self.directory, None, Duration::from_secs(300))?;
        let text = report.lines.join("\n");
        serde_json::from_str(&text)
            .map_err(|e| format!("meridian {arguments:?} printed no JSON: {e}\n{text}"))
    }

    /// Waits until a launched node says that it takes requests, and `/ready` agrees; for four minutes at most, both
    /// together. Errors: it does not; with the end of its log, and what the others say of themselves.
    pub fn wait_ready(&mut self, node: usize) -> Result<(), String> {
        let others: Vec<usize> = (0..self.nodes.len())
            .filter(|other| *other != node && self.nodes[*other].server.pid().is_some())
            .collect();
        self.wait_ready_alone(node).map_err(|e| {
            let said = others.iter().map(|other| {
                let answer = view::admin(self.addresses[*other].admin, "/ready");
                let answer =
                    answer.map_or_else(|| "no answer".to_owned(), |(_, body)| body.trim().to_owned());
                format!("\n/ready of node {}: {answer}", id(*other))
            });
            format!("{e}{}", said.collect::<String>())
        })
    }

    fn wait_ready_alone(&mut self, node: usize) -> Result<(), String> {
        let named = |e: String| format!("node {}: {e}", id(node));
        self.nodes[node].server.wait_until_ready().map_err(named)?;
        if self.options.system == System::Kafka {
            return Ok(());
        }
        let admin = self.addresses[node].admin;
        let started = Instant::now();
        let mut last = None;
        let ready = wait_for(READY, || {
            last = view::admin(admin, "/ready");
            last.as_ref()
                .is_some_and(|(status, _)| *status == 200)
                .then_some(())
        });
        ready.ok_or_else(|| {
            let log = self.nodes[node].server.log_tail(40);
            let waited = started.elapsed();
            named(format!(
                "/ready answers {last:?} {waited:?} after its start\n{log}"
            ))
        })
    }

    /// Starts every node that should run and does not, and waits until all are ready.
    pub fn wait_all_ready(&mut self) -> Result<(), String> {
        let wanted: Vec<usize> = (0..self.nodes.len())
            .filter(|node| self.nodes[*node].is_wanted)
            .collect();
        for &node in &wanted {
            if !self.is_alive(node) {
                self.kill(node);
                self.launch(node)?;
            }
        }
        wanted.into_iter().try_for_each(|node| self.wait_ready(node))
    }

    /// SIGSTOP.
    pub fn pause(&mut self, node: usize) -> Result<(), String> {
        self.nodes[node].server.signal(Signal::STOP)?;
        self.nodes[node].is_stopped = true;
        Ok(())
    }

    /// SIGCONT.
    pub fn resume(&mut self, node: usize) -> Result<(), String> {
        self.nodes[node].is_stopped = false;
        self.nodes[node].server.signal(Signal::CONT)
    }

    /// What was not synced on the disks of these nodes is gone, and they do not run: all of them within one moment.
    /// Their disks are good again afterwards.
    pub fn cut_power(&mut self, nodes: &[usize]) -> Result<(), String> {
        for &node in nodes {
            // Stopped first, so that nobody sees the errors of a disk that is going away and acts on them.
            self.nodes[node].server.signal(Signal::STOP)?;
        }
        let cut = |node: &Node| node.image.as_ref().ok_or("the node has no disk")?.cut_power();
        // Side by side: the disks must not fail one long after the other.
        let results: Vec<Result<(), String>> = thread::scope(|scope| {
            let cuts: Vec<_> = nodes
                .iter()
                .map(|&node| &self.nodes[node])
                .map(|node| scope.spawn(move || cut(node)))
                .collect();
            let join = |cut: thread::ScopedJoinHandle<'_, Result<(), String>>| {
                cut.join()
                    .unwrap_or_else(|_| Err("cutting the power panicked".to_owned()))
            };
            cuts.into_iter().map(join).collect()
        });
        for &node in nodes {
            self.kill(node);
        }
        results.into_iter().collect::<Result<(), String>>()?;
        for &node in nodes {
            let image = self.nodes[node].image.as_mut().ok_or("the node has no disk")?;
            image.unmount()?;
            image.mount()?;
        }
        Ok(())
    }

    /// Leaves no space on a node's disk.
    pub fn fill_disk(&mut self, node: usize) -> Result<(), String> {
        let node = &mut self.nodes[node];
        let image = node.image.as_ref().ok_or("the node has no disk")?;
        node.filler = Some(image.fill()?);
        Ok(())
    }

    /// Gives the space back.
    pub fn free_disk(&mut self, node: usize) -> Result<(), String> {
        let node = &mut self.nodes[node];
        match (node.filler.take(), &node.image) {
            (Some(filler), Some(image)) => image.free(&filler),
            _ => Ok(()),
        }
    }

    /// Packets of `from` no longer reach `to`.
    pub fn cut(&mut self, from: End, to: End) -> Result<(), String> {
        let network = self
            .network
            .as_mut()
            .ok_or("the nodes share the host's network")?;
        network.cut(from, to)
    }

    /// Packets flow again.
    pub fn heal(&mut self) -> Result<(), String> {
        self.network.as_mut().map_or(Ok(()), Network::heal)
    }

    /// Copies the logs and what the clients wrote to where the next run does not remove it; says where.
    pub fn keep_evidence(&self, name: &str) -> String {
        let kept = workspace::target().join("findings").join(name);
        let copy = || -> std::io::Result<()> {
            std::fs::create_dir_all(&kept)?;
            for entry in std::fs::read_dir(&self.directory)? {
                let entry = entry?;
                std::fs::copy(entry.path(), kept.join(entry.file_name()))?;
            }
            for (index, node) in self.nodes.iter().enumerate() {
                let log = kept.join(format!("node{}.log", id(index)));
                std::fs::copy(node.server.log_path(), log)?;
            }
            Ok(())
        };
        match copy() {
            Ok(()) => format!("histories and logs in {}", kept.display()),
            Err(e) => format!("histories and logs could not be kept: {e}"),
        }
    }

    /// The end of a node's log.
    pub fn log_tail(&self, node: usize, lines: usize) -> String {
        self.nodes[node].server.log_tail(lines)
    }

    /// The ends of all nodes' logs.
    pub fn log_tails(&self, lines: usize) -> String {
        let tail = |node: &Node| {
            format!(
                "--- {}\n{}\n",
                node.server.log_path().display(),
                node.server.log_tail(lines)
            )
        };
        self.nodes.iter().map(tail).collect()
    }
}
