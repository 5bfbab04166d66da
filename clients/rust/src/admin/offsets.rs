//! Positions in partitions: finding them, and deleting what lies before them.

use std::collections::BTreeMap;

use meridian_types::{LeaderEpoch, NodeId, Offset, TimestampMs};
use meridian_wire::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsTopic};
use meridian_wire::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use meridian_wire::{DeleteRecordsRequest, ErrorCode, ListOffsetsRequest, Request};
use tokio::time::Instant;

use super::{Admin, AdminError, partition_id};
use crate::cluster::{Cluster, Lane};
use crate::error::{RequestError, check};

/// Which position to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The log's start.
    Earliest,
    /// The log's end: where the next record will be.
    Latest,
    /// The first record at or after this time.
    AtTime(TimestampMs),
    /// The record with the greatest timestamp (KIP-734).
    MaxTimestamp,
}

/// A position that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedOffset {
    /// The offset; `None` if no record fits, as after the last time.
    pub offset: Option<Offset>,
    /// The timestamp of the record there, if it was looked for by time.
    pub timestamp: Option<TimestampMs>,
    /// The leader epoch of the record there.
    pub leader_epoch: Option<LeaderEpoch>,
}

/// A topic and a partition in it.
type TopicPartition = (String, u32);

impl OffsetSpec {
    fn code(self) -> i64 {
        match self {
            Self::Earliest => -2,
            Self::Latest => -1,
            Self::MaxTimestamp => -3,
            Self::AtTime(time) => time.0.max(0),
        }
    }
}

impl Admin {
    /// Finds a position in each of `partitions`. All are found, or the first that cannot be is the error.
    pub async fn list_offsets(
        &self,
        partitions: &[(String, u32, OffsetSpec)],
    ) -> Result<BTreeMap<(String, u32), ListedOffset>, AdminError> {
        list_offsets(&self.cluster, partitions).await
    }

    /// Deletes the records before an offset in each partition; `None` deletes all there are. Returns the new log starts.
    pub async fn delete_records(
        &self,
        partitions: &[(String, u32, Option<Offset>)],
    ) -> Result<BTreeMap<(String, u32), Offset>, AdminError> {
        let wanted: BTreeMap<_, _> = partitions
            .iter()
            .map(|(topic, index, before)| ((topic.clone(), *index), *before))
            .collect();
        let ask = |of_leader: &[(&TopicPartition, &Option<Offset>)]| DeleteRecordsRequest {
            topics: by_topic(of_leader, |index, before| DeleteRecordsPartition {
                partition_index: partition_id(index),
                offset: before.map_or(-1, |offset| offset.0 as i64),
            })
            .map(|(name, partitions)| DeleteRecordsTopic {
                name: name.into(),
                partitions,
            })
            .collect(),
            timeout_ms: self.server_timeout_ms(),
        };
        ask_leaders(&self.cluster, &wanted, ask, |response| {
            let results = response.topics.into_iter().flat_map(|topic| {
                let name = topic.name.as_str().to_owned();
                topic.partitions.into_iter().map(move |partition| {
                    let result = check(partition.error_code)
                        .map(|()| Offset(u64::try_from(partition.low_watermark).unwrap_or(0)));
                    ((name.clone(), partition.partition_index as u32), result)
                })
            });
            results.collect()
        })
        .await
    }
}

/// See [`Admin::list_offsets`].
pub(crate) async fn list_offsets(
    cluster: &Cluster,
    partitions: &[(String, u32, OffsetSpec)],
) -> Result<BTreeMap<(String, u32), ListedOffset>, AdminError> {
    let wanted: BTreeMap<_, _> = partitions
        .iter()
        .map(|(topic, index, spec)| ((topic.clone(), *index), *spec))
        .collect();
    let ask = |of_leader: &[(&TopicPartition, &OffsetSpec)]| ListOffsetsRequest {
        replica_id: -1,
        topics: by_topic(of_leader, |index, spec| ListOffsetsPartition {
            partition_index: partition_id(index),
            timestamp: spec.code(),
            ..ListOffsetsPartition::default()
        })
        .map(|(name, partitions)| ListOffsetsTopic {
            name: name.into(),
            partitions,
        })
        .collect(),
        timeout_ms: super::millis(cluster.settings().request_timeout),
        ..ListOffsetsRequest::default()
    };
    ask_leaders(cluster, &wanted, ask, |response| {
        let results = response.topics.into_iter().flat_map(|topic| {
            let name = topic.name.as_str().to_owned();
            topic.partitions.into_iter().map(move |partition| {
                let result = check(partition.error_code).map(|()| ListedOffset {
                    offset: u64::try_from(partition.offset).ok().map(Offset),
                    timestamp: Some(TimestampMs(partition.timestamp)).filter(|time| time.0 >= 0),
                    leader_epoch: u32::try_from(partition.leader_epoch).ok().map(LeaderEpoch),
                });
                ((name.clone(), partition.partition_index as u32), result)
            })
        });
        results.collect()
    })
    .await
}

