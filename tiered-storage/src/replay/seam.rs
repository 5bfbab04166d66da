//! Plans that go on from brokers where the bucket ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use meridian_types::{Offset, Partition};

use super::catalog::Catalog;
use super::plan::{
    Bound, PartitionPlan, Plan, PlanError, Selection, check_name, indexes, runs_in, topics, whole_partition,
};
use super::tail::{TailError, TailPartition, TailPosition, TailSource};

/// Looks up what `selection` means where brokers have the newest part.
///
/// The catalog was read before, so what the bucket has by it ends at or before the high watermark; only a
/// leader that does not know its own yet may say less, and then the bucket's end counts.
pub(super) async fn plan(
    tail: &dyn TailSource,
    catalog: &Catalog,
    selection: &Selection,
) -> Result<Plan, PlanError> {
    let cluster = tail.describe().await?;
    if cluster.id != catalog.cluster {
        return Err(PlanError::OtherCluster {
            brokers: cluster.id,
            bucket: catalog.cluster.clone(),
        });
    }
    let mut wanted = Vec::new();
    for topic in topics("cluster", &cluster.topics, &selection.topics)? {
        check_name(&topic.name)?;
        let name: Arc<str> = topic.name.as_str().into();
        for index in indexes(topic, &selection.partitions)? {
            wanted.push(TailPartition {
                topic: Arc::clone(&name),
                partition: Partition {
                    topic: topic.id,
                    index,
                },
            });
        }
    }
    let starts = offsets(tail, &wanted, TailPosition::Start).await?;
    let ends = offsets(tail, &wanted, TailPosition::End).await?;
    let from = bound(tail, &wanted, selection.from).await?;
    let until = bound(tail, &wanted, selection.until).await?;
    let mut plan = Plan {
        cluster: catalog.cluster.clone(),
        partitions: Vec::new(),
        starts: BTreeMap::new(),
    };
    for (at, named) in wanted.into_iter().enumerate() {
        let cold = whole_partition(catalog, &named.topic, named.partition);
        let start = starts[at].unwrap_or_default();
        let in_bucket = cold.as_ref().map_or(start, |it| it.offsets.end);
        let end = ends[at].unwrap_or_default().max(in_bucket);
        let begin = match from[at] {
            Found::Open => start,
            Found::At(offset) => offset.max(start),
            Found::Nothing => end,
        };
        let stop = match until[at] {
            Found::Open | Found::Nothing => end,
            Found::At(offset) => offset.min(end),
        };
        plan.starts.insert(named.partition, start);
        if begin < stop {
            let offsets = begin..stop;
            plan.partitions.push(PartitionPlan {
                topic: named.topic,
                partition: named.partition,
                runs: cold.map_or_else(|| Arc::from([]), |cold| runs_in(&cold.runs, &offsets)),
                offsets,
            });
        }
    }
    Ok(plan)
}

/// A bound in one partition.
#[derive(Clone, Copy)]
enum Found {
    Open,
    At(Offset),
    /// A time behind the last record.
    Nothing,
}

async fn bound(
    tail: &dyn TailSource,
    partitions: &[TailPartition],
    bound: Bound,
) -> Result<Vec<Found>, PlanError> {
    let time = match bound {
        Bound::Open => return Ok(vec![Found::Open; partitions.len()]),
        Bound::Offset(offset) => return Ok(vec![Found::At(offset); partitions.len()]),
        Bound::Time(time) => time,
    };
    let found = offsets(tail, partitions, TailPosition::Time(time)).await?;
    Ok(found
        .into_iter()
        .map(|offset| offset.map_or(Found::Nothing, Found::At))
        .collect())
}

async fn offsets(
    tail: &dyn TailSource,
    partitions: &[TailPartition],
    position: TailPosition,
) -> Result<Vec<Option<Offset>>, PlanError> {
    let found = tail.offsets(partitions, position).await?;
    if found.len() == partitions.len() {
        Ok(found)
    } else {
        Err(PlanError::Tail(TailError::Refused {
            reason: format!("{} offsets for {} partitions", found.len(), partitions.len()),
        }))
    }
}
