//! A region is cut off until the owner's log no longer reaches back to where it stands, and catches up under load by a
//! checkpoint, while leaders on both sides die.

use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use meridian_checker::Report;
use meridian_cluster::rounds::RunError;
use meridian_compat::Random;
use meridian_compat::process::wait_for;

use crate::check::failed;
use crate::clients::{self, Clients};
use crate::equality::{self, Equality};
use crate::kills::a_leader;
use crate::regions::{Regions, RegionsOptions};

/// Journals that give up early what is in the bucket, and links so slow that a checkpoint takes a while.
const SETTINGS: [&str; 12] = [
    "journal.file_bytes=2MiB",
    "journal.bytes_max=6MiB",
    "journal.cache_bytes=1MiB",
    "tier.round_bytes=128KiB",
    "tier.round_interval_ms=300",
    "tier.bundle_bytes=1MiB",
    "tier.copy_interval_ms=500",
    "tier.merge_extents_min=4",
    "tier.delete_grace_seconds=5",
    "shard.maintenance_interval_ms=300",
    "shard.checkpoint_entries=200",
    "geo.send_bytes_per_second_max=4MiB",
];

/// What is written while a region is cut off: several times what a journal keeps, to all shards.
const BALLAST: [&str; 16] = [
    "bench",
    "produce",
    "--topic",
    "ballast",
    "--partitions",
    "16",
    "--size",
    "4KiB",
    "--rate",
    "800",
    "--duration",
    "8s",
    "--warmup",
    "0s",
    "--batch-bytes",
    "64KiB",
];

/// What the owner's leader of a log says when another region begins to take its checkpoint.
const TAKEN: &str = "another region takes a checkpoint";

/// What the other region's leader says when it has it.
const INSTALLED: &str = "a checkpoint of another region took the place of the log";

/// How long a region that is healed may take until it takes a checkpoint.
const BEGINS: Duration = Duration::from_secs(60);

/// How long it may take, with all that dies, until it follows again.
const FOLLOWS: Duration = Duration::from_secs(180);

/// Who follows lacks no more than this.
const STALENESS_MAX_MS: u64 = 3000;

/// One time that a region was cut off.
#[derive(Clone, Debug)]
pub struct Round {
    /// Checkpoints that were begun, by any leader.
    pub taken: usize,
    /// Checkpoints that took the place of a log's content.
    pub installed: usize,
    /// Those of them before the first death.
    pub before_deaths: usize,
    /// From the healing until it followed again.
    pub took: Duration,
}

/// What a run has shown.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Each round.
    pub rounds: Vec<Round>,
    /// What the checker says.
    pub report: Report,
    /// What is the same everywhere.
    pub equality: Equality,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |of: fn(&Round) -> usize| self.rounds.iter().map(of).sum::<usize>();
        writeln!(
            f,
            "a region was cut off {} times; of {} checkpoints that were begun {} were installed, {} of them before a leader \
             died",
            self.rounds.len(),
            sum(|round| round.taken),
            sum(|round| round.installed),
            sum(|round| round.before_deaths),
        )?;
        write!(f, "{}\n{}", self.report, self.equality)
    }
}

/// Cuts a region off `rounds` times.
pub fn run(
    name: &str,
    options: &RegionsOptions,
    records_per_second: u32,
    rounds: u32,
    seed: u64,
) -> Result<Outcome, RunError> {
    if let Some(reason) = clients::missing() {
        return Err(RunError::CannotRun(reason));
    }
    let mut settings: Vec<String> = SETTINGS.map(str::to_owned).into();
    settings.extend(options.settings.iter().cloned());
    let options = RegionsOptions {
        settings,
        have_buckets: true,
        ..options.clone()
    };
    let mut regions = Regions::start(name, &options).map_err(RunError::CannotRun)?;
    let outcome = cut_off(&mut regions, records_per_second, rounds, seed);
    outcome.map_err(|reason| failed(&regions, name, &format!("{reason}\n(seed {seed})")))
}

