//! What brokers have and the bucket does not have yet.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use meridian_types::{Offset, Partition, TimestampMs};
use thiserror::Error;

use crate::cold::ColdReader;
use crate::topics_file::NamedTopic;

/// Where history is read from.
#[derive(Clone)]
pub struct Source {
    /// The bucket.
    pub cold: ColdReader,
    /// Brokers that have the newest part; without them history ends where the bucket does.
    pub tail: Option<Arc<dyn TailSource>>,
}

impl From<ColdReader> for Source {
    fn from(cold: ColdReader) -> Self {
        Self { cold, tail: None }
    }
}

/// An answer of brokers.
pub type TailFuture<'a, T> = BoxFuture<'a, Result<T, TailError>>;

/// Brokers of the cluster that the bucket belongs to.
///
/// This crate knows no protocol of clients: who has a client implements this with it.
pub trait TailSource: Send + Sync {
    /// What they say of the cluster.
    fn describe(&self) -> TailFuture<'_, TailCluster>;

    /// A position in each of `partitions`, in their order; `None` where nothing is of the time or later.
    fn offsets<'a>(
        &'a self,
        partitions: &'a [TailPartition],
        position: TailPosition,
    ) -> TailFuture<'a, Vec<Option<Offset>>>;

    /// Reads a partition from `from` on, without end.
    fn read(&self, partition: &TailPartition, from: Offset) -> Box<dyn TailReader>;
}

/// Reads a partition from brokers.
pub trait TailReader: Send {
    /// The next whole batches, as they were written, their checksums compared. The first may begin before the position.
    /// Dropping the answer loses nothing; after an error the reader is not used again.
    fn next(&mut self) -> TailFuture<'_, Vec<Bytes>>;
}

/// What brokers say of their cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailCluster {
    /// Its id.
    pub id: String,
    /// Its topics; configs may be left out.
    pub topics: Vec<NamedTopic>,
}

/// A partition by its name too: Kafka's requests name it so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailPartition {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// The partition. A topic of this name with another id is another topic.
    pub partition: Partition,
}

/// A position that brokers are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailPosition {
    /// The first record that is not deleted.
    Start,
    /// The high watermark.
    End,
    /// The first record of this time or later.
    Time(TimestampMs),
}

/// Brokers do not give what they were asked for.
#[derive(Clone, Debug, Error)]
pub enum TailError {
    /// They cannot be asked now, or know no leader. Go on later.
    #[error("the brokers do not answer: {reason}")]
    Unavailable {
        /// What they, or the network, say.
        reason: String,
    },
    /// The offset is not in the log any more, or not yet.
    #[error("the log reaches from {start} to {end}")]
    OutOfRange {
        /// The first offset that is there.
        start: Offset,
        /// The high watermark.
        end: Offset,
    },
    /// They refuse, or the topic is gone. What changed must be looked into.
    #[error("{reason}")]
    Refused {
        /// What they say.
        reason: String,
    },
    /// What came is no batch, or its checksum is wrong. Reading again may help.
    #[error("what the brokers sent is damaged: {reason}")]
    Damaged {
        /// What is wrong.
        reason: String,
    },
}

impl TailError {
    /// Whether the same may succeed later without anybody changing anything.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Damaged { .. } => true,
            Self::OutOfRange { .. } | Self::Refused { .. } => false,
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("has_tail", &self.tail.is_some())
            .finish_non_exhaustive()
    }
}
