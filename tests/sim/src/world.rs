//! The simulated region: hosts, faults by plan, clients, and the verdict.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use meridian_checker::{History, Report, check};
use meridian_controller::{Command as ControlCommand, NewTopic, Outcome as ControlOutcome};
use meridian_mutants::Mutant;
use meridian_shard::Region;
use meridian_types::{NodeId, Partition, RegionNumber, TopicId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use crate::bucket::{Figures, SimBucket};
use crate::driver;
use crate::faults::{CODA, plan, plan_of_regions, plan_with_bucket};
use crate::inject::Faults;
use crate::node::{Node, Place, host, region_name};
use crate::regions::{self, RegionsVerdict};
use crate::settle::{HEAL_TIMEOUT, read_until_whole, settle};
use crate::tier;
use crate::workload::{self, Flag, Memory};

/// A message between regions takes up to so long.
const WAN_LATENCY_MAX: Duration = Duration::from_millis(60);
const PRODUCERS: u32 = 3;
const CONSUMERS: u32 = 2;
/// Producers without idempotence, each of one partition.
const PRODUCERS_ONCE: u32 = 6;
/// The id of the first of them.
const FIRST_ONCE: u32 = 50;

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// Regions that mirror one another.
    pub regions: u16,
    /// Nodes of each region; by the seed unless it is said.
    pub nodes: Option<u32>,
    /// Partitions of the topic that all regions hold.
    pub partitions: u32,
    /// Simulated time with faults, before it is stretched.
    pub length: Duration,
    /// Faults come so much later and last so much longer, and clients pause so much longer: hours for what takes a minute.
    pub stretch: u32,
    /// Print faults as they come.
    pub verbose: bool,
    /// A deliberate defect.
    pub mutant: Mutant,
    /// Whether the region has a bucket; by the seed unless it is said.
    pub has_bucket: Option<bool>,
}

impl RunSettings {
    /// Two seeds of four have a bucket, of those with retention one, and of those without. Several regions have none.
    fn has_bucket(&self, seed: u64) -> bool {
        self.regions == 1 && self.has_bucket.unwrap_or(seed % 4 >= 2)
    }

    /// Topics that stay in a region, of one partition each.
    fn homes(&self) -> u32 {
        match self.regions {
            1 => 0,
            regions => regions.into(),
        }
    }

    /// Of several regions, those of every other seed have one node each.
    fn nodes(&self, seed: u64) -> u32 {
        let is_small = self.regions > 1 && seed % 4 < 2;
        self.nodes.unwrap_or(if is_small { 1 } else { 3 })
    }
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            regions: 1,
            nodes: None,
            partitions: 4,
            length: Duration::from_secs(60),
            stretch: 1,
            verbose: false,
            mutant: Mutant::None,
            has_bucket: None,
        }
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Verdict {
    /// It follows from this alone.
    pub seed: u64,
    /// What the checker says of the clients' history.
    pub report: Report,
    /// What else is wrong: unlike replicas, no recovery, answers that cannot be.
    pub complaints: Vec<String>,
    /// Faults that came.
    pub faults: usize,
    /// Simulated time it took in all.
    pub simulated: Duration,
    /// What became of the bucket, if there was one.
    pub bucket: Option<BucketVerdict>,
    /// What became of ownership, where there were several regions.
    pub regions: Option<RegionsVerdict>,
}

/// What came of a bucket in a run.
#[derive(Clone, Copy, Debug)]
pub struct BucketVerdict {
    /// What happened there.
    pub figures: Figures,
    /// Frames that reads fetched from it, in the last processes of the nodes.
    pub cold_reads: u64,
    /// Outages in which nothing else went wrong, so that what the region did can be asked for.
    pub calm_outages: u64,
}

impl Verdict {
    /// Nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.report.is_sound() && self.complaints.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_sound() { "sound" } else { "BROKEN" };
        write!(
            f,
            "seed {}: {verdict}; {} faults in {:.0} simulated s; {}",
            self.seed,
            self.faults,
            self.simulated.as_secs_f64(),
            self.report
        )?;
        if let Some(bucket) = &self.bucket {
            let Figures {
                bundles,
                deleted,
                spoiled,
            } = bucket.figures;
            write!(
                f,
                "; {bundles} bundles, {spoiled} of them spoiled, {deleted} deleted, {} frames read from there, {} calm \
                 outages",
                bucket.cold_reads, bucket.calm_outages
            )?;
        }
        if let Some(regions) = &self.regions {
            write!(f, "; {regions}")?;
        }
        for complaint in self.complaints.iter().take(20) {
            write!(f, "\n  {complaint}")?;
        }
        Ok(())
    }
}

