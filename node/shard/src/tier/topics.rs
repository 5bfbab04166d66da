//! The controller's part of what the bucket says of the region: the names of the topics, since bundles and manifests know
//! topics by id only, and its state.

use std::sync::Arc;
use std::time::Duration;

use meridian_raft::{Group, Leadership};
use meridian_tiered_storage::store::StoreError;
use meridian_tiered_storage::{NamedTopic, StateFile, StateKey, TopicsFile};
use meridian_types::{LogPosition, RaftIndex, ShardId, Term, uuid_v4};
use thiserror::Error;
use tokio::time::Instant;

use super::Tier;
use super::kept::Kept;
use super::owner::{self, NotOurs};
use crate::region::Inner;

/// What changed is told after so long: it is little, and a rebuild without it knows some topics by their ids only.
const PAUSE: Duration = Duration::from_secs(1);

/// Copying takes no more than this share of the time.
const SHARE: u32 = 20;

/// So often at least the state is written, changed or not: a sign of life for whoever wants to take the bucket over.
pub(crate) const LIFE_INTERVAL: Duration = Duration::from_secs(300);

#[derive(Debug, Error)]
enum CopyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    NotOurs(#[from] NotOurs),
}

/// What was told under one leadership.
struct Told {
    term: Term,
    at: Option<RaftIndex>,
    topics: Option<Vec<NamedTopic>>,
    written: Option<Instant>,
    kept_topics: Kept,
    kept_states: Kept,
}

impl Told {
    fn new(tier: &Tier, term: Term) -> Self {
        Self {
            term,
            at: None,
            topics: None,
            written: None,
            kept_topics: Kept::new(TopicsFile::prefix(&tier.cluster)),
            kept_states: Kept::new(StateFile::prefix(&tier.cluster, ShardId::CONTROLLER)),
        }
    }
}

/// Runs until the region stops. Only the controller's leader writes.
pub(super) async fn run(inner: &Arc<Inner>, tier: &Tier) {
    let mut told: Option<Told> = None;
    let mut pause = PAUSE.min(tier.settings.copy_interval);
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let term = inner
            .led_group(ShardId::CONTROLLER)
            .and_then(|group| led_term(&group));
        let Some(term) = term.filter(|_| tier.is_owned()) else {
            told = None;
            continue;
        };
        if told.as_ref().is_none_or(|told| told.term != term) {
            told = Some(Told::new(tier, term));
        }
        let Some(told) = &mut told else { continue };
        let started = Instant::now();
        if let Err(error) = tend(inner, tier, told).await {
            tracing::warn!(%error, "the region's facts are written to the bucket later");
        }
        pause = PAUSE
            .min(tier.settings.copy_interval)
            .max(started.elapsed() * SHARE);
    }
}

fn led_term(group: &Group) -> Option<Term> {
    match *group.leadership().borrow() {
        Leadership::Leading { term } => Some(term),
        _ => None,
    }
}

async fn tend(inner: &Inner, tier: &Tier, told: &mut Told) -> Result<(), CopyError> {
    let (index, state, topics) = {
        let controller = inner.control.controller();
        let index = controller.applied().index;
        let is_alive = told.written.is_some_and(|at| at.elapsed() < LIFE_INTERVAL);
        if told.at == Some(index) && is_alive {
            return Ok(());
        }
        let topics = controller.topics().map(|topic| NamedTopic {
            id: topic.id,
            name: topic.name.to_string(),
            partitions: topic.partitions,
            configs: topic.configs.clone(),
        });
        (index, controller.encode_snapshot(), topics.collect::<Vec<_>>())
    };
    owner::confirm(tier, owner::COMMIT_AGE_MAX).await?;
    let now = (inner.clock)();
    if told.topics.as_ref() != Some(&topics) {
        let file = TopicsFile {
            cluster: tier.cluster.clone(),
            region: inner.settings.peer.region.clone(),
            shards: inner.shard_map(),
            index,
            written_at: now,
            topics: topics.clone(),
        };
        let key = TopicsFile::key(&tier.cluster, index, uuid_v4((inner.random)()));
        let parts = vec![file.encode().into()];
        told.kept_topics.put(&tier.store, key, parts).await?;
        told.topics = Some(topics);
    }
    let position = LogPosition {
        term: told.term,
        index,
    };
    let id = uuid_v4((inner.random)());
    let key = StateFile::key(&tier.cluster, ShardId::CONTROLLER, &StateKey { position, id });
    let file = StateFile::encode(ShardId::CONTROLLER, position, now, state);
    told.kept_states.put(&tier.store, key, file).await?;
    told.at = Some(index);
    told.written = Some(Instant::now());
    told.kept_states.prune(&tier.store).await?;
    told.kept_topics.prune(&tier.store).await?;
    Ok(())
}
