//! What operators do to a region, under load: it grows from one node to three, nodes are drained, removed and replaced, one
//! loses its disk, leaders are balanced, and everything is restarted node by node. Nothing is lost, and clients see
//! errors only that they retry.

use std::fmt;
use std::thread::sleep;
use std::time::Duration;

use meridian_checker::Report;
use meridian_compat::process::wait_for;
use meridian_compat::{Program, Random};

use crate::cluster::Cluster;
use crate::region::{RegionView, wait_until};
use crate::rounds::RunError;
use crate::session::{self, Session, Step};
use crate::system::{ClusterOptions, NodeOptions, System, id};

/// Nodes that run between two works.
const NODES: usize = 3;

const PARTITIONS: u32 = 16;

/// How long shards may take to move.
const MOVED: Duration = Duration::from_secs(120);

/// How long a node may take to find out that its id belongs to another directory. It tries again for a minute after that.
const REFUSED: Duration = Duration::from_secs(90);

/// What it says then.
const WORDS: &str = "no node had before";
/// What it is told once that node has been removed.
const WORDS_LATER: &str = "which has been removed";

/// Leaders are even when no node leads more than so many shards above another.
const EVEN: usize = 2;

/// Something that an operator does, or has to deal with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// SIGTERM and start again, one node after the other.
    Roll,
    /// A new node joins; another one is drained, stopped and removed, and its disk is wiped.
    Replace,
    /// A node dies and its disk is wiped: it is refused under its old id, removed as lost, and a new one joins.
    Lose,
    /// Leaders are spread evenly again.
    Balance,
    /// A node dies, and dies again and again while it starts.
    KillAtStart,
}

impl Work {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Roll,
        Self::Replace,
        Self::Lose,
        Self::Balance,
        Self::KillAtStart,
    ];
}

/// What a run does after the region has grown.
#[derive(Clone, Debug)]
pub struct MaintainOptions {
    /// In this order.
    pub works: Vec<Work>,
    /// Of the choice of nodes and moments.
    pub seed: u64,
    /// After so many works everything is compared, and a new topic begun.
    pub check_every: usize,
}

impl MaintainOptions {
    /// Each kind of work once.
    pub fn each_once(seed: u64) -> Self {
        Self {
            works: Work::ALL.to_vec(),
            seed,
            check_every: Work::ALL.len(),
        }
    }

    /// So many works, drawn from the seed.
    pub fn drawn(count: usize, seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        let mut draw = |_| Work::ALL[random.within(0..Work::ALL.len() as u64) as usize];
        Self {
            works: (0..count).map(&mut draw).collect(),
            seed,
            check_every: 8,
        }
    }
}

/// What a run has shown, when nothing was wrong.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What the checker says.
    pub report: Report,
    /// In their order.
    pub steps: Vec<Step>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} steps: {}", self.steps.len(), self.report)?;
        for step in &self.steps {
            writeln!(
                f,
                "  {:6.1} s, not served for {:5} ms at most: {}",
                step.took.as_secs_f64(),
                step.silence.as_millis(),
                step.name
            )?;
        }
        let longest = self.steps.iter().map(|step| step.silence).max();
        write!(
            f,
            "  the longest time without service: {} ms",
            longest.unwrap_or_default().as_millis()
        )
    }
}

/// Places for nodes: those that run at first, and as many as are needed to replace them: an id is never used again.
pub fn places(options: &MaintainOptions) -> usize {
    let is_new = |work: &&Work| matches!(work, Work::Replace | Work::Lose);
    NODES + options.works.iter().filter(is_new).count()
}

/// Grows a region and works on it. It needs as many [`places`] as the works do.
pub fn run(name: &str, cluster: &ClusterOptions, options: &MaintainOptions) -> Result<Outcome, RunError> {
    if cluster.system == System::Kafka {
        return Err(RunError::CannotRun(
            "Kafka is maintained with other tools".to_owned(),
        ));
    }
    let needed = [Program::Franz, Program::Confluent, Program::Java];
    if let Some(reason) = needed.into_iter().find_map(Program::missing) {
        return Err(RunError::CannotRun(reason));
    }
    let cluster = Cluster::start(name, cluster).map_err(RunError::CannotRun)?;
    let mut region = Maintained {
        spare: (NODES..cluster.len()).collect(),
        live: vec![0],
        cluster,
        random: Random::seeded(options.seed),
    };
    region
        .run(options)
        .map_err(|reason| RunError::of(&region.cluster, name, options.seed, &reason))
}

