//! What has become of what passed.

use std::time::Duration;

/// What has become of what came into one direction of a link, since the beginning.
///
/// Every packet that came or was duplicated is delivered, dropped, or still held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that came: datagrams, and pieces of connections' bytes.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Packets handed on.
    pub delivered_packets: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Datagrams lost by chance.
    pub lost_packets: u64,
    /// Datagrams that found no room before the bottleneck.
    pub queue_full_packets: u64,
    /// Datagrams that met a cut.
    pub cut_packets: u64,
    /// Datagrams that were doubled.
    pub duplicated_packets: u64,
    /// Datagrams that were held back.
    pub reordered_packets: u64,
    /// Datagrams that the socket on the way out refused; the target was not there, for instance. Counted as delivered too.
    pub refused_packets: u64,
    /// Time that delivered packets were held, together: measured when they are handed on.
    pub held_total: Duration,
    /// The longest time that one was held.
    pub held_max: Duration,
}

impl Counters {
    /// How long delivered packets were really held on average; `None` before the first.
    pub fn held_mean(&self) -> Option<Duration> {
        let packets = self.delivered_packets;
        (packets > 0).then(|| Duration::from_secs_f64(self.held_total.as_secs_f64() / packets as f64))
    }
}
