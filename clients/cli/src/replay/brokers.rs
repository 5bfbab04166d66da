//! The newest part of a replay: brokers, asked as any consumer asks them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use meridian_client::admin::OffsetSpec;
use meridian_client::{
    Admin, AdminError, Cluster, ConsumeError, Consumer, ConsumerSettings, Fetched, StartAt,
};
use meridian_tiered_storage::replay::{
    TailCluster, TailError, TailFuture, TailPartition, TailPosition, TailReader, TailSource,
};
use meridian_tiered_storage::topics_file::NamedTopic;
use meridian_types::Offset;
use meridian_wire::batch::verify_crc;
use tokio::time::timeout;

/// Most bytes of an answer, and what is fetched ahead of each partition.
const FETCH_BYTES: u32 = 4 << 20;
const AHEAD_BYTES: usize = 8 << 20;

/// The brokers of the cluster that a bucket belongs to.
#[derive(Clone)]
pub(super) struct Brokers {
    cluster: Cluster,
    /// How long to wait for something that must be there.
    patience: Duration,
}

impl Brokers {
    pub(super) fn new(cluster: Cluster, patience: Duration) -> Self {
        Self { cluster, patience }
    }

    async fn describe(&self) -> Result<TailCluster, TailError> {
        let topics = Admin::new(&self.cluster).list_topics().await.map_err(failed)?;
        let mut named = Vec::with_capacity(topics.len());
        for topic in topics.iter().filter(|topic| !topic.is_internal) {
            let Some(id) = topic.id else {
                return Err(refused("they give topics no ids; Meridian's do"));
            };
            named.push(NamedTopic {
                id,
                name: topic.name.clone(),
                partitions: topic.partitions.len() as u32,
                configs: BTreeMap::new(),
            });
        }
        let id = self.cluster.metadata().cluster_id.clone();
        Ok(TailCluster {
            id: id.ok_or_else(|| refused("they do not tell their cluster's id"))?,
            topics: named,
        })
    }

    async fn offsets(
        &self,
        partitions: &[TailPartition],
        position: TailPosition,
    ) -> Result<Vec<Option<Offset>>, TailError> {
        let spec = match position {
            TailPosition::Start => OffsetSpec::Earliest,
            TailPosition::End => OffsetSpec::Latest,
            TailPosition::Time(time) => OffsetSpec::AtTime(time),
        };
        let wanted: Vec<_> = partitions
            .iter()
            .map(|it| (it.topic.to_string(), it.partition.index, spec))
            .collect();
        let found = Admin::new(&self.cluster)
            .list_offsets(&wanted)
            .await
            .map_err(failed)?;
        let of = |(topic, index, _)| found.get(&(topic, index)).and_then(|it| it.offset);
        Ok(wanted.into_iter().map(of).collect())
    }
}

impl TailSource for Brokers {
    fn describe(&self) -> TailFuture<'_, TailCluster> {
        self.describe().boxed()
    }

    fn offsets<'a>(
        &'a self,
        partitions: &'a [TailPartition],
        position: TailPosition,
    ) -> TailFuture<'a, Vec<Option<Offset>>> {
        self.offsets(partitions, position).boxed()
    }

    fn read(&self, partition: &TailPartition, from: Offset) -> Box<dyn TailReader> {
        Box::new(BrokerReader {
            brokers: self.clone(),
            partition: partition.clone(),
            from,
            consumer: None,
        })
    }
}

/// Reads one partition, fetched ahead.
struct BrokerReader {
    brokers: Brokers,
    partition: TailPartition,
    from: Offset,
    consumer: Option<Consumer>,
}

impl TailReader for BrokerReader {
    fn next(&mut self) -> TailFuture<'_, Vec<Bytes>> {
        self.fetch().boxed()
    }
}

impl BrokerReader {
    async fn fetch(&mut self) -> Result<Vec<Bytes>, TailError> {
        let patience = self.brokers.patience;
        let consumer = match &mut self.consumer {
            Some(consumer) => consumer,
            none => none.insert(start(&self.brokers.cluster, &self.partition, self.from).await?),
        };
        let Ok(next) = timeout(patience, consumer.next()).await else {
            return Err(TailError::Unavailable {
                reason: format!("nothing came for {} s", patience.as_secs_f32()),
            });
        };
        match next {
            Ok(fetched) => self.take(&fetched),
            Err(ConsumeError::OutOfRange { .. }) => {
                let one = std::slice::from_ref(&self.partition);
                let start = self.brokers.offsets(one, TailPosition::Start).await?;
                let end = self.brokers.offsets(one, TailPosition::End).await?;
                let first = |found: Vec<Option<Offset>>| found.into_iter().next().flatten();
                Err(TailError::OutOfRange {
                    start: first(start).unwrap_or_default(),
                    end: first(end).unwrap_or_default(),
                })
            }
            Err(ConsumeError::Position(error)) => Err(failed(error)),
            Err(error @ ConsumeError::Batch { .. }) => Err(damaged(&error)),
            Err(error) => Err(refused(&error.to_string())),
        }
    }

    fn take(&self, fetched: &Fetched) -> Result<Vec<Bytes>, TailError> {
        // Fetched by name: a topic of this name that was made meanwhile is another one.
        let metadata = self.brokers.cluster.metadata();
        let is_same = metadata
            .topics
            .get(&*self.partition.topic)
            .is_some_and(|topic| topic.id == Some(self.partition.partition.topic));
        if !is_same {
            return Err(refused("the topic was deleted meanwhile"));
        }
        let mut batches = Vec::new();
        for batch in fetched.batches() {
            let batch = batch.map_err(|error| damaged(&error))?;
            verify_crc(&batch.bytes).map_err(|error| damaged(&error))?;
            batches.push(batch.bytes);
        }
        Ok(batches)
    }
}

async fn start(cluster: &Cluster, partition: &TailPartition, from: Offset) -> Result<Consumer, TailError> {
    let settings = ConsumerSettings {
        partition_bytes_max: FETCH_BYTES,
        buffer_bytes: AHEAD_BYTES,
        read_committed: true,
        ..ConsumerSettings::default()
    };
    let consumer = Consumer::start(cluster, settings);
    let at = (
        partition.topic.to_string(),
        partition.partition.index,
        StartAt::Offset(from),
    );
    consumer
        .assign(&[at])
        .await
        .map_err(|error| refused(&error.to_string()))?;
    Ok(consumer)
}

fn failed(error: AdminError) -> TailError {
    let reason = error.to_string();
    let is_passing = match error {
        AdminError::Request(error) => error.is_retriable(),
        AdminError::NoLeader { .. } => true,
        AdminError::Refused { refusal, .. } => refusal.code.is_retriable(),
        AdminError::Unanswered { .. } | AdminError::NoPartition { .. } | AdminError::NoToken { .. } => false,
    };
    if is_passing {
        TailError::Unavailable { reason }
    } else {
        TailError::Refused { reason }
    }
}

fn refused(reason: &str) -> TailError {
    TailError::Refused {
        reason: reason.to_owned(),
    }
}

fn damaged(error: &impl ToString) -> TailError {
    TailError::Damaged {
        reason: error.to_string(),
    }
}
