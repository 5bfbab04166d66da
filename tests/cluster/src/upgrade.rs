//! A rolling upgrade under load: nodes that understand an older feature level and nodes that understand the newest one are
//! one region, which rises when the last node is upgraded and takes no older one afterwards.
//!
//! The older version is this binary, told to say and write less (`node.feature_level_max`): there is no older release whose
//! binary could be run.

use std::fmt;
use std::process::Command;
use std::time::Duration;

use meridian_checker::Report;
use meridian_compat::process::wait_for;
use meridian_compat::{Program, program, workspace};

use crate::cluster::Cluster;
use crate::region::wait_until;
use crate::rounds::RunError;
use crate::session::{self, Session, Step};
use crate::system::{ClusterOptions, NodeOptions, System, id};
use crate::view;

const PARTITIONS: u32 = 16;

/// From this level on shards write commands of the tier: what only the newer version reads.
const TIER_LEVEL: u64 = 3;

/// How long the region may take to rise, or a shard to be settled after a restart.
const SETTLED: Duration = Duration::from_secs(120);

/// How long an older node may take to find out that the region has risen.
const REFUSED: Duration = Duration::from_secs(120);

/// What was shown.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The levels.
    pub from: u64,
    /// The newest.
    pub to: u64,
    /// What the checker says.
    pub report: Report,
    /// In their order.
    pub steps: Vec<Step>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "from feature level {} to {}: {}",
            self.from, self.to, self.report
        )?;
        for step in &self.steps {
            writeln!(
                f,
                "  {:6.1} s, not served for {:5} ms at most: {}",
                step.took.as_secs_f64(),
                step.silence.as_millis(),
                step.name
            )?;
        }
        write!(f, "  a region of two versions holds")
    }
}

/// Founds a region of older nodes and upgrades them one after the other.
pub fn run(name: &str, options: &ClusterOptions) -> Result<Outcome, RunError> {
    if options.system == System::Kafka {
        return Err(RunError::CannotRun(
            "only Meridian can be told to be older".to_owned(),
        ));
    }
    let needed = [Program::Franz, Program::Confluent, Program::Java];
    if let Some(reason) = needed.into_iter().find_map(Program::missing) {
        return Err(RunError::CannotRun(reason));
    }
    let newest = newest_level().map_err(RunError::CannotRun)?;
    let older = format!("node.feature_level_max={}", newest - 1);
    let mut options = ClusterOptions {
        founders: 0,
        ..options.clone()
    };
    if newest >= TIER_LEVEL {
        // Rounds to the bucket all the time: each is a command that an older node would stop at.
        let bucket = workspace::run_directory(&format!("{name}-bucket"));
        options.settings.extend([
            format!("tier.url={}", bucket.display()),
            "tier.round_interval_ms=500".to_owned(),
        ]);
    }
    let mut cluster = Cluster::start(name, &options).map_err(RunError::CannotRun)?;
    upgrade(&mut cluster, &older, newest).map_err(|reason| {
        let kept = cluster.keep_evidence(name);
        RunError::DoesNotHold(format!("{reason}\n{}({kept})", cluster.log_tails(15)))
    })
}

