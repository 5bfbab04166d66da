//! What a command is to the content of its log.

use bytes::Bytes;
use meridian_types::{RegionEpoch, RegionNumber};

use crate::digest::ContentDigest;
use crate::run::ContentRun;

/// A region epoch begins in one log: a mirror is promoted, or follows an epoch that begins at its source.
///
/// Refused unless the epoch is newer than the one in force and the log's sequence is the expected one. The first one
/// starts the counting of a log; from then on nothing can be added to it without being counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeginEpoch {
    /// The epoch.
    pub region_epoch: RegionEpoch,
    /// The region that owns the log from now on.
    pub owner: RegionNumber,
    /// Whether that is the region of this log.
    pub is_owner: bool,
    /// The log's sequence as the proposer saw it.
    pub expected_sequence: u64,
}

/// A content command that moves the ownership of its own log: only the controller has such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The owner takes no more content: `to` is to get everything, and the ownership.
    Drain {
        /// The epoch in force.
        region_epoch: RegionEpoch,
        /// The region that is to own the log.
        to: RegionNumber,
    },
    /// The drain is over. The next epoch begins, under the region it was for or, rolled back, under the old owner.
    Hold {
        /// The epoch that begins.
        region_epoch: RegionEpoch,
        /// Who owns the log from now on.
        owner: RegionNumber,
    },
}

/// What a command does to the standing of its log.
#[derive(Clone, Copy, Debug)]
pub enum Effect<'a> {
    /// It is content: every region has it, in the same place.
    Content(Option<Turn>),
    /// It carries content that the owner has added.
    Run(&'a ContentRun),
    /// An epoch begins.
    Begin(&'a BeginEpoch),
    /// The owner stops: no content after it under this epoch.
    Fence(RegionEpoch),
    /// None: it is this region's own matter.
    Own,
}

/// A command of a log that regions share.
pub trait ContentCommand: Sized {
    /// Why bytes are not a command.
    type Error: std::error::Error;

    /// Reads one whole encoded command of any kind.
    fn read(bytes: &Bytes) -> Result<Self, Self::Error>;

    /// What it does to the standing of its log.
    fn effect(&self) -> Effect<'_>;

    /// The digest of the content with this command behind it. Depends on the command alone, so that a reader of the
    /// log can follow it without the state.
    fn fold(&self, digest: ContentDigest) -> ContentDigest;
}
