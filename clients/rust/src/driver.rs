//! The wall clock and the source of randomness: the only place of this crate that asks for them.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meridian_types::TimestampMs;

/// The time of the wall clock, for the timestamps of records.
#[expect(
    clippy::disallowed_methods,
    reason = "a client has no node's clock; records carry wall time"
)]
pub fn now_ms() -> TimestampMs {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    TimestampMs(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// A seed that differs from process to process and from call to call.
pub(crate) fn random_seed() -> u64 {
    RandomState::new().hash_one(0_u8)
}
