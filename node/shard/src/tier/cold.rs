//! Reads that the journal cannot serve: what only the bucket has.

use bytes::Bytes;
use meridian_tiered_storage::cold::{COLD_READAHEAD_BYTES, ColdError, ColdRun, FoundRecord, cold_runs};
use meridian_types::{Offset, Partition, TimestampMs};

use super::Tier;
use crate::errors::ReadError;
use crate::read::storage;
use crate::shard::Shard;

impl Shard {
    /// Whole batches from the one that contains `from`, from the bucket; `None` when it does not have them.
    pub(crate) async fn read_cold(
        &self,
        partition: Partition,
        from: Offset,
        bytes_max: usize,
    ) -> Result<Option<Vec<Bytes>>, ReadError> {
        let mut is_second = false;
        loop {
            let ahead_bytes = COLD_READAHEAD_BYTES + bytes_max as u64;
            let Some((tier, runs)) = self.runs(partition, from, ahead_bytes)? else {
                return Ok(None);
            };
            let read = tier.reader.read(partition, runs, from, bytes_max);
            match in_time(tier, read).await {
                Err(Failed::Stale) if !is_second => is_second = true,
                read => return read.map(Some).map_err(ReadError::from),
            }
        }
    }

    /// The first record at or behind `from` with a timestamp of at least `time`, among those of the extent that holds
    /// `from` and the ones behind it up to so many bytes.
    pub(crate) async fn find_cold(
        &self,
        partition: Partition,
        from: Offset,
        bytes: u64,
        time: TimestampMs,
    ) -> Result<Option<FoundRecord>, ReadError> {
        let mut is_second = false;
        loop {
            let Some((tier, runs)) = self.runs(partition, from, bytes)? else {
                return Ok(None);
            };
            let found = tier.reader.find_timestamp(partition, &runs, from, time);
            match in_time(tier, found).await {
                Err(Failed::Stale) if !is_second => is_second = true,
                found => return found.map_err(ReadError::from),
            }
        }
    }

    /// Where the bucket has the records from `from` on; `None` when it does not.
    fn runs(
        &self,
        partition: Partition,
        from: Offset,
        bytes: u64,
    ) -> Result<Option<(&Tier, Vec<ColdRun>)>, ReadError> {
        let state = self.applied_state();
        if state.manifest().find(partition, from).is_none() {
            return Ok(None);
        }
        let Some(tier) = self.tier() else {
            return Err(storage(
                &"the records lie in the region's bucket, which this node was not told of: set tier.url",
            ));
        };
        let cluster = &tier.cluster;
        let runs = cold_runs(state.manifest(), cluster, self.id(), partition, from, bytes);
        Ok(Some((tier, runs)))
    }
}

enum Failed {
    /// The manifest has moved on since it was looked at.
    Stale,
    Read(ReadError),
}

impl From<Failed> for ReadError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Stale => storage(&"the bucket lacks an object that the manifest names"),
            Failed::Read(error) => error,
        }
    }
}

async fn in_time<T>(tier: &Tier, read: impl Future<Output = Result<T, ColdError>>) -> Result<T, Failed> {
    let timeout = tier.settings.read_timeout;
    let error = match tokio::time::timeout(timeout, read).await {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(error)) => error,
        Err(_) => {
            let reason = format!("no answer from the bucket within {timeout:?}");
            return Err(Failed::Read(ReadError::Unavailable { reason }));
        }
    };
    match error {
        ColdError::Missing { .. } | ColdError::NotCovered { .. } => {
            tracing::warn!(%error, "a read from the bucket found another state of it");
            Err(Failed::Stale)
        }
        error if error.is_retriable() => Err(Failed::Read(ReadError::Unavailable {
            reason: error.to_string(),
        })),
        error => {
            tracing::error!(%error, "the bucket is damaged");
            Err(Failed::Read(storage(&error)))
        }
    }
}
