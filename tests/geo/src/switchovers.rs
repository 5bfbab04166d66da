//! Ownership is moved again and again under load from every region; no client is told anything.

use std::fmt;
use std::thread::sleep;
use std::time::Duration;

use meridian_checker::Report;
use meridian_cluster::rounds::RunError;
use meridian_compat::Random;

use crate::check::failed;
use crate::clients::{self, Clients};
use crate::equality::{self, Equality};
use crate::regions::{Regions, RegionsOptions};
use crate::switchover::{self, Pauses, Switchover};

/// What a run has shown.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Each switchover.
    pub switchovers: Vec<Switchover>,
    /// What the checker says.
    pub report: Report,
    /// What is the same everywhere.
    pub equality: Equality,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} switchovers: {}", self.switchovers.len(), self.report)?;
        writeln!(f, "{}", Pauses::of(&self.switchovers))?;
        write!(f, "{}", self.equality)
    }
}

/// Moves ownership `count` times.
pub fn run(
    name: &str,
    options: &RegionsOptions,
    records_per_second: u32,
    count: u32,
    seed: u64,
) -> Result<Outcome, RunError> {
    if let Some(reason) = clients::missing() {
        return Err(RunError::CannotRun(reason));
    }
    let regions = Regions::start(name, options).map_err(RunError::CannotRun)?;
    let outcome = moved(&regions, records_per_second, count, seed);
    outcome.map_err(|reason| failed(&regions, name, &reason))
}

fn moved(regions: &Regions, records_per_second: u32, count: u32, seed: u64) -> Result<Outcome, String> {
    let mut random = Random::seeded(seed);
    let mut clients = Clients::start(regions, records_per_second)?;
    let mut switchovers = Vec::new();
    let mut owner = 0;
    for number in 1..=count {
        sleep(Duration::from_millis(random.within(300..1200)));
        let to = another(&mut random, regions.len(), owner);
        let asked = random.within(0..regions.len() as u64) as usize;
        let switchover = switchover::run(regions, &mut clients, asked, owner, to)
            .map_err(|e| format!("switchover {number}: {e}"))?;
        println!(
            "switchover {number}: from {} to {}, asked in {}: {} ms, nobody could write for {} ms at most ({} ms)",
            regions.name(owner),
            regions.name(to),
            regions.name(asked),
            switchover.took.as_millis(),
            switchover.pause().as_millis(),
            switchover.pause_max().as_millis(),
        );
        switchovers.push(switchover);
        owner = to;
    }
    let report = clients.finish(regions)?;
    Ok(Outcome {
        switchovers,
        report,
        equality: equality::compare(regions)?,
    })
}

/// Any of `count` but `present`.
pub(crate) fn another(random: &mut Random, count: usize, present: usize) -> usize {
    let step = random.within(1..count as u64) as usize;
    (present + step) % count
}
