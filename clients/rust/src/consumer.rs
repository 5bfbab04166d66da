//! Reads records: from given partitions and positions, fetched ahead.
//!
//! A driver keeps one fetch under way at every broker that leads assigned partitions, as long as there is room in
//! the buffer. [`Consumer::next`] hands out what has come, still as batches; [`Fetched::records`] opens them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use meridian_types::{LeaderEpoch, NodeId, Offset, TimestampMs};
use meridian_wire::batch::{BatchError, RecordsError};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::admin::{AdminError, OffsetSpec};
use crate::cluster::Cluster;
use crate::error::Refusal;
use crate::token::Token;

mod after;
mod driver;
mod fetch_plan;
mod fetch_session;
mod fetched;

pub use self::fetched::{Fetched, FetchedRecords};

use self::fetch_plan::FetchPlan;

/// How a consumer reads.
#[derive(Clone, Debug)]
pub struct ConsumerSettings {
    /// How long a broker waits for [`ConsumerSettings::bytes_min`] before it answers with less.
    pub wait_max: Duration,
    /// A broker answers at once when it has this many bytes.
    pub bytes_min: u32,
    /// Most bytes of one answer; a batch that is larger still comes whole.
    pub bytes_max: u32,
    /// Most bytes of one partition in an answer.
    pub partition_bytes_max: u32,
    /// Fetching pauses while this many bytes wait to be taken.
    pub buffer_bytes: usize,
    /// Most that one compressed batch may decompress to.
    pub decompressed_bytes_max: usize,
    /// Whether the checksum of every batch is checked.
    pub verify_crc: bool,
    /// Whether records of transactions come only once committed.
    pub read_committed: bool,
    /// Where to go on when the position is no longer, or not yet, in the log.
    pub on_out_of_range: OutOfRange,
    /// The consumer's rack: servers then may point it to a replica nearby (KIP-392).
    pub rack: Option<String>,
}

impl Default for ConsumerSettings {
    fn default() -> Self {
        Self {
            wait_max: Duration::from_millis(500),
            bytes_min: 1,
            bytes_max: 50 << 20,
            partition_bytes_max: 1 << 20,
            buffer_bytes: 64 << 20,
            decompressed_bytes_max: 128 << 20,
            verify_crc: true,
            read_committed: false,
            on_out_of_range: OutOfRange::Fail,
            rack: None,
        }
    }
}

/// What to do when a position is not in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfRange {
    /// Go on at the log's start.
    Earliest,
    /// Go on at the log's end.
    Latest,
    /// Say so, and read the partition no further.
    Fail,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// At the log's start.
    Earliest,
    /// At the log's end: only what is written from now on.
    Latest,
    /// At this offset.
    Offset(Offset),
    /// This many records before the end, or at the start if there are fewer.
    BeforeEnd(u64),
    /// At the first record of this time or later; at the end if there is none.
    Time(TimestampMs),
}

/// Why a partition cannot be read, or no further.
#[derive(Clone, Debug, Error)]
pub enum ConsumeError {
    /// Its position cannot be found.
    #[error(transparent)]
    Position(#[from] AdminError),
    /// The server refuses for good.
    #[error("topic '{topic}', partition {partition}: {refusal}")]
    Refused {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// What the server says.
        refusal: Refusal,
    },
    /// The position is not in the log, and [`OutOfRange::Fail`] was asked for. Begin elsewhere.
    #[error("topic '{topic}', partition {partition}: offset {offset} is not in the log")]
    OutOfRange {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// The position.
        offset: Offset,
    },
    /// What came is damaged. Reading again may help; if not, go on behind it.
    #[error("topic '{topic}', partition {partition}, at offset {offset}: {error}")]
    Batch {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// Where.
        offset: Offset,
        /// What is wrong.
        error: BatchError,
    },
    /// The records in a batch cannot be read.
    #[error("topic '{topic}', partition {partition}, at offset {offset}: {error}")]
    Records {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// Where the batch begins.
        offset: Offset,
        /// What is wrong.
        error: RecordsError,
    },
    /// The broker that was to be read did not get what a token speaks of in time. Wait longer, or read without a rack:
    /// the leader has it.
    #[error(
        "topic '{topic}', partition {partition}: offset {offset}, which the token speaks of, was not there within {waited:?}: {}",
        told(end)
    )]
    NotYet {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// The token's.
        offset: Offset,
        /// The broker that was asked last, and the offset at which its log ends; `None` where none has answered.
        end: Option<(NodeId, Offset)>,
        /// How long was waited.
        waited: Duration,
    },
    /// What a token speaks of is not in the log: another record has its offset. It was lost, as when a region takes over
    /// without another's last records; write it again if it is still wanted.
    #[error(
        "topic '{topic}', partition {partition}: the record at offset {offset} is of leader epoch {found}, the token's was of {written}"
    )]
    Replaced {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// The offset of both.
        offset: Offset,
        /// The token's epoch.
        written: LeaderEpoch,
        /// That of the record which is there.
        found: LeaderEpoch,
    },
    /// The driver has ended: the runtime is going down.
    #[error("the consumer has ended")]
    Closed,
}