/// What clients share.
pub struct World {
    pub(crate) nodes: Vec<Arc<Node>>,
    /// Partitions of all topics, numbered from 0.
    pub partitions: u32,
    /// The topics, with as many of them each: one that all regions hold, and of several regions one that stays in each.
    topics: RefCell<Vec<(TopicId, u32)>>,
    /// Clients pause so much longer than usual.
    stretch: u32,
    /// Producers go on.
    pub producing: Flag,
    /// Everybody stops.
    pub over: Flag,
    /// Batches acknowledged to idempotent producers.
    pub acknowledged: Cell<u64>,
    /// The region's bucket, if it has one.
    pub(crate) bucket: Option<SimBucket>,
    cold_reads: Cell<u64>,
    /// Switchovers begun.
    pub(crate) switchovers: Cell<u64>,
    region_epoch: Cell<u32>,
    complaints: RefCell<Vec<String>>,
}

impl World {
    /// The region as a node has it, while its process serves.
    pub fn region(&self, node: u32) -> Option<Region> {
        self.nodes.get(node as usize - 1)?.region()
    }

    /// The same, where only the node's id is known.
    pub fn region_of(&self, node: NodeId) -> Option<Region> {
        self.nodes.iter().find(|other| other.id == node)?.region()
    }

    /// How many regions there are, numbered from 0.
    pub(crate) fn region_count(&self) -> u16 {
        self.nodes.first().map_or(0, |node| node.place.regions)
    }

    /// How many nodes there are in all regions, numbered from 1.
    pub fn nodes(&self) -> u32 {
        u32::try_from(self.nodes.len()).expect("few nodes")
    }

    /// The region as every node has it. Errors: one does not serve.
    pub fn regions(&self) -> Result<Vec<Region>, String> {
        let serving = |node: &Arc<Node>| {
            let region = node.region();
            region.ok_or_else(|| format!("{} does not serve", node.host))
        };
        self.nodes.iter().map(serving).collect()
    }

    /// A node at random.
    pub fn any(&self, random: &mut StdRng) -> Option<u32> {
        let count = u32::try_from(self.nodes.len()).ok()?;
        Some(random.random_range(1..=count))
    }

    /// A partition by its number.
    pub fn partition(&self, number: u32) -> Partition {
        let mut index = number;
        for (topic, partitions) in self.topics.borrow().iter() {
            if index < *partitions {
                return Partition { topic: *topic, index };
            }
            index -= partitions;
        }
        panic!("there is no partition {number}: they are created before the clients start");
    }

    /// Whether this node is of a region that holds the partition.
    pub fn is_held(&self, partition: Partition, node: u32) -> bool {
        let place = self.nodes[node as usize - 1].place;
        partition.topic.home().is_none_or(|home| home == place.region)
    }

    /// How long a client pauses that would pause so many milliseconds.
    pub fn pause(&self, millis: u64) -> Duration {
        Duration::from_millis(millis) * self.stretch
    }

    /// Whether bits of a node's disk were changed behind its back.
    pub fn has_rotted(&self, node: u32) -> bool {
        self.nodes[node as usize - 1].has_rotted.load(Ordering::Relaxed)
    }

    /// Remembers what cannot be.
    pub fn complain(&self, what: String) {
        let mut complaints = self.complaints.borrow_mut();
        if complaints.len() < 100 {
            complaints.push(what);
        }
    }
}

