//! Looks after every shard that this node leads: rounds, starts of hot indexes, copies of manifests, deletions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meridian_raft::{Group, Leadership};
use meridian_state::{Command, Outcome};
use meridian_types::{LeaderEpoch, Offset, Partition, ShardId, Term};
use tokio::task::{self, JoinSet};
use tokio::time::Instant;

use super::copies::Copies;
use super::deletion::Graced;
use super::pace::Pace;
use super::rewrite::{self, Rewriter};
use super::stats::add;
use super::{TIER_LEVEL, Tier, local, owner, round, topics};
use crate::errors::ControlError;
use crate::region::Inner;
use crate::shard::{Replica, Shard};

/// Pause between looks at what is due.
const TICK: Duration = Duration::from_millis(100);

/// Starts of hot indexes moved by one command.
const STARTS_MAX: usize = 1000;

/// A leadership of this node, under which alone its decisions count.
pub(super) struct Led<'a> {
    pub(super) shard: &'a Shard,
    pub(super) group: Group,
    pub(super) term: Term,
    pub(super) epoch: LeaderEpoch,
}

impl<'a> Led<'a> {
    /// This node's leadership of a shard, if it has it.
    fn of(shard: &'a Shard) -> Option<Self> {
        let replica = shard.replica();
        let Replica::Running(running) = &*replica else {
            return None;
        };
        let Leadership::Leading { term } = running.leadership() else {
            return None;
        };
        Some(Self {
            shard,
            group: running.group.clone(),
            term,
            epoch: shard.epoch(term),
        })
    }

    /// Proposes under this leadership and no other.
    pub(super) async fn propose(&self, inner: &Inner, command: &Command) -> Result<Outcome, ControlError> {
        inner.propose(self.shard.id(), command, Some(self.epoch)).await
    }
}

/// What this node remembers of a shard while it leads it.
pub(super) struct Work {
    epoch: LeaderEpoch,
    pace: Pace,
    tended: Option<Instant>,
    pub(super) copies: Copies,
    pub(super) orphans: Graced<String>,
    pub(super) swept: Instant,
    rewriter: Rewriter,
}

impl Work {
    fn new(tier: &Tier, shard: ShardId, epoch: LeaderEpoch, now: Instant) -> Self {
        Self {
            epoch,
            pace: Pace::new(),
            tended: None,
            copies: Copies::new(&tier.cluster, shard),
            orphans: Graced::new(),
            // Not with the first look: a region that starts has other things to do.
            swept: now,
            rewriter: Rewriter::new(),
        }
    }
}

/// Runs until the region stops, and then until nothing of it reads the journal any more.
pub(crate) async fn run(inner: Arc<Inner>, tier: Arc<Tier>) {
    tokio::join!(
        until_stop(&inner, owner::claim(&inner, &tier)),
        run_shards(&inner, &tier),
        until_stop(&inner, topics::run(&inner, &tier))
    );
    tier.reads.close();
    tier.reads.wait().await;
}

/// A bucket that does not answer must not hold up a stop.
async fn until_stop(inner: &Inner, work: impl Future<Output = ()>) {
    tokio::select! {
        () = inner.stop.cancelled() => {}
        () = work => {}
    }
}

