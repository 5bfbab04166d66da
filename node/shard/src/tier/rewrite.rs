//! What lies in the bucket is rewritten in the background, a step at a time: compaction, and merges of what is small.
//!
//! A step reads and writes about one object. Between two steps of a shard its rounds have their turn; on a node one step
//! is under way at once, whatever the number of shards, and after it comes a rest of several times its length. So
//! rewriting takes a quarter of one core at most, and falls behind under full load rather than slow it down.

use std::time::Duration;

use meridian_tiered_storage::relocate::RelocateError;
use thiserror::Error;
use tokio::time::Instant;

use super::commit::CommitError;
use super::compaction::Compaction;
use super::driver::Led;
use super::merge::Merger;
use super::pace::Backoff;
use super::stats::add;
use super::{Tier, compaction, merge};
use crate::errors::ControlError;
use crate::region::Inner;

/// Pause while another shard of the node rewrites, or has just done so.
const TURN_PAUSE: Duration = Duration::from_millis(100);

/// A node rests for so many times the length of a step before the next.
const REST: u32 = 3;

/// Why a step changed nothing. What was uploaded may be an orphan.
#[derive(Debug, Error)]
pub(super) enum RewriteError {
    #[error(transparent)]
    Relocate(#[from] RelocateError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Propose(#[from] ControlError),
    #[error("reading and rewriting took longer than {0:?}")]
    TimedOut(Duration),
}

impl RewriteError {
    /// What is damaged in the bucket, if that is why: trying again does not help.
    pub(super) fn damage(&self) -> Option<&RelocateError> {
        match self {
            Self::Relocate(
                error @ (RelocateError::Damaged { .. }
                | RelocateError::Batches(_)
                | RelocateError::Records { .. }),
            ) => Some(error),
            _ => None,
        }
    }
}

/// What a leader remembers of the rewriting of its shard.
pub(super) struct Rewriter {
    backoff: Backoff,
    /// Nothing was to be done at the last look.
    not_before: Option<Instant>,
    compaction: Compaction,
    merger: Merger,
}

impl Rewriter {
    pub(super) fn new() -> Self {
        Self {
            backoff: Backoff::default(),
            not_before: None,
            compaction: Compaction::new(),
            merger: Merger::new(),
        }
    }

    /// Whether it is worth a look.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|not_before| now >= not_before) && self.backoff.is_over(now)
    }
}

/// Does one step, if there is something to do and it is this shard's turn.
pub(super) async fn step(inner: &Inner, tier: &Tier, led: &Led<'_>, rewriter: &mut Rewriter) {
    let started = Instant::now();
    let turn = tier.rewrites.try_acquire();
    if turn.is_err() || started < *tier.rest_until.lock() {
        rewriter.not_before = Some(started + TURN_PAUSE);
        return;
    }
    let done = match compaction::step(inner, tier, led, &mut rewriter.compaction).await {
        // Extents of a partition that is being compacted must stay as its plan found them.
        Ok(false) => merge::step(inner, tier, led, &mut rewriter.merger).await,
        done => done,
    };
    *tier.rest_until.lock() = Instant::now() + started.elapsed() * REST;
    rewriter.not_before = None;
    match done {
        Ok(true) => rewriter.backoff.succeeded(),
        Ok(false) => rewriter.not_before = Some(Instant::now() + inner.settings.maintenance_interval),
        Err(error) => {
            let shard = led.shard.id();
            add(&tier.stats.rewrites_failed, 1);
            rewriter.backoff.failed(Instant::now(), tier.settings.retry_pause);
            if error.damage().is_some() {
                tracing::error!(%shard, %error, "the bucket is damaged; what is damaged stays as it is");
            } else {
                tracing::warn!(%shard, %error, "what lies in the bucket is rewritten later");
            }
        }
    }
}

/// Bounds the reading and rewriting of one object.
pub(super) async fn in_time<T>(
    tier: &Tier,
    work: impl Future<Output = Result<T, RelocateError>>,
) -> Result<T, RewriteError> {
    let timeout = tier.settings.round_timeout;
    let done = tokio::time::timeout(timeout, work).await;
    Ok(done.map_err(|_| RewriteError::TimedOut(timeout))??)
}