/// A region that is worked on.
struct Maintained {
    cluster: Cluster,
    random: Random,
    /// Places of the nodes that belong to it.
    live: Vec<usize>,
    /// Places that no node had yet.
    spare: Vec<usize>,
}

impl Maintained {
    fn run(&mut self, options: &MaintainOptions) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        let racks = self.cluster.racks();
        let mut session = Session::start(&self.cluster, session::load("maintain", PARTITIONS, 1, &racks))?;
        session.served("one node")?;
        self.grow(&mut session)?;
        for (done, work) in options.works.iter().enumerate() {
            if done > 0 && done % options.check_every == 0 {
                let topic = format!("maintain-{done}");
                outcome.add(session.finish(&self.cluster)?);
                session = Session::start(&self.cluster, session::load(&topic, PARTITIONS, 3, &racks))?;
            }
            self.work(*work, &mut session)
                .map_err(|e| format!("work {}, {work:?}: {e}", done + 1))?;
        }
        outcome.add(session.finish(&self.cluster)?);
        Ok(outcome)
    }

    fn grow(&mut self, session: &mut Session) -> Result<(), String> {
        for place in 1..NODES {
            self.join(place)?;
            session.served(&format!("node {} has joined", id(place)))?;
        }
        self.wait_whole()?;
        session.served("every shard has three voters")
    }

    fn work(&mut self, work: Work, session: &mut Session) -> Result<(), String> {
        match work {
            Work::Roll => {
                for node in self.live.clone() {
                    self.cluster.stop(node)?;
                    self.cluster.launch(node)?;
                    self.cluster.wait_ready(node)?;
                    session.served(&format!("node {} was restarted", id(node)))?;
                }
                Ok(())
            }
            Work::Replace => self.replace(session),
            Work::Lose => self.lose(session),
            Work::Balance => {
                self.cluster.tool(self.live[0], &["cluster", "balance"])?;
                let live = self.live.clone();
                wait_until(&self.cluster, self.live[0], MOVED, |region| {
                    let lacking = region.lacks(&live, NODES).or_else(|| region.unsettled());
                    lacking.or_else(|| uneven(region, &live))
                })?;
                session.served("leaders are balanced")
            }
            Work::KillAtStart => {
                let victim = self.draw();
                self.cluster.kill(victim);
                for _ in 0..3 {
                    self.cluster.launch(victim)?;
                    sleep(Duration::from_millis(self.random.within(10..500)));
                    self.cluster.kill(victim);
                }
                self.cluster.launch(victim)?;
                self.cluster.wait_ready(victim)?;
                session.served(&format!("node {} died at its start, three times", id(victim)))
            }
        }
    }

    fn replace(&mut self, session: &mut Session) -> Result<(), String> {
        let victim = self.draw();
        let new = self.take_spare()?;
        self.join(new)?;
        session.served(&format!("node {} has joined", id(new)))?;
        let asked = self.other(victim);
        let number = id(victim).to_string();
        if self.random.within(0..2) == 0 {
            self.cluster
                .tool(asked, &["cluster", "drain", &number, "--no-wait"])?;
            sleep(Duration::from_millis(self.random.within(0..1500)));
            self.cluster
                .tool(asked, &["cluster", "drain", &number, "--undo"])?;
            session.served(&format!("node {number} is drained no longer"))?;
        }
        self.cluster.tool(asked, &["cluster", "drain", &number])?;
        session.served(&format!("node {number} is drained"))?;
        self.cluster.retire(victim)?;
        self.cluster.tool(asked, &["cluster", "remove", &number])?;
        self.give_up(victim)?;
        self.wait_whole()?;
        session.served(&format!("node {number} is removed"))
    }

    fn lose(&mut self, session: &mut Session) -> Result<(), String> {
        let victim = self.draw();
        let number = id(victim).to_string();
        self.cluster.kill(victim);
        self.cluster.wipe(victim)?;
        self.is_refused(victim, WORDS)?;
        session.served(&format!("node {number} lost its disk, and was refused"))?;
        let asked = self.other(victim);
        self.cluster.tool(asked, &["cluster", "remove", &number])?;
        self.give_up(victim)?;
        self.is_refused(victim, WORDS_LATER)?;
        session.served(&format!("node {number} is removed as lost, and its id refused"))?;
        let new = self.take_spare()?;
        self.join(new)?;
        self.wait_whole()?;
        session.served(&format!("node {} has taken its place", id(new)))
    }

    /// Starts a node on an empty disk under an id that another one had, and ends it when it has been told so.
    fn is_refused(&mut self, place: usize, words: &str) -> Result<(), String> {
        let seeds = self.live.iter().copied().filter(|node| *node != place).collect();
        let options = NodeOptions {
            seeds,
            ..NodeOptions::default()
        };
        self.cluster.launch_as(place, &options)?;
        let refused = wait_for(REFUSED, || {
            let log = self.cluster.log_tail(place, 20);
            log.contains(words).then_some(())
        });
        refused.ok_or_else(|| {
            let log = self.cluster.log_tail(place, 20);
            format!(
                "node {} is told nothing about its id, though its data is gone:\n{log}",
                id(place)
            )
        })?;
        self.cluster.kill(place);
        self.cluster.wipe(place)
    }

    /// Starts a node on an empty disk; it finds the region by one node that runs.
    fn join(&mut self, place: usize) -> Result<(), String> {
        let options = NodeOptions {
            seeds: vec![self.draw()],
            ..NodeOptions::default()
        };
        self.cluster.launch_as(place, &options)?;
        self.cluster.wait_ready(place)?;
        self.live.push(place);
        Ok(())
    }

    /// The node is no longer the region's, and its disk is wiped.
    fn give_up(&mut self, victim: usize) -> Result<(), String> {
        self.live.retain(|node| *node != victim);
        self.cluster.wipe(victim)
    }

    fn wait_whole(&self) -> Result<(), String> {
        let live = self.live.clone();
        wait_until(&self.cluster, live[0], MOVED, |region| region.lacks(&live, NODES)).map(drop)
    }

    fn draw(&mut self) -> usize {
        let at = self.random.within(0..self.live.len() as u64);
        self.live[at as usize]
    }

    fn other(&self, than: usize) -> usize {
        let other = self.live.iter().find(|node| **node != than);
        *other.expect("a region of several nodes")
    }

    fn take_spare(&mut self) -> Result<usize, String> {
        match self.spare.is_empty() {
            true => Err("there is no place for another node".to_owned()),
            false => Ok(self.spare.remove(0)),
        }
    }
}

/// Who leads too much, if anyone does.
fn uneven(region: &RegionView, live: &[usize]) -> Option<String> {
    let led: Vec<usize> = live.iter().map(|node| region.led_by(*node)).collect();
    let most = led.iter().max().copied().unwrap_or(0);
    let least = led.iter().min().copied().unwrap_or(0);
    (most - least > EVEN).then(|| format!("nodes at places {live:?} lead {led:?} shards"))
}

impl Outcome {
    fn add(&mut self, (report, steps): (Report, Vec<Step>)) {
        println!("{report}");
        self.report.add(report);
        self.steps.extend(steps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_replacement_has_a_place_of_its_own() {
        let options = MaintainOptions::each_once(1);
        assert_eq!(places(&options), 5);
        let options = MaintainOptions {
            works: vec![Work::Roll, Work::Balance],
            ..options
        };
        assert_eq!(places(&options), 3);
    }

    #[test]
    fn the_same_seed_draws_the_same_works() {
        let draw = |seed| MaintainOptions::drawn(20, seed).works;
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }
}
