//! How a replay fails.

use std::path::PathBuf;

use meridian_types::Offset;
use meridian_wire::batch::RecordsError;
use thiserror::Error;

use super::tail::TailError;
use crate::cold::ColdError;

/// The replay ended early. What is finished stays; go on with the state file once the cause is gone.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The bucket cannot be read, or is damaged: see [`ColdError::is_retriable`].
    #[error("topic '{topic}', partition {partition}, offset {offset}: {source}")]
    Read {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// Where the replay stood.
        offset: Offset,
        /// What is wrong.
        source: ColdError,
    },
    /// The brokers that have the newest part do not give it: see [`TailError::is_retriable`].
    #[error("topic '{topic}', partition {partition}, offset {offset}, from brokers: {source}")]
    Tail {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// Where the replay stood.
        offset: Offset,
        /// What is wrong.
        source: TailError,
    },
    /// A batch cannot be taken apart. Its bytes are those that were written (checksums agree), so a producer made it
    /// like this.
    #[error("topic '{topic}', partition {partition}, the batch at offset {offset}: {source}")]
    Records {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// First offset of the batch.
        offset: Offset,
        /// What is wrong.
        source: RecordsError,
    },
    /// A file cannot be written: no space, no permission.
    #[error("cannot write {}: {message}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The output went away.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
    /// A task ended without a result: the runtime goes down.
    #[error("the replay was given up")]
    GivenUp,
}
