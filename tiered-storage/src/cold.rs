//! Reading what lies in the bucket, for fetches: one [`ColdReader`] per node.
//!
//! - A frame is fetched once however many ask for it at the same time ([`flight`]), by a task of its own: a caller
//!   that gives up does not throw the fill away, and finds it in the cache when it asks again.
//! - Who reads on gets more read ahead of it, 1 MiB at first and twice as much each time up to 16 MiB, across extents
//!   and objects ([`readahead`]).
//! - Bytes on their way are bounded for the whole node. Readahead never waits for them: it goes without.
//! - Frames stay in memory, and if wanted on a local disk, each under its own budget ([`cache`]).
//! - Frames are unpacked by threads that stand behind those that answer clients ([`unpack`]).
//! - Every frame's checksum is compared before any of its bytes are used. One that does not fit is fetched once more: it
//!   may have been damaged on its way.

use bytes::Bytes;
use meridian_types::{LeaderEpoch, Offset, Partition, ShardId, TimestampMs};

use crate::manifest::{Extent, Manifest, Object};

mod cache;
mod error;
mod flight;
mod frames;
mod readahead;
mod reader;
mod seek;
mod stats;
#[cfg(test)]
mod tests;

pub use cache::{CacheSettings, DiskCache, OpenCacheError};
pub use error::ColdError;
pub use reader::ColdReader;
pub use stats::ColdStats;

pub(crate) use frames::{check_directory, frames_of};

/// How much is read ahead at most, in bytes before compression by frames.
pub const COLD_READAHEAD_BYTES: u64 = 16 << 20;

/// Most runs that [`cold_runs`] returns.
const RUNS_MAX: usize = 64;

/// Where a run of a partition's offsets lies in the bucket: an extent with its object.
#[derive(Clone, Debug, PartialEq)]
pub struct ColdRun {
    /// Key of the object, below the bucket's prefix.
    pub key: String,
    /// The object.
    pub object: Object,
    /// The extent.
    pub extent: Extent,
}

/// Where a record was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundRecord {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: TimestampMs,
    /// Epoch of the leader that appended it.
    pub leader_epoch: Option<LeaderEpoch>,
}

/// Whole batches of one partition, in a row.
pub(crate) type BatchRow = Vec<Bytes>;

/// The runs of `partition` from the one that holds `from`, or the first behind it, until they hold `bytes` before
/// compression by frames: at least one if there is any, and at most 64.
pub fn cold_runs(
    manifest: &Manifest,
    cluster: &str,
    shard: ShardId,
    partition: Partition,
    from: Offset,
    bytes: u64,
) -> Vec<ColdRun> {
    let extents = manifest.extents(partition);
    let first = extents.partition_point(|extent| extent.end_offset <= from);
    let mut runs = Vec::new();
    let mut held_bytes = 0_u64;
    for extent in &extents[first..] {
        if runs.len() == RUNS_MAX || (held_bytes >= bytes && !runs.is_empty()) {
            break;
        }
        // An extent without its object cannot be in a manifest that was checked; what follows is not read.
        let Some(object) = manifest.object(extent.object) else {
            break;
        };
        held_bytes = held_bytes.saturating_add(extent.raw_bytes);
        runs.push(ColdRun {
            key: object.name.key(cluster, shard),
            object: *object,
            extent: *extent,
        });
    }
    runs
}
