//! What goes wrong, and when: a plan that follows from the seed alone.

use std::fmt;
use std::time::Duration;

use meridian_types::RegionNumber;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::node::Place;

/// One change of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process of a node ends; started again after a while.
    Kill {
        /// The node.
        node: u32,
    },
    /// The power of these nodes goes at once; it comes back after a while.
    PowerCut {
        /// The nodes.
        nodes: Vec<u32>,
    },
    /// Nothing passes between two nodes, in one direction or both.
    Cut {
        /// From here,
        from: u32,
        /// to there,
        to: u32,
        /// and back.
        both: bool,
    },
    /// Nothing passes between two regions, in one direction or both.
    CutRegions {
        /// From here,
        from: u16,
        /// to there,
        to: u16,
        /// and back.
        both: bool,
    },
    /// A node is cut off from all others.
    Isolate {
        /// The node.
        node: u32,
    },
    /// Nothing reaches a node; what it sends still gets to the others.
    Deaf {
        /// The node.
        node: u32,
    },
    /// Every message is lost with this probability, in a thousand.
    Loss {
        /// Of a thousand messages.
        permille: u32,
    },
    /// Messages take up to so long.
    Latency {
        /// The most.
        millis: u64,
    },
    /// The journal's rounds of a node take so much longer.
    SlowDisk {
        /// The node.
        node: u32,
        /// For each round.
        millis: u64,
    },
    /// A node's disk takes no more.
    FullDisk {
        /// The node.
        node: u32,
    },
    /// A node's wall clock jumps.
    ClockJump {
        /// The node.
        node: u32,
        /// By so much.
        millis: i64,
    },
    /// Bits rot in the journal of the one node whose disk is bad in this run; it is restarted at once.
    BitRot {
        /// The node.
        node: u32,
        /// Where, as a share of all its bytes in a million.
        at_millionths: u64,
    },
    /// The `nth` changing call from now on of a node's journal disk fails, or loses the power half way.
    DiskError {
        /// The node.
        node: u32,
        /// Counted from now.
        nth: u64,
        /// A torn write and a power cut, rather than an error.
        torn: bool,
    },
    /// No fault: all others are over.
    Calm,
    /// The bucket answers no request well.
    Outage,
    /// Of a thousand requests to the bucket so many fail, lose their answer, come late, cut short or with a wrong bit.
    BucketErrors {
        /// Of a thousand requests.
        permille: u64,
    },
    /// Every request to the bucket takes so much longer.
    SlowBucket {
        /// For each request.
        millis: u64,
    },
    /// The bucket keeps the next bundles otherwise than they were sent, and says nothing.
    Spoil {
        /// How many.
        bundles: u32,
        /// Cut short, rather than with a wrong bit.
        truncated: bool,
    },
}

