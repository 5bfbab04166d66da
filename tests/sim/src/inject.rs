//! Brings the planned faults about in a running simulation, and takes them back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meridian_journal::Fault as DiskFault;
use turmoil::Sim;

use crate::bucket::{SimBucket, Spoil};
use crate::faults::{Fault, Planned};
use crate::node::{Node, host};
use crate::tier;
use crate::world::World;

/// Brings the plan's faults about, and takes them back.
pub(crate) struct Faults<'a> {
    world: &'a World,
    plan: std::iter::Peekable<std::slice::Iter<'a, Planned>>,
    /// What ends when.
    ends: Vec<(Duration, Fault)>,
    /// How many came.
    pub(crate) begun: usize,
    healed: bool,
    verbose: bool,
    outage: Option<Outage>,
    /// Outages in which nothing else went wrong.
    pub(crate) calm_outages: u64,
}

/// An outage of the bucket that goes on.
struct Outage {
    since: Duration,
    /// What was acknowledged before.
    acknowledged: u64,
    /// Nothing else has gone wrong meanwhile.
    is_calm: bool,
}

/// After so long without another fault the region is led everywhere, and has something for the bucket.
const CALM: Duration = Duration::from_secs(8);

impl<'a> Faults<'a> {
    pub(crate) fn new(world: &'a World, plan: &'a [Planned], verbose: bool) -> Self {
        Self {
            world,
            plan: plan.iter().peekable(),
            ends: Vec::new(),
            begun: 0,
            healed: false,
            verbose,
            outage: None,
            calm_outages: 0,
        }
    }

    /// What is due `since` the clients began.
    pub(crate) fn step(&mut self, sim: &mut Sim<'_>, since: Duration, now: Duration) {
        let over: Vec<_> = self.ends.extract_if(.., |(end, _)| *end <= since).collect();
        for (_, fault) in over {
            self.tell(now, "ends", &fault);
            if fault == Fault::Outage {
                self.end_outage(now);
            }
            self.end(sim, &fault);
        }
        while let Some(planned) = self.plan.next_if(|planned| planned.at <= since) {
            self.tell(now, "begins", &planned.fault);
            if planned.fault == Fault::Calm {
                self.end_all(sim);
                continue;
            }
            if planned.fault == Fault::Outage {
                self.outage = Some(Outage {
                    since: now,
                    acknowledged: self.world.acknowledged.get(),
                    is_calm: self.ends.iter().all(|(_, fault)| fault.is_of_bucket()),
                });
            } else if let Some(outage) = &mut self.outage {
                outage.is_calm &= planned.fault.is_of_bucket();
            }
            self.begin(sim, &planned.fault);
            self.begun += 1;
            self.ends
                .push((planned.at + planned.lasts, planned.fault.clone()));
        }
        self.restart_stopped(sim);
    }

    /// Ends everything.
    pub(crate) fn heal(&mut self, sim: &mut Sim<'_>) {
        if !self.healed {
            self.healed = true;
            self.end_all(sim);
        }
        self.restart_stopped(sim);
    }

    /// While the bucket is away and nothing else is wrong, produce goes on, and the lag is shown.
    fn end_outage(&mut self, now: Duration) {
        let Some(outage) = self.outage.take() else { return };
        let lasted = now.saturating_sub(outage.since);
        if !outage.is_calm || lasted < CALM {
            return;
        }
        self.calm_outages += 1;
        if self.world.acknowledged.get() == outage.acknowledged {
            self.world.complain(format!(
                "nothing was acknowledged in {lasted:?} in which the bucket was away"
            ));
        }
        if tier::waiting_bytes(self.world) == 0 {
            self.world.complain(format!(
                "no lag is shown after {lasted:?} in which the bucket was away"
            ));
        }
    }

    fn bucket(&self) -> &SimBucket {
        self.world
            .bucket
            .as_ref()
            .expect("its faults are planned only where there is one")
    }

    fn tell(&self, now: Duration, what: &str, fault: &Fault) {
        if self.verbose {
            println!("{:8.3} s  {what}: {fault}", now.as_secs_f64());
        }
    }

    fn node(&self, node: u32) -> &Arc<Node> {
        &self.world.nodes[node as usize - 1]
    }

    /// A node whose journal has failed is restarted, as its supervisor would.
    fn restart_stopped(&mut self, sim: &mut Sim<'_>) {
        for node in &self.world.nodes {
            let failed = node
                .region()
                .is_some_and(|region| region.usage().journal.poisoned.is_some());
            if failed && sim.is_host_running(node.host.as_str()) {
                node.kill();
                sim.crash(node.host.as_str());
                sim.bounce(node.host.as_str());
            }
        }
    }

    /// Everything that goes on is over.
    fn end_all(&mut self, sim: &mut Sim<'_>) {
        self.outage = None;
        for (_, fault) in std::mem::take(&mut self.ends) {
            self.end(sim, &fault);
        }
        sim.set_fail_rate(0.0);
        sim.set_max_message_latency(Duration::from_millis(4));
    }

