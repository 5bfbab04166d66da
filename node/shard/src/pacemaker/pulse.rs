//! When this node beats, and what it says.

use std::time::Duration;

use meridian_types::Uuid;

use super::beat::{Beat, HostedShard};
use super::group::Surroundings;

#[derive(Debug)]
pub(super) struct Pulse {
    incarnation: Uuid,
    start_id: u64,
    address: String,
    sequence: u64,
    /// The last beat, in lived time.
    last: Option<Duration>,
    /// The next beat, in lived time.
    next: Duration,
    /// The shards as the last beat showed them.
    told: Vec<HostedShard>,
}

impl Pulse {
    pub(super) fn new(now: Duration, incarnation: Uuid, start_id: u64, address: String) -> Self {
        Self {
            incarnation,
            start_id,
            address,
            sequence: 0,
            last: None,
            next: now,
            told: Vec::new(),
        }
    }

    /// Returns whether that is new.
    pub(super) fn set_address(&mut self, address: String) -> bool {
        let is_new = self.address != address;
        self.address = address;
        is_new
    }

    /// There is news: the next beat is not to wait for its time.
    pub(super) fn hurry(&mut self, around: &Surroundings) {
        let now = around.clock.lived();
        let soon = self.last.map_or(now, |last| last + around.timing.news_interval);
        self.next = self.next.min(now.max(soon));
    }

    /// When to ask for the next beat, in lived time.
    pub(super) fn next(&self) -> Duration {
        self.next
    }

    /// A beat that shows `shards`, where one is due or they are news.
    pub(super) fn beat(
        &mut self,
        around: &Surroundings,
        shards: impl Iterator<Item = HostedShard> + Clone,
    ) -> Option<Beat> {
        let told = self.told.iter().map(HostedShard::gist);
        if !told.eq(shards.clone().map(|hosted| hosted.gist())) {
            self.hurry(around);
        }
        let now = around.clock.lived();
        if now < self.next {
            return None;
        }
        self.sequence += 1;
        self.last = Some(now);
        self.next = now + around.timing.beat_interval;
        self.told = shards.collect();
        Some(Beat {
            node: around.node,
            incarnation: self.incarnation,
            start_id: self.start_id,
            sequence: self.sequence,
            phase: around.phase,
            address: self.address.clone(),
            shards: self.told.clone(),
        })
    }
}
