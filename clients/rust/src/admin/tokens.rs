//! Tokens of records that are written: which epoch they were written under, their leaders tell.

use std::collections::BTreeMap;

use meridian_types::{LeaderEpoch, Offset};
use meridian_wire::batch;
use meridian_wire::messages::fetch::{FetchPartition, FetchTopic, PartitionData};
use meridian_wire::{ErrorCode, FetchRequest};

use super::offsets::{ask_leaders, by_topic};
use super::{Admin, AdminError, partition_id};
use crate::cluster::Cluster;
use crate::error::check;
use crate::token::Token;

/// How long a leader may wait for a record that others have already told of.
const WAIT_MAX_MS: i32 = 500;
/// A batch is given whole, however large it is; and no second one.
const BYTES_MAX: i32 = 1;

impl Admin {
    /// A token for each of these records, in their order. Asks the leader of each partition, which gives the batch of the record
    /// too: one round trip, side by side.
    ///
    /// Errors: `NoToken` of a server that knows no topic ids or leader epochs, `Refused` where there is no such record.
    pub async fn tokens(&self, records: &[(String, u32, Offset)]) -> Result<Vec<Token>, AdminError> {
        tokens(&self.cluster, records).await
    }
}

/// See [`Admin::tokens`].
pub(crate) async fn tokens(
    cluster: &Cluster,
    records: &[(String, u32, Offset)],
) -> Result<Vec<Token>, AdminError> {
    let made = records
        .iter()
        .map(|(topic, partition, offset)| token(cluster, topic, *partition, *offset));
    futures::future::try_join_all(made).await
}

async fn token(cluster: &Cluster, topic: &str, partition: u32, offset: Offset) -> Result<Token, AdminError> {
    let none = |reason| AdminError::NoToken {
        topic: topic.to_owned(),
        partition,
        reason,
    };
    let id = cluster
        .topic(topic)
        .await?
        .id
        .ok_or_else(|| none("the server gives topics no ids"))?;
    let wanted = BTreeMap::from([((topic.to_owned(), partition), offset)]);
    let ask = |of_leader: &[(&(String, u32), &Offset)]| FetchRequest {
        max_wait_ms: WAIT_MAX_MS,
        min_bytes: 1,
        max_bytes: BYTES_MAX,
        session_epoch: -1,
        topics: by_topic(of_leader, |index, offset| FetchPartition {
            partition: partition_id(index),
            fetch_offset: offset.0.cast_signed(),
            partition_max_bytes: BYTES_MAX,
            ..FetchPartition::default()
        })
        .map(|(name, partitions)| FetchTopic {
            topic: name.into(),
            partitions,
            ..FetchTopic::default()
        })
        .collect(),
        ..FetchRequest::default()
    };
    let found = ask_leaders(cluster, &wanted, ask, |response| {
        let answers = response.responses.into_iter().flat_map(|topic| {
            let name = topic.topic.as_str().to_owned();
            topic.partitions.into_iter().map(move |data| {
                let key = (name.clone(), data.partition_index.cast_unsigned());
                (key, epoch_at(data, offset))
            })
        });
        answers.collect()
    })
    .await?;
    let epoch = found.into_values().next().flatten();
    Ok(Token {
        topic: id,
        partition,
        leader_epoch: epoch.ok_or_else(|| none("the server's records bear no leader epochs"))?,
        offset,
    })
}

/// The epoch of the batch that holds the record.
fn epoch_at(data: PartitionData, offset: Offset) -> Result<Option<LeaderEpoch>, ErrorCode> {
    check(data.error_code)?;
    let bytes = data.records.into_bytes();
    let batch = batch::batches(&bytes).next().and_then(Result::ok);
    match batch {
        Some(batch) if batch.header.base_offset <= offset && offset <= batch.header.last_offset() => {
            Ok(batch.header.leader_epoch)
        }
        // Compaction has taken it, with its whole batch.
        Some(_) => Err(ErrorCode::OffsetOutOfRange),
        None => Err(ErrorCode::OffsetNotAvailable),
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::TimestampMs;
    use meridian_wire::batch::{BatchBuilder, Compression};

    use super::*;

    fn data(base: u64, epoch: u32) -> PartitionData {
        let mut builder = BatchBuilder::new(Compression::None).stored_at(Offset(base), LeaderEpoch(epoch));
        for _ in 0..3 {
            builder
                .push(TimestampMs(0), None, Some(b"v"), &[])
                .expect("small");
        }
        PartitionData {
            records: [builder.build().expect("small")].into_iter().collect(),
            ..PartitionData::default()
        }
    }

    #[test]
    fn the_epoch_is_that_of_the_batch_that_holds_the_record() {
        for offset in 10..13 {
            assert_eq!(epoch_at(data(10, 4), Offset(offset)), Ok(Some(LeaderEpoch(4))));
        }
        assert_eq!(epoch_at(data(10, 4), Offset(9)), Err(ErrorCode::OffsetOutOfRange));
        assert_eq!(
            epoch_at(PartitionData::default(), Offset(9)),
            Err(ErrorCode::OffsetNotAvailable)
        );
    }
}
