//! How long a partition is not served when its leader is killed, and whether leaders stay where nothing is wrong.

use std::fmt;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use meridian_compat::load::create_topic;
use meridian_compat::process::wait_for;
use meridian_compat::{Process, Random, workspace};

use crate::cluster::Cluster;
use crate::prober::Prober;
use crate::rounds::RunError;
use crate::system::{ClusterOptions, System};

/// The topic that is probed: as many partitions as a region has shards, so that every shard has one.
const TOPIC: &str = "failover";
const PARTITIONS: u32 = 16;
const PROBE_INTERVAL: Duration = Duration::from_millis(10);

/// How long a partition may stay without service before the run is given up.
const GIVE_UP: Duration = Duration::from_secs(60);

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// For each partition whose leader was killed: from the kill to the acknowledgement of a write sent after it. Sorted.
    pub times: Vec<Duration>,
    /// The longest of each kill, in their order.
    pub worst_per_kill: Vec<Duration>,
    /// The longest silence of a partition whose leader was not killed.
    pub worst_of_others: Duration,
    /// Changes of leaders under full load without any fault.
    pub false_elections: u32,
    /// How long that load lasted.
    pub calm: Duration,
    /// What the load generator printed.
    pub load: String,
}

impl Outcome {
    /// The time that a share of the partitions did not exceed.
    pub fn percentile(&self, share: f64) -> Duration {
        let rank = (share * self.times.len() as f64).ceil() as usize;
        let index = rank.clamp(1, self.times.len().max(1)) - 1;
        self.times.get(index).copied().unwrap_or_default()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_millis();
        writeln!(
            f,
            "failover: {} kills, {} partitions: p50 {} ms, p99 {} ms, max {} ms; partitions led elsewhere: {} ms at most",
            self.worst_per_kill.len(),
            self.times.len(),
            ms(self.percentile(0.5)),
            ms(self.percentile(0.99)),
            ms(self.percentile(1.0)),
            ms(self.worst_of_others)
        )?;
        let worst: Vec<u128> = self.worst_per_kill.iter().copied().map(ms).collect();
        writeln!(f, "  longest of each kill, ms: {worst:?}")?;
        write!(
            f,
            "elections without a fault: {} in {} s of full load\n{}",
            self.false_elections,
            self.calm.as_secs(),
            self.load
        )
    }
}

/// Counts elections under load for `calm_s` seconds, then kills leaders `rounds` times.
pub fn run(cluster: &ClusterOptions, rounds: u32, calm_s: u64) -> Result<Outcome, RunError> {
    let mut cluster = Cluster::start("cluster-failover", cluster).map_err(RunError::CannotRun)?;
    let mut outcome = Outcome::default();
    let result = measure(&mut cluster, rounds, Duration::from_secs(calm_s), &mut outcome);
    result.map_err(|e| RunError::DoesNotHold(format!("{e}\n{}\n{outcome}", cluster.log_tails(20))))?;
    if outcome.false_elections > 0 {
        return Err(RunError::DoesNotHold(outcome.to_string()));
    }
    Ok(outcome)
}

fn measure(cluster: &mut Cluster, rounds: u32, calm: Duration, outcome: &mut Outcome) -> Result<(), String> {
    let replicas = u16::try_from(cluster.len().min(3)).expect("few nodes");
    create_topic(&cluster.bootstrap(), TOPIC, PARTITIONS, replicas)?;
    let prober = Prober::start(&cluster.kafka_addresses(), TOPIC, PARTITIONS, PROBE_INTERVAL);
    let now = Instant::now();
    wait_for(GIVE_UP, || prober.all_served_after(now).then_some(()))
        .ok_or("not every partition is served at the start")?;
    if !calm.is_zero() {
        // Leaders spread over the nodes first; that is no false election.
        settled_leaders(cluster)?;
        count_elections(cluster, calm, outcome)?;
    }
    let mut random = Random::seeded(1);
    for round in 1..=rounds {
        settled_leaders(cluster)?;
        // Not in step with the beats.
        sleep(Duration::from_millis(random.within(0..300)));
        let leaders = leaders(cluster).ok_or("no leaders before a kill")?;
        let led = |node: usize| leaders.iter().filter(|(leader, _)| *leader == node).count();
        let candidates: Vec<usize> = (0..cluster.len()).filter(|node| led(*node) > 0).collect();
        let victim = candidates[random.within(0..candidates.len() as u64) as usize];
        let killed = Instant::now();
        cluster.kill(victim);
        let mut worst = Duration::ZERO;
        for (partition, (leader, _)) in leaders.iter().enumerate() {
            let served = wait_for(GIVE_UP, || prober.served_after(partition, killed)).ok_or_else(|| {
                format!("kill {round}: partition {partition} is not served after {GIVE_UP:?}")
            })?;
            if *leader == victim {
                outcome.times.push(served);
                worst = served.max(worst);
            } else {
                outcome.worst_of_others = served.max(outcome.worst_of_others);
            }
        }
        outcome.worst_per_kill.push(worst);
        println!(
            "kill {round}: node {} led {} partitions, served again within {} ms",
            victim + 1,
            led(victim),
            worst.as_millis()
        );
        cluster.launch(victim)?;
        cluster.wait_ready(victim)?;
    }
    outcome.times.sort_unstable();
    drop(prober.finish());
    Ok(())
}

