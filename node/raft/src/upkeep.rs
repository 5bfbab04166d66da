//! What keeps a group's log short: checkpoints, purges, and the end of a replica.

use std::sync::Arc;
use std::time::Duration;

use meridian_types::{LogPosition, RaftIndex};

use crate::checkpoint::step_below;
use crate::config::{log_id, position};
use crate::group::Group;
use crate::propose::ProposeError;

/// How long a checkpoint may take before the attempt counts as failed.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(120);

impl Group {
    /// Makes the present state durable as a checkpoint. Returns its position.
    pub async fn checkpoint(&self) -> Result<LogPosition, ProposeError> {
        let stopped = |reason: String| ProposeError::Stopped { reason };
        let wanted = *self.applied.borrow();
        if wanted.index == RaftIndex(0) {
            return Ok(wanted);
        }
        let mut progress = self.raft.watch_snapshot_progress();
        let mut built = self.built.clone();
        let before = built.borrow_and_update().attempts;
        self.raft
            .trigger()
            .snapshot()
            .await
            .map_err(|fatal| stopped(fatal.to_string()))?;
        let timed_out = |_| ProposeError::Unknown {
            reason: format!("no checkpoint after {CHECKPOINT_TIMEOUT:?}"),
        };
        let attempt = tokio::time::timeout(
            CHECKPOINT_TIMEOUT,
            built.wait_for(|built| built.attempts > before),
        )
        .await
        .map_err(timed_out)?
        .map_err(|error| stopped(error.to_string()))?
        .clone();
        if let Some(reason) = attempt.error {
            return Err(ProposeError::Unknown { reason });
        }
        let reached = tokio::time::timeout(CHECKPOINT_TIMEOUT, progress.wait_until_ge(&Some(log_id(wanted))))
            .await
            .map_err(timed_out)?
            .map_err(|error| stopped(error.to_string()))?;
        Ok(reached.as_ref().map(position).unwrap_or_default())
    }

    /// Lets Raft forget what a replica that begins empty does not need: entries up to the newest kept checkpoint below
    /// `needed`, the oldest entry whose bytes somebody may still want; `None` when nobody wants any. Never through the
    /// newest checkpoint, which might prove unreadable.
    ///
    /// Returns how far the journal may release the group's bytes. They go once the purge is durable too.
    pub async fn release(&self, needed: Option<RaftIndex>) -> Result<RaftIndex, ProposeError> {
        let failed = |reason: String| ProposeError::Unknown { reason };
        let store = Arc::clone(&self.checkpoints.store);
        let kept = crate::blocking::blocking(move || store.kept())
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))?;
        let purged = self.checkpoints.purged();
        let needed = if mutant!(PurgeTooFar) { None } else { needed };
        let step = step_below(&kept, needed).filter(|step| Some(*step) > purged);
        if let Some(step) = step {
            self.raft
                .trigger()
                .purge_log(step.0)
                .await
                .map_err(|fatal| ProposeError::Stopped {
                    reason: fatal.to_string(),
                })?;
        }
        Ok(step.or(purged).unwrap_or_default())
    }

    /// Stops the group and removes its log, vote and checkpoints from this node, for a replica that was removed from the
    /// group. It may come back later, as one that joins.
    ///
    /// Never for a voter: without its log and its vote it would let acknowledged entries be lost.
    pub async fn erase(&self) -> Result<(), String> {
        self.shutdown().await;
        // A checkpoint without its log would come back as a replica whose records are gone, so it goes first.
        let store = Arc::clone(&self.checkpoints.store);
        crate::blocking::blocking(move || store.clear())
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        let (sender, done) = tokio::sync::oneshot::channel();
        let report = move |result: Result<(), _>| drop(sender.send(result));
        self.journal().reset(self.shard(), Box::new(report));
        done.await
            .map_err(|_| "the journal stopped".to_owned())?
            .map_err(|error| error.to_string())
    }
}
