//! Memory that requests and responses may take, counted in bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of bytes that many may share; who takes some gives them back by dropping the [`ByteLease`].
///
/// First come, first served: a large request is not starved by small ones.
#[derive(Clone, Debug)]
pub(crate) struct ByteBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes: Arc<Semaphore>,
    bytes_max: usize,
    waiting: AtomicUsize,
}

/// Bytes taken from a [`ByteBudget`]; dropping it gives them back.
#[derive(Debug)]
pub(crate) struct ByteLease {
    permit: OwnedSemaphorePermit,
}

impl ByteBudget {
    /// A budget of `bytes_max` bytes, at most 4 GiB.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max.clamp(1, u32::MAX as usize);
        Self(Arc::new(Inner {
            bytes: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
            waiting: AtomicUsize::new(0),
        }))
    }

    /// Waits for `bytes`. More than the whole budget counts as the whole: it then passes alone.
    pub(crate) async fn take(&self, bytes: usize) -> ByteLease {
        if let Some(lease) = self.try_take(bytes) {
            return lease;
        }
        self.0.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.0.waiting);
        let permit = self.0.bytes.clone().acquire_many_owned(self.clamp(bytes)).await;
        ByteLease {
            permit: permit.expect("a budget's semaphore is never closed"),
        }
    }

    /// Takes `bytes` if they are there now.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<ByteLease> {
        let permit = self
            .0
            .bytes
            .clone()
            .try_acquire_many_owned(self.clamp(bytes))
            .ok()?;
        Some(ByteLease { permit })
    }

    /// Bytes taken now.
    pub(crate) fn bytes_in_use(&self) -> usize {
        self.0.bytes_max - self.0.bytes.available_permits().min(self.0.bytes_max)
    }

    /// Bytes that nobody has taken.
    pub(crate) fn bytes_free(&self) -> usize {
        self.0.bytes.available_permits()
    }

    /// Whether bytes are getting short: half of them are taken, or someone waits. Who holds some without making
    /// progress then loses them early.
    pub(crate) fn is_pressed(&self) -> bool {
        self.0.waiting.load(Ordering::Relaxed) > 0 || self.bytes_free() < self.0.bytes_max / 2
    }

    fn clamp(&self, bytes: usize) -> u32 {
        // The maximum fits 32 bits, see `new`.
        bytes.min(self.0.bytes_max) as u32
    }
}

impl ByteLease {
    /// Adds the bytes of another lease of the same budget.
    pub(crate) fn merge(&mut self, other: Self) {
        self.permit.merge(other.permit);
    }

    /// Gives back what is above `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let excess = self.permit.num_permits().saturating_sub(bytes);
        drop(self.permit.split(excess));
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.permit.num_permits()
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Memory of the node for request frames, in two pools: large frames wait for one another only, so that a few
/// announced giants cannot hold up ordinary requests.
#[derive(Clone, Debug)]
pub(crate) struct FrameBudget {
    ordinary: ByteBudget,
    large: ByteBudget,
}

impl FrameBudget {
    /// Up to this length a frame is ordinary: a record of 1 MiB with its request around it fits well.
    pub(crate) const ORDINARY_BYTES_MAX: usize = 2 << 20;

    /// Splits `bytes_max` evenly.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            ordinary: ByteBudget::new(bytes_max / 2),
            large: ByteBudget::new(bytes_max - bytes_max / 2),
        }
    }

    /// The pool for a frame of `bytes`.
    pub(crate) fn pool(&self, bytes: usize) -> &ByteBudget {
        if bytes <= Self::ORDINARY_BYTES_MAX {
            &self.ordinary
        } else {
            &self.large
        }
    }

    /// Bytes taken now, of both pools.
    pub(crate) fn bytes_in_use(&self) -> usize {
        self.ordinary.bytes_in_use() + self.large.bytes_in_use()
    }
}

/// What a request holds of its connection's and of its node's memory, until its response is on the way.
#[derive(Debug)]
pub(crate) struct FrameLease {
    /// Of the connection.
    pub(crate) _connection: ByteLease,
    /// Of the node.
    pub(crate) _node: ByteLease,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn bytes_come_back_when_the_lease_is_dropped() {
        let budget = ByteBudget::new(100);
        let lease = budget.take(60).await;
        assert_eq!(budget.bytes_in_use(), 60);
        assert!(budget.try_take(50).is_none());
        drop(lease);
        assert_eq!(budget.take(100).await.bytes(), 100);
        assert_eq!(budget.bytes_in_use(), 0);
    }

    #[tokio::test]
    async fn more_than_the_budget_passes_alone() {
        let budget = ByteBudget::new(100);
        let small = budget.take(1).await;
        assert!(
            timeout(Duration::from_millis(5), budget.take(1000))
                .await
                .is_err()
        );
        drop(small);
        let large = budget.take(1000).await;
        assert_eq!(large.bytes(), 100);
        assert!(budget.try_take(1).is_none());
    }

    #[tokio::test]
    async fn who_gave_up_waiting_is_not_counted() {
        let budget = ByteBudget::new(10);
        let _all = budget.take(10).await;
        {
            let waiting = budget.take(1);
            tokio::pin!(waiting);
            assert!(futures::poll!(&mut waiting).is_pending());
            assert_eq!(budget.0.waiting.load(Ordering::Relaxed), 1);
        }
        assert_eq!(budget.0.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_budget_is_pressed_from_half_on_and_while_someone_waits() {
        let budget = ByteBudget::new(100);
        let half = budget.take(50).await;
        assert!(!budget.is_pressed());
        let one = budget.take(1).await;
        assert!(budget.is_pressed());
        drop(one);
        let waiting = budget.take(60);
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        assert!(budget.is_pressed());
        drop(half);
    }

    #[tokio::test]
    async fn a_shrunk_lease_gives_the_rest_back() {
        let budget = ByteBudget::new(100);
        let mut lease = budget.take(80).await;
        lease.shrink_to(30);
        assert_eq!((lease.bytes(), budget.bytes_in_use()), (30, 30));
        lease.shrink_to(90);
        lease.merge(budget.take(10).await);
        assert_eq!((lease.bytes(), budget.bytes_in_use()), (40, 40));
    }

    #[tokio::test]
    async fn large_frames_do_not_take_the_memory_of_ordinary_ones() {
        let frames = FrameBudget::new(64 << 20);
        let _giant = frames.pool(100 << 20).take(100 << 20).await;
        assert!(frames.pool(100 << 20).try_take(3 << 20).is_none());
        assert!(frames.pool(1000).try_take(1000).is_some());
    }
}