impl Fault {
    /// Whether it concerns the bucket alone.
    pub fn is_of_bucket(&self) -> bool {
        matches!(
            self,
            Self::Outage | Self::BucketErrors { .. } | Self::SlowBucket { .. } | Self::Spoil { .. }
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A fault with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When it begins, since the workload's start.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// What it is.
    pub fault: Fault,
}

impl Planned {
    /// The same later and for longer, by a factor.
    pub fn stretched(self, factor: u32) -> Self {
        Self {
            at: self.at * factor,
            lasts: self.lasts * factor,
            fault: self.fault,
        }
    }
}

/// The faults of a run, by time. Most come one at a time, some over one another.
pub fn plan(seed: u64, nodes: u32, length: Duration) -> Vec<Planned> {
    let mut random = StdRng::seed_from_u64(seed ^ 0x000f_a017);
    let mut at = Duration::from_millis(random.random_range(1_000..4_000));
    let mut plan = Vec::new();
    let rotten = u32::try_from(seed % u64::from(nodes)).unwrap_or(0) + 1;
    while at < length.saturating_sub(Duration::from_secs(3)) {
        let mut lasts = Duration::from_millis(random.random_range(300..6_000));
        if nodes == 3 && random.random_range(0..10) == 0 {
            plan.extend(betrayal(&mut random, rotten, at));
            at += BETRAYAL + Duration::from_millis(random.random_range(500..4_000));
            continue;
        }
        let fault = choose(&mut random, nodes, rotten);
        // Now and then a node is away for so long that the log goes on without it.
        if matches!(fault, Fault::Kill { .. } | Fault::Isolate { .. }) && random.random_range(0..4) == 0 {
            lasts += Duration::from_millis(random.random_range(6_000..14_000));
        }
        plan.push(Planned { at, lasts, fault });
        let overlaps = random.random_bool(0.25);
        let pause = random.random_range(500..4_000);
        at += Duration::from_millis(pause) + if overlaps { Duration::ZERO } else { lasts };
    }
    plan
}

/// The faults of a run with several regions, by time: nodes and their disks fail as in one, links between regions are cut,
/// and whole regions lose their power.
pub fn plan_of_regions(seed: u64, regions: u16, nodes: u32, length: Duration) -> Vec<Planned> {
    let mut random = StdRng::seed_from_u64(seed ^ 0x9e0_fa017);
    let mut at = Duration::from_millis(random.random_range(3_000..8_000));
    let mut plan = Vec::new();
    let all = u32::from(regions) * nodes;
    let rotten = u32::try_from(seed % u64::from(all)).unwrap_or(0) + 1;
    while at < length.saturating_sub(Duration::from_secs(3)) {
        let lasts = Duration::from_millis(random.random_range(300..8_000));
        let from = random.random_range(0..regions);
        let to = (from + random.random_range(1..regions)) % regions;
        let fault = match random.random_range(0..10) {
            0..=2 => Fault::CutRegions {
                from,
                to,
                both: random.random_bool(0.6),
            },
            3 => Fault::PowerCut {
                nodes: Place::nodes_of(RegionNumber(from), nodes).collect(),
            },
            _ => match choose(&mut random, all, rotten) {
                // A region of one node has no other copy that is sure to hold the same.
                Fault::BitRot { node, .. } if nodes < 3 => Fault::Kill { node },
                fault => fault,
            },
        };
        plan.push(Planned { at, lasts, fault });
        let overlaps = random.random_bool(0.3);
        let pause = random.random_range(500..4_000);
        at += Duration::from_millis(pause) + if overlaps { Duration::ZERO } else { lasts };
    }
    plan
}

/// How long a betrayal takes.
const BETRAYAL: Duration = Duration::from_secs(6);

/// What is acknowledged while the second node is away is on the first and the rotten one only. Then the first goes, and
/// the rotten one starts again on what is left of its log: should it vote as if it were whole, the second leads.
fn betrayal(random: &mut StdRng, rotten: u32, at: Duration) -> [Planned; 3] {
    let (first, second) = (rotten % 3 + 1, (rotten + 1) % 3 + 1);
    let change = at + Duration::from_secs(2);
    let kill = |node, at, until: Duration| Planned {
        at,
        lasts: until - at,
        fault: Fault::Kill { node },
    };
    let rots = Planned {
        at: change,
        lasts: Duration::ZERO,
        fault: Fault::BitRot {
            node: rotten,
            // In the newest file.
            at_millionths: random.random_range(0..500_000) * 2 + 1,
        },
    };
    [kill(second, at, change), kill(first, change, at + BETRAYAL), rots]
}

fn choose(random: &mut StdRng, nodes: u32, rotten: u32) -> Fault {
    let node = random.random_range(1..=nodes);
    let other = (node + random.random_range(1..nodes.max(2)) - 1) % nodes + 1;
    match random.random_range(0..20) {
        0..=2 => Fault::Kill { node },
        3 => Fault::PowerCut { nodes: vec![node] },
        4 => Fault::PowerCut {
            nodes: (1..=nodes).collect(),
        },
        5 => Fault::Cut {
            from: node,
            to: other,
            both: true,
        },
        6 => Fault::Cut {
            from: node,
            to: other,
            both: false,
        },
        7 | 8 => Fault::Isolate { node },
        9 => Fault::Loss {
            permille: random.random_range(5..60),
        },
        10 => Fault::Latency {
            millis: random.random_range(20..400),
        },
        11 => Fault::SlowDisk {
            node,
            millis: random.random_range(5..200),
        },
        12 => Fault::FullDisk { node },
        13 => Fault::ClockJump {
            node,
            millis: random.random_range(-3_600_000..3_600_000),
        },
        16 | 17 => Fault::BitRot {
            node: rotten,
            at_millionths: random.random_range(0..1_000_000),
        },
        18 | 19 => Fault::Deaf { node },
        14 => Fault::DiskError {
            node,
            nth: random.random_range(0..60),
            torn: true,
        },
        _ => Fault::DiskError {
            node,
            nth: random.random_range(0..60),
            torn: false,
        },
    }
}

/// What follows in a run with a bucket: calm, and then an outage in which nothing else goes wrong.
pub const CODA: Duration = Duration::from_secs(18);
const CODA_OUTAGE_AT: Duration = Duration::from_secs(6);
const CODA_OUTAGE: Duration = Duration::from_secs(10);

/// The longest outage of the bucket, in milliseconds; a run that is stretched has longer ones.
const OUTAGE_MAX_MS: u64 = 15_000;

/// The faults of a run whose region has a bucket, by time: those of [`plan`] and the bucket's own, some of them with a node
/// that goes away in the middle of what it does there. [`CODA`] comes after the run's length.
pub fn plan_with_bucket(seed: u64, nodes: u32, length: Duration) -> Vec<Planned> {
    let mut plan = plan(seed, nodes, length);
    let mut random = StdRng::seed_from_u64(seed ^ 0xb0c_4e7);
    let mut at = Duration::from_millis(random.random_range(2_000..6_000));
    while at < length.saturating_sub(Duration::from_secs(3)) {
        let mut lasts = Duration::from_millis(random.random_range(1_000..8_000));
        let node = random.random_range(1..=nodes);
        let fault = match random.random_range(0..10) {
            0..=2 => {
                lasts = Duration::from_millis(random.random_range(2_000..OUTAGE_MAX_MS));
                Fault::Outage
            }
            3..=4 => Fault::BucketErrors {
                permille: random.random_range(50..500),
            },
            5..=7 => {
                // A round takes four requests: whoever goes now goes in the middle of one.
                let goes_at = at + lasts.mul_f64(random.random_range(0.2..0.8));
                let fault = match random.random_range(0..4) {
                    0 => Fault::Isolate { node },
                    _ => Fault::Kill { node },
                };
                plan.push(Planned {
                    at: goes_at,
                    lasts: Duration::from_millis(random.random_range(300..6_000)),
                    fault,
                });
                Fault::SlowBucket {
                    millis: random.random_range(100..2_500),
                }
            }
            _ => Fault::Spoil {
                bundles: random.random_range(1..6),
                truncated: random.random_bool(0.5),
            },
        };
        plan.push(Planned { at, lasts, fault });
        at += lasts + Duration::from_millis(random.random_range(500..6_000));
    }
    plan.retain(|planned| planned.at < length);
    plan.sort_by_key(|planned| planned.at);
    let coda = [
        (Duration::ZERO, Duration::ZERO, Fault::Calm),
        (CODA_OUTAGE_AT, CODA_OUTAGE, Fault::Outage),
    ];
    plan.extend(coda.map(|(at, lasts, fault)| Planned {
        at: length + at,
        lasts,
        fault,
    }));
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_plan_and_every_kind_of_fault_comes_up() {
        let length = Duration::from_secs(60);
        assert_eq!(plan(7, 3, length), plan(7, 3, length));
        let mut kinds: Vec<_> = (0..100)
            .flat_map(|seed| plan(seed, 3, length))
            .map(|planned| std::mem::discriminant(&planned.fault))
            .collect();
        kinds.dedup();
        let mut different = Vec::new();
        for kind in kinds {
            if !different.contains(&kind) {
                different.push(kind);
            }
        }
        assert_eq!(different.len(), 12);
    }

    #[test]
    fn a_bucket_adds_faults_and_changes_none() {
        let length = Duration::from_secs(60);
        for seed in 0..50 {
            let all = plan_with_bucket(seed, 3, length);
            assert!(all.is_sorted_by_key(|planned| planned.at));
            assert!(all.iter().any(|planned| planned.fault.is_of_bucket()));
            let mut rest = all.iter();
            for planned in plan(seed, 3, length) {
                assert!(rest.any(|other| *other == planned), "seed {seed}: {planned:?}");
            }
        }
    }

    #[test]
    fn nobody_is_cut_off_from_itself() {
        let length = Duration::from_secs(60);
        for seed in 0..200 {
            let of_regions = plan_of_regions(seed, 3, 1, length);
            assert!(of_regions.len() > 5);
            for planned in plan(seed, 3, length).into_iter().chain(of_regions) {
                match planned.fault {
                    Fault::Cut { from, to, .. } => assert!(from != to && (1..=3).contains(&to)),
                    Fault::CutRegions { from, to, .. } => assert!(from != to && to < 3),
                    _ => {}
                }
            }
        }
    }
}
