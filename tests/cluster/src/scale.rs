//! Many partitions in a cluster: what they cost, and how long things take with them.

use std::fmt;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use meridian_compat::Random;
use meridian_compat::load::connect_any;
use meridian_compat::process::wait_for;
use meridian_compat::raw::{Metadata, RawClient, batches, plain_batch};

use crate::cluster::Cluster;
use crate::rounds::RunError;
use crate::system::{ClusterOptions, id};

/// Partitions of each topic.
const PER_TOPIC: u32 = 10_000;

/// Partitions that are written and read.
const SAMPLE: usize = 2000;

/// Work of the creation that is still to be done, and how long nothing is done afterwards.
const SETTLE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(20);

/// An answer with metadata of 10,000 partitions takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was measured, in the order of the steps.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    steps: Vec<(String, Duration, Vec<u64>)>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (step, took, memory_mib) in &self.steps {
            writeln!(
                f,
                "{step}: {:.3} s; resident memory of the nodes {memory_mib:?} MiB",
                took.as_secs_f64()
            )?;
        }
        Ok(())
    }
}

/// Creates `partitions`, writes and reads a sample, kills a leader, and restarts nodes.
pub fn run(cluster: &ClusterOptions, partitions: u32) -> Result<Outcome, RunError> {
    let mut cluster = Cluster::start("cluster-scale", cluster).map_err(RunError::CannotRun)?;
    let mut outcome = Outcome::default();
    steps(&mut cluster, partitions, &mut outcome)
        .map_err(|e| RunError::DoesNotHold(format!("{e}\n{}\n{outcome}", cluster.log_tails(20))))?;
    Ok(outcome)
}

fn steps(cluster: &mut Cluster, partitions: u32, outcome: &mut Outcome) -> Result<(), String> {
    let mut note = |cluster: &Cluster, step: &str, started: Instant| {
        let memory = (0..cluster.len()).map(|node| resident_mib(cluster.pid(node)));
        outcome
            .steps
            .push((step.to_owned(), started.elapsed(), memory.collect()));
        if let Some((step, took, memory)) = outcome.steps.last() {
            println!("{step}: {took:?}, {memory:?} MiB");
        }
    };
    note(cluster, "start", Instant::now());
    let started = Instant::now();
    create(cluster, partitions)?;
    note(cluster, &format!("{partitions} partitions created"), started);
    let share = idle_share(cluster)?;
    note(cluster, &format!("idle: {share} of a core"), Instant::now());
    let sample = Sample::draw(partitions);
    let started = Instant::now();
    let leaders = sample.leaders(cluster)?;
    note(cluster, "leaders of the sample known", started);
    let started = Instant::now();
    let written = sample.write(&leaders, 0)?;
    note(
        cluster,
        &format!("one record to each of {written} partitions"),
        started,
    );
    let started = Instant::now();
    sample.read(&leaders, 1)?;
    note(cluster, "read back", started);

    let victim = leaders.first().map(|p| p.node).ok_or("an empty sample")?;
    let killed = Instant::now();
    cluster.kill(victim);
    let moved = wait_for(PATIENCE, || {
        let leaders = sample.leaders(cluster).ok()?;
        let is_moved = leaders.iter().all(|p| p.node != victim);
        (is_moved && sample.write(&leaders, 1).is_ok()).then_some(leaders)
    });
    let leaders = moved.ok_or("the sample cannot be written after the death of a leader")?;
    note(
        cluster,
        &format!("node {} killed: sample written again", id(victim)),
        killed,
    );
    let started = Instant::now();
    sample.read(&leaders, 2)?;
    note(cluster, "read back from the new leaders", started);
    let started = Instant::now();
    cluster.launch(victim)?;
    cluster.wait_ready(victim)?;
    note(cluster, &format!("node {} ready again", id(victim)), started);

    let started = Instant::now();
    for node in 0..cluster.len() {
        cluster.kill(node);
    }
    cluster.wait_all_ready()?;
    note(cluster, "all killed, all ready", started);
    let read = wait_for(PATIENCE, || sample.read(&sample.leaders(cluster).ok()?, 2).ok());
    read.ok_or("the sample cannot be read after the restart of all")?;
    note(cluster, "all killed, sample read", started);
    Ok(())
}

/// Creates topics of [`PER_TOPIC`] partitions.
fn create(cluster: &Cluster, partitions: u32) -> Result<(), String> {
    let replicas = i16::try_from(cluster.len().min(3)).expect("few nodes");
    for topic in 0..partitions.div_ceil(PER_TOPIC) {
        let count = PER_TOPIC.min(partitions - topic * PER_TOPIC);
        let mut client = connect_any(&cluster.bootstrap()).ok_or("no node takes a connection")?;
        let error = client
            .create_replicated_topic(
                &name(topic),
                i32::try_from(count).expect("few partitions"),
                replicas,
                &[("retention.ms", "-1")],
            )
            .map_err(|e| format!("creating topic {topic}: {e}"))?;
        if error != 0 {
            return Err(format!("creating topic {topic}: error {error}"));
        }
    }
    Ok(())
}

