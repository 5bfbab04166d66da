//! The shard's state machine: partitions, producers, group offsets. Pure.
//!
//! A shard's Raft log is a list of [`Command`]s; [`State::apply`] turns one after the other into the same
//! state on every replica (invariant 4). [`Sequencer`] is the leader's look ahead: it gives batches their
//! offsets before they are proposed. Nothing here reads a clock, a file or a random number.

mod codec;
mod hasher;

pub mod chunk;
pub mod command;
pub mod epochs;
pub mod groups;
pub mod partition;
pub mod producers;
pub mod sequencer;
pub mod snapshot;
pub mod state;

#[cfg(test)]
mod testing;

pub use chunk::Chunk;
pub use command::{AppendGroup, Command, CommandError, CommittedOffset, ExpiredOffsets};
pub use groups::{Group, SavedGroup};
pub use partition::{OutOfRange, PartitionState};
pub use producers::{Duplicate, ProducedBatch, Producer, SequenceError};
pub use sequencer::{ProduceRejection, Sequencer, Staged};
pub use snapshot::SnapshotError;
pub use state::{Appended, Outcome, Rejected, State};
