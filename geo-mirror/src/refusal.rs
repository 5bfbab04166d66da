//! Why a source does not give a shard.

use meridian_types::{NodeId, RegionEpoch, RegionNumber};
use thiserror::Error;

/// Why a shard cannot be followed here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Look at the owner's card for a node that hosts the shard; asked again after a while.
    #[error("this node does not host the shard")]
    NotHosted,
    /// Follow at `leader`; asked again here after a while.
    #[error("this node does not lead the shard{}", .leader.map(|node| format!(", node {node} does")).unwrap_or_default())]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Follow the owner; asked again here after a while.
    #[error("region {owner} owns the content since region epoch {region_epoch}")]
    NotOwner {
        /// Who does.
        owner: RegionNumber,
        /// Since when.
        region_epoch: RegionEpoch,
    },
    /// Not asked again: install the owner's checkpoint, then follow from there.
    #[error("the log begins at sequence {oldest}; what comes before is in the checkpoint and the bucket")]
    Purged {
        /// The first sequence that can be read.
        oldest: u64,
    },
    /// Not asked again: the follower took content that the owner never had. Its tail from `fork` on must be set aside.
    #[error("the histories part at sequence {fork}")]
    Diverged {
        /// The first sequence that differs.
        fork: u64,
    },
    /// Not asked again: the same sequence has other content. One of the two regions is damaged.
    #[error("the digests differ at sequence {at}: one of the two regions holds wrong content")]
    DigestDiffers {
        /// Where they were compared.
        at: u64,
    },
    /// Asked again after a while.
    #[error("{reason}")]
    Unknown {
        /// For people. At most 512 bytes travel.
        reason: String,
    },
}

impl Refusal {
    /// Whether asking again, without anybody doing anything, makes no sense.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Purged { .. } | Self::Diverged { .. } | Self::DigestDiffers { .. }
        )
    }
}
