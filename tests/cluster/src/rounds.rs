//! Rounds of faults under load, and a verdict.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};

use meridian_checker::{Finding, Report, check};
use meridian_compat::kafka::KafkaOptions;
use meridian_compat::load::connect_any;
use meridian_compat::process::wait_for;
use meridian_compat::raw::{BatchHeader, RawClient, batches};
use meridian_compat::{Load, LoadOptions, Program, Random, image};

use crate::bulk::{self, Bulk};
use crate::cluster::Cluster;
use crate::fault::{Fault, Kind};
use crate::inject::inject;
use crate::network;
use crate::prober::Prober;
use crate::system::{ClusterOptions, System};
use crate::watcher::Watcher;

/// How long the cluster may take until every producer and every partition is served again.
pub(crate) const RECOVERY: Duration = Duration::from_secs(60);

/// Of a longer silence all that the clients were told is shown.
const EXPLAINED: Duration = Duration::from_secs(2);

/// How often each partition is probed.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// What a run of rounds does.
#[derive(Clone, Debug)]
pub struct RoundOptions {
    /// Faults, one per round.
    pub rounds: u32,
    /// Of the choice of faults.
    pub seed: u64,
    /// Which faults.
    pub kinds: Vec<Kind>,
    /// How long a fault lasts, milliseconds.
    pub hold_ms: Range<u64>,
    /// How long the load runs between faults, milliseconds.
    pub calm_ms: Range<u64>,
    /// After so many rounds everything is compared, and a new topic begun.
    pub check_every: u32,
    /// Partitions of the topic.
    pub partitions: u32,
    /// Client libraries that write, and read.
    pub programs: Vec<Program>,
}

impl RoundOptions {
    /// Short rounds: what a test run has time for.
    pub fn short(rounds: u32, seed: u64) -> Self {
        Self {
            rounds,
            seed,
            kinds: Kind::ALL.to_vec(),
            hold_ms: 200..1500,
            calm_ms: 100..500,
            check_every: 60,
            partitions: 4,
            programs: vec![Program::Franz, Program::Confluent, Program::Java],
        }
    }

    /// Faults of any length.
    pub fn long(rounds: u32, seed: u64) -> Self {
        Self {
            hold_ms: 50..8000,
            calm_ms: 10..3000,
            check_every: 25,
            ..Self::short(rounds, seed)
        }
    }
}

/// What a run has shown, when nothing was wrong.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Rounds done.
    pub rounds: u32,
    /// What the checker says.
    pub report: Report,
    /// Of each kind of fault: rounds, the sum of the longest times without service, and the longest.
    pub silences: BTreeMap<Kind, (u32, Duration, Duration)>,
    /// The longest time from the end of a fault until everybody was served.
    pub longest_recovery: Duration,
}

/// Why there is no outcome.
#[derive(Clone, Debug)]
pub enum RunError {
    /// Something that this needs is not there, or cannot be done here.
    CannotRun(String),
    /// A check does not hold.
    DoesNotHold(String),
}

impl RunError {
    /// Of a check that does not hold on a cluster, with the ends of the logs, the seed, and where its evidence is kept.
    pub(crate) fn of(cluster: &Cluster, name: &str, seed: u64, reason: &str) -> Self {
        let tails = cluster.log_tails(15);
        let kept = cluster.keep_evidence(&format!("{name}-seed{seed}"));
        Self::DoesNotHold(format!("{reason}\n{tails}(seed {seed}, {kept})"))
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CannotRun(reason) => write!(f, "cannot run: {reason}"),
            Self::DoesNotHold(reason) => write!(f, "DOES NOT HOLD: {reason}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} rounds: {}", self.rounds, self.report)?;
        for (kind, (rounds, sum, longest)) in &self.silences {
            writeln!(
                f,
                "  {kind:?}: {rounds} rounds, a partition was not served for {} ms in the mean, {} ms at most",
                sum.as_millis() / u128::from((*rounds).max(1)),
                longest.as_millis()
            )?;
        }
        let unavailable: Duration = self.silences.values().map(|(_, sum, _)| *sum).sum();
        write!(
            f,
            "  unavailable for {:.1} s in all; everybody was served {} ms after the end of a fault at the latest",
            unavailable.as_secs_f64(),
            self.longest_recovery.as_millis()
        )
    }
}

