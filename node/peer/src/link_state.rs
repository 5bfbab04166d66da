//! How things stand with one node.

use tokio::time::Instant;

/// The connections that this node opens to another one, both lanes taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Both lanes are open.
    Connected {
        /// When the later of them was.
        since: Instant,
    },
    /// A lane is closed, and the last attempt to open it was answered: nobody listens there. The process is gone.
    Refused,
    /// A lane is closed, and more is not known: being opened, timed out, unreachable, turned away, or without an
    /// address.
    Down,
}

impl LinkState {
    /// Both lanes are open.
    pub fn is_connected(self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}
