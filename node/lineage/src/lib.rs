//! What a log's content is, how far it has come, and which region may add to it. Pure.
//!
//! All regions have the same *content commands* in the same order, in every shard and in the controller. Their number
//! so far is the log's *sequence*, which means the same everywhere; Raft's indexes and terms stay inside a region.
//! A region epoch is to the sequence what Kafka's leader epoch is to the offset: the [`Lineage`] says under which
//! epoch each content command was added, and a running [`ContentDigest`] proves that two regions have the same ones.
//!
//! `meridian-state` and `meridian-controller` keep a [`Standing`] each, and implement [`ContentCommand`] for their
//! commands; the rules are here, once. Why it is so: `docs/decisions/0014-mirror.md`.

mod codec;

pub mod command;
pub mod digest;
pub mod index;
pub mod install;
pub mod lineage;
pub mod progress;
pub mod reader;
pub mod run;
pub mod standing;

pub use codec::Fault;
pub use command::{BeginEpoch, ContentCommand, Effect, Turn};
pub use digest::ContentDigest;
pub use index::{SequenceIndex, SequencePoint};
pub use install::{
    InstallRejected, STAGE_PART_BYTES_MAX, STAGED_BYTES_MAX, StagePart, StageRejected, Staging,
};
pub use lineage::{Lineage, Relation};
pub use progress::{BeginRejected, FenceRejected, NotOwner, Progress, Role, TurnRejected};
pub use reader::ContentReader;
pub use run::{ContentRun, MirrorRejected, RunHead};
pub use standing::Standing;
