//! Waiting until other regions hold what was written (`geo.acks`).

use std::time::Duration;

use meridian_types::ShardId;
use thiserror::Error;

use crate::region::Region;

/// Too few other regions hold what was written. It is in this region's log, and may yet come to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{held} other regions hold it, {wanted} are wanted")]
pub struct HeldByTooFew {
    /// Regions that hold it.
    pub held: usize,
    /// Regions that were wanted.
    pub wanted: usize,
}

impl Region {
    /// How many other regions are heard: no more can hold what is written now.
    pub fn regions_heard(&self) -> usize {
        let Some(mirror) = self.inner.mirror() else {
            return 0;
        };
        let remote = mirror.remote();
        let heard = remote
            .regions()
            .filter(|region| region.heard.elapsed() < super::HEARD_WITHIN);
        heard.count()
    }

    /// Waits until `wanted` other regions hold, on a quorum, everything that a shard led here has applied now
    /// (invariant 2).
    pub async fn held_by_regions(
        &self,
        shard: ShardId,
        wanted: usize,
        timeout: Duration,
    ) -> Result<(), HeldByTooFew> {
        let nobody = HeldByTooFew { held: 0, wanted };
        let mirror = self.inner.mirror().ok_or(nobody)?;
        let mut changes = mirror.acks.changes();
        let sequence = self.applied_state(shard).standing().sequence();
        let is_held = async {
            while mirror.acks.count(shard, sequence) < wanted {
                // Its sender lives as long as the region.
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(timeout, is_held).await;
        match mirror.acks.count(shard, sequence) {
            held if held < wanted => Err(HeldByTooFew { held, wanted }),
            _ => Ok(()),
        }
    }
}