    fn begin(&self, sim: &mut Sim<'_>, fault: &Fault) {
        match fault {
            Fault::Kill { node } => {
                self.node(*node).kill();
                sim.crash(host(*node));
            }
            Fault::PowerCut { nodes } => {
                for node in nodes {
                    self.node(*node).power_cut();
                    sim.crash(host(*node));
                }
            }
            Fault::Cut { from, to, both: true } => sim.partition(host(*from), host(*to)),
            Fault::Cut {
                from,
                to,
                both: false,
            } => sim.partition_oneway(host(*from), host(*to)),
            Fault::CutRegions { from, to, both } => self.between(*from, *to, |from, to| match both {
                true => sim.partition(from, to),
                false => sim.partition_oneway(from, to),
            }),
            Fault::Isolate { node } => self.others(*node, |other| sim.partition(host(*node), other)),
            Fault::Deaf { node } => self.others(*node, |other| sim.partition_oneway(other, host(*node))),
            Fault::Loss { permille } => sim.set_fail_rate(f64::from(*permille) / 1000.0),
            Fault::Latency { millis } => sim.set_max_message_latency(Duration::from_millis(*millis)),
            Fault::SlowDisk { node, millis } => {
                self.node(*node).disk_delay_ms.store(*millis, Ordering::Relaxed);
            }
            Fault::FullDisk { node } => {
                self.node(*node).journal.set_capacity(0);
                self.node(*node).checkpoints.set_capacity(0);
            }
            Fault::ClockJump { node, millis } => {
                self.node(*node)
                    .clock_offset_ms
                    .fetch_add(*millis, Ordering::Relaxed);
            }
            Fault::BitRot { node, at_millionths } => {
                self.node(*node).kill();
                sim.crash(host(*node));
                self.node(*node).rot(*at_millionths);
                self.start(sim, *node);
            }
            Fault::DiskError { node, nth, torn } => {
                let fault = if *torn {
                    DiskFault::PowerCut
                } else {
                    DiskFault::Error
                };
                self.node(*node).journal.plan(*nth, fault);
            }
            Fault::Calm => {}
            Fault::Outage => self.bucket().faults.outage(true),
            Fault::BucketErrors { permille } => self.bucket().faults.at_random(*permille, *permille),
            Fault::SlowBucket { millis } => self.bucket().ledger.set_delay(Duration::from_millis(*millis)),
            Fault::Spoil { bundles, truncated } => {
                let spoil = if *truncated {
                    Spoil::Truncate
                } else {
                    Spoil::FlipBit
                };
                (0..*bundles).for_each(|_| self.bucket().ledger.spoil_next(spoil));
            }
        }
    }

    fn end(&self, sim: &mut Sim<'_>, fault: &Fault) {
        match fault {
            Fault::Kill { node } => self.start(sim, *node),
            Fault::PowerCut { nodes } => nodes.iter().for_each(|node| self.start(sim, *node)),
            Fault::Cut { from, to, both: true } => sim.repair(host(*from), host(*to)),
            Fault::Cut {
                from,
                to,
                both: false,
            } => sim.repair_oneway(host(*from), host(*to)),
            Fault::CutRegions { from, to, both } => self.between(*from, *to, |from, to| match both {
                true => sim.repair(from, to),
                false => sim.repair_oneway(from, to),
            }),
            Fault::Isolate { node } => self.others(*node, |other| sim.repair(host(*node), other)),
            Fault::Deaf { node } => self.others(*node, |other| sim.repair_oneway(other, host(*node))),
            Fault::Loss { .. } => sim.set_fail_rate(0.0),
            Fault::Latency { .. } => sim.set_max_message_latency(Duration::from_millis(4)),
            Fault::SlowDisk { node, .. } => self.node(*node).disk_delay_ms.store(0, Ordering::Relaxed),
            Fault::FullDisk { node } => {
                self.node(*node).journal.set_capacity(u64::MAX);
                self.node(*node).checkpoints.set_capacity(u64::MAX);
            }
            Fault::ClockJump { .. } | Fault::BitRot { .. } => {}
            Fault::DiskError { node, .. } => {
                // Its disk is as good as new after the restart.
                self.node(*node).kill();
                sim.crash(host(*node));
                self.start(sim, *node);
            }
            Fault::Calm => {}
            Fault::Outage => self.bucket().faults.outage(false),
            Fault::BucketErrors { .. } => self.bucket().faults.at_random(0, 0),
            Fault::SlowBucket { .. } => self.bucket().ledger.set_delay(Duration::ZERO),
            Fault::Spoil { .. } => self.bucket().ledger.spare(),
        }
    }

    /// Every pair of nodes of two regions.
    fn between(&self, from: u16, to: u16, mut each: impl FnMut(String, String)) {
        let of = |region: u16| {
            let nodes = self.world.nodes.iter();
            nodes.filter(move |node| node.place.region.0 == region)
        };
        for here in of(from) {
            of(to).for_each(|there| each(here.host.clone(), there.host.clone()));
        }
    }

    fn others(&self, node: u32, mut each: impl FnMut(String)) {
        for other in &self.world.nodes {
            if other.place.index != node {
                each(other.host.clone());
            }
        }
    }

    fn start(&self, sim: &mut Sim<'_>, node: u32) {
        if !sim.is_host_running(host(node)) {
            sim.bounce(host(node));
        }
    }
}
