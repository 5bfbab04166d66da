//! Processes die and links are cut in the middle of switchovers, which are then repeated.

use std::collections::BTreeMap;
use std::fmt;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use meridian_checker::Report;
use meridian_cluster::rounds::RunError;
use meridian_compat::Random;
use meridian_compat::process::wait_for;
use serde_json::Value;

use crate::check::failed;
use crate::clients::{self, Clients};
use crate::equality::{self, Equality};
use crate::regions::{self, Regions, RegionsOptions};
use crate::switchovers::another;

/// When a switchover is taken back that is hit. Short, so that a long cut makes it so.
const TIMEOUT: &str = "4s";

/// How long a switchover may be repeated until it is done.
const REPEATED: Duration = Duration::from_secs(120);

/// How long a region may take until some shard, or its controller, has a leader again.
const LED: Duration = Duration::from_secs(60);

/// What happens in the middle of a switchover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blow {
    /// kill -9 of the leader of the owner's controller, who decides.
    OwnerController,
    /// kill -9 of the leader of a shard at the owner.
    OwnerShard,
    /// kill -9 of the leader of the target's controller.
    TargetController,
    /// kill -9 of the leader of a shard at the target.
    TargetShard,
    /// Nothing passes between the two for a moment.
    ShortCut,
    /// Nothing passes between the owner and all others for longer than the switchover may take.
    LongCut,
}

impl Blow {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::OwnerController,
        Self::TargetShard,
        Self::ShortCut,
        Self::OwnerShard,
        Self::TargetController,
        Self::LongCut,
    ];
}

/// What a run has shown.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Of each blow: how often the switchover that it hit was done all the same, and how often not.
    pub blows: BTreeMap<Blow, [u32; 2]>,
    /// The longest time that a partition was not written to.
    pub longest_pause: Duration,
    /// What the checker says.
    pub report: Report,
    /// What is the same everywhere.
    pub equality: Equality,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (blow, [done, not]) in &self.blows {
            writeln!(f, "{blow:?}: {done} done all the same, {not} repeated")?;
        }
        writeln!(
            f,
            "a partition was not written to for {} ms at most",
            self.longest_pause.as_millis()
        )?;
        write!(f, "{}\n{}", self.report, self.equality)
    }
}

/// Hits `rounds` switchovers, with each kind of blow in turn.
pub fn run(
    name: &str,
    options: &RegionsOptions,
    records_per_second: u32,
    blows: &[Blow],
    rounds: u32,
    seed: u64,
) -> Result<Outcome, RunError> {
    if let Some(reason) = clients::missing() {
        return Err(RunError::CannotRun(reason));
    }
    let mut regions = Regions::start(name, options).map_err(RunError::CannotRun)?;
    let outcome = hit(&mut regions, records_per_second, blows, rounds, seed);
    outcome.map_err(|reason| failed(&regions, name, &format!("{reason}\n(seed {seed})")))
}

fn hit(
    regions: &mut Regions,
    records_per_second: u32,
    blows: &[Blow],
    rounds: u32,
    seed: u64,
) -> Result<Outcome, String> {
    let mut random = Random::seeded(seed);
    let mut clients = Clients::start(regions, records_per_second)?;
    let mut counted: BTreeMap<Blow, [u32; 2]> = BTreeMap::new();
    let mut longest_pause = Duration::ZERO;
    let mut owner = 0;
    for (number, blow) in (1..=rounds).zip(blows.iter().cycle()) {
        let to = another(&mut random, regions.len(), owner);
        let begun = Instant::now();
        let named = |e: String| format!("round {number}, {blow:?}: {e}");
        let first = one(regions, &mut random, *blow, owner, to).map_err(named)?;
        clients.served(Instant::now()).map_err(named)?;
        let pause = clients.pauses(begun).into_iter().max().unwrap_or_default();
        longest_pause = longest_pause.max(pause);
        println!(
            "round {number}: {blow:?}, from {} to {}: {}; owned after {} ms, nobody could write for {} ms at most",
            regions.name(owner),
            regions.name(to),
            first
                .as_ref()
                .map_or_else(|e| short(e), |_| "done all the same".to_owned()),
            begun.elapsed().as_millis(),
            pause.as_millis()
        );
        counted.entry(*blow).or_default()[usize::from(first.is_err())] += 1;
        owner = to;
    }
    let report = clients.finish(regions)?;
    Ok(Outcome {
        blows: counted,
        longest_pause,
        report,
        equality: equality::compare(regions)?,
    })
}