/// Runs one seed. Once in a process: the system's randomness follows from the first seed only.
pub fn run(seed: u64, settings: &RunSettings) -> Verdict {
    let _simulated = driver::simulate(StdRng::seed_from_u64(seed ^ 0x5e_ed));
    meridian_mutants::switch_on(settings.mutant);
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(settings.length * settings.stretch * 4 + Duration::from_secs(600))
        .tick_duration(Duration::from_millis(settings.stretch.clamp(1, 10).into()))
        .min_message_latency(Duration::from_micros(200))
        .max_message_latency(Duration::from_millis(4))
        .tcp_capacity(4096)
        .udp_capacity(4096)
        .build();
    let bucket = settings.has_bucket(seed).then(SimBucket::default);
    let per_region = settings.nodes(seed);
    let nodes: Vec<_> = Place::all(settings.regions, per_region)
        .map(|place| Arc::new(Node::new(place, seed, settings.stretch, bucket.clone())))
        .collect();
    for node in &nodes {
        let software = Arc::clone(node);
        sim.host(node.host.clone(), move || Arc::clone(&software).live());
    }
    for (here, there) in regions::pairs(settings.regions, per_region) {
        sim.set_link_max_message_latency(host(here), host(there), WAN_LATENCY_MAX);
    }
    let world = Rc::new(World {
        nodes,
        partitions: settings.partitions + settings.homes(),
        topics: RefCell::default(),
        stretch: settings.stretch,
        producing: Flag::new(true),
        over: Flag::new(false),
        acknowledged: Cell::new(0),
        bucket,
        cold_reads: Cell::new(0),
        switchovers: Cell::new(0),
        region_epoch: Cell::new(0),
        complaints: RefCell::default(),
    });
    let history = Rc::new(RefCell::new(History::default()));
    let stage = Rc::new(RefCell::new(Stage::Founding));
    let clients = clients(
        Rc::clone(&world),
        seed,
        settings.clone(),
        Rc::clone(&history),
        Rc::clone(&stage),
    );
    sim.client("clients", clients);

    let plan = match (settings.regions, &world.bucket) {
        (1, None) => plan(seed, per_region, settings.length),
        (1, Some(_)) => plan_with_bucket(seed, per_region, settings.length),
        (regions, _) => plan_of_regions(seed, regions, per_region, settings.length),
    };
    let plan: Vec<_> = plan
        .into_iter()
        .map(|planned| planned.stretched(settings.stretch))
        .collect();
    let mut faults = Faults::new(&world, &plan, settings.verbose);
    let error = loop {
        match sim.step() {
            Ok(true) => break None,
            Ok(false) => {}
            Err(error) => break Some(error.to_string()),
        }
        let now = sim.elapsed();
        let at = *stage.borrow();
        match at {
            Stage::Founding => {}
            Stage::Faults { since } => faults.step(&mut sim, now.saturating_sub(since), now),
            Stage::Healing => faults.heal(&mut sim),
        }
    };
    if let Some(error) = error {
        world.complain(format!("the simulation ended early: {error}"));
    }
    let bucket = world.bucket.as_ref().map(|bucket| {
        let complaints = bucket.ledger.take_complaints();
        complaints.into_iter().for_each(|what| world.complain(what));
        if faults.calm_outages == 0 {
            world.complain("the bucket was never away while nothing else was wrong".to_owned());
        }
        BucketVerdict {
            figures: bucket.ledger.figures(),
            cold_reads: world.cold_reads.get(),
            calm_outages: faults.calm_outages,
        }
    });
    let history = history.take();
    let regions = (settings.regions > 1).then(|| RegionsVerdict {
        switchovers: world.switchovers.get(),
        region_epoch: world.region_epoch.get(),
    });
    Verdict {
        bucket,
        regions,
        seed,
        report: check(&history),
        complaints: world.complaints.take(),
        faults: faults.begun,
        simulated: sim.elapsed(),
    }
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Until the topic is there.
    Founding,
    /// Faults come by plan.
    Faults {
        /// Since then.
        since: Duration,
    },
    /// No more faults; everything is started and joined again.
    Healing,
}

