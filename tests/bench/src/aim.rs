//! What Meridian with fsync is to reach.

use crate::sample::Metric;
use crate::system::System;
use crate::workload::Workload;

/// One number to reach: throughput at least, all else at most.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    /// Of which number.
    pub metric: Metric,
    /// What it is held against.
    pub against: Against,
    /// The ratio, or the number itself.
    pub value: f64,
}

/// What a number is held against.
#[derive(Clone, Copy, Debug)]
pub enum Against {
    /// The same workload on another system.
    System(System),
    /// Another workload on the same system.
    Workload(Workload),
    /// Nothing: the value counts as it is.
    Nothing,
}

impl Aim {
    /// Whether `found` reaches it.
    pub fn is_met_by(&self, found: f64) -> bool {
        if self.metric.is_to_be_high() {
            found >= self.value
        } else {
            found <= self.value
        }
    }
}

/// The aims of a workload on so many nodes.
pub fn aims(workload: Workload, nodes: usize) -> Vec<Aim> {
    use Metric::{CorePercent, CpuSPerGb, MbPerS, P99Ms};
    let to = |metric, system, value| Aim {
        metric,
        against: Against::System(system),
        value,
    };
    let of_prepared16 = Aim {
        metric: MbPerS,
        against: Against::Workload(Workload::Prepared16),
        value: 0.85,
    };
    let (k0, k1) = (System::K0, System::K1);
    match (workload, nodes) {
        (Workload::Rdkafka, 1) => vec![to(MbPerS, k0, 1.3), to(MbPerS, k1, 4.0), to(CpuSPerGb, k0, 0.35)],
        (Workload::Prepared16, 1) => vec![to(MbPerS, k0, 2.0)],
        (Workload::Prepared1000, 1) => vec![to(MbPerS, k0, 2.0), of_prepared16],
        (Workload::Consume | Workload::JavaConsume, 1) => vec![to(MbPerS, k0, 1.5)],
        (Workload::Paced | Workload::JavaPaced, _) => vec![to(P99Ms, k0, 0.25)],
        (Workload::Rdkafka, _) => vec![to(MbPerS, k0, 2.5), to(MbPerS, k1, 7.0), to(CpuSPerGb, k0, 0.25)],
        (Workload::Rdkafka1m, 2..) => vec![to(MbPerS, k0, 2.0), to(CpuSPerGb, k0, 0.35)],
        (Workload::Prepared1000, _) => vec![of_prepared16],
        (Workload::Idle, 2..) => vec![Aim {
            metric: CorePercent,
            against: Against::Nothing,
            value: 2.0,
        }],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throughput_is_to_be_at_least_the_aim_and_all_else_at_most() {
        let of = |workload| aims(workload, 3)[0];
        let throughput = of(Workload::Rdkafka);
        assert!(throughput.is_met_by(2.5) && !throughput.is_met_by(2.4));
        let idle = of(Workload::Idle);
        assert!(idle.is_met_by(2.0) && !idle.is_met_by(2.1));
    }
}
