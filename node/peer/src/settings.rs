//! What a node brings to its conversations.

use std::time::Duration;

use meridian_types::{NodeId, Uuid};

use crate::lane::{Lane, URGENT_FRAME_BYTES_MAX};
use crate::tls::PeerTls;

/// Settings of [`crate::Peers`].
#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// This node.
    pub node: NodeId,
    /// Id of the life of this node's data directory.
    pub incarnation: Uuid,
    /// The region's name; nodes of other regions are refused. At most 255 bytes.
    pub region: String,
    /// Mutual TLS; without it connections are plain, and a peer that wants TLS is refused.
    pub tls: Option<PeerTls>,
    /// Largest body of a frame in the bulk lane, sent or taken.
    pub frame_bytes_max: usize,
    /// Bytes that wait to be sent to one peer in one lane, and bytes of one connection's calls being served. A
    /// single larger frame still passes when nothing else waits.
    pub queue_bytes_max: usize,
    /// Time for a call to be answered, unless the call sets its own.
    pub call_timeout: Duration,
    /// Time for a connection to be opened and greeted.
    pub dial_timeout: Duration,
    /// A connection on which nothing arrives for this long is closed. Each side says that it is alive four
    /// times as often.
    pub silence_max: Duration,
    /// Wait after the first failed dial; doubles with each further one.
    pub backoff_min: Duration,
    /// Longest wait between dials.
    pub backoff_max: Duration,
    /// Runs the urgent lane and accepts connections, so that a busy main runtime cannot delay them. Needs
    /// timers and I/O enabled. `None`: the runtime that [`crate::Peers::new`] is called in, as for the bulk lane.
    pub urgent: Option<tokio::runtime::Handle>,
}

impl PeerSettings {
    /// The defaults, for a node in a region.
    pub fn new(node: NodeId, incarnation: Uuid, region: impl Into<String>) -> Self {
        Self {
            node,
            incarnation,
            region: region.into(),
            tls: None,
            frame_bytes_max: 128 << 20,
            queue_bytes_max: 64 << 20,
            call_timeout: Duration::from_secs(5),
            dial_timeout: Duration::from_secs(1),
            silence_max: Duration::from_secs(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            urgent: None,
        }
    }

    /// Largest body of a frame in a lane.
    pub(crate) fn frame_max(&self, lane: Lane) -> usize {
        // Lengths travel in 32 bits.
        let frame_bytes_max = self.frame_bytes_max.min(u32::MAX as usize);
        match lane {
            Lane::Bulk => frame_bytes_max,
            Lane::Urgent => frame_bytes_max.min(URGENT_FRAME_BYTES_MAX),
        }
    }
}
