//! History straight from the bucket.
//!
//! A [`Catalog`] is what a bucket says of itself: topics, shards, manifests. A [`Selection`] (topics, partitions, from, until)
//! becomes a [`Plan`], whose partitions are read one by one ([`PartitionReader`]) or exported in parallel to files
//! ([`export`]): Arrow IPC, Parquet (feature `parquet`) or JSON lines. The schema is described in
//! `docs/formats/replay.md`.
//!
//! What the bucket does not have yet comes from brokers, if a [`Source`] has some ([`TailSource`]): the plan then ends at
//! the high watermark of each partition, and its reader goes from one to the other by offset.
//!
//! An export is resumable: a small JSON file beside the output says, partition by partition, which files are finished
//! and where to go on. A file is there under its name only when it is whole.

mod catalog;
mod disk;
mod error;
mod export;
mod json_lines;
mod part;
mod plan;
mod reader;
#[cfg(feature = "arrow")]
mod rows;
mod seam;
#[cfg(test)]
mod seam_tests;
mod state;
mod tail;
#[cfg(test)]
mod tests;

pub use catalog::{Catalog, CatalogError, NewestFile};
pub use error::ReplayError;
pub use export::{ExportSettings, Progress, Summary, export, export_to};
pub use json_lines::{JsonLines, encode_base64};
pub use part::Format;
pub use plan::{Bound, PartitionPlan, Plan, PlanError, Selection};
pub use reader::{Chunk, PartitionReader};
#[cfg(feature = "arrow")]
pub use rows::{RowBuilder, schema};
pub use state::{FinishedFile, PartitionState, ReplayState, Rest, StateError};
pub use tail::{
    Source, TailCluster, TailError, TailFuture, TailPartition, TailPosition, TailReader, TailSource,
};

/// Largest block of records that one batch may decompress to.
pub const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;