/// Groups partitions by topic, in order.
pub(super) fn by_topic<'a, V, P>(
    partitions: &[(&'a TopicPartition, &V)],
    mut make: impl FnMut(u32, &V) -> P,
) -> impl Iterator<Item = (&'a String, Vec<P>)> {
    let mut topics: BTreeMap<&String, Vec<P>> = BTreeMap::new();
    for ((topic, index), value) in partitions {
        topics.entry(topic).or_default().push(make(*index, value));
    }
    topics.into_iter()
}

/// Asks the leader of each partition, and again after a refresh where leaders have moved. For questions that may
/// be asked twice.
pub(super) async fn ask_leaders<V, R: Request, T>(
    cluster: &Cluster,
    wanted: &BTreeMap<TopicPartition, V>,
    ask: impl Fn(&[(&TopicPartition, &V)]) -> R,
    read: impl Fn(R::Response) -> Vec<(TopicPartition, Result<T, ErrorCode>)>,
) -> Result<BTreeMap<TopicPartition, T>, AdminError> {
    let mut found = BTreeMap::new();
    let mut backoff = cluster.backoff();
    let deadline = Instant::now() + cluster.settings().operation_timeout;
    loop {
        let mut failure = None;
        let mut by_leader: BTreeMap<NodeId, Vec<(&TopicPartition, &V)>> = BTreeMap::new();
        for (partition, value) in wanted
            .iter()
            .filter(|(partition, _)| !found.contains_key(*partition))
        {
            match leader_of(cluster, partition).await {
                Ok(leader) => by_leader.entry(leader).or_default().push((partition, value)),
                Err(error @ AdminError::NoLeader { .. }) => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
        for (leader, partitions) in by_leader {
            match cluster.send_to(Lane::SHARED, leader, &ask(&partitions)).await {
                Ok(response) => {
                    let mut answered: BTreeMap<_, _> = read(response).into_iter().collect();
                    for (partition, _) in partitions {
                        match answered.remove(partition) {
                            Some(Ok(value)) => {
                                found.insert(partition.clone(), value);
                            }
                            Some(Err(code)) => {
                                let error = AdminError::Refused {
                                    what: format!("partition {} of topic '{}'", partition.1, partition.0),
                                    refusal: code.into(),
                                };
                                let is_passing = code.is_retriable() || code == ErrorCode::OffsetNotAvailable;
                                if !is_passing {
                                    return Err(error);
                                }
                                failure = Some(error);
                            }
                            None => {
                                return Err(AdminError::Unanswered {
                                    api: R::API,
                                    what: format!("partition {} of topic '{}'", partition.1, partition.0),
                                });
                            }
                        }
                    }
                }
                Err(error) if error.is_retriable() => failure = Some(error.into()),
                Err(error) => return Err(error.into()),
            }
        }
        let Some(error) = failure else {
            return Ok(found);
        };
        let wait = backoff.next_wait();
        if Instant::now() + wait >= deadline {
            return Err(error);
        }
        tokio::time::sleep(wait).await;
        let topics: std::collections::BTreeSet<&str> =
            wanted.keys().map(|(topic, _)| topic.as_str()).collect();
        let topics: Vec<&str> = topics.into_iter().collect();
        cluster
            .refresh(Some(&topics))
            .await
            .map_err(|error: RequestError| AdminError::from(error))?;
    }
}

async fn leader_of(cluster: &Cluster, partition: &TopicPartition) -> Result<NodeId, AdminError> {
    let topic = cluster.topic(&partition.0).await?;
    let known = topic
        .partitions
        .get(partition.1 as usize)
        .ok_or_else(|| AdminError::NoPartition {
            topic: partition.0.clone(),
            partition: partition.1,
            count: topic.partitions.len(),
        })?;
    known.leader.ok_or_else(|| AdminError::NoLeader {
        topic: partition.0.clone(),
        partition: partition.1,
    })
}
