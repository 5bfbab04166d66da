//! Rebuilds a region from its bucket: from the copies of its states there to the checkpoints with which its first new node
//! begins. How and why: `docs/decisions/0015-restore.md`.
//!
//! [`look`] reads the bucket and changes nothing. [`RestorePlan::claim`] takes the bucket over, [`RestorePlan::write`]
//! makes the checkpoints. Each may be repeated: what was claimed once by the same [`RestoreRequest`] is its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use meridian_controller::{Controller, FEATURE_LEVEL_MAX, NodeRegistration};
use meridian_journal::Disk;
use meridian_raft::{CheckpointError, CheckpointStore};
use meridian_tiered_storage::replay::Catalog;
use meridian_tiered_storage::store::{Created, Store, StoreError};
use meridian_types::{
    LogPosition, NodeId, RaftIndex, RegionEpoch, ShardId, ShardMap, Term, TimestampMs, Uuid,
};
use thiserror::Error;

use crate::tier::owner;
use crate::tier::topics::LIFE_INTERVAL;

mod copies;
mod cut;
mod report;

use copies::{Copies, Loaded};
pub use report::{CopyUsed, RestoreProgress, RestoreReport, ShardRestored};

/// A region that wrote to its bucket within this many intervals of its signs of life may still live.
const LIFE_INTERVALS: i64 = 3;

/// The new log begins so far behind the last entry that is known of the lost one: what a region that still lives
/// writes until it notices that it has lost its bucket sorts before what the new one writes.
const INDEX_GAP: u64 = 1 << 20;

/// What is restored, and as what. The same request makes the same region: after an interruption it goes on with it.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    /// The cluster, where the bucket holds several.
    pub cluster: Option<String>,
    /// The new node; one whose id was never given unless it is named.
    pub node: Option<NodeId>,
    /// Of the new node's data directory.
    pub incarnation: Uuid,
    /// When the region begins anew.
    pub now: TimestampMs,
    /// The region that owns the bucket is gone, or must not write to it any more.
    pub take_over: bool,
}

