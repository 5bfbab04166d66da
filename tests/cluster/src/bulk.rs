//! Writes that fill disks and journals: without them a node whose disk is full would not notice for minutes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use meridian_compat::Random;
use meridian_compat::raw::{RawClient, plain_batch};
use parking_lot::Mutex;

use crate::task::Task;
use crate::view;

/// The topic that [`Bulk::start`] writes; little of it is kept.
pub const TOPIC: &str = "bulk";

const BATCH_BYTES: usize = 512 << 10;
/// About 16 MiB/s.
const PAUSE: Duration = Duration::from_millis(30);

/// Writes until it is dropped. Whether a write succeeds is of no interest, but it is counted.
pub struct Bulk {
    told: Arc<Mutex<BTreeMap<i16, u64>>>,
    _task: Task<()>,
}

impl Bulk {
    /// Starts to write partition 0 of [`TOPIC`], which exists.
    pub fn start(nodes: &[SocketAddr]) -> Self {
        Self::on(nodes, TOPIC, BATCH_BYTES, PAUSE)
    }

    /// Starts to write partition 0 of a topic, which exists: a batch of one record after each pause.
    pub fn on(nodes: &[SocketAddr], topic: &str, batch_bytes: usize, pause: Duration) -> Self {
        let told = Arc::new(Mutex::new(BTreeMap::new()));
        let (nodes, topic, tell) = (nodes.to_vec(), topic.to_owned(), Arc::clone(&told));
        let batch = plain_batch(&[&incompressible(batch_bytes)]);
        let run = move |stopping: &AtomicBool| {
            let mut leader = None;
            while !stopping.load(Ordering::Relaxed) {
                thread::sleep(pause);
                leader = leader.or_else(|| view::leader(&nodes, &topic, 0));
                leader = leader.and_then(|mut client: RawClient| {
                    let (error, _) = client.produce(&topic, 0, &batch).ok()?;
                    *tell.lock().entry(error).or_default() += 1;
                    (error == 0).then_some(client)
                });
            }
            Ok(())
        };
        Self {
            told,
            _task: Task::start("bulk", run),
        }
    }

    /// How often each error code was answered; 0 is success.
    pub fn told(&self) -> BTreeMap<i16, u64> {
        self.told.lock().clone()
    }
}

/// Should anything below want to compress it.
fn incompressible(bytes: usize) -> Vec<u8> {
    let mut random = Random::seeded(0);
    let mut content = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        content.extend(random.next_u64().to_be_bytes());
    }
    content
}
