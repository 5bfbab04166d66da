//! What is measured of the tier, and what it is to reach.

use serde::Serialize;

use crate::statistics::{Estimate, estimate};

/// A number, once for each block.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Of what.
    pub what: What,
    /// By block.
    pub values: Vec<f64>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// 64 producers as fast as they can, without a bucket.
    ProduceOff,
    /// The same with one.
    ProduceOn,
    /// Latency at a rate, without a bucket.
    PacedP99Off,
    /// The same with one.
    PacedP99On,
    /// The same with one, right after a burst, while that goes there.
    PacedP99Behind,
    /// What waited for the bucket, by how long that took it: the rate that producers can keep up for ever.
    Taken,
    /// Objects written for each GB of records.
    PutsPerGb,
    /// Objects, ranges and lengths read.
    GetsPerGb,
    /// Listings.
    ListsPerGb,
    /// Bytes written.
    PutMbPerGb,
    /// Bytes read back.
    GetMbPerGb,
    /// How much of the history was in the bucket alone.
    ColdShare,
    /// One reader of what is in memory.
    Hot,
    /// One reader of the history.
    CatchUp,
    /// From the time a record is due until a consumer has it.
    TailP99Alone,
    /// The same while nothing else is asked of the node, but as many threads compute as there are processors.
    TailP99Busy,
    /// The same while four readers catch up.
    TailP99Beside,
    /// To Arrow, one processor.
    ReplayLz4,
    /// To Arrow, one processor.
    ReplayZstd,
}

impl What {
    /// For people.
    pub fn label(self) -> &'static str {
        match self {
            Self::ProduceOff => "produce, without a bucket",
            Self::ProduceOn => "produce, tiering",
            Self::PacedP99Off => "paced p99, without a bucket",
            Self::PacedP99On => "paced p99, tiering",
            Self::PacedP99Behind => "paced p99, tiering, right behind a burst",
            Self::Taken => "taken by the bucket, nothing else going on",
            Self::PutsPerGb => "objects put per GB tiered",
            Self::GetsPerGb => "reads (get, head) per GB tiered",
            Self::ListsPerGb => "listings per GB tiered",
            Self::PutMbPerGb => "bytes put per GB tiered",
            Self::GetMbPerGb => "bytes read back per GB tiered",
            Self::ColdShare => "history that only the bucket has",
            Self::Hot => "consume from memory",
            Self::CatchUp => "consume from the bucket",
            Self::TailP99Alone => "tail end to end p99, alone",
            Self::TailP99Busy => "tail end to end p99, beside threads that compute",
            Self::TailP99Beside => "tail end to end p99, beside 4 that catch up",
            Self::ReplayLz4 => "replay to Arrow per core, lz4",
            Self::ReplayZstd => "replay to Arrow per core, zstd",
        }
    }

    /// Of its values.
    pub fn unit(self) -> &'static str {
        match self {
            Self::ProduceOff | Self::ProduceOn | Self::Taken | Self::Hot | Self::CatchUp => "MB/s",
            Self::PacedP99Off
            | Self::PacedP99On
            | Self::PacedP99Behind
            | Self::TailP99Alone
            | Self::TailP99Busy
            | Self::TailP99Beside => "ms",
            Self::PutsPerGb | Self::GetsPerGb | Self::ListsPerGb => "requests",
            Self::PutMbPerGb | Self::GetMbPerGb => "MB",
            Self::ColdShare => "%",
            Self::ReplayLz4 | Self::ReplayZstd => "GB/s",
        }
    }
}

/// A number to reach.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aim {
    /// Of what.
    pub(super) of: What,
    /// Held against this, block by block; or counted as it is.
    pub(super) against: Option<What>,
    /// At least so much, or at most.
    pub(super) is_least: bool,
    /// The ratio, or the number.
    pub(super) value: f64,
}

/// What tiering is to reach.
pub(super) const AIMS: [Aim; 7] = [
    Aim {
        of: What::ProduceOn,
        against: Some(What::ProduceOff),
        is_least: true,
        value: 0.9,
    },
    Aim {
        of: What::PacedP99On,
        against: Some(What::PacedP99Off),
        is_least: false,
        value: 1.2,
    },
    Aim {
        of: What::CatchUp,
        against: Some(What::Hot),
        is_least: true,
        value: 0.6,
    },
    Aim {
        of: What::CatchUp,
        against: None,
        is_least: true,
        value: 500.0,
    },
    Aim {
        of: What::TailP99Beside,
        against: Some(What::TailP99Alone),
        is_least: false,
        value: 1.5,
    },
    Aim {
        of: What::ReplayLz4,
        against: None,
        is_least: true,
        value: 1.0,
    },
    Aim {
        of: What::ReplayZstd,
        against: None,
        is_least: true,
        value: 0.6,
    },
];

impl Aim {
    /// The number that counts, with its interval.
    pub(super) fn found(&self, figures: &[Figure]) -> Option<Estimate> {
        let values = |what: What| {
            let figure = figures.iter().find(|figure| figure.what == what);
            figure.map(|figure| &figure.values[..])
        };
        let of = values(self.of)?;
        let Some(against) = self.against else {
            return estimate(of);
        };
        let ratios: Vec<f64> = of
            .iter()
            .zip(values(against)?)
            .filter(|(_, against)| **against > 0.0)
            .map(|(of, against)| of / against)
            .collect();
        estimate(&ratios)
    }

    /// Whether a number reaches it.
    pub(super) fn is_met_by(&self, found: f64) -> bool {
        if self.is_least {
            found >= self.value
        } else {
            found <= self.value
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_made_block_by_block() {
        let figure = |what, values: &[f64]| Figure {
            what,
            values: values.to_vec(),
        };
        let figures = [
            figure(What::ProduceOff, &[100.0, 200.0, 50.0]),
            figure(What::ProduceOn, &[95.0, 190.0, 40.0]),
            figure(What::CatchUp, &[400.0]),
        ];
        let found = AIMS[0].found(&figures).unwrap().median;
        assert!((found - 0.95).abs() < 1e-9 && AIMS[0].is_met_by(found));
        assert!(AIMS[1].found(&figures).is_none(), "nothing was measured");
        assert!(
            AIMS[2].found(&figures).is_none(),
            "there is nothing to hold it against"
        );
        assert!(!AIMS[3].is_met_by(AIMS[3].found(&figures).unwrap().median));
        assert!(AIMS[1].is_met_by(1.2) && !AIMS[1].is_met_by(1.3));
    }
}
