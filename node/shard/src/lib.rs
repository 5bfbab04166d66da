//! One shard on this node, and all of them: where Raft, state, journal and controller meet.
//!
//! [`Region`] is what the broker holds: it finds the shard of a partition, appends, reads and waits.
//! A [`shard::Shard`] owns one Raft group with its state machine and the task that sequences appends.
//!
//! ```text
//! append: queue ─> sequencer (stamps offset, epoch) ─> raft.propose ─> journal on a quorum
//!                                                                    └─> machine.apply ─> answer
//! read:   state (which spans) ─> journal (memory | file) ─> bytes as the producer sent them
//! ```

mod append;
mod control;
mod driver;
mod errors;
mod machine;
mod offsets;
mod read;
mod region;
mod shard;
mod start;
mod wait;

pub use append::Append;
pub use errors::{AppendError, ControlError, DeleteRecordsError, ReadError};
pub use machine::StateGuard;
pub use offsets::{FoundOffset, OffsetSpec};
pub use read::{Batches, Positions};
pub use region::{Appended, LeadershipView, Region, ShardUsage, Usage};
pub use start::{Clock, Random, RegionSettings, RegionStartError, RegisterError, ShardSettings};
