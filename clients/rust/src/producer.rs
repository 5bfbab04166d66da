//! Writes records: batched, compressed, in order, each once.
//!
//! ```text
//! send -> accumulator (pure: batches, sequences) -> driver -> one sender per broker -> connection
//! ```

use std::sync::Arc;

use meridian_types::TimestampMs;
use meridian_wire::batch::{BatchBuilder, BuildError};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout};

use crate::admin::{AdminError, tokens};
use crate::cluster::{Cluster, TopicError};
use crate::driver::now_ms;
use crate::error::{Refusal, RequestError};
use crate::metadata::TopicMetadata;
use crate::token::Token;

mod accumulator;
mod delivery;
mod driver;
mod identity;
mod partition_queue;
mod partitioner;
mod settings;

pub use self::delivery::{Delivery, RecordMetadata};
pub use self::partitioner::murmur2;
pub use self::settings::{Acks, ProducerSettings};

use self::accumulator::Accumulator;
use self::partitioner::partition_of_key;

/// A record to write. Parts are borrowed: they are copied into a batch when it is sent.
#[derive(Clone, Debug, Default)]
pub struct NewRecord<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition; `None` lets the key decide, or spreads records without key.
    pub partition: Option<u32>,
    /// Its time; `None` for now.
    pub timestamp: Option<TimestampMs>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers; a key may come several times.
    pub headers: &'a [(&'a [u8], Option<&'a [u8]>)],
}

impl<'a> NewRecord<'a> {
    /// A record for `topic` with `value`.
    pub fn new(topic: &'a str, value: &'a [u8]) -> Self {
        Self {
            topic,
            value: Some(value),
            ..Self::default()
        }
    }

    /// With this key.
    #[must_use]
    pub fn with_key(mut self, key: &'a [u8]) -> Self {
        self.key = Some(key);
        self
    }
}

/// Writes records to a cluster. Clones share batches and connections.
#[derive(Clone, Debug)]
pub struct Producer {
    handle: Arc<Handle>,
}

/// Dropping the last handle lets the driver send what is there, and end.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

/// What the callers of `send` and the driver share.
#[derive(Debug)]
struct Shared {
    cluster: Cluster,
    settings: ProducerSettings,
    accumulator: Mutex<Accumulator>,
    /// Bytes that records may still take.
    memory: Semaphore,
    /// Wakes the driver.
    wake: Notify,
}

/// Why a producer cannot start.
#[derive(Clone, Debug, Error)]
pub enum ProducerError {
    /// No producer id: the server could not be asked, or does not serve InitProducerId. In the second case
    /// turn idempotence off.
    #[error("cannot get a producer id: {0}")]
    Request(#[from] RequestError),
    /// The server refuses to give a producer id.
    #[error("cannot get a producer id: {0}")]
    Refused(Refusal),
    /// Idempotence needs acks=all and at most five requests in flight.
    #[error("an idempotent producer needs acks=all and 1 to 5 requests in flight")]
    Settings,
}

/// Why a record was not taken. It is certainly not written.
#[derive(Clone, Debug, Error)]
pub enum SendError {
    /// The topic cannot be found.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The topic has no such partition.
    #[error("topic '{topic}' has no partition {partition}: it has {count}, numbered from 0")]
    NoPartition {
        /// The topic.
        topic: String,
        /// The partition asked for.
        partition: u32,
        /// How many there are.
        count: usize,
    },
    /// Larger than [`ProducerSettings::request_bytes_max`].
    #[error("the record takes {bytes} bytes; at most {bytes_max} are allowed")]
    TooLarge {
        /// What it takes.
        bytes: usize,
        /// The setting.
        bytes_max: usize,
    },
    /// The buffer stayed full: the server is slower than the records come. Wait, or try again.
    #[error("the producer's buffer stayed full for {0:?}: the server does not keep up")]
    Full(std::time::Duration),
    /// A batch cannot hold it.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The producer was closed.
    #[error("the producer is closed")]
    Closed,
}

/// Why a record was not acknowledged.
#[derive(Clone, Debug, Error)]
pub enum ProduceError {
    /// The server refused it for good.
    #[error("topic '{topic}', partition {partition}: {refusal}")]
    Refused {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// What the server says.
        refusal: Refusal,
    },
    /// It was tried until [`ProducerSettings::delivery_timeout`].
    #[error(
        "topic '{topic}', partition {partition}: not acknowledged in time{}; last: {reason}",
        if *may_be_written { " (it may be written)" } else { "" }
    )]
    Expired {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// Whether some try may have reached the log.
        may_be_written: bool,
        /// What the last try said.
        reason: String,
    },
    /// The batch could not be made.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The driver has ended: the runtime is going down.
    #[error("the producer ended before the record was acknowledged")]
    Closed,
}

