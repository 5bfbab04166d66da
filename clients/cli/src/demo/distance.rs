//! How far the regions of the demo are from one another.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::parse::parse_duration;

/// The regions that a demo can have, in this order.
pub(super) const REGION_NAMES: [&str; 6] = ["us", "eu", "ap", "sa", "af", "me"];

/// Round trips between them in milliseconds, about as between Virginia, Frankfurt, Singapore, São Paulo, Cape Town
/// and Bahrain.
const ROUND_TRIPS_MS: [[u64; 6]; 6] = [
    [0, 80, 220, 115, 225, 180],
    [80, 0, 160, 200, 155, 90],
    [220, 160, 0, 320, 250, 90],
    [115, 200, 320, 0, 340, 290],
    [225, 155, 250, 340, 0, 240],
    [180, 90, 90, 290, 240, 0],
];

/// The round trip between regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Latency {
    /// As between continents.
    UsEuAp,
    /// The same between all.
    Equal(Duration),
}

impl Latency {
    /// The round trip between two regions, by their numbers.
    pub(super) fn round_trip(self, one: usize, other: usize) -> Duration {
        match self {
            Self::Equal(_) if one == other => Duration::ZERO,
            Self::Equal(round_trip) => round_trip,
            Self::UsEuAp => Duration::from_millis(ROUND_TRIPS_MS[one][other]),
        }
    }
}

impl FromStr for Latency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "us-eu-ap" => Ok(Self::UsEuAp),
            "none" => Ok(Self::Equal(Duration::ZERO)),
            time => match parse_duration(time) {
                Ok(round_trip) if round_trip <= Duration::from_secs(10) => Ok(Self::Equal(round_trip)),
                _ => Err("expected us-eu-ap, none, or a round trip of up to 10s, such as 80ms".to_owned()),
            },
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UsEuAp => f.write_str("us-eu-ap"),
            Self::Equal(Duration::ZERO) => f.write_str("none"),
            Self::Equal(round_trip) => write!(f, "{round_trip:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_as_long_as_the_way_back() {
        for one in 0..REGION_NAMES.len() {
            for other in 0..REGION_NAMES.len() {
                let there = Latency::UsEuAp.round_trip(one, other);
                assert_eq!(there, Latency::UsEuAp.round_trip(other, one));
                assert_eq!(there.is_zero(), one == other);
            }
        }
    }

    #[test]
    fn a_latency_is_a_name_or_a_time() {
        let equal = |ms| Ok(Latency::Equal(Duration::from_millis(ms)));
        assert_eq!("us-eu-ap".parse(), Ok(Latency::UsEuAp));
        assert_eq!("none".parse(), equal(0));
        assert_eq!("80ms".parse(), equal(80));
        for wrong in ["", "80", "11s", "far"] {
            let error = wrong.parse::<Latency>().expect_err("refused");
            assert!(error.contains("80ms"), "{error}");
        }
    }
}