async fn clients(
    world: Rc<World>,
    seed: u64,
    settings: RunSettings,
    history: Rc<RefCell<History>>,
    stage: Rc<RefCell<Stage>>,
) -> turmoil::Result {
    let mut random = StdRng::seed_from_u64(seed ^ 0xc11e_4175);
    // In every other run old records go soon, so that replicas that were away need a checkpoint to come back.
    let kept_bytes = match (seed.is_multiple_of(2), &world.bucket) {
        (false, _) => "-1",
        (true, None) => "16384",
        // Some of it in the bucket.
        (true, Some(_)) => "131072",
    };
    let mut configs = vec![("retention.ms", "-1"), ("retention.bytes", kept_bytes)];
    if world.bucket.is_some() && seed.is_multiple_of(2) {
        configs.push(("local.retention.bytes", "16384"));
    }
    create(&world, &mut random, None, settings.partitions, &configs).await?;
    for home in 0..settings.homes() {
        let home = RegionNumber(u16::try_from(home).expect("few regions"));
        let name = region_name(home);
        let configs: Vec<_> = configs.iter().copied().chain([("geo.home", &*name)]).collect();
        create(&world, &mut random, Some(home), 1, &configs).await?;
    }
    *stage.borrow_mut() = Stage::Faults {
        since: turmoil::sim_elapsed().unwrap_or_default(),
    };
    let mut memories: Vec<(String, Rc<Memory>)> = Vec::new();
    let mut memory = |name: String| {
        let memory = Rc::new(Memory::default());
        memories.push((name, Rc::clone(&memory)));
        memory
    };
    let mut tasks = Vec::new();
    for producer in 1..=PRODUCERS {
        for partition in 0..world.partitions {
            let random = StdRng::from_rng(&mut random);
            let memory = memory(format!("producer {producer}, partition {partition}"));
            // A producer's id is one per task: its sequences are its own.
            let id = producer * 100 + partition;
            tasks.push(tokio::task::spawn_local(workload::produce(
                Rc::clone(&world),
                id,
                partition,
                random,
                memory,
            )));
        }
    }
    for once in 0..PRODUCERS_ONCE {
        let random = StdRng::from_rng(&mut random);
        let memory = memory(format!("producer {once} without idempotence"));
        tasks.push(tokio::task::spawn_local(workload::produce_once(
            Rc::clone(&world),
            FIRST_ONCE + once,
            once % world.partitions,
            random,
            memory,
        )));
    }
    let mut readers = Vec::new();
    for consumer in 1..=CONSUMERS {
        let random = StdRng::from_rng(&mut random);
        let memory = memory(format!("consumer {consumer}"));
        readers.push(tokio::task::spawn_local(workload::consume(
            Rc::clone(&world),
            random,
            memory,
        )));
    }

    if world.bucket.is_some() {
        let random = StdRng::from_rng(&mut random);
        let memory = memory("catching up".to_owned());
        let catching_up = workload::catch_up(Rc::clone(&world), random, memory);
        readers.push(tokio::task::spawn_local(catching_up));
    }

    if settings.regions > 1 {
        let random = StdRng::from_rng(&mut random);
        readers.push(tokio::task::spawn_local(regions::switch_over(
            Rc::clone(&world),
            random,
        )));
    }

    let coda = world.bucket.as_ref().map_or(Duration::ZERO, |_| CODA);
    sleep((settings.length + coda) * settings.stretch).await;
    *stage.borrow_mut() = Stage::Healing;
    world.producing.set(false);
    let mut tasks = join_all(tasks);
    let finished = tokio::time::timeout(HEAL_TIMEOUT, &mut tasks).await.is_ok();
    world.over.set(true);
    if !finished {
        world.complain(format!(
            "producers are not done {HEAL_TIMEOUT:?} after the last fault"
        ));
        tasks.await;
    }
    join_all(readers).await;
    if settings.regions > 1 {
        regions::switch_over_at_last(&world, &mut random).await;
    }
    settle(&world).await;
    if world.bucket.is_some() {
        tier::until_tiered(&world).await;
        settle(&world).await;
    }
    for node in 1..=world.nodes() {
        let memory = memory(format!("last reader of node {node}"));
        let held = (0..world.partitions).filter(|number| world.is_held(world.partition(*number), node));
        for partition in held {
            if world.has_rotted(node) {
                read_until_whole(&world, node, partition).await;
            }
            if let Err(error) = workload::read_all(&world, node, partition, &memory).await {
                world.complain(format!("last reader: {error}"));
            }
        }
    }
    if let Some(bucket) = &world.bucket {
        world.cold_reads.set(tier::cold_reads(&world));
        settle(&world).await;
        tier::check(&world, bucket, &memory("reader of the bucket".to_owned())).await;
    }
    if settings.regions > 1 {
        regions::check_divergence(&world);
        world.region_epoch.set(regions::region_epoch(&world));
    }
    let mut history = history.borrow_mut();
    for (name, memory) in memories {
        history.add(&name, memory.take());
    }
    Ok(())
}

/// Waits for the region, and creates a topic, which may be to stay in one of them.
async fn create(
    world: &World,
    random: &mut StdRng,
    home: Option<RegionNumber>,
    partitions: u32,
    configs: &[(&str, &str)],
) -> turmoil::Result {
    let configs: BTreeMap<String, String> = configs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    for _ in 0..600 {
        sleep(Duration::from_millis(100)).await;
        let Some(region) = world.any(random).and_then(|node| world.region(node)) else {
            continue;
        };
        let id = region.new_topic_id(home);
        let topic = NewTopic {
            name: home.map_or_else(|| "events".to_owned(), |home| format!("events-{home}")),
            id,
            partitions,
            configs: configs.clone(),
        };
        let command = ControlCommand::CreateTopics {
            topics: vec![topic],
            now: region.now(),
        };
        match region.control(command).await {
            Ok(ControlOutcome::TopicsCreated(results)) if results.iter().all(Result::is_ok) => {
                world.topics.borrow_mut().push((id, partitions));
                return Ok(());
            }
            answer => tracing::info!(?answer, "the topic is not created yet"),
        }
    }
    Err("no region after a minute of simulated time".into())
}
