//! A bound on bytes held.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// What a frame costs besides its body: its place in queues and tables. Without it, a million empty calls
/// would cost nothing.
const OVERHEAD_BYTES: usize = 128;

/// Bytes that may be held at a time. A single larger piece passes when nothing else is held.
pub(crate) struct Budget {
    used: AtomicUsize,
    max: usize,
    released: Notify,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            max,
            released: Notify::new(),
        })
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes room for a frame with a body of `body_bytes`, if there is.
    pub(crate) fn try_take(self: &Arc<Self>, body_bytes: usize) -> Option<Lease> {
        let bytes = body_bytes + OVERHEAD_BYTES;
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                (used == 0 || used + bytes <= self.max).then_some(used + bytes)
            })
            .ok()
            .map(|_| Lease {
                budget: self.clone(),
                bytes,
            })
    }

    /// Waits for room. For one waiter at a time. Safe to cancel.
    pub(crate) async fn take(self: &Arc<Self>, body_bytes: usize) -> Lease {
        loop {
            match self.try_take(body_bytes) {
                Some(lease) => return lease,
                // A release between the two lines leaves a permit behind.
                None => self.released.notified().await,
            }
        }
    }
}

/// Bytes of a [`Budget`], given back when dropped.
pub(crate) struct Lease {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Lease {
    /// Counts more bytes, whether there is room or not.
    pub(crate) fn grow(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.budget.used.fetch_add(bytes, Ordering::AcqRel);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
        self.budget.released.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_larger_than_the_budget_passes_alone() {
        let budget = Budget::new(1000);
        let lease = budget.try_take(5000).expect("alone");
        assert!(budget.try_take(0).is_none());
        drop(lease);
        assert_eq!(budget.used(), 0);
        assert!(budget.try_take(0).is_some());
    }

    #[test]
    fn empty_pieces_are_bounded_too() {
        let budget = Budget::new(1000);
        let leases: Vec<_> = std::iter::from_fn(|| budget.try_take(0)).collect();
        assert_eq!(leases.len(), 1000 / OVERHEAD_BYTES);
    }

    #[tokio::test]
    async fn a_waiter_goes_on_when_bytes_are_released() {
        let budget = Budget::new(1000);
        let mut lease = budget.take(100).await;
        lease.grow(900);
        let waiter = tokio::spawn({
            let budget = budget.clone();
            async move { drop(budget.take(500).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        drop(lease);
        waiter.await.expect("it went on");
        assert_eq!(budget.used(), 0);
    }
}