impl Producer {
    /// Starts a producer; an idempotent one gets its id here.
    pub async fn start(cluster: &Cluster, settings: ProducerSettings) -> Result<Self, ProducerError> {
        let is_consistent = settings.acks == Acks::All && (1..=5).contains(&settings.in_flight_max);
        if settings.is_idempotent && !is_consistent {
            return Err(ProducerError::Settings);
        }
        let identity = if settings.is_idempotent {
            Some(driver::init_producer_id(cluster).await?)
        } else {
            None
        };
        let shared = Arc::new(Shared {
            cluster: cluster.clone(),
            memory: Semaphore::new(settings.buffer_bytes.min(Semaphore::MAX_PERMITS)),
            accumulator: Mutex::new(Accumulator::new(&settings, identity, cluster.seed())),
            settings,
            wake: Notify::new(),
        });
        tokio::spawn(driver::run(Arc::clone(&shared)));
        Ok(Self {
            handle: Arc::new(Handle { shared }),
        })
    }

    /// Takes a record for writing. Waits for the topic's metadata and for room in the buffer, not for the
    /// server: the [`Delivery`] tells when and where it was written. Records of one caller and partition are
    /// written in the order in which they were taken.
    pub async fn send(&self, record: &NewRecord<'_>) -> Result<Delivery, SendError> {
        let shared = &self.handle.shared;
        let size = BatchBuilder::record_size_max(record.key, record.value, record.headers);
        let bytes_max = shared
            .settings
            .request_bytes_max
            .min(shared.settings.buffer_bytes);
        if size > bytes_max {
            return Err(SendError::TooLarge {
                bytes: size,
                bytes_max,
            });
        }
        let metadata = shared.cluster.metadata();
        let topic = match metadata.topics.get(record.topic) {
            Some(topic) => Arc::clone(topic),
            None => shared.cluster.topic(record.topic).await?,
        };
        let permits = u32::try_from(size).unwrap_or(u32::MAX);
        match shared.memory.try_acquire_many(permits) {
            Ok(permit) => permit.forget(),
            Err(_) => {
                let limit = shared.settings.buffer_timeout;
                match timeout(limit, shared.memory.acquire_many(permits)).await {
                    Ok(Ok(permit)) => permit.forget(),
                    Ok(Err(_)) => return Err(SendError::Closed),
                    Err(_) => return Err(SendError::Full(limit)),
                }
            }
        }
        self.push(record, &topic, size)
            .inspect_err(|_| shared.memory.add_permits(size))
    }

    fn push(
        &self,
        record: &NewRecord<'_>,
        topic: &TopicMetadata,
        size: usize,
    ) -> Result<Delivery, SendError> {
        let shared = &self.handle.shared;
        let count = topic.partitions.len();
        let timestamp = record.timestamp.unwrap_or_else(now_ms);
        let now = Instant::now();
        let mut accumulator = shared.accumulator.lock();
        let partition = match (record.partition, record.key) {
            (Some(partition), _) if (partition as usize) < count => partition,
            (Some(partition), _) => {
                return Err(SendError::NoPartition {
                    topic: record.topic.to_owned(),
                    partition,
                    count,
                });
            }
            (None, Some(key)) => partition_of_key(key, count),
            (None, None) => accumulator.sticky_partition(topic, size),
        };
        let (delivery, is_news) = accumulator.push(now, timestamp, partition, record, size)?;
        drop(accumulator);
        if is_news {
            shared.wake.notify_one();
        }
        Ok(delivery)
    }

    /// A token for a record of `topic` that was acknowledged: with it others read it wherever they are, see [`Token`]. Asks the
    /// record's leader, since an acknowledgement does not say the epoch.
    ///
    /// Errors: `NoToken` where the acknowledgement does not say the offset, as with acks=0.
    pub async fn token(&self, topic: &str, written: &RecordMetadata) -> Result<Token, AdminError> {
        let partition = written.partition;
        let offset = written.offset.ok_or_else(|| AdminError::NoToken {
            topic: topic.to_owned(),
            partition,
            reason: "its acknowledgement does not say the offset",
        })?;
        let record = (topic.to_owned(), partition, offset);
        let tokens = tokens(&self.handle.shared.cluster, &[record]).await?;
        Ok(*tokens.first().expect("one record has one token"))
    }

    /// Sends what is there without waiting for batches to fill, and waits until all of it is acknowledged or
    /// has failed; the deliveries tell which.
    pub async fn flush(&self) {
        let unfinished = self.handle.shared.accumulator.lock().flush();
        self.handle.shared.wake.notify_one();
        for outcome in unfinished {
            outcome.done().await;
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.accumulator.lock().close();
        self.shared.wake.notify_one();
    }
}
