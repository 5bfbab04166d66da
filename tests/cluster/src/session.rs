//! Load, probes and a verdict around whatever happens to a cluster: each step ends with everybody served.

use std::time::{Duration, Instant};

use meridian_checker::{Report, check};
use meridian_compat::process::wait_for;
use meridian_compat::{Load, LoadOptions, Program};

use crate::cluster::Cluster;
use crate::prober::Prober;
use crate::rounds::{PROBE_INTERVAL, RECOVERY};
use crate::watcher::Watcher;

/// What a step took, and what it cost.
#[derive(Clone, Debug)]
pub struct Step {
    /// What was done.
    pub name: String,
    /// From its begin until everybody was served after it.
    pub took: Duration,
    /// The longest time that a partition was not served.
    pub silence: Duration,
}

/// Clients that run while things happen.
pub struct Session {
    load: Load,
    prober: Prober,
    watcher: Watcher,
    begun: Instant,
    /// So far.
    pub steps: Vec<Step>,
}

/// The topic that the clients of a session use.
pub fn load(topic: &str, partitions: u32, replicas: u16, racks: &[String]) -> LoadOptions {
    let programs = [Program::Franz, Program::Confluent, Program::Java];
    LoadOptions {
        topic: topic.to_owned(),
        partitions,
        replicas,
        producers: 2,
        records_per_second: 200,
        writers: programs.to_vec(),
        readers: programs
            .iter()
            .enumerate()
            // The first reads from leaders, the others from the rack of some node.
            .map(|(index, program)| (*program, (index > 0).then(|| racks.get(index).cloned()).flatten()))
            .collect(),
        final_racks: racks.iter().take(3).cloned().map(Some).collect(),
    }
}

impl Session {
    /// Starts the clients, and waits until all are served.
    pub fn start(cluster: &Cluster, options: LoadOptions) -> Result<Self, String> {
        let (topic, partitions) = (options.topic.clone(), options.partitions);
        let mut load = Load::start(&cluster.bootstrap(), cluster.directory(), options)?;
        let prober = Prober::start(&cluster.kafka_addresses(), &topic, partitions, PROBE_INTERVAL);
        let watcher = Watcher::start(cluster, &topic, partitions);
        load.wait_progress(&load.progress(), RECOVERY)?;
        Ok(Self {
            load,
            prober,
            watcher,
            begun: Instant::now(),
            steps: Vec::new(),
        })
    }

    /// To be called after each step: waits until every partition and every producer is served.
    ///
    /// Errors: somebody is not for a minute; with what the clients were told.
    pub fn served(&mut self, name: &str) -> Result<(), String> {
        let named = |e: String| format!("{name}: {e}");
        let (progress, now) = (self.load.progress(), Instant::now());
        wait_for(RECOVERY, || self.prober.all_served_after(now).then_some(())).ok_or_else(|| {
            let told = self.prober.explain(self.begun);
            named(format!("a partition is not served {RECOVERY:?} later\n{told}"))
        })?;
        self.load.wait_progress(&progress, RECOVERY).map_err(named)?;
        let step = Step {
            name: name.to_owned(),
            took: self.begun.elapsed(),
            silence: self.prober.longest_silence(self.begun),
        };
        println!(
            "{name}: {:.1} s, a partition was not served for {} ms at most",
            step.took.as_secs_f64(),
            step.silence.as_millis()
        );
        self.steps.push(step);
        self.begun = Instant::now();
        Ok(())
    }

    /// For how long nobody has been served on any partition.
    pub fn quiet_for(&self) -> Duration {
        self.prober.quiet_for()
    }

    /// What the probes were told since the last step: lines for people.
    pub fn told(&self) -> String {
        self.prober.explain(self.begun)
    }

    /// Stops the clients, reads everything, and compares. Errors: something is wrong.
    pub fn finish(self, cluster: &Cluster) -> Result<(Report, Vec<Step>), String> {
        let final_errors = self.prober.final_errors();
        let probes = self.prober.finish();
        let shown = self.watcher.finish().findings;
        let mut history = self.load.finish(&cluster.bootstrap())?;
        history.add("probes", probes);
        let report = check(&history);
        if report.is_sound() && final_errors.is_empty() && shown.is_empty() {
            return Ok((report, self.steps));
        }
        Err(format!(
            "{report}\nerrors that clients do not retry: {final_errors:?}\nreplicas showed: {shown:#?}"
        ))
    }
}