/// Leader (by place) and leader epoch of each partition, once they have stayed the same for 2 s.
fn settled_leaders(cluster: &Cluster) -> Result<Vec<(usize, i32)>, String> {
    let mut last = Vec::new();
    let mut since = Instant::now();
    wait_for(GIVE_UP, || {
        let now = leaders(cluster)?;
        if now != last {
            last = now;
            since = Instant::now();
        }
        sleep(Duration::from_millis(100));
        (since.elapsed() > Duration::from_secs(2)).then(|| last.clone())
    })
    .ok_or_else(|| format!("leaders still change after {GIVE_UP:?}"))
}

fn leaders(cluster: &Cluster) -> Option<Vec<(usize, i32)>> {
    let metadata = cluster.metadata(TOPIC)?;
    if !metadata.has_leaders(PARTITIONS as usize) {
        return None;
    }
    let place = |leader: i32| usize::try_from(leader - 1).ok();
    metadata
        .partitions
        .iter()
        .map(|p| Some((place(p.leader)?, p.leader_epoch)))
        .collect()
}

/// As much as the cluster takes, while nothing is wrong: every change of a leader epoch is a false election.
fn count_elections(cluster: &Cluster, calm: Duration, outcome: &mut Outcome) -> Result<(), String> {
    if cluster.system() == System::Kafka {
        return Ok(());
    }
    let before = leaders(cluster).ok_or("no leaders before the load")?;
    let binary = workspace::meridian_binary()?;
    let out = cluster.directory().join("bench.out");
    let mut command = Command::new(binary);
    command
        .args([
            "bench",
            "produce",
            "--prepared",
            "--partitions",
            "16",
            "--size",
            "1024",
        ])
        // What is written at full speed must not stay.
        .args(["--config", "retention.bytes=67108864"])
        .args(["--duration", &format!("{}s", calm.as_secs())])
        .args(["--server", &cluster.kafka_addresses()[0].to_string()]);
    let mut bench = Process::start("bench", command, &out, &cluster.directory().join("bench.log"));
    let status = bench.wait(calm + Duration::from_secs(60));
    if !status.is_some_and(|status| status.success()) {
        return Err(format!("the load ended with {status:?}: {}", bench.log_tail(20)));
    }
    let after = leaders(cluster).ok_or("no leaders after the load")?;
    outcome.load = std::fs::read_to_string(out).unwrap_or_default();
    outcome.calm = calm;
    // A leader epoch rises with each election, seen or not.
    let rises = before
        .iter()
        .zip(&after)
        .map(|((_, before), (_, after))| after.abs_diff(*before));
    outcome.false_elections = rises.sum();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_time_that_was_measured() {
        let times = (1..=100).map(Duration::from_millis).collect();
        let outcome = Outcome {
            times,
            ..Outcome::default()
        };
        let ms = |share| outcome.percentile(share).as_millis();
        assert_eq!([ms(0.0), ms(0.5), ms(0.99), ms(1.0)], [1, 50, 99, 100]);
        assert_eq!(Outcome::default().percentile(0.5), Duration::ZERO);
    }
}
