//! The coordinator of classic consumer groups (KIP-62, 134, 345, 394, 800, 814), as in Kafka 4.x.
//!
//! [`Coordinator`] is a pure core: it takes `now` and requests, and answers through
//! [`Coordinator::poll_reply`] and [`Coordinator::poll_action`]. [`GroupCoordinator`] in `driver.rs`
//! runs it under tokio. Groups belong to shards by [`meridian_types::shard_of_name`]; only the
//! leader of a shard coordinates its groups.
//!
//! What a member is told survives a restart: a generation is saved before its assignments are
//! handed out, and so is the end of the last member. Committed offsets are not kept here.

mod core;
mod driver;
mod error;
mod group;
mod join;
mod leave;
mod member;
mod persist;
mod query;
mod rebalance;
mod request;
mod saved;
mod saves;
mod settings;
mod step;
mod subscription;
mod sync;
mod timers;

#[cfg(test)]
mod tests;

pub use self::core::{Action, Coordinator, LoadProblem, MemberIds};
pub use driver::{BoxFuture, GroupCoordinator, GroupStore};
pub use error::{GroupError, StoreError};
pub use group::GroupState;
pub use query::{GroupDescription, ListFilter, ListedGroup, MemberDescription, OffsetExpiry};
pub use request::{
    Client, CommitKind, CommitRequest, HeartbeatRequest, JoinMember, JoinRefused, JoinRequest, JoinResult,
    Joined, LeaveRequest, LeavingMember, LeftMember, Protocol, Reply, SyncRequest, Synced, Token,
};
pub use saved::DecodeError;
pub use saves::SaveId;
pub use settings::GroupSettings;
