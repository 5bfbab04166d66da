//! The bucket that the settings name, opened and probed.

use std::time::Duration;

use meridian_shard::{AtStep, Bucket, RegionParts, TierSettings, TierStep};
use meridian_tiered_storage::cold::{CacheSettings, ColdReader, DiskCache, OpenCacheError};
use meridian_tiered_storage::merge::MergeSettings;
use meridian_tiered_storage::probe::ProbeError;
use meridian_tiered_storage::store::{OpenError, Store, StoreLimits, StoreSettings};
use meridian_tiered_storage::upload;
use meridian_types::Uuid;
use thiserror::Error;

use crate::settings::{ByteCount, ReadBack, Settings, StoreOptions};

/// Directory of the cache, in the data directory.
const CACHE_DIRECTORY: &str = "cold-cache";

/// What `tier.url` says for no bucket.
const NONE: &str = "none";

/// How long the probe may take. A bucket that is away must not keep a node from its start.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// The bucket cannot be used as the settings say.
#[derive(Debug, Error)]
pub enum BucketError {
    /// The settings name no store.
    #[error("tier.url: {0}")]
    Open(#[from] OpenError),
    /// A bucket of another region is no store.
    #[error("geo.buckets: {0}")]
    Other(OpenError),
    /// Something is wrong with the bucket.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// No step has that name.
    #[error("tier.abort_at: {0}")]
    Step(String),
    /// Too few extents to be joined.
    #[error("tier.merge_extents_min is 1; expected at least 2, or 0 for no merging")]
    MergeExtents,
    /// The cache cannot be opened.
    #[error("tier.cache_disk_bytes: {0}")]
    Cache(#[from] OpenCacheError),
}

/// Where the settings say that the bucket is; `None` for no bucket.
fn url(settings: &Settings) -> Option<&str> {
    let url = settings.tier.url.as_ref()?;
    (url.0 != NONE).then_some(&url.0)
}

fn limit(bytes: ByteCount) -> Option<u64> {
    (bytes.0 > 0).then_some(bytes.0)
}

/// Opens a store, without a request. All have the limits of `tier`.
fn store(settings: &Settings, url: &str, options: &StoreOptions) -> Result<Store, OpenError> {
    let tier = &settings.tier;
    Store::open(&StoreSettings {
        options: options.0.clone(),
        limits: StoreLimits {
            request_timeout: Duration::from_millis(tier.request_timeout_ms),
            requests_in_flight_max: tier.requests_in_flight_max,
            upload_bytes_per_second_max: limit(tier.upload_bytes_per_second_max),
            read_bytes_per_second_max: limit(tier.read_bytes_per_second_max),
            ..StoreLimits::default()
        },
        ..StoreSettings::new(url)
    })
}

/// The buckets of other regions that this node can read. Whether it really can shows when something is there to be copied.
pub(crate) fn others(settings: &Settings) -> Result<Vec<Store>, BucketError> {
    let geo = &settings.geo;
    let options = geo.bucket_options.as_ref().unwrap_or(&settings.tier.options);
    let urls = geo.buckets.0.iter();
    urls.map(|url| store(settings, url, options).map_err(BucketError::Other))
        .collect()
}

/// Opens the bucket, and tries out whether it does all that is needed. One that is merely away now is taken.
pub(crate) async fn open(settings: &Settings, parts: &RegionParts) -> Result<Option<Bucket>, BucketError> {
    let Some(url) = url(settings) else {
        return Ok(None);
    };
    let tier = &settings.tier;
    let at_step = tier.abort_at.as_ref().map(|name| abort_at(&name.0)).transpose()?;
    if tier.merge_extents_min == 1 {
        return Err(BucketError::MergeExtents);
    }
    let store = store(settings, url, &tier.options)?;
    let nonce = Uuid::from_u128((parts.random)());
    let place = store.place();
    match tokio::time::timeout(PROBE_TIMEOUT, store.probe(nonce, (parts.clock)())).await {
        Ok(Ok(probe)) => {
            let ahead_ms = probe.clock_ahead_ms;
            tracing::info!(place, put_time = ?probe.put_time, ahead_ms, "the bucket does what is needed");
        }
        Ok(Err(ProbeError::Unreachable { reason, .. })) => {
            tracing::error!(
                place,
                reason,
                "the bucket cannot be reached; records stay on local disks until it can"
            );
        }
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => tracing::error!(place, "the bucket answers too slowly to be tried out"),
    }
    let cache = CacheSettings {
        memory_bytes: tier.cache_memory_bytes.as_usize(),
        disk: limit(tier.cache_disk_bytes).map(|bytes| DiskCache {
            directory: settings.node.data.join(CACHE_DIRECTORY),
            bytes,
        }),
        in_flight_bytes_max: tier.read_in_flight_bytes_max.as_usize(),
    };
    let reader = ColdReader::open(store.clone(), &cache).await?;
    Ok(Some(Bucket {
        store,
        reader,
        settings: TierSettings {
            round_bytes: tier.round_bytes.0,
            round_interval: Duration::from_millis(tier.round_interval_ms),
            bundle_bytes: tier.bundle_bytes.0,
            rounds_in_flight_max: tier.rounds_in_flight_max,
            read_back: match tier.read_back {
                ReadBack::Whole => upload::ReadBack::Whole,
                ReadBack::Footer => upload::ReadBack::Footer,
            },
            copy_interval: Duration::from_millis(tier.copy_interval_ms),
            delete_grace: Duration::from_secs(tier.delete_grace_seconds),
            sweep_interval: Duration::from_secs(tier.sweep_interval_seconds),
            merge: MergeSettings {
                extents_min: tier.merge_extents_min,
                removed_min: tier.merge_extents_min.saturating_sub(1),
                object_bytes_max: tier.merge_object_bytes.0,
                freed_bytes_min: tier.merge_freed_bytes.0,
            },
            compaction_keys_bytes: tier.compaction_keys_bytes.as_usize(),
            compaction_interval: Duration::from_millis(tier.compaction_interval_ms),
            at_step,
            ..TierSettings::default()
        },
    }))
}

/// Ends the process at a step, as kill -9 would: nothing is flushed and nobody is told.
fn abort_at(name: &str) -> Result<AtStep, BucketError> {
    let last: TierStep = name.parse().map_err(BucketError::Step)?;
    tracing::warn!(%last, "this node ends when its tier comes to this step");
    Ok(AtStep::new(move |step| {
        Box::pin(async move {
            if step == last {
                tracing::error!(%step, "the process ends here, as tier.abort_at says");
                std::process::abort();
            }
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Text;

    #[test]
    fn nothing_is_tiered_unless_a_bucket_is_named() {
        let mut settings = Settings::default();
        assert_eq!(url(&settings), None);
        settings.tier.url = Some(Text("s3://b/p".to_owned()));
        assert_eq!(url(&settings), Some("s3://b/p"));
        settings.tier.url = Some(Text("none".to_owned()));
        assert_eq!(url(&settings), None);
    }
}
