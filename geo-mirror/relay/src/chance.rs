//! Seeded randomness, and what it decides.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::conditions::Loss;

/// A share from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Probability(f64);

/// The text or number is no share.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("expected a share such as 0.1% or 0.001, from 0 to 1")]
pub struct ProbabilityError;

impl Probability {
    /// It never happens.
    pub const NEVER: Self = Self(0.0);
    /// It always happens.
    pub const ALWAYS: Self = Self(1.0);

    /// A share; `None` outside of 0 to 1.
    pub fn new(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then_some(Self(share))
    }

    /// The share, from 0 to 1.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// `0.1%` or `0.001`.
impl FromStr for Probability {
    type Err = ProbabilityError;

    fn from_str(text: &str) -> Result<Self, ProbabilityError> {
        let (number, unit) = match text.strip_suffix('%') {
            Some(number) => (number, 100.0),
            None => (text, 1.0),
        };
        let number: f64 = number.trim().parse().map_err(|_| ProbabilityError)?;
        Self::new(number / unit).ok_or(ProbabilityError)
    }
}

impl fmt::Display for Probability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0 * 100.0)
    }
}

/// The dice of one direction. Equal seeds throw the same, in every version: SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub(crate) struct Chance {
    state: u64,
    is_in_burst: bool,
}

impl Chance {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self {
            state: seed,
            is_in_burst: false,
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn happens(&mut self, probability: Probability) -> bool {
        probability.0 > 0.0 && self.share() < probability.0
    }

    /// Whether the next packet is lost: each for itself, or in bursts by the two states of Gilbert (1960).
    pub(crate) fn is_lost(&mut self, loss: Loss) -> bool {
        let share = loss.share.0;
        if loss.burst_packets <= 1 || share >= 1.0 {
            self.is_in_burst = false;
            return self.happens(loss.share);
        }
        let ends = 1.0 / f64::from(loss.burst_packets);
        let begins = share * ends / (1.0 - share);
        let turns = if self.is_in_burst { ends } else { begins };
        if self.share() < turns {
            self.is_in_burst = !self.is_in_burst;
        }
        self.is_in_burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(share: f64, burst_packets: u32) -> Loss {
        Loss {
            share: Probability::new(share).expect("a share"),
            burst_packets,
        }
    }

    /// The share of lost packets, and how many are lost in a row on average.
    fn observe(loss: Loss) -> (f64, f64) {
        let mut chance = Chance::seeded(11);
        let (mut lost, mut bursts, mut was_lost) = (0_u32, 0_u32, false);
        let packets = 400_000;
        for _ in 0..packets {
            let is_lost = chance.is_lost(loss);
            lost += u32::from(is_lost);
            bursts += u32::from(is_lost && !was_lost);
            was_lost = is_lost;
        }
        (
            f64::from(lost) / f64::from(packets),
            f64::from(lost) / f64::from(bursts.max(1)),
        )
    }

    #[test]
    fn independent_loss_has_its_share_and_comes_alone() {
        let (share, burst) = observe(loss(0.01, 1));
        assert!((0.009..0.011).contains(&share), "{share}");
        assert!(burst < 1.05, "{burst}");
    }

    #[test]
    fn burst_loss_has_its_share_and_comes_in_bursts() {
        let (share, burst) = observe(loss(0.01, 8));
        assert!((0.008..0.012).contains(&share), "{share}");
        assert!((7.0..9.0).contains(&burst), "{burst}");
    }

    #[test]
    fn never_and_always_are_exact() {
        assert_eq!(observe(loss(0.0, 8)).0, 0.0);
        assert_eq!(observe(loss(1.0, 8)).0, 1.0);
        assert_eq!(observe(loss(1.0, 1)).0, 1.0);
    }

    #[test]
    fn shares_are_read_with_and_without_percent() {
        assert_eq!("0.1%".parse(), Ok(Probability(0.001)));
        assert_eq!("0.25".parse(), Ok(Probability(0.25)));
        for wrong in ["", "%", "2", "101%", "-1%", "nan", "x"] {
            assert!(wrong.parse::<Probability>().is_err(), "{wrong}");
        }
    }
}
