//! Mirrors are cut off from the owner while clients read from them a topic that bounds how old a copy may be: they are sent to
//! the owner, miss nothing, and come back with the link.

use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use meridian_checker::Report;
use meridian_cluster::rounds::RunError;
use meridian_compat::process::wait_for;

use crate::check::failed;
use crate::clients::{self, Clients, RECOVERY, TOPIC, fetched};
use crate::equality::{self, Equality};
use crate::regions::{Regions, RegionsOptions};
use crate::switchover;

/// `geo.staleness.max.ms` of the topic.
const BOUND: Duration = Duration::from_secs(2);

/// Between two looks at what each region has given.
const LOOK: Duration = Duration::from_secs(1);

/// Records that each reader must note while its own region is cut off: more than any of them buffers.
const NOTED: usize = 1000;

/// One cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Who owns; all others are cut off.
    pub owner: usize,
    /// From the cut until each reader had [`NOTED`] records more, from the owner.
    pub went_on: Duration,
    /// From its end until each gave records again.
    pub back: Duration,
}

/// What a run has shown.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// One for each owner.
    pub cuts: Vec<Cut>,
    /// What the checker says.
    pub report: Report,
    /// What is the same everywhere.
    pub equality: Equality,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "region {} owns: each reader had {NOTED} records more {:.1} s after the cut, and read near again {:.1} s after its end",
            self.owner,
            self.went_on.as_secs_f64(),
            self.back.as_secs_f64()
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} cuts: {}", self.cuts.len(), self.report)?;
        for cut in &self.cuts {
            writeln!(f, "{cut}")?;
        }
        write!(f, "{}", self.equality)
    }
}

/// Lets each region own once, and cuts the others off meanwhile.
pub fn run(name: &str, options: &RegionsOptions, records_per_second: u32) -> Result<Outcome, RunError> {
    if let Some(reason) = clients::missing() {
        return Err(RunError::CannotRun(reason));
    }
    let regions = Regions::start(name, options).map_err(RunError::CannotRun)?;
    let outcome = each_owns(&regions, records_per_second);
    outcome.map_err(|reason| failed(&regions, name, &reason))
}

fn each_owns(regions: &Regions, records_per_second: u32) -> Result<Outcome, String> {
    let mut clients = Clients::start(regions, records_per_second)?;
    let bound = format!("geo.staleness.max.ms={}", BOUND.as_millis());
    regions.tool("bound", &[0], &["topic", "alter", TOPIC, "--config", &bound])?;
    let mut cuts = Vec::new();
    for owner in 0..regions.len() {
        if owner > 0 {
            switchover::run(regions, &mut clients, owner, owner - 1, owner)?;
        }
        cuts.push(
            cut(regions, &mut clients, owner).map_err(|e| format!("{} owns: {e}", regions.name(owner)))?,
        );
    }
    let report = clients.finish(regions)?;
    Ok(Outcome {
        cuts,
        report,
        equality: equality::compare(regions)?,
    })
}

fn cut(regions: &Regions, clients: &mut Clients, owner: usize) -> Result<Cut, String> {
    let others: Vec<usize> = (0..regions.len()).filter(|region| *region != owner).collect();
    until_near(regions, &others).ok_or("not every region gives what is read there, before the cut")?;
    let begun = Instant::now();
    others.iter().for_each(|region| regions.cut(*region, None));
    // What had arrived is given.
    sleep(LOOK);
    let (noted, before) = (clients.noted(), fetched(regions)?);
    let has_grown = || {
        let now = clients.noted();
        let has_grown = now.iter().zip(&noted).all(|(now, then)| *now >= then + NOTED);
        has_grown.then_some(())
    };
    wait_for(RECOVERY, has_grown).ok_or_else(|| {
        let now = clients.noted();
        format!("a reader does not go on while its region is cut off: records noted at first {noted:?}, then {now:?}")
    })?;
    let (after, went_on) = (fetched(regions)?, begun.elapsed());
    if others.iter().any(|region| after[*region] > before[*region]) {
        return Err(format!(
            "a region that is cut off gave records: {before:?} bytes, then {after:?}"
        ));
    }
    let healed = Instant::now();
    regions.heal();
    until_near(regions, &others).ok_or("not everybody came back to the region that is near")?;
    let back = healed.elapsed();
    clients.served(Instant::now())?;
    let cut = Cut { owner, went_on, back };
    println!("{cut}");
    Ok(cut)
}

/// Waits until each of these regions gives records between two looks.
fn until_near(regions: &Regions, of: &[usize]) -> Option<()> {
    wait_for(RECOVERY, || {
        let before = fetched(regions).ok()?;
        sleep(LOOK);
        let after = fetched(regions).ok()?;
        of.iter()
            .all(|region| after[*region] > before[*region])
            .then_some(())
    })
}
