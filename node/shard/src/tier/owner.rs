//! Which region a bucket belongs to: two that wrote there under one cluster id would delete one another's objects.
//!
//! The first owner leaves its word in `<cluster>/OWNER`, whoever takes over after it in `<cluster>/OWNER-1` and so on
//! (`docs/formats/owner.md`). None is ever changed, and each is made by a conditional create, so exactly one region has
//! the last word. A region looks for a later word than its own before it deletes or commits anything.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_controller::Founding;
use meridian_tiered_storage::store::{Created, Store, StoreError};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::time::Instant;

use super::Tier;
use crate::region::Inner;
use crate::same_bucket;

/// Pause before the bucket is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Pause while the bucket belongs to another region, until the operator has done something about it.
const REFUSED_INTERVAL: Duration = Duration::from_secs(60);

/// A region that has nothing to do in its bucket looks this often whether it is still its own.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// What was seen so long ago still counts when a round commits: another owner deletes nothing for the grace period.
pub(super) const COMMIT_AGE_MAX: Duration = Duration::from_secs(5);

/// Before anything is deleted.
pub(super) const DELETE_AGE_MAX: Duration = Duration::ZERO;

/// How this region stands to its bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BucketStanding {
    /// The bucket has not answered yet. Nothing is written.
    #[default]
    Unknown,
    /// It is this region's.
    Ours,
    /// It is another region's. Nothing is written until an operator has named another one, or cleared this one.
    Refused,
    /// A region that was restored from it has taken it over. Final: nothing is written to it ever again.
    Lost,
}

/// Why nothing may be done in the bucket now.
#[derive(Clone, Debug, Error)]
pub(super) enum NotOurs {
    #[error("a region that was restored from the bucket has taken it over")]
    Lost,
    #[error("it is not known whose the bucket is")]
    Unknown,
    #[error("whose the bucket is cannot be found out: {0}")]
    Store(#[from] StoreError),
}

/// What this node knows of the ownership.
#[derive(Debug, Default)]
pub(crate) struct Ownership(Mutex<Known>);

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    standing: BucketStanding,
    /// Number of our word.
    generation: u64,
    seen: Option<Instant>,
}

impl Ownership {
    /// How this region stands to its bucket.
    pub(crate) fn standing(&self) -> BucketStanding {
        self.0.lock().standing
    }

    fn set(&self, standing: BucketStanding, generation: u64, seen: Instant) {
        let seen = Some(seen);
        *self.0.lock() = Known {
            standing,
            generation,
            seen,
        };
    }
}

/// Key of an owner's word.
pub(crate) fn key(cluster: &str, generation: u64) -> String {
    match generation {
        0 => format!("{cluster}/OWNER"),
        generation => format!("{cluster}/OWNER-{generation}"),
    }
}

/// What an owner says of itself, the same from every node: a region that is founded or restored anew is another one.
pub(crate) fn document(founding: &Founding) -> Bytes {
    let Founding {
        cluster_id,
        region,
        shards,
        founded_at,
        ..
    } = founding;
    let text = format!(
        "meridian-owner 1\ncluster {cluster_id}\nregion {region}\nshards {shards}\nfounded {founded_at}\n"
    );
    text.into()
}

/// All owners' words, oldest first.
pub(crate) async fn words(store: &Store, cluster: &str) -> Result<Vec<Bytes>, StoreError> {
    let mut words = Vec::new();
    loop {
        match store.get(&key(cluster, words.len() as u64)).await {
            Ok(word) => words.push(word),
            Err(StoreError::NotFound { .. }) => return Ok(words),
            Err(error) => return Err(error),
        }
    }
}

