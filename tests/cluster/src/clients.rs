//! The suite of `tests/compat` against the nodes of a cluster: clients are told of one node and find the others, topics have
//! three replicas, and leaders and coordinators are spread.

use std::any::Any;
use std::fmt;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use meridian_compat::site::only_from_environment;
use meridian_compat::{Program, Site, suite};

use crate::cluster::Cluster;
use crate::rounds::RunError;
use crate::system::{ClusterOptions, System, id};
use crate::view;

/// How often a client is run once more for nodes that were not asked anything.
const MORE_MAX: u32 = 10;

/// One part of the suite.
type Part = (&'static str, fn(&Site));

/// What runs one after the other, side by side with other such rows. Parts with a JVM are in one row: two at once are more
/// than a small machine takes.
type Row = &'static [Part];

const CONFLUENT: Part = ("confluent", |site| {
    suite::a_client_passes_all_its_checks(site, Program::Confluent);
});
const KAFKA_PYTHON: Part = ("kafka-python", |site| {
    suite::a_client_passes_all_its_checks(site, Program::KafkaPython);
});
const FRANZ: Part = ("franz", |site| {
    suite::a_client_passes_all_its_checks(site, Program::Franz);
});
const KCAT: Part = ("kcat", suite::kcat_reads_with_every_codec_what_it_wrote);
const NEW_TOPIC: Part = ("new-topic", suite::a_new_topic_takes_records_at_once);
const JAVA: Part = ("java", |site| {
    suite::a_client_passes_all_its_checks(site, Program::Java);
});
const TOOLS: Part = ("console-tools", suite::the_console_tools_work_as_on_kafka);
const TOOLS_SEVERAL: Part = ("console-tools", suite::the_console_tools_find_every_node);
const CROSS: Part = ("cross", suite::every_client_reads_what_every_other_client_wrote);

/// Everything; the last row alone, since it runs all clients.
const ALL: [&[Row]; 2] = [
    &[&[CONFLUENT, KAFKA_PYTHON, FRANZ, KCAT, NEW_TOPIC], &[JAVA, TOOLS]],
    &[&[CROSS]],
];

/// Of the checks those that go another way where there are several nodes.
const SEVERAL: [&[Row]; 1] = [&[
    &[CONFLUENT, KCAT],
    &[KAFKA_PYTHON, FRANZ, NEW_TOPIC],
    &[JAVA, TOOLS_SEVERAL],
]];
const CHECKS_SEVERAL: &str = "produce-consume,rebalance-cooperative,commit-and-seek,idempotent,admin-topics,admin-delete,admin-groups,admin-cluster";

/// How much of the suite runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// All of it.
    All,
    /// What goes another way where there are several nodes: records, groups, idempotence, topics and deletions of every
    /// client, and the tools that look at all nodes. One node shows the rest as well.
    Several,
}

/// What ran, and how long it took.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Each part.
    pub parts: Vec<(&'static str, Duration)>,
    /// Of each node: requests for Produce, Fetch and JoinGroup that it answered.
    pub traffic: Vec<[f64; 3]>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, took) in &self.parts {
            writeln!(f, "{name}: {:.1} s", took.as_secs_f64())?;
        }
        for (node, [produce, fetch, join]) in self.traffic.iter().enumerate() {
            writeln!(
                f,
                "node {}: {produce} Produce, {fetch} Fetch, {join} JoinGroup",
                id(node)
            )?;
        }
        write!(f, "{} parts hold", self.parts.len())
    }
}

/// Starts the nodes and runs the suite.
pub fn run(name: &str, options: &ClusterOptions, share: Share) -> Result<Outcome, RunError> {
    let cluster = Cluster::start(name, options).map_err(RunError::CannotRun)?;
    suite_on(&cluster, share).map_err(|reason| {
        let kept = cluster.keep_evidence(name);
        RunError::DoesNotHold(format!("{reason}\n{}({kept})", cluster.log_tails(15)))
    })
}

fn suite_on(cluster: &Cluster, share: Share) -> Result<Outcome, String> {
    let (stages, only): (&[&[Row]], String) = match share {
        Share::All => (&ALL, only_from_environment()),
        Share::Several => (&SEVERAL, CHECKS_SEVERAL.to_owned()),
    };
    let site = Site {
        directory: cluster.directory().to_path_buf(),
        nodes: cluster.kafka_addresses(),
        replicas: u16::try_from(cluster.len().min(3)).expect("few nodes"),
        is_kafka: cluster.system() == System::Kafka,
        only,
    };
    let mut outcome = Outcome::default();
    for rows in stages {
        let ran: Vec<_> = thread::scope(|scope| {
            let site = &site;
            let running: Vec<_> = rows
                .iter()
                .map(|row| scope.spawn(move || in_turn(site, row)))
                .collect();
            running.into_iter().map(ScopedJoinHandle::join).collect()
        });
        for row in ran {
            outcome
                .parts
                .append(&mut row.map_err(|_| "a part of the suite died")??);
        }
    }
    if cluster.system() == System::Meridian {
        use_every_node(cluster, &site);
        outcome.traffic = (0..cluster.len())
            .map(|node| traffic(cluster, node))
            .collect::<Result<_, _>>()?;
    }
    Ok(outcome)
}

fn in_turn(site: &Site, parts: &[Part]) -> Result<Vec<(&'static str, Duration)>, String> {
    let one = |(name, run): &Part| {
        let started = Instant::now();
        // The parts are tests: they panic where something does not hold.
        thread::scope(|scope| scope.spawn(|| run(site)).join())
            .map_err(|panic| format!("{name}: {}", said(&*panic)))?;
        Ok((*name, started.elapsed()))
    };
    parts.iter().map(one).collect()
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it panicked without a word")
        .to_owned()
}

/// The names of topics and groups, which differ from run to run, decide which nodes serve them: lets a client use more of
/// them as long as a node was never asked.
fn use_every_node(cluster: &Cluster, site: &Site) {
    let is_used = |node| traffic(cluster, node).is_ok();
    let more = Site {
        only: "commit-and-seek".to_owned(),
        ..site.clone()
    };
    for number in 1..=MORE_MAX {
        if (0..cluster.len()).all(is_used) || Program::Franz.missing().is_some() {
            return;
        }
        let bootstrap = more.bootstrap();
        let prefix = more.prefix(&format!("more-{number}"));
        more.run(Program::Franz, &["check", &bootstrap, &prefix, &bootstrap]);
    }
}

/// What a node has answered. A suite that reached one node only has shown nothing of a cluster.
fn traffic(cluster: &Cluster, node: usize) -> Result<[f64; 3], String> {
    let metrics = cluster
        .metrics(node)
        .ok_or_else(|| format!("node {} gives no metrics", id(node)))?;
    let answered = ["Produce", "Fetch", "JoinGroup"].map(|api| {
        let label = format!("api=\"{api}\"");
        view::labelled(&metrics, "meridian_requests_total", &label).unwrap_or(0.0)
    });
    match answered.iter().all(|requests| *requests > 0.0) {
        true => Ok(answered),
        false => Err(format!(
            "the clients did not use node {}: {answered:?} requests for Produce, Fetch and JoinGroup",
            id(node)
        )),
    }
}
