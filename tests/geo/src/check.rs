//! Regions far apart under load: afterwards every node of every region holds the same, and whoever owns tells the same
//! offsets of a group.

use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use meridian_checker::Report;
use meridian_cluster::rounds::RunError;

use crate::clients::{self, Clients};
use crate::equality::{self, Equality};
use crate::regions::{Regions, RegionsOptions};

/// What a run has shown.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Two regions, and the time for a packet there and back.
    pub distances: Vec<(&'static str, &'static str, Duration)>,
    /// What the checker says.
    pub report: Report,
    /// What is the same everywhere.
    pub equality: Equality,
    /// Partitions with a committed offset that every owner told.
    pub committed: usize,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (one, other, measured) in &self.distances {
            writeln!(
                f,
                "{one} to {other} and back: {:.1} ms",
                measured.as_secs_f64() * 1000.0
            )?;
        }
        writeln!(f, "{}", self.report)?;
        writeln!(f, "{}", self.equality)?;
        write!(
            f,
            "the committed offsets of {} partitions were told by every region as owner",
            self.committed
        )
    }
}

/// Runs the load for `hold`, then compares.
pub fn run(
    name: &str,
    options: &RegionsOptions,
    records_per_second: u32,
    hold: Duration,
) -> Result<Outcome, RunError> {
    if let Some(reason) = clients::missing() {
        return Err(RunError::CannotRun(reason));
    }
    let started = Instant::now();
    let regions = Regions::start(name, options).map_err(RunError::CannotRun)?;
    println!(
        "{} regions of {} nodes are ready after {:.1} s",
        options.regions,
        options.nodes,
        started.elapsed().as_secs_f64()
    );
    let outcome = held(&regions, records_per_second, hold);
    outcome.map_err(|reason| failed(&regions, name, &reason))
}

fn held(regions: &Regions, records_per_second: u32, hold: Duration) -> Result<Outcome, String> {
    let clients = Clients::start(regions, records_per_second)?;
    sleep(hold);
    let report = clients.finish(regions)?;
    let equality = equality::compare(regions)?;
    Ok(Outcome {
        distances: regions.measured(),
        report,
        equality,
        committed: group_offsets(regions)?,
    })
}

/// Lets every region own once, and asks it for the offsets of the group. Gives for how many partitions there are some.
///
/// Errors: one tells others.
pub fn group_offsets(regions: &Regions) -> Result<usize, String> {
    let first = equality::group_offsets(regions, 0)?;
    if first.is_empty() {
        return Err("no offset was committed: nothing is shown".to_owned());
    }
    for to in (1..regions.len()).chain([0]) {
        let arguments = [
            "failover",
            "switchover",
            "--to",
            regions.name(to),
            "--timeout",
            "30s",
        ];
        regions.tool("switchover", &[to], &arguments)?;
        let told = equality::group_offsets(regions, to)?;
        if told != first {
            return Err(format!(
                "committed offsets (partition, offset): {first:?}; with {} as owner: {told:?}",
                regions.name(to)
            ));
        }
    }
    Ok(first.len())
}

/// The end of a run in which something does not hold: with the ends of the logs, which are kept.
pub(crate) fn failed(regions: &Regions, name: &str, reason: &str) -> RunError {
    let kept = regions.keep_evidence(name);
    RunError::DoesNotHold(format!("{reason}\n{}({kept})", regions.log_tails(12)))
}