/// Makes sure that the bucket is this region's, before anything else is written there; then looks now and then
/// whether it still is.
pub(super) async fn claim(inner: &Arc<Inner>, tier: &Tier) {
    let founding = inner.control.controller().founding().cloned();
    let Some(ours) = founding.map(|founding| document(&founding)) else {
        return;
    };
    loop {
        let pause = match tier.ownership.standing() {
            BucketStanding::Lost => return,
            BucketStanding::Ours => match confirm(tier, LOOK_INTERVAL).await {
                Err(NotOurs::Lost) => return,
                _ => LOOK_INTERVAL,
            },
            BucketStanding::Unknown | BucketStanding::Refused => match first_look(inner, tier, &ours).await {
                Ok(BucketStanding::Ours) => LOOK_INTERVAL,
                Ok(_) => REFUSED_INTERVAL,
                Err(error) => {
                    tracing::warn!(%error, "whose the bucket is cannot be found out yet; nothing is written there meanwhile");
                    RETRY_INTERVAL
                }
            },
        };
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// As [`ask`], unless the bucket is not that of the region's other nodes.
async fn first_look(inner: &Arc<Inner>, tier: &Tier, ours: &Bytes) -> Result<BucketStanding, StoreError> {
    if let Err(reason) = same_bucket::check_members(inner).await {
        tracing::error!(reason, "nothing is written to the bucket");
        tier.ownership.set(BucketStanding::Refused, 0, Instant::now());
        return Ok(BucketStanding::Refused);
    }
    ask(tier, ours, || has_history(inner)).await
}

/// Whether something of this region lies in a bucket already.
fn has_history(inner: &Inner) -> bool {
    inner
        .shards()
        .iter()
        .any(|shard| shard.applied_state().manifest().sequence() > 0)
}

async fn ask(
    tier: &Tier,
    ours: &Bytes,
    has_history: impl FnOnce() -> bool,
) -> Result<BucketStanding, StoreError> {
    let now = Instant::now();
    let mut words = words(&tier.store, &tier.cluster).await?;
    if words.is_empty() && has_history() {
        let place = tier.store.place();
        tracing::error!(
            place,
            "the region's history lies in a bucket, and this one has no word of the region: nothing is written there; \
             name the region's bucket with tier.url"
        );
        tier.ownership.set(BucketStanding::Refused, 0, now);
        return Ok(BucketStanding::Refused);
    }
    if words.is_empty() {
        let first = key(&tier.cluster, 0);
        words.push(match tier.store.create(&first, ours.clone()).await? {
            // Any node of the region may have written it: all write the same.
            Created::Ours => ours.clone(),
            Created::Theirs(theirs) => theirs,
        });
    }
    let last = words.len() - 1;
    let standing = match words.iter().position(|word| word == ours) {
        Some(place) if place == last => BucketStanding::Ours,
        Some(_) => BucketStanding::Lost,
        None => BucketStanding::Refused,
    };
    tier.ownership.set(standing, last as u64, now);
    match standing {
        BucketStanding::Lost => tell_lost(tier, &words[last]),
        BucketStanding::Refused => {
            let theirs = String::from_utf8_lossy(&words[last]).into_owned();
            let (place, key) = (tier.store.place(), key(&tier.cluster, last as u64));
            tracing::error!(
                place,
                key,
                theirs,
                "the bucket belongs to another region with the same cluster id: nothing is written there; name \
                 another bucket or prefix with tier.url, or remove the object if that region is no more"
            );
        }
        BucketStanding::Ours | BucketStanding::Unknown => {}
    }
    Ok(standing)
}

/// Whether the bucket is this region's, as of at most `age_max` ago. To be asked before anything is committed or deleted.
pub(super) async fn confirm(tier: &Tier, age_max: Duration) -> Result<(), NotOurs> {
    let known = *tier.ownership.0.lock();
    match known.standing {
        BucketStanding::Ours => {}
        BucketStanding::Lost => return Err(NotOurs::Lost),
        BucketStanding::Unknown | BucketStanding::Refused => return Err(NotOurs::Unknown),
    }
    let now = Instant::now();
    if known.seen.is_some_and(|seen| now.duration_since(seen) < age_max) {
        return Ok(());
    }
    match tier.store.get(&key(&tier.cluster, known.generation + 1)).await {
        Err(StoreError::NotFound { .. }) => {
            tier.ownership.set(BucketStanding::Ours, known.generation, now);
            Ok(())
        }
        Err(error) => Err(error.into()),
        Ok(word) => {
            tier.ownership.set(BucketStanding::Lost, known.generation, now);
            tell_lost(tier, &word);
            Err(NotOurs::Lost)
        }
    }
}

fn tell_lost(tier: &Tier, word: &Bytes) {
    let (place, theirs) = (tier.store.place(), String::from_utf8_lossy(word).into_owned());
    tracing::error!(
        place,
        theirs,
        "a region that was restored from this bucket has taken it over: nothing is written there by this one any more; \
         stop this region, it lives on there"
    );
}

#[cfg(test)]
mod tests {
    use meridian_types::{RegionEpoch, TimestampMs};

    use super::*;

    #[test]
    fn every_founding_has_another_word_and_every_owner_another_key() {
        let founding = |at| Founding {
            cluster_id: "c".to_owned(),
            region: "eu".to_owned(),
            shards: 4,
            region_epoch: RegionEpoch(0),
            founded_at: TimestampMs(at),
        };
        assert_eq!(document(&founding(1)), document(&founding(1)));
        assert_ne!(document(&founding(1)), document(&founding(2)));
        assert_eq!(
            [0, 1, 12].map(|n| key("c", n)),
            ["c/OWNER", "c/OWNER-1", "c/OWNER-12"]
        );
    }
}
