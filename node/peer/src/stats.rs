//! Counters for metrics.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use meridian_types::NodeId;
use parking_lot::Mutex;

use crate::lane::Lane;

/// What went between this node and another one in one lane since the node's address was first set, over the
/// connections of both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStats {
    /// The other node.
    pub node: NodeId,
    /// The lane.
    pub lane: Lane,
    /// Bytes of frames written, heads included.
    pub sent_bytes: u64,
    /// Frames written.
    pub sent_frames: u64,
    /// Bytes of whole frames read, heads included.
    pub received_bytes: u64,
    /// Frames read.
    pub received_frames: u64,
    /// Connections opened from here.
    pub connects: u64,
    /// Attempts from here that failed.
    pub failed_dials: u64,
    /// Notices dropped because there was no connection, or no room in the queue.
    pub dropped_notices: u64,
    /// Bytes waiting to be sent from here now.
    pub queue_bytes: usize,
    /// Why the last connection or attempt from here ended, for people.
    pub last_failure: Option<String>,
}

/// Counts for one node and lane.
#[derive(Default)]
pub(crate) struct Counters {
    sent_bytes: AtomicU64,
    sent_frames: AtomicU64,
    received_bytes: AtomicU64,
    received_frames: AtomicU64,
    connects: AtomicU64,
    failed_dials: AtomicU64,
    dropped_notices: AtomicU64,
    last_failure: Mutex<Option<String>>,
}

impl Counters {
    pub(crate) fn sent(&self, frames: u64, bytes: usize) {
        self.sent_frames.fetch_add(frames, Relaxed);
        self.sent_bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received_frames.fetch_add(1, Relaxed);
        self.received_bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn connected(&self) {
        self.connects.fetch_add(1, Relaxed);
    }

    pub(crate) fn dial_failed(&self) {
        self.failed_dials.fetch_add(1, Relaxed);
    }

    pub(crate) fn notice_dropped(&self) {
        self.dropped_notices.fetch_add(1, Relaxed);
    }

    /// Remembers why a connection or attempt ended. Returns whether it is another reason than the last.
    pub(crate) fn failed(&self, reason: String) -> bool {
        let mut last = self.last_failure.lock();
        let is_new = last.as_ref() != Some(&reason);
        *last = Some(reason);
        is_new
    }

    pub(crate) fn stats(&self, node: NodeId, lane: Lane, queue_bytes: usize) -> PeerStats {
        PeerStats {
            node,
            lane,
            sent_bytes: self.sent_bytes.load(Relaxed),
            sent_frames: self.sent_frames.load(Relaxed),
            received_bytes: self.received_bytes.load(Relaxed),
            received_frames: self.received_frames.load(Relaxed),
            connects: self.connects.load(Relaxed),
            failed_dials: self.failed_dials.load(Relaxed),
            dropped_notices: self.dropped_notices.load(Relaxed),
            queue_bytes,
            last_failure: self.last_failure.lock().clone(),
        }
    }
}
