//! What the tier does on this node, in figures.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meridian_tiered_storage::cold::ColdStats;
use meridian_tiered_storage::manifest::Totals;
use meridian_tiered_storage::store::StoreStats;
use meridian_types::{ShardId, TimestampMs};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::owner::BucketStanding;
use super::pace::Pace;

/// Figures of this node's use of the bucket.
#[derive(Clone, Debug)]
pub struct TierUsage {
    /// How the region stands to its bucket, as this node knows.
    pub standing: BucketStanding,
    /// Requests to the store.
    pub store: StoreStats,
    /// Reads for fetches.
    pub cold: ColdStats,
    /// Rounds that brought a bundle into the bucket.
    pub rounds: u64,
    /// Rounds that failed; they are tried again.
    pub rounds_failed: u64,
    /// Bytes of batches that they brought there.
    pub tiered_bytes: u64,
    /// Merges of small extents into a new object.
    pub merges: u64,
    /// Passes of compaction over a partition.
    pub compactions: u64,
    /// Steps of merges and compaction that failed; they are tried again.
    pub rewrites_failed: u64,
    /// Bytes that merges and compaction read from the bucket.
    pub rewrite_read_bytes: u64,
    /// Bytes of the objects that they brought there.
    pub rewrite_written_bytes: u64,
    /// Objects deleted.
    pub deleted: u64,
    /// Of those, objects that no manifest ever named.
    pub orphans_deleted: u64,
    /// What went wrong last.
    pub last_failure: Option<TierFailure>,
    /// Each shard that this node leads.
    pub shards: Vec<ShardTierUsage>,
}

/// Something that the bucket did not do, and that is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierFailure {
    /// What, and why.
    pub reason: String,
    /// When, by the node's clock.
    pub at: TimestampMs,
}

/// Figures of a shard that this node leads.
#[derive(Clone, Debug)]
pub struct ShardTierUsage {
    /// The shard.
    pub shard: ShardId,
    /// Bytes that wait for the bucket, about.
    pub waiting_bytes: u64,
    /// How long the oldest of them has waited under this leadership.
    pub waiting_for: Duration,
    /// What is committed to lie in the bucket.
    pub totals: Totals,
}

#[derive(Default)]
pub(crate) struct TierStats {
    pub(super) rounds: AtomicU64,
    pub(super) rounds_failed: AtomicU64,
    pub(super) tiered_bytes: AtomicU64,
    pub(super) merges: AtomicU64,
    pub(super) compactions: AtomicU64,
    pub(super) rewrites_failed: AtomicU64,
    pub(super) rewrite_read_bytes: AtomicU64,
    pub(super) rewrite_written_bytes: AtomicU64,
    pub(super) deleted: AtomicU64,
    pub(super) orphans_deleted: AtomicU64,
    last_failure: Mutex<Option<TierFailure>>,
    /// Of each shard that this node leads, as it was last looked at.
    paces: Mutex<BTreeMap<ShardId, Pace>>,
}

impl TierStats {
    /// Something went wrong, for the operator who asks.
    pub(super) fn note_failure(&self, reason: String, at: TimestampMs) {
        *self.last_failure.lock() = Some(TierFailure { reason, at });
    }

    /// Each shard that this node leads, as it was last looked at.
    pub(super) fn paces(&self) -> BTreeMap<ShardId, Pace> {
        self.paces.lock().clone()
    }

    /// How far a shard is, or that this node does not lead it.
    pub(super) fn set_pace(&self, shard: ShardId, pace: Option<Pace>) {
        let mut paces = self.paces.lock();
        match pace {
            Some(pace) => {
                paces.insert(shard, pace);
            }
            None => {
                paces.remove(&shard);
            }
        }
    }
}

pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl super::Tier {
    /// All figures. `look` tells of a shard how many bytes of commands were applied here, and what its manifest holds.
    pub(crate) fn usage(&self, look: impl Fn(ShardId) -> (u64, Totals)) -> TierUsage {
        let now = Instant::now();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let paces = self.stats.paces();
        let shard = |(shard, pace): (ShardId, Pace)| {
            let (applied_bytes, totals) = look(shard);
            ShardTierUsage {
                shard,
                waiting_bytes: pace.waiting_bytes(applied_bytes),
                waiting_for: pace.waiting_for(now),
                totals,
            }
        };
        TierUsage {
            standing: self.ownership.standing(),
            store: self.store.stats(),
            cold: self.reader.stats(),
            rounds: read(&self.stats.rounds),
            rounds_failed: read(&self.stats.rounds_failed),
            tiered_bytes: read(&self.stats.tiered_bytes),
            merges: read(&self.stats.merges),
            compactions: read(&self.stats.compactions),
            rewrites_failed: read(&self.stats.rewrites_failed),
            rewrite_read_bytes: read(&self.stats.rewrite_read_bytes),
            rewrite_written_bytes: read(&self.stats.rewrite_written_bytes),
            deleted: read(&self.stats.deleted),
            orphans_deleted: read(&self.stats.orphans_deleted),
            last_failure: self.stats.last_failure.lock().clone(),
            shards: paces.into_iter().map(shard).collect(),
        }
    }
}