/// Why a region is not restored. Nothing was changed, unless a variant says so.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The bucket does not answer, or refuses. Check its URL and the credentials, or try again.
    #[error("the bucket cannot be used: {0}")]
    Store(#[from] StoreError),
    /// Nothing there. Check the URL.
    #[error("no region has written to this bucket, or to this prefix of it")]
    Empty,
    /// There are several clusters. Name one.
    #[error("the bucket holds {} clusters: {}", clusters.len(), clusters.join(", "))]
    Several {
        /// Their ids.
        clusters: Vec<String>,
    },
    /// The cluster that was named is not there.
    #[error("the bucket holds no cluster '{cluster}'; it holds {}", if clusters.is_empty() { "none".to_owned() } else { clusters.join(", ") })]
    NoCluster {
        /// The id that was named.
        cluster: String,
        /// Those that are there.
        clusters: Vec<String>,
    },
    /// No copy of the controller's state can be read. Without it nobody knows the topics; their records can still be
    /// replayed.
    #[error(
        "cluster '{cluster}' has no readable copy of its controller's state{}",
        listed(damaged)
    )]
    NoController {
        /// The cluster.
        cluster: String,
        /// Those that cannot be read.
        damaged: Vec<(String, String)>,
    },
    /// A shard has copies of its state, but none can be read. Bring one back from a copy of the bucket.
    #[error("no copy of the state of shard {shard} can be read{}", listed(damaged))]
    NoState {
        /// The shard.
        shard: ShardId,
        /// Those that cannot be read.
        damaged: Vec<(String, String)>,
    },
    /// Objects with records are gone. Bring them back from a copy of the bucket, then restore again.
    #[error("{} objects that the region needs are not in the bucket, or have another length: {}{}", missing.len(), missing[..missing.len().min(5)].join(", "), if missing.len() > 5 { ", .." } else { "" })]
    Missing {
        /// Their keys.
        missing: Vec<String>,
    },
    /// The region that owns the bucket may still live. If it is gone for good, say so.
    #[error("the region that owns the bucket wrote to it {seconds_ago} s ago and may still live:\n{owner}")]
    MayLive {
        /// What the owner says of itself.
        owner: String,
        /// How long ago it wrote last, by this machine's clock.
        seconds_ago: i64,
    },
    /// Another restore has taken the bucket over meanwhile. Only one region may own it.
    #[error("another region was restored from the bucket meanwhile, and owns it now:\n{owner}")]
    TakenOver {
        /// What it says of itself.
        owner: String,
    },
    /// The controller's facts do not make a region. The text says why.
    #[error(transparent)]
    Controller(#[from] meridian_controller::RestoreError),
    /// A copy says what cannot be. A defect, or a copy that somebody made up.
    #[error("{what} is not sound: {reason}")]
    Unsound {
        /// Which copy.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The data directory cannot be written. The bucket is taken over already; restore again, into the same directory.
    #[error(transparent)]
    Write(#[from] CheckpointError),
}

fn listed(damaged: &[(String, String)]) -> String {
    let one = |(key, reason): &(String, String)| format!("; {key}: {reason}");
    damaged.iter().map(one).collect()
}

/// A region as it will begin.
pub struct RestorePlan {
    cluster: String,
    node: NodeId,
    /// Number and text of its word as the bucket's owner.
    generation: u64,
    word: Bytes,
    /// Of every shard, the controller's last: where its log begins, and its state there.
    states: Vec<(ShardId, LogPosition, Vec<Bytes>)>,
    copies: Copies,
    report: RestoreReport,
}

/// Reads what the bucket holds, cuts every shard to it, and makes sure that every object is there. Changes nothing.
pub async fn look(
    store: &Store,
    request: &RestoreRequest,
    progress: &(dyn Fn(RestoreProgress) + Send + Sync),
) -> Result<RestorePlan, RestoreError> {
    let cluster = find_cluster(store, request.cluster.as_deref()).await?;
    let mut words = owner::words(store, &cluster).await?;
    let mut copies = Copies::list(store, &cluster, &[ShardId::CONTROLLER]).await?;
    let (facts, mut warnings) = controller(store, &cluster, &copies).await?;
    let Some(founding) = facts.state.founding().cloned() else {
        return Err(meridian_controller::RestoreError::NotFounded.into());
    };
    let shards: Vec<ShardId> = ShardMap::shared(founding.shards).all().collect();
    copies.add(Copies::list(store, &cluster, &shards).await?);

    // Of an earlier attempt: it may have taken the bucket over already.
    let ours = {
        let mut founding = founding.clone();
        founding.founded_at = request.now;
        owner::document(&founding)
    };
    let is_claimed = words.pop_if(|last| *last == ours).is_some();
    if !is_claimed && !request.take_over {
        check_life(&words, copies.modified(), request.now)?;
    }

    let mut loaded: Vec<Loaded> = Vec::with_capacity(shards.len());
    let mut at = progress_of(&shards);
    for shard in &shards {
        progress(at);
        loaded.push(copies.load(store, *shard).await?);
        at.shards += 1;
    }
    progress(at);
    for shard in &loaded {
        copies
            .check_objects(store, &cluster, shard, &mut at, progress)
            .await?;
    }
    let mut cuts: Vec<cut::CutShard> = loaded
        .into_iter()
        .map(|loaded| {
            let index = copies.last_index(loaded.shard).saturating_add(INDEX_GAP);
            cut::CutShard::of(loaded, new_log(index))
        })
        .collect();
    let epochs = cuts.iter().filter_map(cut::CutShard::epoch);
    let generation = words.len() as u64;
    let region_epoch = epochs
        .chain([founding.region_epoch])
        .map(|epoch| epoch.0.saturating_add(1))
        .chain([u32::try_from(generation).unwrap_or(u32::MAX)])
        .max()
        .map_or(RegionEpoch(1), RegionEpoch);
    let node = request.node.unwrap_or_else(|| facts.state.next_node_id());
    let index = copies.last_index(ShardId::CONTROLLER).saturating_add(INDEX_GAP);
    let successor = meridian_controller::Successor {
        at: new_log(index),
        node: registration(node, request.incarnation),
        region_epoch,
        now: request.now,
        dropped: cut::dropped(&facts.state, &cuts),
        seen: cut::seen(&cuts),
    };
    let facts_copy = facts.copy.clone();
    let (controller, mended) = facts.state.restored(successor)?;
    cut::clamp_offsets(&controller, &mut cuts);
    let mut states = Vec::with_capacity(cuts.len() + 1);
    let mut report = RestoreReport {
        cluster: cluster.clone(),
        region: founding.region.clone(),
        region_epoch,
        node,
        topics: controller.topic_count(),
        controller: facts_copy,
        shards: Vec::with_capacity(cuts.len()),
        renamed: mended.renamed,
        grown: mended.grown,
        deleted: mended.deleted,
        retired: mended.retired,
        objects: at.objects,
        warnings: Vec::new(),
    };
    for cut in cuts {
        let unsound = |reason| RestoreError::Unsound {
            what: format!("the state of shard {}", cut.shard),
            reason,
        };
        cut.state.check().map_err(unsound)?;
        warnings.extend(cut.warnings.iter().cloned());
        report.shards.push(cut.restored());
        states.push((cut.shard, cut.state.applied(), cut.state.encode_snapshot()));
    }
    report.warnings = warnings;
    states.push((
        ShardId::CONTROLLER,
        controller.applied(),
        controller.encode_snapshot(),
    ));
    Ok(RestorePlan {
        cluster,
        node,
        generation,
        word: ours,
        states,
        copies,
        report,
    })
}

impl RestorePlan {
    /// What will be, or was, restored.
    pub fn report(&self) -> &RestoreReport {
        &self.report
    }

    /// The new node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Takes the bucket over, for good: the region that owned it writes nothing there any more once it notices.
    ///
    /// Returns whether the plan still holds; when the other region wrote copies since, look again with the same request.
    pub async fn claim(&self, store: &Store) -> Result<bool, RestoreError> {
        let key = owner::key(&self.cluster, self.generation);
        match store.create(&key, self.word.clone()).await? {
            Created::Ours => {}
            Created::Theirs(theirs) => {
                return Err(RestoreError::TakenOver {
                    owner: String::from_utf8_lossy(&theirs).into_owned(),
                });
            }
        }
        let shards: Vec<ShardId> = self.states.iter().map(|(shard, _, _)| *shard).collect();
        let now = Copies::list(store, &self.cluster, &shards).await?;
        Ok(now.has_same_states(&self.copies))
    }

    /// Writes the checkpoints that the new node begins with, over those of an earlier attempt. Blocks on the disk.
    pub fn write(&self, checkpoints: &Arc<dyn Disk>) -> Result<(), RestoreError> {
        let voters = BTreeSet::from([self.node]);
        for (shard, at, state) in &self.states {
            let store = CheckpointStore::new(Arc::clone(checkpoints), *shard);
            store.clear()?;
            store.begin(*at, &voters, state)?;
        }
        Ok(())
    }
}

/// The facts, and which copy of them.
struct Facts {
    state: Controller,
    copy: report::CopyUsed,
}

async fn controller(
    store: &Store,
    cluster: &str,
    copies: &Copies,
) -> Result<(Facts, Vec<String>), RestoreError> {
    let decode = |bytes: &[u8]| Controller::decode_snapshot(bytes).map_err(|error| error.to_string());
    let (found, damaged) = copies.newest(store, ShardId::CONTROLLER, decode).await?;
    let Some((state, copy)) = found else {
        let cluster = cluster.to_owned();
        return Err(RestoreError::NoController { cluster, damaged });
    };
    Ok((Facts { state, copy }, copies::passed_over(&damaged)))
}

async fn find_cluster(store: &Store, named: Option<&str>) -> Result<String, RestoreError> {
    let mut clusters = Catalog::clusters(store).await?;
    match named {
        Some(cluster) if clusters.iter().any(|it| it == cluster) => Ok(cluster.to_owned()),
        Some(cluster) => Err(RestoreError::NoCluster {
            cluster: cluster.to_owned(),
            clusters,
        }),
        None if clusters.len() > 1 => Err(RestoreError::Several { clusters }),
        None => clusters.pop().ok_or(RestoreError::Empty),
    }
}

/// Only the operator knows whether a region that was heard a moment ago is gone.
fn check_life(words: &[Bytes], modified: Option<TimestampMs>, now: TimestampMs) -> Result<(), RestoreError> {
    let (Some(owner), Some(modified)) = (words.last(), modified) else {
        return Ok(());
    };
    let ago_ms = now.0.saturating_sub(modified.0);
    let silence_ms = i64::try_from(LIFE_INTERVAL.as_millis()).unwrap_or(i64::MAX);
    if ago_ms >= LIFE_INTERVALS * silence_ms {
        return Ok(());
    }
    Err(RestoreError::MayLive {
        owner: String::from_utf8_lossy(owner).into_owned(),
        seconds_ago: ago_ms / 1000,
    })
}

fn new_log(index: u64) -> LogPosition {
    // The region epoch has risen, so terms count anew.
    LogPosition {
        term: Term(0),
        index: RaftIndex(index),
    }
}

fn registration(node: NodeId, incarnation: Uuid) -> NodeRegistration {
    NodeRegistration {
        node,
        incarnation,
        kafka: None,
        peer: None,
        version_max: FEATURE_LEVEL_MAX,
        rack: None,
    }
}

fn progress_of(shards: &[ShardId]) -> RestoreProgress {
    RestoreProgress {
        total_shards: shards.len() as u64,
        ..RestoreProgress::default()
    }
}

/// By partition, where committed offsets may point to.
type Ends = BTreeMap<meridian_types::Partition, Option<meridian_state::CutEnd>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_region_that_was_silent_for_long_is_taken_for_gone() {
        let words = [Bytes::from_static(b"region eu")];
        let now = TimestampMs(10_000_000);
        let silent_ms = LIFE_INTERVALS * 300_000;
        let at = |ago_ms| check_life(&words, Some(TimestampMs(now.0 - ago_ms)), now);
        assert!(at(silent_ms).is_ok());
        let error = at(silent_ms - 1).expect_err("it may live").to_string();
        assert!(
            error.contains("899 s ago") && error.contains("region eu"),
            "{error}"
        );
        assert!(at(-5000).is_err(), "a store whose clock is ahead");
        assert!(check_life(&[], Some(now), now).is_ok(), "nobody owns it");
    }
}
