//! The node's clock, its randomness and its journal thread.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use meridian_journal::Writer;
use meridian_shard::{Clock, Random};
use meridian_types::TimestampMs;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The wall clock of the machine.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
pub(crate) fn wall_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        TimestampMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    })
}

/// Randomness from one generator, seeded by the system unless a seed is given.
pub(crate) fn randomness(seed: Option<u64>) -> Random {
    let generator = seed.map_or_else(|| StdRng::from_rng(&mut rand::rng()), StdRng::seed_from_u64);
    let generator = Mutex::new(generator);
    Arc::new(move || {
        let mut generator = generator.lock();
        u128::from(generator.next_u64()) << 64 | u128::from(generator.next_u64())
    })
}

/// Runs the journal's writer on its own thread, until the journal is shut down.
pub(crate) fn spawn_writer(writer: Writer) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name("journal-writer".to_owned())
        .spawn(move || writer.run())
}
