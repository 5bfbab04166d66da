//! Consensus for one shard: the only crate that names openraft.
//!
//! A [`Group`] is one shard's Raft group on this node. It keeps its log in the node's journal, its
//! checkpoints through the journal's disk, and hands committed commands, in order, to a [`Machine`].
//! Types of openraft are fixed once in [`config`] and stay inside this crate.
//!
//! ```text
//!   propose ──> openraft ──> log_store ──> journal (fsync)
//!   nudges ──────^  │  │ committed
//!                   │  └──> machine::Applier ──> Machine::apply ──> reply to the proposer
//!                network ──> peers ··· other replicas ··· inbound ──> openraft
//! ```

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

mod blocking;
mod checkpoint;
mod codec;
mod config;
mod contact;
mod group;
mod inbound;
mod incoming;
mod leadership;
mod log_store;
mod machine;
mod membership;
mod network;
mod propose;
mod rpc;
mod settings;
mod upkeep;

pub use blocking::blocking;
pub use checkpoint::{CheckpointError, CheckpointStore};
pub use group::{Group, StartError};
pub use leadership::{Joint, Leadership, Members, Progress};
pub use log_store::{Logged, ReadLogError, logged_commands, read_log};
pub use machine::{ApplyError, Machine, Reply};
pub use membership::TransferError;
pub use network::NetworkSettings;
pub use propose::{Pending, ProposeError};
pub use settings::GroupSettings;

/// Bytes that this crate puts before a command in its journal entry (the payload's kind). A
/// position inside a command is this much further inside the entry's payload.
pub const ENTRY_PREFIX_BYTES: u32 = 1;