fn told(end: &Option<(NodeId, Offset)>) -> String {
    match end {
        Some((broker, end)) => format!("the log of broker {broker} ends at {end}"),
        None => "no broker has answered".to_owned(),
    }
}

/// Reads assigned partitions.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
    fetched: mpsc::UnboundedReceiver<Item>,
}

/// What the driver passes on. The queue is bounded by the bytes that are buffered, not by its length.
#[derive(Debug)]
enum Item {
    Fetched(Fetched),
    Failed {
        key: Key,
        version: u64,
        error: ConsumeError,
    },
}

/// A topic and a partition in it.
type Key = (Arc<str>, u32);

#[derive(Debug)]
struct Shared {
    cluster: Cluster,
    settings: ConsumerSettings,
    plan: Mutex<FetchPlan>,
    /// Wakes the driver.
    wake: Notify,
    buffered_bytes: AtomicUsize,
}

impl Consumer {
    /// Starts a consumer without partitions.
    pub fn start(cluster: &Cluster, settings: ConsumerSettings) -> Self {
        let (items, fetched) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            cluster: cluster.clone(),
            plan: Mutex::new(FetchPlan::new(&settings)),
            settings,
            wake: Notify::new(),
            buffered_bytes: AtomicUsize::new(0),
        });
        tokio::spawn(driver::run(Arc::clone(&shared), items));
        Self { shared, fetched }
    }

    /// Adds partitions, each from where it is to begin. A partition that is assigned already begins anew.
    ///
    /// Gives the offset at which each begins; [`Self::positions`] moves on as soon as something is fetched.
    pub async fn assign(
        &self,
        partitions: &[(String, u32, StartAt)],
    ) -> Result<BTreeMap<(String, u32), Offset>, ConsumeError> {
        self.assign_after(partitions, &[], Duration::ZERO).await
    }

    /// As [`Self::assign`], but a partition that a token speaks of is read only from a broker that has the token's record:
    /// whoever has written something sees it, also where a mirror is read. A broker has `limit` for getting it, then the
    /// partition ends with [`ConsumeError::NotYet`]. Tokens of other partitions say nothing.
    pub async fn assign_after(
        &self,
        partitions: &[(String, u32, StartAt)],
        tokens: &[Token],
        limit: Duration,
    ) -> Result<BTreeMap<(String, u32), Offset>, ConsumeError> {
        let positions = resolve(&self.shared.cluster, partitions).await?;
        let mut ids = BTreeMap::new();
        if !tokens.is_empty() {
            for (topic, ..) in partitions {
                let known = self.shared.cluster.topic(topic).await;
                ids.insert(topic.as_str(), known.map_err(AdminError::from)?.id);
            }
        }
        let now = Instant::now();
        let mut plan = self.shared.plan.lock();
        for (topic, index, offset) in &positions {
            let key: Key = (topic.as_str().into(), *index);
            plan.assign(Arc::clone(&key.0), *index, *offset);
            let id = ids.get(topic.as_str()).copied().flatten();
            for token in tokens {
                if (Some(token.topic), token.partition) == (id, *index) {
                    plan.read_after(now, &key, *token, limit);
                }
            }
        }
        drop(plan);
        self.shared.wake.notify_one();
        Ok(positions
            .into_iter()
            .map(|(topic, index, offset)| ((topic, index), offset))
            .collect())
    }

    /// Takes partitions away: nothing of them comes any more.
    pub fn unassign(&self, partitions: &[(String, u32)]) {
        let mut plan = self.shared.plan.lock();
        for (topic, index) in partitions {
            plan.unassign(topic, *index);
        }
        drop(plan);
        self.shared.wake.notify_one();
    }

    /// The partitions it has.
    pub fn assignment(&self) -> Vec<(String, u32)> {
        self.shared.plan.lock().assignment()
    }

    /// Where fetching goes on in each partition: beyond what [`Self::next`] has given out.
    pub fn positions(&self) -> BTreeMap<(String, u32), Offset> {
        self.shared.plan.lock().positions()
    }

    /// Waits for the next batches of any partition. An error speaks of one partition, which is then no longer assigned.
    pub async fn next(&mut self) -> Result<Fetched, ConsumeError> {
        loop {
            let item = self.fetched.recv().await.ok_or(ConsumeError::Closed)?;
            let plan = self.shared.plan.lock();
            match item {
                Item::Fetched(fetched) if plan.is_current(fetched.key(), fetched.version()) => {
                    return Ok(fetched);
                }
                Item::Failed { key, version, error } if plan.is_current(&key, version) => {
                    drop(plan);
                    self.unassign(&[(key.0.to_string(), key.1)]);
                    return Err(error);
                }
                // Taken away, or begun anew, since it was fetched.
                Item::Fetched(_) | Item::Failed { .. } => {}
            }
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.plan.lock().close();
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn has_room(&self) -> bool {
        self.buffered_bytes.load(Ordering::Relaxed) < self.settings.buffer_bytes
    }
}

/// Finds out where to begin.
async fn resolve(
    cluster: &Cluster,
    partitions: &[(String, u32, StartAt)],
) -> Result<Vec<(String, u32, Offset)>, AdminError> {
    let ask = |topic: &String, index: u32, start: StartAt| {
        let spec = match start {
            StartAt::Offset(_) => return None,
            StartAt::Earliest => OffsetSpec::Earliest,
            StartAt::Latest | StartAt::BeforeEnd(_) => OffsetSpec::Latest,
            StartAt::Time(time) => OffsetSpec::AtTime(time),
        };
        Some((topic.clone(), index, spec))
    };
    let first: Vec<_> = partitions
        .iter()
        .filter_map(|(topic, index, start)| ask(topic, *index, *start))
        .collect();
    let found = crate::admin::list_offsets(cluster, &first).await?;
    let at = |key: &(String, u32)| found.get(key).and_then(|it| it.offset);
    // Some need to know the other end of the log too.
    let second: Vec<_> = partitions
        .iter()
        .filter_map(|(topic, index, start)| {
            let key = (topic.clone(), *index);
            let spec = match start {
                StartAt::BeforeEnd(_) => OffsetSpec::Earliest,
                StartAt::Time(_) if at(&key).is_none() => OffsetSpec::Latest,
                _ => return None,
            };
            Some((key.0, key.1, spec))
        })
        .collect();
    let other = crate::admin::list_offsets(cluster, &second).await?;
    Ok(partitions
        .iter()
        .map(|(topic, index, start)| {
            let key = (topic.clone(), *index);
            let other = other.get(&key).and_then(|it| it.offset);
            let offset = match start {
                StartAt::Offset(offset) => *offset,
                StartAt::BeforeEnd(count) => {
                    let end = at(&key).unwrap_or_default();
                    Offset(end.0.saturating_sub(*count)).max(other.unwrap_or_default())
                }
                _ => at(&key).or(other).unwrap_or_default(),
            };
            (key.0, key.1, offset)
        })
        .collect())
}
