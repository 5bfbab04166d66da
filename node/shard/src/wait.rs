//! Who waits for a partition to move.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use meridian_types::Partition;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Waiters by partition. A waiter is woken once and then forgotten; one whose `Notify` is gone is
/// swept when its list is next touched, so a list holds at most twice the living.
#[derive(Default)]
pub(crate) struct Waiters {
    partitions: Mutex<HashMap<Partition, List>>,
}

#[derive(Default)]
struct List {
    waiting: Vec<Weak<Notify>>,
    sweep_at: usize,
}

impl Waiters {
    pub(crate) fn add(&self, partition: Partition, waiter: &Arc<Notify>) {
        let mut partitions = self.partitions.lock();
        let list = partitions.entry(partition).or_default();
        if list.waiting.len() >= list.sweep_at {
            list.waiting.retain(|waiting| waiting.strong_count() > 0);
            list.sweep_at = (list.waiting.len() * 2).max(8);
        }
        list.waiting.push(Arc::downgrade(waiter));
    }

    /// Wakes who waits for any of `partitions`.
    pub(crate) fn wake(&self, moved: &[Partition]) {
        let mut partitions = self.partitions.lock();
        for partition in moved {
            if let Some(list) = partitions.remove(partition) {
                wake_list(&list);
            }
        }
    }

    /// Wakes everybody: leadership changed.
    pub(crate) fn wake_all(&self) {
        for list in std::mem::take(&mut *self.partitions.lock()).values() {
            wake_list(list);
        }
    }

    /// Forgets partitions that nobody living waits for.
    pub(crate) fn sweep(&self) {
        self.partitions.lock().retain(|_, list| {
            list.waiting.retain(|waiting| waiting.strong_count() > 0);
            !list.waiting.is_empty()
        });
    }
}

fn wake_list(list: &List) {
    for waiter in &list.waiting {
        if let Some(waiter) = waiter.upgrade() {
            waiter.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::{TopicId, Uuid};

    use super::*;

    fn partition(index: u32) -> Partition {
        Partition {
            topic: TopicId(Uuid::from_u128(1)),
            index,
        }
    }

    #[tokio::test]
    async fn a_waiter_is_woken_by_its_partition_only() {
        let waiters = Waiters::default();
        let (one, two) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        waiters.add(partition(1), &one);
        waiters.add(partition(2), &two);
        waiters.wake(&[partition(1)]);
        one.notified().await;
        assert!(futures::poll!(std::pin::pin!(two.notified())).is_pending());
    }

    #[test]
    fn waiters_that_left_do_not_pile_up() {
        let waiters = Waiters::default();
        for _ in 0..10_000 {
            waiters.add(partition(1), &Arc::new(Notify::new()));
        }
        assert!(waiters.partitions.lock()[&partition(1)].waiting.len() <= 16);
        waiters.sweep();
        assert!(waiters.partitions.lock().is_empty());
    }
}
