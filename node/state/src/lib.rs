//! The shard's state machine: partitions, producers, group offsets. Pure.
//!
//! A shard's Raft log is a list of [`Command`]s; [`State::apply`] turns one after the other into the same
//! state on every replica (invariant 4). [`Sequencer`] is the leader's look ahead: it gives batches their
//! offsets before they are proposed. Nothing here reads a clock, a file or a random number.

/// Whether a deliberate defect acts, see `tests/mutants`. Only the simulation can switch one on.
#[cfg(feature = "mutants")]
macro_rules! mutant {
    ($name:ident) => {
        meridian_mutants::is_on(meridian_mutants::Mutant::$name)
    };
}
#[cfg(not(feature = "mutants"))]
macro_rules! mutant {
    ($name:ident) => {
        false
    };
}

mod codec;
mod hasher;

pub mod chunk;
pub mod command;
pub mod content;
pub mod cut;
pub mod epochs;
pub mod groups;
pub mod install;
pub mod mirror;
pub mod partition;
pub mod producers;
pub mod sequencer;
pub mod snapshot;
pub mod state;
pub mod tier;

#[cfg(test)]
mod testing;

pub use chunk::Chunk;
pub use command::{AppendGroup, Command, CommandError, CommittedOffset, ExpiredOffsets, FillGroup, Install};
pub use content::{ContentFault, verify_content};
pub use cut::{Cut, CutEnd};
pub use groups::{Group, SavedGroup};
pub use install::FillRejected;
pub use mirror::Mirrored;
pub use partition::{OutOfRange, PartitionState};
pub use producers::{Duplicate, ProducedBatch, Producer, SequenceError};
pub use sequencer::{ProduceRejection, Sequencer, Staged};
pub use snapshot::SnapshotError;
pub use state::{Appended, Outcome, Rejected, State};
pub use tier::TierRejected;
