//! The node's clock, its randomness, and its threads.

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

/// A runtime on a thread of its own for what load must not delay: the beats between nodes.
pub(crate) struct UrgentRuntime {
    handle: tokio::runtime::Handle,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl UrgentRuntime {
    pub(crate) fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("urgent".to_owned())
            .spawn(move || {
                // An error means that the node is gone, which ends this too.
                let _ = runtime.block_on(stopped);
            })?;
        Ok(Self {
            handle,
            stop: Some(stop),
        })
    }

    pub(crate) fn handle(&self) -> tokio::runtime::Handle {
        self.handle.clone()
    }
}

impl Drop for UrgentRuntime {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}
