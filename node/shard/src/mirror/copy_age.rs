//! How old the copies of a log are that consumers may read, here and in other regions.

use std::time::Duration;

use meridian_types::{NodeId, RegionNumber, ShardId};
use tokio::time::Instant;

use super::HEARD_WITHIN;
use crate::region::Region;

/// How long ago this node's copy of a log had everything of the owner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyAge {
    /// This region owns, or the shard is its own: there is nothing newer.
    Own,
    /// At most so long ago.
    Known(Duration),
    /// This node of the region takes the log in, and knows.
    KnownTo(NodeId),
    /// Nobody can tell: nothing was heard of the owner since this node takes the log in, or no node does.
    Unknown,
}

impl Region {
    /// How old the copy of a shard is that is read here.
    pub fn copy_age(&self, shard: ShardId) -> CopyAge {
        let inner = &self.inner;
        if !self.controller().is_owned_elsewhere() || inner.shard_map().is_home(shard) {
            return CopyAge::Own;
        }
        let log = inner.shard(shard);
        if log.led().is_none() {
            let leader = self.leader_of(shard).filter(|leader| *leader != inner.node());
            return leader.map_or(CopyAge::Unknown, CopyAge::KnownTo);
        }
        let sequence = log.applied_state().standing().sequence();
        let age = inner
            .mirror()
            .and_then(|mirror| mirror.follows.age(Instant::now(), shard, sequence));
        age.map_or(CopyAge::Unknown, CopyAge::Known)
    }

    /// How long ago another region had everything of a shard that this node leads, by what it has acknowledged; so it is
    /// counted a way back longer than the region itself counts. `None` where that is not known, or the region is not heard.
    pub fn mirror_age(&self, shard: ShardId, region: RegionNumber) -> Option<Duration> {
        let mirror = self.inner.mirror()?;
        self.inner.shard(shard).leading()?;
        let remote = mirror.remote();
        // Where nothing is written a region that is cut off has acknowledged everything for ever.
        let is_heard = remote.region(region)?.heard.elapsed() < HEARD_WITHIN;
        is_heard.then(|| mirror.acks.age(Instant::now(), shard, region))?
    }
}
