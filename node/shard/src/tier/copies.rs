//! Copies of a shard's manifest and state in the bucket, for readers that have no broker to ask, and for a rebuild.

use bytes::Bytes;
use meridian_tiered_storage::manifest::ObjectId;
use meridian_tiered_storage::store::StoreError;
use meridian_tiered_storage::{ManifestFile, StateFile, StateKey};
use meridian_types::{LogPosition, Offset, Partition, RaftIndex, ShardId, uuid_v4};
use thiserror::Error;
use tokio::time::Instant;

use super::deletion::Graced;
use super::driver::Led;
use super::kept::Kept;
use super::owner::{self, NotOurs};
use super::step::TierStep;
use super::{Tier, TierSettings};
use crate::region::Inner;

/// After so many rounds a copy is due whatever the time.
const ROUNDS_MAX: u32 = 16;

/// Why a copy is left for later.
#[derive(Debug, Error)]
pub(super) enum CopyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    NotOurs(#[from] NotOurs),
}

/// What of a manifest must be the same for a copy to be as good as new.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    sequence: u64,
    unlinked: Vec<ObjectId>,
    log_starts: Vec<(Partition, Offset)>,
}

/// The copies of one shard's manifest and state, under one leadership.
#[derive(Debug)]
pub(super) struct Copies {
    told: Option<Told>,
    /// As of where the state was written last.
    state_at: Option<RaftIndex>,
    written: Option<Instant>,
    rounds: u32,
    manifests: Kept,
    states: Kept,
    /// Objects that nothing refers to, each since a copy of the state says so.
    pub(super) unlinked: Graced<ObjectId>,
}

/// What is to be written, all of one moment.
struct Copy {
    told: Told,
    /// Where the manifest is another one than was told last.
    manifest: Option<ManifestFile>,
    at: RaftIndex,
    state: Vec<Bytes>,
}

impl Copies {
    pub(super) fn new(cluster: &str, shard: ShardId) -> Self {
        Self {
            told: None,
            state_at: None,
            written: None,
            rounds: 0,
            manifests: Kept::new(ManifestFile::prefix(cluster, shard)),
            states: Kept::new(StateFile::prefix(cluster, shard)),
            unlinked: Graced::new(),
        }
    }

    /// A bundle was committed.
    pub(super) fn note_round(&mut self) {
        self.rounds += 1;
    }

    fn is_due(&self, now: Instant, settings: &TierSettings) -> bool {
        let is_old = |written| now.duration_since(written) >= settings.copy_interval;
        // The first bundle is told at once: nothing else says what is in it.
        let is_first = self.told.is_none() && self.rounds > 0;
        is_first || self.rounds >= ROUNDS_MAX || self.written.is_none_or(is_old)
    }

    /// Writes copies when they are due and there is something new to tell.
    ///
    /// The manifest goes first and the state after it, and only then begins the grace period of what nothing refers to
    /// any more: the newest state in the bucket never names an object that may be gone.
    pub(super) async fn tend(&mut self, inner: &Inner, tier: &Tier, led: &Led<'_>) -> Result<(), CopyError> {
        if !self.is_due(Instant::now(), &tier.settings) {
            return Ok(());
        }
        let Some(copy) = self.look(inner, led) else {
            return Ok(());
        };
        owner::confirm(tier, owner::COMMIT_AGE_MAX).await?;
        tier.reach(TierStep::CopyMade).await;
        let shard = led.shard.id();
        if let Some(file) = &copy.manifest {
            // By index: what the log start passes changes a manifest and not its sequence.
            let id = uuid_v4((inner.random)());
            let key = ManifestFile::key(&tier.cluster, shard, file.index.0, id);
            let bytes = vec![file.encode().into()];
            self.manifests.put(&tier.store, key, bytes).await?;
        }
        let position = LogPosition {
            term: led.term,
            index: copy.at,
        };
        let id = uuid_v4((inner.random)());
        let key = StateFile::key(&tier.cluster, shard, &StateKey { position, id });
        let file = StateFile::encode(shard, position, (inner.clock)(), copy.state);
        self.states.put(&tier.store, key, file).await?;
        tier.reach(TierStep::CopyWritten).await;
        let now = Instant::now();
        self.unlinked.seen(now, copy.told.unlinked.iter().copied());
        self.told = (copy.told.sequence > 0).then_some(copy.told);
        self.state_at = Some(copy.at);
        self.written = Some(now);
        self.rounds = 0;
        self.states.prune(&tier.store).await?;
        self.manifests.prune(&tier.store).await?;
        Ok(())
    }

    fn look(&self, inner: &Inner, led: &Led<'_>) -> Option<Copy> {
        let state = led.shard.applied_state();
        let at = state.applied().index;
        if at == RaftIndex(0) || self.state_at == Some(at) {
            return None;
        }
        let manifest = state.manifest();
        let log_start = |partition| state.partition(partition).map(|held| held.log_start_offset());
        let told = Told {
            sequence: manifest.sequence(),
            unlinked: manifest.unlinked().map(|(id, _)| id).collect(),
            log_starts: manifest
                .partitions()
                .map(|(partition, _)| (partition, log_start(partition).unwrap_or_default()))
                .collect(),
        };
        let is_new = told.sequence > 0 && self.told.as_ref() != Some(&told);
        let manifest = is_new.then(|| ManifestFile {
            shard: led.shard.id(),
            term: led.term,
            index: at,
            written_at: (inner.clock)(),
            log_starts: told.log_starts.clone(),
            manifest: manifest.clone(),
        });
        Some(Copy {
            told,
            manifest,
            at,
            state: state.encode_snapshot(),
        })
    }
}
