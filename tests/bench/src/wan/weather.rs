//! What the WAN does to packets.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use meridian_wan_relay::{Conditions, Direction, Link, Loss, Probability};
use serde::Serialize;

/// How long the bottleneck's queue may be: a router with more delays everybody, one with less drops bursts.
const QUEUE: Duration = Duration::from_millis(50);

/// What the WAN does to packets, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Weather {
    /// Milliseconds there and back.
    pub rtt_ms: u64,
    /// Percent of the packets that get lost.
    pub loss_percent: f64,
    /// What it carries, in MB/s, headers of the network layer included.
    pub rate_mb: f64,
}

impl Weather {
    /// Makes it so on `link`. Errors: no such loss.
    pub fn set(self, link: &Link) -> Result<(), String> {
        let share = Probability::new(self.loss_percent / 100.0)
            .ok_or_else(|| format!("no share of packets: {} %", self.loss_percent))?;
        let bytes_per_second = (self.rate_mb * 1e6) as u64;
        let conditions = Conditions {
            delay: Duration::from_micros(self.rtt_ms * 500),
            loss: Loss {
                share,
                burst_packets: 1,
            },
            rate_bytes_per_second: NonZeroU64::new(bytes_per_second),
            queue_bytes_max: (self.rate_mb * 1e6 * QUEUE.as_secs_f64()) as usize,
            ..Conditions::default()
        };
        link.set(Direction::Forward, conditions);
        link.set(Direction::Backward, conditions);
        Ok(())
    }
}

impl fmt::Display for Weather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ms, {} % lost, {} MB/s",
            self.rtt_ms, self.loss_percent, self.rate_mb
        )
    }
}
