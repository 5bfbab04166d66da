//! Limits that all links to a region share.

use std::collections::BTreeMap;
use std::sync::Arc;

use meridian_types::RegionNumber;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::token_bucket::TokenBucket;

/// One region's limit.
#[derive(Clone)]
pub(crate) struct RegionLimit {
    pub(crate) bucket: Arc<Mutex<TokenBucket>>,
    /// Counts changes.
    pub(crate) changed: watch::Sender<u64>,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Limits(Mutex<BTreeMap<RegionNumber, RegionLimit>>);

impl Limits {
    /// The limit of a region, which is none before one is set.
    pub(crate) fn of(&self, region: RegionNumber) -> RegionLimit {
        let mut limits = self.0.lock();
        let limit = limits.entry(region).or_insert_with(|| RegionLimit {
            bucket: Arc::new(Mutex::new(TokenBucket::new(Instant::now(), None))),
            changed: watch::Sender::new(0),
        });
        limit.clone()
    }

    /// Sets it, for links under way too.
    pub(crate) fn set(&self, region: RegionNumber, bytes_per_second: Option<u64>) {
        let limit = self.of(region);
        limit.bucket.lock().set_rate(Instant::now(), bytes_per_second);
        limit.changed.send_modify(|changes| *changes += 1);
    }
}
