//! The clients: in every region a producer and a consumer, each of another library, and probes of every partition. Each
//! client is told of the nodes of its own region only, once, and never again.

use std::time::{Duration, Instant};

use meridian_checker::{History, Report, check};
use meridian_cluster::{Cluster, Prober, view};
use meridian_compat::process::wait_for;
use meridian_compat::{Load, LoadOptions, Program};

use crate::regions::Regions;

/// What everybody writes to.
pub const TOPIC: &str = "orders";

/// Its partitions.
pub const PARTITIONS: u32 = 6;

/// The group whose offsets are committed all the time.
pub const GROUP: &str = "orders-group";

/// How often each partition is probed: how exactly a pause is known.
const PROBE_INTERVAL: Duration = Duration::from_millis(25);

/// How long everybody may take to be served again.
pub const RECOVERY: Duration = Duration::from_secs(60);

/// Producers of one region are counted from its number times this.
const PRODUCERS: u32 = 100;

/// Who writes in a region, and, one further, who reads there.
const PROGRAMS: [Program; 3] = [Program::Franz, Program::Confluent, Program::Java];

/// For so long nobody is given anything before the last readers start: until then those before them have read all, and
/// nodes that have just started know the replicas of all regions: cards come every second.
const SETTLED: Duration = Duration::from_secs(3);

/// How long the readers may take to have read all once nobody writes.
const READ: Duration = Duration::from_secs(90);

/// The share of what is read in a region that must come from there. The rest are fetches at leaders before these have
/// pointed the consumer to a replica in its rack.
const NEAR_MIN: f64 = 0.9;

/// Clients that run.
pub struct Clients {
    loads: Vec<Load>,
    prober: Prober,
    bootstraps: Vec<String>,
}

/// Why the clients cannot run here, if they cannot.
pub fn missing() -> Option<String> {
    PROGRAMS.into_iter().find_map(Program::missing)
}

impl Clients {
    /// Creates the topic, starts everybody, and waits until all are served.
    ///
    /// `records_per_second`: of each producer. Errors: a client is not set up, or not served.
    pub fn start(regions: &Regions, records_per_second: u32) -> Result<Self, String> {
        let bootstraps: Vec<String> = regions.clusters.iter().map(|c| c.bootstrap()).collect();
        let mut loads = Vec::new();
        for (region, cluster) in regions.clusters.iter().enumerate() {
            let rack = Some(regions.name(region).to_owned());
            let options = LoadOptions {
                topic: TOPIC.to_owned(),
                partitions: PARTITIONS,
                replicas: u16::try_from(cluster.len().min(3)).expect("few nodes"),
                producers: 2,
                records_per_second,
                writers: vec![PROGRAMS[region % PROGRAMS.len()]],
                readers: vec![(PROGRAMS[(region + 1) % PROGRAMS.len()], rack.clone())],
                final_racks: vec![rack],
            };
            let first = PRODUCERS * u32::try_from(region).expect("few regions");
            let place = regions.enter(region);
            let load = Load::start_at(&place, first, &bootstraps[region], cluster.directory(), options);
            loads.push(load.map_err(|e| format!("{}: {e}", regions.name(region)))?);
        }
        let prober = Prober::start(&regions.kafka_addresses(), TOPIC, PARTITIONS, PROBE_INTERVAL);
        let mut clients = Self {
            loads,
            prober,
            bootstraps,
        };
        clients.served(Instant::now())?;
        Ok(clients)
    }

    /// Waits until every producer, and a probe of every partition sent after `since`, is served.
    ///
    /// Errors: somebody is not for [`RECOVERY`], with what the probe was told; a client gave up.
    pub fn served(&mut self, since: Instant) -> Result<(), String> {
        let progress: Vec<Vec<u64>> = self.loads.iter().map(Load::progress).collect();
        wait_for(RECOVERY, || self.prober.all_served_after(since).then_some(())).ok_or_else(|| {
            format!(
                "a partition is not served {RECOVERY:?} later\n{}",
                self.prober.explain(since)
            )
        })?;
        for (load, progress) in self.loads.iter_mut().zip(&progress) {
            load.wait_progress(progress, RECOVERY)?;
        }
        Ok(())
    }

    /// Records that the readers of each region have noted.
    pub fn noted(&self) -> Vec<usize> {
        self.loads.iter().map(Load::noted).collect()
    }

    /// Of each partition, the longest time without an acknowledged write that ended after `since`.
    pub fn pauses(&self, since: Instant) -> Vec<Duration> {
        self.prober.silences(since)
    }

    /// What the partition with the longest pause was told since then.
    pub fn explain(&self, since: Instant) -> String {
        self.prober.explain(since)
    }

    /// Stops the producers everywhere, lets every region read the whole log in its own rack, and compares.
    ///
    /// Errors: something acknowledged is lost, doubled or moved; a client was told what it does not try again; what is
    /// read in a region comes from elsewhere.
    pub fn finish(mut self, regions: &Regions) -> Result<Report, String> {
        let final_errors = self.prober.final_errors();
        let probes = self.prober.finish();
        for load in &mut self.loads {
            load.stop_sending()?;
        }
        wait_quiet(regions)?;
        let mut history = History::default();
        history.add("probes", probes);
        for (region, (load, bootstrap)) in self.loads.into_iter().zip(&self.bootstraps).enumerate() {
            let before = fetched(regions)?;
            history.clients.extend(load.finish(bootstrap)?.clients);
            let given: Vec<f64> = fetched(regions)?
                .iter()
                .zip(&before)
                .map(|(a, b)| a - b)
                .collect();
            if given[region] < NEAR_MIN * given.iter().sum::<f64>() {
                return Err(format!(
                    "what was read in {} came from all regions, in bytes: {given:?}",
                    regions.name(region)
                ));
            }
        }
        let report = check(&history);
        match report.is_sound() && final_errors.is_empty() {
            true => Ok(report),
            false => Err(format!(
                "{report}\nerrors that clients do not retry: {final_errors:?}"
            )),
        }
    }
}

/// Waits until nobody has been given anything for a while: a reader that is behind would be taken for one that reads
/// in another region.
fn wait_quiet(regions: &Regions) -> Result<(), String> {
    let mut last = Err("it was not asked".to_owned());
    wait_for(READ, || {
        let before = fetched(regions);
        std::thread::sleep(SETTLED);
        last = fetched(regions);
        (before.is_ok() && before == last).then_some(())
    })
    .ok_or_else(|| format!("readers have not read all {READ:?} after the last write; bytes so far: {last:?}"))
}

/// Bytes of record batches that each region has given to consumers so far.
pub(crate) fn fetched(regions: &Regions) -> Result<Vec<f64>, String> {
    let of_node = |cluster: &Cluster, node: usize| {
        let text = cluster
            .metrics(node)
            .ok_or_else(|| format!("node {} gives no metrics", node + 1))?;
        Ok(view::metric(&text, "meridian_fetch_bytes_total").unwrap_or(0.0))
    };
    let of_region = |cluster: &Cluster| (0..cluster.len()).map(|node| of_node(cluster, node)).sum();
    regions.clusters.iter().map(of_region).collect()
}
