//! Tells when and where a record was written.

use std::sync::{Arc, OnceLock};

use meridian_types::{Offset, TimestampMs};
use tokio::sync::Notify;

use super::ProduceError;

/// What became of a record; wait for it, or let it go.
#[derive(Clone, Debug)]
pub struct Delivery {
    outcome: Arc<Outcome>,
    partition: u32,
    /// Its place in the batch.
    index: u32,
    timestamp: TimestampMs,
}

/// Where a record was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordMetadata {
    /// The partition.
    pub partition: u32,
    /// Its offset; `None` with acks=0, and where the server had it already and no longer knows where.
    pub offset: Option<Offset>,
    /// Its time: the server's, if the topic takes that.
    pub timestamp: TimestampMs,
}

/// What the server said about a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acknowledged {
    pub(super) base_offset: Option<Offset>,
    pub(super) log_append_time: Option<TimestampMs>,
}

/// What became of a batch: set once, seen by all its records.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    result: OnceLock<Result<Acknowledged, ProduceError>>,
    done: Notify,
}

impl Outcome {
    /// Sets it, the first time.
    pub(super) fn set(&self, result: Result<Acknowledged, ProduceError>) {
        // A second result can only be a late answer to a batch that has expired.
        drop(self.result.set(result));
        self.done.notify_waiters();
    }

    /// Waits until it is set.
    pub(super) async fn done(&self) -> &Result<Acknowledged, ProduceError> {
        loop {
            let mut notified = std::pin::pin!(self.done.notified());
            // Registered before looking, so that nothing is missed in between.
            notified.as_mut().enable();
            if let Some(result) = self.result.get() {
                return result;
            }
            notified.await;
        }
    }
}

impl Delivery {
    pub(super) fn new(outcome: Arc<Outcome>, partition: u32, index: u32, timestamp: TimestampMs) -> Self {
        Self {
            outcome,
            partition,
            index,
            timestamp,
        }
    }

    /// The partition it goes to.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Waits until the record is acknowledged or has failed for good.
    pub async fn wait(&self) -> Result<RecordMetadata, ProduceError> {
        let acknowledged = self.outcome.done().await.clone()?;
        Ok(RecordMetadata {
            partition: self.partition,
            offset: acknowledged.base_offset.map(|base| base.plus(self.index.into())),
            timestamp: acknowledged.log_append_time.unwrap_or(self.timestamp),
        })
    }
}