async fn run_shards(inner: &Arc<Inner>, tier: &Arc<Tier>) {
    let mut idle: BTreeMap<ShardId, Work> = BTreeMap::new();
    let mut busy: Vec<(task::Id, ShardId)> = Vec::new();
    let mut jobs: JoinSet<(ShardId, Work)> = JoinSet::new();
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => {
                jobs.shutdown().await;
                return;
            }
            () = tokio::time::sleep(TICK) => {}
            Some(ended) = jobs.join_next_with_id(), if !jobs.is_empty() => {
                let id = match &ended {
                    Ok((id, _)) => *id,
                    Err(error) => error.id(),
                };
                busy.retain(|(busy, _)| *busy != id);
                match ended {
                    Ok((_, (shard, work))) => {
                        idle.insert(shard, work);
                    }
                    // Its shard begins anew, as after a change of leadership.
                    Err(error) => tracing::error!(%error, "a task of the tier ended badly"),
                }
            }
        }
        if inner.control.controller().feature_level() < TIER_LEVEL {
            continue;
        }
        for (place, shard) in inner.shards().iter().enumerate() {
            let id = shard.id();
            if busy.iter().any(|(_, busy)| *busy == id) {
                continue;
            }
            let Some(epoch) = shard.led() else {
                idle.remove(&id);
                tier.stats.set_pace(id, None);
                continue;
            };
            let now = Instant::now();
            let work = idle.remove(&id).filter(|work| work.epoch == epoch);
            let mut work = work.unwrap_or_else(|| Work::new(tier, id, epoch, now));
            let applied_bytes = shard.applied_bytes();
            let wants_round = work.pace.is_due(now, applied_bytes, &tier.settings);
            if !work.pace.has_looked() && !tier.is_owned() {
                // No round will, before the bucket answers whose it is; but what waits is to be seen.
                work.pace.looked(round::measure(shard));
            }
            tier.stats.set_pace(id, Some(work.pace));
            let interval = inner.settings.maintenance_interval;
            let wants_tending = work.tended.is_none_or(|tended| now - tended >= interval);
            let wants_rewrite = work.rewriter.is_due(now);
            if !tier.is_owned() || (!wants_round && !wants_tending && !wants_rewrite) {
                idle.insert(id, work);
                continue;
            }
            let (inner, tier) = (Arc::clone(inner), Arc::clone(tier));
            let job = jobs.spawn(async move {
                let shard = &inner.shards()[place];
                if let Some(led) = Led::of(shard).filter(|led| led.epoch == work.epoch) {
                    if wants_round {
                        round_of(&inner, &tier, &led, &mut work).await;
                    }
                    if wants_tending {
                        work.tended = Some(now);
                        tend(&inner, &tier, &led, &mut work).await;
                    }
                    if wants_rewrite {
                        rewrite::step(&inner, &tier, &led, &mut work.rewriter).await;
                    }
                }
                (id, work)
            });
            busy.push((job.id(), id));
        }
    }
}

async fn round_of(inner: &Inner, tier: &Tier, led: &Led<'_>, work: &mut Work) {
    let Ok(_permit) = tier.rounds.acquire().await else {
        return;
    };
    let (looked, plan) = round::look(led.shard, tier.settings.bundle_bytes);
    work.pace.looked(looked);
    tier.stats.set_pace(led.shard.id(), Some(work.pace));
    let Some(plan) = plan else { return };
    let bytes = plan.bytes;
    match round::carry_out(inner, tier, led, plan).await {
        Ok(()) => {
            work.pace.took(bytes);
            work.copies.note_round();
            add(&tier.stats.rounds, 1);
            add(&tier.stats.tiered_bytes, bytes);
        }
        Err(error) => {
            work.pace.failed(Instant::now(), &tier.settings);
            add(&tier.stats.rounds_failed, 1);
            let waiting_bytes = looked.waiting_bytes;
            tier.stats.note_failure(
                format!("a round of shard {}: {error}", led.shard.id()),
                (inner.clock)(),
            );
            tracing::warn!(shard = %led.shard.id(), %error, waiting_bytes, "a round to the bucket failed; it is tried again");
        }
    }
}

/// What is due from time to time.
async fn tend(inner: &Inner, tier: &Tier, led: &Led<'_>, work: &mut Work) {
    let starts = {
        let first_held = inner.journal.first_held(led.shard.id());
        let controller = inner.control.controller();
        let state = led.shard.applied_state();
        local::starts(&state, &controller, first_held, (inner.clock)())
    };
    if let Err(error) = move_local_starts(inner, led, starts).await {
        tracing::debug!(shard = %led.shard.id(), %error, "hot indexes are cut in a later round");
        return;
    }
    if let Err(error) = work.copies.tend(inner, tier, led).await {
        let reason = format!("a copy of the state of shard {}: {error}", led.shard.id());
        tier.stats.note_failure(reason, (inner.clock)());
        tracing::warn!(shard = %led.shard.id(), %error, "a copy of the manifest is left for a later round");
        return;
    }
    if let Err(error) = super::clean::tend(inner, tier, led, work).await {
        let reason = format!("deletions of shard {}: {error}", led.shard.id());
        tier.stats.note_failure(reason, (inner.clock)());
        tracing::warn!(shard = %led.shard.id(), %error, "the bucket is cleaned in a later round");
    }
}

async fn move_local_starts(
    inner: &Inner,
    led: &Led<'_>,
    starts: Vec<(Partition, Offset)>,
) -> Result<(), ControlError> {
    for starts in starts.chunks(STARTS_MAX) {
        let starts = starts.to_vec();
        led.propose(inner, &Command::SetLocalStart { starts }).await?;
    }
    Ok(())
}