/// A cluster in which the wanted faults can be made as far as this machine allows, those that can, and why others cannot.
pub fn what_can_be_done(nodes: usize, wanted: &[Kind]) -> (ClusterOptions, Vec<Kind>, Vec<String>) {
    let is_alone = (nodes == 1).then(|| "one node has nobody to be cut off from".to_owned());
    let no_network = is_alone.or_else(network::unavailable);
    let no_disk = image::unavailable();
    let obstacle = |kind: &Kind| match kind {
        Kind::Partition => no_network.as_ref(),
        Kind::Power | Kind::Disk => no_disk.as_ref(),
        Kind::Kill | Kind::Stop | Kind::Roll => None,
    };
    let kinds: Vec<Kind> = wanted
        .iter()
        .copied()
        .filter(|kind| obstacle(kind).is_none())
        .collect();
    let missing = wanted
        .iter()
        .filter_map(|kind| Some(format!("{kind:?}: {}", obstacle(kind)?)));
    let cluster = ClusterOptions {
        system: System::from_environment(),
        nodes,
        founders: nodes,
        has_network: kinds.contains(&Kind::Partition),
        // Far more than is written: what fills it takes no blocks of the host's disk.
        disk_mib: (kinds.contains(&Kind::Power) || kinds.contains(&Kind::Disk)).then_some(4096),
        // Small files, so that a full disk is felt soon.
        settings: vec!["journal.file_bytes=8388608".to_owned()],
        kafka: KafkaOptions::default(),
        region: None,
    };
    (cluster, kinds, missing.collect())
}

/// Hits a cluster again and again under load, then compares everything.
pub fn run(name: &str, cluster: &ClusterOptions, options: &RoundOptions) -> Result<Outcome, RunError> {
    let needed = [Program::Franz].into_iter().chain(options.programs.clone());
    if let Some(reason) = needed.into_iter().find_map(Program::missing) {
        return Err(RunError::CannotRun(reason));
    }
    let mut cluster = Cluster::start(name, cluster).map_err(RunError::CannotRun)?;
    let outcome = rounds(&mut cluster, options);
    outcome.map_err(|reason| RunError::of(&cluster, name, options.seed, &reason))
}

fn rounds(cluster: &mut Cluster, options: &RoundOptions) -> Result<Outcome, String> {
    let mut random = Random::seeded(options.seed);
    let mut outcome = Outcome::default();
    if options.kinds.contains(&Kind::Disk) {
        create_bulk_topic(cluster)?;
    }
    while outcome.rounds < options.rounds {
        let count = options.check_every.min(options.rounds - outcome.rounds);
        let topic = format!("load-{}", outcome.rounds + 1);
        let load = load_options(cluster, options, &topic);
        let mut load = Load::start(&cluster.bootstrap(), cluster.directory(), load)?;
        let prober = Prober::start(
            &cluster.kafka_addresses(),
            &topic,
            options.partitions,
            PROBE_INTERVAL,
        );
        // Kafka's followers learn of a high watermark late, and show an older one after an election.
        let watcher = (cluster.system() == System::Meridian)
            .then(|| Watcher::start(cluster, &topic, options.partitions));
        load.wait_progress(&load.progress(), RECOVERY)?;
        for _ in 0..count {
            outcome.rounds += 1;
            round(
                cluster,
                options,
                &mut random,
                &mut load,
                &prober,
                &topic,
                &mut outcome,
            )
            .map_err(|reason| format!("in round {}: {reason}", outcome.rounds))?;
        }
        let shown = watcher
            .map(|watcher| watcher.finish().findings)
            .unwrap_or_default();
        if !shown.is_empty() {
            return Err(format!("replicas showed what must not be: {shown:#?}"));
        }
        let final_errors = prober.final_errors();
        let probes = prober.finish();
        if !final_errors.is_empty() {
            return Err(format!(
                "clients were told errors that they do not retry: {final_errors:?}"
            ));
        }
        let mut history = load.finish(&cluster.bootstrap())?;
        history.add("probes", probes);
        let report = check(&history);
        println!("after round {}: {report}", outcome.rounds);
        outcome.report.add(report);
        if !outcome.report.is_sound() {
            let batches = evidence(cluster, &topic, &outcome.report);
            return Err(format!("{}{batches}", outcome.report));
        }
    }
    Ok(outcome)
}