fn cut_off(
    regions: &mut Regions,
    records_per_second: u32,
    rounds: u32,
    seed: u64,
) -> Result<Outcome, String> {
    let mut random = Random::seeded(seed);
    let mut clients = Clients::start(regions, records_per_second)?;
    let mut done = Vec::new();
    for number in 1..=rounds {
        let region = random.within(1..regions.len() as u64) as usize;
        let name = regions.name(region);
        let named = |e: String| format!("round {number}, {name} is cut off: {e}");
        let round = one(regions, &mut random, region).map_err(named)?;
        clients.served(Instant::now()).map_err(named)?;
        println!(
            "round {number}: {} was cut off; {} checkpoints begun, {} installed ({} before the first death), it follows {} ms \
             after the healing",
            regions.name(region),
            round.taken,
            round.installed,
            round.before_deaths,
            round.took.as_millis()
        );
        done.push(round);
    }
    let report = clients.finish(regions)?;
    Ok(Outcome {
        rounds: done,
        report,
        equality: equality::compare(regions)?,
    })
}

/// Cuts `region` off from the owner, region 0, and brings it back.
fn one(regions: &mut Regions, random: &mut Random, region: usize) -> Result<Round, String> {
    const OWNER: usize = 0;
    regions.cut(region, None);
    regions.tool("ballast", &[OWNER], &BALLAST)?;
    let victims = [
        a_leader(regions, random, region, false)?,
        a_leader(regions, random, OWNER, false)?,
    ];
    let taken = |regions: &Regions| regions.count_logged(OWNER, TAKEN);
    let installed = |regions: &Regions| regions.count_logged(region, INSTALLED);
    let before = (taken(regions), installed(regions));
    regions.heal();
    let healed = Instant::now();
    wait_for(BEGINS, || (taken(regions) > before.0).then_some(()))
        .ok_or_else(|| format!("no checkpoint is taken {BEGINS:?} after the healing: nothing is shown"))?;
    sleep(Duration::from_millis(random.within(0..1500)));
    let before_deaths = installed(regions) - before.1;
    for (region, node) in victims {
        regions.clusters[region].kill(node);
        sleep(Duration::from_millis(random.within(100..1500)));
        regions.clusters[region].launch(node)?;
    }
    for (region, node) in victims {
        regions.clusters[region].wait_ready(node)?;
    }
    until_followed(regions, region)?;
    Ok(Round {
        taken: taken(regions) - before.0,
        installed: installed(regions) - before.1,
        before_deaths,
        took: healed.elapsed(),
    })
}

/// Waits until every log that `region` leads follows closely.
fn until_followed(regions: &Regions, region: usize) -> Result<(), String> {
    let all: Vec<usize> = (0..regions.len()).collect();
    let mut last = String::new();
    let follows = || -> Result<(), String> {
        let status = regions.tool("status", &all, &["mirror", "status", "--shards"])?;
        let rows = status["shards"]
            .as_array()
            .ok_or_else(|| format!("no shards: {status}"))?;
        let own = rows
            .iter()
            .filter(|row| row["region"].as_u64() == u64::try_from(region).ok());
        let logs = rows.iter().map(|row| row["shard"].to_string());
        let logs: std::collections::BTreeSet<String> = logs.collect();
        let led: Vec<_> = own.collect();
        let lacks = led.iter().find(|row| {
            let is_close = row["staleness_ms"]
                .as_u64()
                .is_some_and(|ms| ms < STALENESS_MAX_MS);
            !is_close || !row["refusal"].is_null()
        });
        match lacks {
            Some(row) => Err(row.to_string()),
            None if led.len() != logs.len() => Err(format!("{} of {} logs are led", led.len(), logs.len())),
            None => Ok(()),
        }
    };
    wait_for(FOLLOWS, || match follows() {
        Ok(()) => Some(()),
        Err(reason) => {
            last = reason;
            sleep(Duration::from_millis(200));
            None
        }
    })
    .ok_or_else(|| format!("it does not follow {FOLLOWS:?} later: {last}"))
}
