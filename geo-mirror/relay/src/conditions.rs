//! What one direction of a link does to what passes.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::chance::Probability;

/// What one direction of a link does to what passes. By default nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    /// How long everything is under way, one way.
    pub delay: Duration,
    /// How much longer it may be under way, evenly spread. Does not change the order.
    pub jitter: Duration,
    /// Datagrams that get lost behind the bottleneck.
    pub loss: Loss,
    /// Datagrams that arrive twice.
    pub duplicate: Probability,
    /// Datagrams that others overtake.
    pub reorder: Reorder,
    /// The bottleneck, in bytes of payload per second; `None` for none.
    pub rate_bytes_per_second: Option<NonZeroU64>,
    /// What may wait before the bottleneck; a datagram that finds no room is dropped.
    pub queue_bytes_max: usize,
    /// Nothing passes. What was under way is lost, or for connections waits.
    pub is_cut: bool,
}

/// Random loss.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// The share of datagrams that get lost.
    pub share: Probability,
    /// How many get lost in a row, on average; 0 and 1: each for itself.
    pub burst_packets: u32,
}

/// Random changes of the order.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reorder {
    /// The share of datagrams that are held back.
    pub share: Probability,
    /// For how long.
    pub by: Duration,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Loss::default(),
            duplicate: Probability::NEVER,
            reorder: Reorder::default(),
            rate_bytes_per_second: None,
            queue_bytes_max: 4 << 20,
            is_cut: false,
        }
    }
}

impl Conditions {
    /// Only a delay, one way.
    pub fn delayed(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }

    /// How long the bottleneck is busy with so many bytes.
    pub(crate) fn sending_time(&self, bytes: usize) -> Duration {
        let Some(rate) = self.rate_bytes_per_second else {
            return Duration::ZERO;
        };
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(rate.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}