/// The batches that hold what was found: who wrote them, and under which leader.
fn evidence(cluster: &Cluster, topic: &str, report: &Report) -> String {
    let places = report.findings.iter().flat_map(|finding| match finding {
        Finding::Duplicated { at, .. } => at.to_vec(),
        Finding::Reordered { found, .. } | Finding::Moved { found, .. } => {
            vec![(found.partition, found.offset)]
        }
        _ => Vec::new(),
    });
    let mut text = String::new();
    for (partition, offset) in places.take(20) {
        let look = || -> Option<BatchHeader> {
            let partition = i32::try_from(partition).ok()?;
            let metadata = cluster.metadata(topic)?;
            let leader = metadata
                .partitions
                .iter()
                .find(|p| p.partition == partition)?
                .leader;
            let address = metadata.address(leader)?.parse().ok()?;
            let mut client = RawClient::connect_within(address, RECOVERY).ok()?;
            let offset = i64::try_from(offset).ok()?;
            let (_, _, records) = client.fetch(topic, partition, offset, 1 << 20).ok()?;
            let is_there = |batch: &&BatchHeader| batch.base_offset + i64::from(batch.record_count) > offset;
            batches(&records).iter().find(is_there).copied()
        };
        text.push_str(&format!(
            "\n  offset {offset} of partition {partition}: {:?}",
            look()
        ));
    }
    text
}

fn round(
    cluster: &mut Cluster,
    options: &RoundOptions,
    random: &mut Random,
    load: &mut Load,
    prober: &Prober,
    topic: &str,
    outcome: &mut Outcome,
) -> Result<(), String> {
    std::thread::sleep(Duration::from_millis(random.within(options.calm_ms.clone())));
    let fault = Fault::draw(random, &options.kinds, cluster.len(), &options.hold_ms);
    // It may be on its way to another node, long after the last fault.
    let leader = wait_for(RECOVERY, || cluster.leader(topic, 0));
    let leader = leader.ok_or("no node names a leader before the fault")?;
    let started = Instant::now();
    let bulk = (fault.kind() == Kind::Disk).then(|| Bulk::start(&cluster.kafka_addresses()));
    inject(cluster, &fault, leader).map_err(|e| format!("{fault}: {e}"))?;
    drop(bulk);
    let healed = Instant::now();
    let told = |e: String| format!("after {fault} (leader was node {}): {e}", leader + 1);
    let progress = load.progress();
    cluster.wait_all_ready().map_err(told)?;
    let served = wait_for(RECOVERY, || prober.all_served_after(healed).then_some(()));
    served.ok_or_else(|| {
        let refusals = prober.explain(started);
        told(format!(
            "a partition is not served {RECOVERY:?} later\n{refusals}"
        ))
    })?;
    load.wait_progress(&progress, RECOVERY).map_err(told)?;
    let (recovery, silence) = (healed.elapsed(), prober.longest_silence(started));
    println!(
        "round {}: {fault}, leader node {}: not served for {} ms, all served {} ms after its end",
        outcome.rounds,
        leader + 1,
        silence.as_millis(),
        recovery.as_millis()
    );
    if silence > EXPLAINED {
        println!("{}", prober.explain(started));
    }
    let (rounds, sum, longest) = outcome.silences.entry(fault.kind()).or_default();
    *rounds += 1;
    *sum += silence;
    *longest = silence.max(*longest);
    outcome.longest_recovery = recovery.max(outcome.longest_recovery);
    Ok(())
}

fn load_options(cluster: &Cluster, options: &RoundOptions, topic: &str) -> LoadOptions {
    let racks = cluster.racks();
    let rack = |index: usize| racks.get(index).cloned();
    LoadOptions {
        topic: topic.to_owned(),
        partitions: options.partitions,
        replicas: u16::try_from(cluster.len().min(3)).expect("few nodes"),
        producers: 3,
        records_per_second: 200,
        writers: options.programs.clone(),
        readers: options
            .programs
            .iter()
            .enumerate()
            // The first reads from leaders, the others from the rack of some node.
            .map(|(index, program)| (*program, if index == 0 { None } else { rack(index) }))
            .collect(),
        final_racks: racks.iter().cloned().map(Some).collect(),
    }
}

/// A topic of which little is kept.
fn create_bulk_topic(cluster: &Cluster) -> Result<(), String> {
    let replicas = i16::try_from(cluster.len().min(3)).expect("few nodes");
    let configs = [("retention.bytes", "1048576"), ("segment.bytes", "1048576")];
    let created = connect_any(&cluster.bootstrap())
        .ok_or("no node takes a connection")?
        .create_replicated_topic(bulk::TOPIC, 1, replicas, &configs)
        .map_err(|e| format!("cannot create the bulk topic: {e}"))?;
    if created != 0 {
        return Err(format!("cannot create the bulk topic: error {created}"));
    }
    Ok(())
}