/// Hits one switchover and repeats it until it is done. Gives what the command said that was hit.
fn one(
    regions: &mut Regions,
    random: &mut Random,
    blow: Blow,
    owner: usize,
    to: usize,
) -> Result<Result<Value, String>, String> {
    let victim = victim(regions, random, blow, owner, to)?;
    let (directory, name) = (regions.directory().to_path_buf(), regions.name(to));
    let servers: Vec<String> = regions.clusters.iter().map(|c| c.bootstrap()).collect();
    let servers = servers.join(",");
    let hit = {
        let (directory, servers) = (directory.clone(), servers.clone());
        let arguments = ["failover", "switchover", "--to", name, "--timeout", TIMEOUT];
        thread::spawn(move || regions::tool(&directory, "switchover-hit", &servers, &arguments))
    };
    sleep(Duration::from_millis(random.within(0..500)));
    match blow {
        Blow::ShortCut => {
            regions.cut(owner, Some(to));
            sleep(Duration::from_millis(random.within(200..1500)));
            regions.heal();
        }
        Blow::LongCut => {
            regions.cut(owner, None);
            sleep(Duration::from_millis(random.within(5000..8000)));
            regions.heal();
        }
        _ => {
            let (region, node) = victim.ok_or("there is nobody to kill")?;
            let cluster = &mut regions.clusters[region];
            cluster.kill(node);
            sleep(Duration::from_millis(random.within(100..1500)));
            cluster.launch(node)?;
            cluster.wait_ready(node)?;
        }
    }
    let first = hit
        .join()
        .map_err(|_| "the command's thread panicked".to_owned())?;
    let started = Instant::now();
    loop {
        let arguments = ["failover", "switchover", "--to", name, "--timeout", "20s"];
        match regions::tool(&directory, "switchover-again", &servers, &arguments) {
            Ok(done) if done["owner"].as_u64() == u64::try_from(to).ok() => return Ok(first),
            again if started.elapsed() > REPEATED => {
                return Err(format!(
                    "the switchover that was hit: {first:?}; repeated for {REPEATED:?}: {again:?}"
                ));
            }
            _ => sleep(Duration::from_millis(300)),
        }
    }
}

/// Region and place of the node that is to die.
fn victim(
    regions: &Regions,
    random: &mut Random,
    blow: Blow,
    owner: usize,
    to: usize,
) -> Result<Option<(usize, usize)>, String> {
    let (region, is_controller) = match blow {
        Blow::OwnerController => (owner, true),
        Blow::OwnerShard => (owner, false),
        Blow::TargetController => (to, true),
        Blow::TargetShard => (to, false),
        Blow::ShortCut | Blow::LongCut => return Ok(None),
    };
    a_leader(regions, random, region, is_controller).map(Some)
}

/// Region and place of a node that leads the controller's log there, or some shard's.
pub(crate) fn a_leader(
    regions: &Regions,
    random: &mut Random,
    region: usize,
    is_controller: bool,
) -> Result<(usize, usize), String> {
    let mut last = String::new();
    // The blow before this one may still be felt.
    let leaders = wait_for(LED, || {
        let told = regions.leaders(region).map_err(|e| last = e).ok()?;
        let leaders: Vec<u64> = told
            .into_iter()
            .filter(|(shard, _)| (*shard == "controller") == is_controller)
            .map(|(_, node)| node)
            .collect();
        (!leaders.is_empty()).then_some(leaders)
    });
    let leaders = leaders.ok_or_else(|| format!("nobody leads in {}: {last}", regions.name(region)))?;
    let leader = leaders[random.within(0..leaders.len() as u64) as usize];
    let node = regions.clusters[region]
        .place(leader)
        .ok_or_else(|| format!("node {leader} leads in {}", regions.name(region)))?;
    Ok((region, node))
}

/// The last line that says why: the log has those of earlier commands too.
fn short(error: &str) -> String {
    let why = error
        .lines()
        .rfind(|line| line.starts_with("error:") || line.contains("\"error\""));
    why.or(error.lines().next()).unwrap_or_default().to_owned()
}