fn upgrade(cluster: &mut Cluster, older: &str, newest: u64) -> Result<Outcome, String> {
    let nodes: Vec<usize> = (0..cluster.len()).collect();
    let version = |settings: &[&str]| NodeOptions {
        seeds: nodes.clone(),
        settings: settings.iter().map(|setting| (*setting).to_owned()).collect(),
    };
    nodes
        .iter()
        .try_for_each(|node| cluster.launch_as(*node, &version(&[older])))?;
    nodes.iter().try_for_each(|node| cluster.wait_ready(*node))?;
    let replicas = u16::try_from(cluster.len().min(3)).expect("few nodes");
    let load = session::load("upgrade", PARTITIONS, replicas, &cluster.racks());
    let mut session = Session::start(cluster, load)?;
    let last = nodes.len() - 1;
    session.served(&format!("{} nodes of level {}", nodes.len(), newest - 1))?;
    for node in &nodes {
        at_level(cluster, newest - 1, &nodes)?;
        if newest == TIER_LEVEL && tier_rounds(cluster) > 0.0 {
            return Err(format!(
                "before node {} was upgraded, commands of level {newest} were written",
                id(*node)
            ));
        }
        // Once forward and back again: what is still at the older level takes an older node back.
        if *node == 0 {
            restart(cluster, *node, &version(&[]))?;
            session.served("node 1 is upgraded")?;
            restart(cluster, *node, &version(&[older]))?;
            at_level(cluster, newest - 1, &nodes)?;
            session.served("node 1 is back at the older version")?;
        }
        restart(cluster, *node, &version(&[]))?;
        // The leader that is next to die has written for both versions.
        let others = (*node != last).then_some("; the others are older");
        session.served(&format!(
            "node {} is upgraded{}",
            id(*node),
            others.unwrap_or_default()
        ))?;
    }
    at_level(cluster, newest, &nodes)?;
    if newest == TIER_LEVEL {
        wait_for(SETTLED, || (tier_rounds(cluster) > 0.0).then_some(()))
            .ok_or("the region has risen, and nothing goes to its bucket")?;
    }
    session.served(&format!("the region is at level {newest}"))?;

    cluster.stop(last)?;
    cluster.launch_as(last, &version(&[older]))?;
    let (status, log) = cluster
        .wait_ended(last, REFUSED)
        .ok_or("an older node runs in a region that has risen")?;
    if status.success() || !log.contains("understands feature level") {
        return Err(format!(
            "an older node ended with {status}, and no word about its level:\n{log}"
        ));
    }
    session.served("an older node was refused")?;
    cluster.launch_as(last, &version(&[]))?;
    cluster.wait_ready(last)?;
    at_level(cluster, newest, &nodes)?;
    session.served("it is back at the newest version")?;
    let (report, steps) = session.finish(cluster)?;
    Ok(Outcome {
        from: newest - 1,
        to: newest,
        report,
        steps,
    })
}

/// Rounds that brought records into the bucket, by the nodes that run.
fn tier_rounds(cluster: &Cluster) -> f64 {
    let rounds = |node: usize| view::metric(&cluster.metrics(node)?, "meridian_tier_rounds_total");
    (0..cluster.len()).filter_map(rounds).sum()
}

fn restart(cluster: &mut Cluster, node: usize, options: &NodeOptions) -> Result<(), String> {
    cluster.stop(node)?;
    cluster.launch_as(node, options)?;
    cluster.wait_ready(node)
}

/// Waits until every shard is whole, as every node knows it, and holds the level against what is expected.
fn at_level(cluster: &Cluster, level: u64, nodes: &[usize]) -> Result<(), String> {
    for asked in nodes {
        let view = wait_until(cluster, *asked, SETTLED, |region| {
            let is_rising = region.feature_level < level;
            let waiting = is_rising.then(|| format!("feature level {}", region.feature_level));
            waiting.or_else(|| region.lacks(nodes, nodes.len().min(3)))
        })?;
        if view.feature_level != level {
            return Err(format!(
                "node {} is at feature level {}, expected {level}",
                id(*asked),
                view.feature_level
            ));
        }
    }
    Ok(())
}

/// What the binary understands: the default of the setting.
fn newest_level() -> Result<u64, String> {
    let directory = workspace::run_directory("cluster-level");
    let mut command = Command::new(workspace::meridian_binary()?);
    command.args(["config", "explain", "--output", "json"]);
    let report = program::run("explain", command, &directory, None, Duration::from_secs(30))?;
    let text = report.lines.join("\n");
    let explained: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| format!("config explain printed no JSON: {e}\n{text}"))?;
    let settings = explained["settings"].as_array().into_iter().flatten();
    settings
        .filter(|setting| setting["key"] == "node.feature_level_max")
        .find_map(|setting| setting["value"].as_u64())
        .ok_or_else(|| format!("config explain names no node.feature_level_max: {text}"))
}
