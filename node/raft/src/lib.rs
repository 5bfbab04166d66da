//! Consensus for one shard: the only crate that names openraft.
//!
//! A [`Group`] is one shard's Raft group on this node. It keeps its log in the node's journal, its
//! checkpoints through the journal's disk, and hands committed commands, in order, to a [`Machine`].
//! Types of openraft are fixed once in [`config`] and stay inside this crate.
//!
//! ```text
//!   propose ──> openraft ──> log_store ──> journal (fsync)
//!                  │ committed
//!                  └──> machine::Applier ──> Machine::apply ──> reply to the proposer
//! ```

mod checkpoint;
mod codec;
mod config;
mod group;
mod log_store;
mod machine;
mod network;

pub use checkpoint::{Checkpoint, CheckpointError, CheckpointStore};
pub use group::{Group, GroupSettings, Leadership, Pending, ProposeError, StartError};
pub use machine::{ApplyError, Machine, Reply};

/// Bytes that this crate puts before a command in its journal entry (the payload's kind). A
/// position inside a command is this much further inside the entry's payload.
pub const ENTRY_PREFIX_BYTES: u32 = 1;
