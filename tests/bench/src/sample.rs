//! What one workload on one system in one block found, and the numbers of it.

use serde::Serialize;

use crate::generator::outcome::Outcome;
use crate::system::System;
use crate::workload::Workload;

/// One workload on one system in one block.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Number of the block, from 1.
    pub block: u32,
    /// Which system.
    pub system: System,
    /// Which workload.
    pub workload: Workload,
    /// Share of all cores that neither servers nor client used but others did, steal included.
    pub outside_share: f64,
    /// What was measured.
    #[serde(flatten)]
    pub found: Found,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Found {
    /// Of a client that writes or reads.
    Load {
        /// What the client saw.
        outcome: Outcome,
        /// 10^6 record bytes per second within the window.
        mb_per_s: f64,
        /// CPU seconds of all server processes per 10^9 record bytes, the client's warm-up included.
        server_cpu_s_per_gb: f64,
        /// The same of the client.
        client_cpu_s_per_gb: f64,
    },
    /// Of servers that nobody asks anything.
    Idle {
        /// CPU time of all server processes, in percent of one core.
        core_percent: f64,
    },
}

/// A number of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Record bytes per second.
    MbPerS,
    /// CPU of the servers.
    CpuSPerGb,
    /// Median latency.
    P50Ms,
    /// 99th percentile.
    P99Ms,
    /// 99.9th percentile.
    P999Ms,
    /// CPU of idle servers.
    CorePercent,
}

impl Metric {
    /// All, in the order of the tables.
    pub const ALL: [Self; 6] = [
        Self::MbPerS,
        Self::CpuSPerGb,
        Self::P50Ms,
        Self::P99Ms,
        Self::P999Ms,
        Self::CorePercent,
    ];

    /// What stands in the tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::MbPerS => "MB/s",
            Self::CpuSPerGb => "server CPU s/GB",
            Self::P50Ms => "p50 ms",
            Self::P99Ms => "p99 ms",
            Self::P999Ms => "p99.9 ms",
            Self::CorePercent => "% of a core",
        }
    }

    /// Whether more is better.
    pub fn is_to_be_high(self) -> bool {
        self == Self::MbPerS
    }

    /// Its value, where the sample has one.
    pub fn of(self, sample: &Sample) -> Option<f64> {
        match &sample.found {
            Found::Load {
                outcome,
                mb_per_s,
                server_cpu_s_per_gb,
                ..
            } => match self {
                Self::MbPerS => Some(*mb_per_s),
                Self::CpuSPerGb => Some(*server_cpu_s_per_gb),
                Self::P50Ms => outcome.p50_ms,
                Self::P99Ms => outcome.p99_ms,
                Self::P999Ms => outcome.p999_ms,
                Self::CorePercent => None,
            },
            Found::Idle { core_percent } => (self == Self::CorePercent).then_some(*core_percent),
        }
    }
}
