//! The two connections between a pair of nodes.

/// Which connection a message takes. Each lane is a connection of its own, so that many bytes in one cannot
/// delay the other; messages of one lane keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Log entries and other data.
    Bulk,
    /// Heartbeats, votes and other small messages that must not wait. Frames are at most
    /// [`URGENT_FRAME_BYTES_MAX`] bytes, and run on the runtime for urgent work.
    Urgent,
}

/// Largest body of a frame in the urgent lane, in bytes.
pub const URGENT_FRAME_BYTES_MAX: usize = 1 << 20;

impl Lane {
    /// Both lanes.
    pub const ALL: [Self; 2] = [Self::Bulk, Self::Urgent];

    /// The lane's name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Urgent => "urgent",
        }
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}