fn name(topic: u32) -> String {
    format!("scale-{topic}")
}

/// A partition and who leads it.
struct Led {
    topic: u32,
    partition: i32,
    node: usize,
    address: SocketAddr,
}

/// Partitions drawn from all.
struct Sample(Vec<(u32, i32)>);

impl Sample {
    fn draw(partitions: u32) -> Self {
        let mut random = Random::seeded(1);
        let mut drawn: Vec<(u32, i32)> = (0..SAMPLE.min(partitions as usize))
            .map(|_| {
                let at = random.within(0..u64::from(partitions)) as u32;
                (at / PER_TOPIC, (at % PER_TOPIC).cast_signed())
            })
            .collect();
        drawn.sort_unstable();
        drawn.dedup();
        Self(drawn)
    }

    /// Asks for the leaders topic by topic.
    fn leaders(&self, cluster: &Cluster) -> Result<Vec<Led>, String> {
        let mut known: Option<(u32, Metadata)> = None;
        let mut leaders = Vec::new();
        for &(topic, partition) in &self.0 {
            if known.as_ref().is_none_or(|(of, _)| *of != topic) {
                let metadata = cluster
                    .kafka_addresses()
                    .into_iter()
                    .find_map(|node| {
                        RawClient::connect_within(node, PATIENCE)
                            .ok()?
                            .metadata(&name(topic))
                            .ok()
                    })
                    .ok_or_else(|| format!("no node knows topic {topic}"))?;
                known = Some((topic, metadata));
            }
            let (_, metadata) = known.as_ref().expect("asked above");
            let led = || {
                let found = metadata.partitions.get(usize::try_from(partition).ok()?)?;
                Some(Led {
                    topic,
                    partition,
                    node: usize::try_from(found.leader).ok()?.checked_sub(1)?,
                    address: metadata.address(found.leader)?.parse().ok()?,
                })
            };
            leaders
                .push(led().ok_or_else(|| format!("partition {partition} of topic {topic} has no leader"))?);
        }
        Ok(leaders)
    }

    /// Writes record `number` to each partition; gives how many there are.
    fn write(&self, leaders: &[Led], number: u32) -> Result<usize, String> {
        for_each(leaders, |client, led| {
            let content = format!("{} {} {number}", led.topic, led.partition);
            let batch = plain_batch(&[content.as_bytes()]);
            match client.produce(&name(led.topic), led.partition, &batch) {
                Ok((0, offset)) if offset >= i64::from(number) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
        Ok(self.0.len())
    }

    /// Every partition holds at least `count` records.
    fn read(&self, leaders: &[Led], count: i64) -> Result<(), String> {
        for_each(leaders, |client, led| {
            let (error, end, records) = client
                .fetch(&name(led.topic), led.partition, 0, 1 << 20)
                .map_err(|e| e.to_string())?;
            let read: i64 = batches(&records)
                .iter()
                .map(|batch| i64::from(batch.record_count))
                .sum();
            if error == 0 && end >= count && read == end {
                return Ok(());
            }
            Err(format!("error {error}, {read} records of {end}"))
        })
    }
}

/// One connection per leader.
fn for_each(
    leaders: &[Led],
    mut act: impl FnMut(&mut RawClient, &Led) -> Result<(), String>,
) -> Result<(), String> {
    let mut clients: Vec<(SocketAddr, RawClient)> = Vec::new();
    for led in leaders {
        let known = clients.iter().position(|(address, _)| *address == led.address);
        let index = match known {
            Some(index) => index,
            None => {
                let client = RawClient::connect_within(led.address, PATIENCE)
                    .map_err(|e| format!("cannot connect to {}: {e}", led.address))?;
                clients.push((led.address, client));
                clients.len() - 1
            }
        };
        act(&mut clients[index].1, led)
            .map_err(|e| format!("partition {} of topic {}: {e}", led.partition, led.topic))?;
    }
    Ok(())
}

/// What the processes of all nodes take of a core while nobody asks for anything, in percent with one decimal.
fn idle_share(cluster: &Cluster) -> Result<String, String> {
    let ticks = || -> Option<u64> { (0..cluster.len()).map(|node| cpu_ticks(cluster.pid(node)?)).sum() };
    sleep(SETTLE);
    let before = ticks().ok_or("a node does not run")?;
    sleep(IDLE);
    let used = ticks().ok_or("a node does not run")? - before;
    // Linux counts 100 ticks a second.
    Ok(format!("{:.1} %", used as f64 / IDLE.as_secs_f64()))
}

/// User and system time of a process.
fn cpu_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(number(11)? + number(12)?)
}

fn resident_mib(pid: Option<u32>) -> u64 {
    let read = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()
    };
    read().unwrap_or(0) / 1024
}
