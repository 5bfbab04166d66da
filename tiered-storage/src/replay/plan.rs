//! From what is wanted to what is read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use meridian_types::{Offset, Partition, RegionNumber, TimestampMs};
use thiserror::Error;

use super::catalog::Catalog;
use super::seam;
use super::tail::{Source, TailError};
use crate::cold::{ColdError, ColdReader, ColdRun};
use crate::topics_file::NamedTopic;

/// One end of what is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bound {
    /// As far as there is anything.
    #[default]
    Open,
    /// This offset, in every partition.
    Offset(Offset),
    /// The first record of this time or later, in each partition.
    Time(TimestampMs),
}

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Topics by name; none means all.
    pub topics: Vec<String>,
    /// Partitions of them; none means all.
    pub partitions: Vec<u32>,
    /// Where to begin; belongs to it.
    pub from: Bound,
    /// Where to end; does not belong to it.
    pub until: Bound,
}

/// What is read.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The cluster.
    pub cluster: String,
    /// The partitions that have something, by topic and partition.
    pub partitions: Vec<PartitionPlan>,
    /// The first offset that is not deleted, of every partition that was looked at.
    pub starts: BTreeMap<Partition, Offset>,
}

/// What is read of a partition.
#[derive(Clone, Debug)]
pub struct PartitionPlan {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: Partition,
    /// Its offsets.
    pub offsets: Range<Offset>,
    /// Where they lie in the bucket; what is behind the last run has to come from brokers.
    pub runs: Arc<[ColdRun]>,
}

/// Nothing can be read as it was wanted.
#[derive(Debug, Error)]
pub enum PlanError {
    /// A topic that the bucket does not know, or that its cluster does not have.
    #[error("the {of} knows no topic '{topic}'{}", similar.as_ref().map_or_else(String::new, |name| format!("; there is '{name}'")))]
    NoTopic {
        /// What was asked: the bucket, or the cluster.
        of: &'static str,
        /// The name.
        topic: String,
        /// One that is there and looks like it.
        similar: Option<String>,
    },
    /// A partition that no topic has.
    #[error("topic '{topic}' has no partition {partition}: it has {count}, numbered from 0")]
    NoPartition {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// How many it has.
        count: u32,
    },
    /// Its records are in another region's bucket.
    #[error(
        "topic '{topic}' stays in region {home} (geo.home) and was never in this bucket; read that region's bucket, or name brokers with --brokers"
    )]
    OtherRegion {
        /// The topic.
        topic: String,
        /// Number of its region.
        home: RegionNumber,
    },
    /// A name that cannot be a directory. The topics file is damaged, or was made by something else.
    #[error("the bucket has a topic of the impossible name {name:?}")]
    TopicName {
        /// The name.
        name: String,
    },
    /// A time could not be looked up.
    #[error("topic '{topic}', partition {partition}: {source}")]
    Read {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// What is wrong.
        source: ColdError,
    },
    /// The brokers are of another cluster than the bucket. Name those of this one.
    #[error("the brokers are of cluster '{brokers}', the bucket is of cluster '{bucket}'")]
    OtherCluster {
        /// The id that the brokers say.
        brokers: String,
        /// The bucket's.
        bucket: String,
    },
    /// The brokers do not say what they have.
    #[error("what the brokers have cannot be learnt: {0}")]
    Tail(#[from] TailError),
}

impl Plan {
    /// Looks up what `selection` means. With brokers, their topics, log starts and high watermarks count; times are looked up by
    /// them, or else in the bucket.
    pub async fn new(source: &Source, catalog: &Catalog, selection: &Selection) -> Result<Self, PlanError> {
        if let Some(tail) = &source.tail {
            return seam::plan(&**tail, catalog, selection).await;
        }
        let mut plan = Self {
            cluster: catalog.cluster.clone(),
            partitions: Vec::new(),
            starts: BTreeMap::new(),
        };
        for topic in topics("bucket", &catalog.topics.file.topics, &selection.topics)? {
            check_name(&topic.name)?;
            let own = catalog.topics.file.shards.region();
            if let Some(home) = topic.id.home().filter(|home| *home != own) {
                if selection.topics.is_empty() {
                    continue;
                }
                return Err(PlanError::OtherRegion {
                    topic: topic.name.clone(),
                    home,
                });
            }
            let name: Arc<str> = topic.name.as_str().into();
            for index in indexes(topic, &selection.partitions)? {
                let partition = Partition {
                    topic: topic.id,
                    index,
                };
                let Some(whole) = whole_partition(catalog, &name, partition) else {
                    continue;
                };
                plan.starts.insert(partition, whole.offsets.start);
                let cut = cut(&source.cold, whole, selection)
                    .await
                    .map_err(|source| PlanError::Read {
                        topic: topic.name.clone(),
                        partition: index,
                        source,
                    })?;
                plan.partitions.extend(cut);
            }
        }
        Ok(plan)
    }

    /// Offsets that are wanted.
    pub fn offsets(&self) -> u64 {
        let wanted = |plan: &PartitionPlan| plan.offsets.end.0 - plan.offsets.start.0;
        self.partitions.iter().map(wanted).sum()
    }

    /// Bytes of the batches that will be read from the bucket, about: extents that are cut count whole.
    pub fn raw_bytes(&self) -> u64 {
        self.partitions.iter().map(PartitionPlan::raw_bytes).sum()
    }
}

impl PartitionPlan {
    /// Bytes of its batches in the bucket, about: extents that are cut count whole.
    pub fn raw_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.extent.raw_bytes).sum()
    }

    /// The rest of it from `offset` on; `None` when nothing is left.
    pub fn starting_at(&self, offset: Offset) -> Option<Self> {
        let offsets = self.offsets.start.max(offset)..self.offsets.end;
        (offsets.start < offsets.end).then(|| Self {
            runs: runs_in(&self.runs, &offsets),
            offsets,
            ..self.clone()
        })
    }

    /// The part of it before `offset`; `None` when nothing is before.
    pub fn ending_at(&self, offset: Offset) -> Option<Self> {
        let offsets = self.offsets.start..self.offsets.end.min(offset);
        (offsets.start < offsets.end).then(|| Self {
            runs: runs_in(&self.runs, &offsets),
            offsets,
            ..self.clone()
        })
    }
}

/// The topics of those names, or all that `of` has.
pub(super) fn topics<'a>(
    of: &'static str,
    there: &'a [NamedTopic],
    wanted: &[String],
) -> Result<Vec<&'a NamedTopic>, PlanError> {
    let mut topics: Vec<&NamedTopic> = if wanted.is_empty() {
        there.iter().collect()
    } else {
        let names: BTreeSet<&String> = wanted.iter().collect();
        names
            .into_iter()
            .map(|name| {
                let found = there.iter().find(|topic| topic.name == *name);
                found.ok_or_else(|| PlanError::NoTopic {
                    of,
                    topic: name.clone(),
                    similar: similar(name, there),
                })
            })
            .collect::<Result<_, _>>()?
    };
    topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(topics)
}

/// A topic whose name differs in case only, or begins alike.
fn similar(name: &str, topics: &[NamedTopic]) -> Option<String> {
    let lower = name.to_lowercase();
    topics
        .iter()
        .map(|topic| &topic.name)
        .find(|other| {
            let other = other.to_lowercase();
            other == lower || (!lower.is_empty() && (other.starts_with(&lower) || lower.starts_with(&other)))
        })
        .cloned()
}

pub(super) fn indexes(topic: &NamedTopic, wanted: &[u32]) -> Result<BTreeSet<u32>, PlanError> {
    if let Some(wrong) = wanted.iter().find(|index| **index >= topic.partitions) {
        return Err(PlanError::NoPartition {
            topic: topic.name.clone(),
            partition: *wrong,
            count: topic.partitions,
        });
    }
    Ok(if wanted.is_empty() {
        (0..topic.partitions).collect()
    } else {
        wanted.iter().copied().collect()
    })
}

/// Kafka's rule for names; they become directories, and the document they come from may be anything.
pub(super) fn check_name(name: &str) -> Result<(), PlanError> {
    let is_legal = (1..=249).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if is_legal {
        Ok(())
    } else {
        Err(PlanError::TopicName {
            name: name.to_owned(),
        })
    }
}

/// All that the bucket has of a partition.
pub(super) fn whole_partition(
    catalog: &Catalog,
    topic: &Arc<str>,
    partition: Partition,
) -> Option<PartitionPlan> {
    let (shard, file) = catalog.manifest(partition);
    let file = file?;
    let extents = file.manifest.extents(partition);
    let runs: Arc<[ColdRun]> = extents
        .iter()
        .filter_map(|extent| {
            let object = file.manifest.object(extent.object)?;
            Some(ColdRun {
                key: object.name.key(&catalog.cluster, shard),
                object: *object,
                extent: *extent,
            })
        })
        .collect();
    let start = extents.first()?.base_offset.max(file.log_start(partition));
    let plan = PartitionPlan {
        topic: Arc::clone(topic),
        partition,
        offsets: start..extents.last()?.end_offset,
        runs,
    };
    plan.starting_at(start)
}

async fn cut(
    reader: &ColdReader,
    whole: PartitionPlan,
    selection: &Selection,
) -> Result<Option<PartitionPlan>, ColdError> {
    let offsets = whole.offsets.clone();
    // Where nothing of the time or later is, it is the end: a replay from there is empty, one until there is whole.
    let find = async |time| {
        let found = reader
            .find_timestamp(whole.partition, &whole.runs, offsets.start, time)
            .await?;
        Ok::<_, ColdError>(found.map_or(offsets.end, |found| found.offset))
    };
    let start = match selection.from {
        Bound::Open => offsets.start,
        Bound::Offset(offset) => offset.max(offsets.start),
        Bound::Time(time) => find(time).await?,
    };
    let end = match selection.until {
        Bound::Open => offsets.end,
        Bound::Offset(offset) => offset.min(offsets.end),
        Bound::Time(time) => find(time).await?,
    };
    let offsets = start..end;
    Ok((start < end).then(|| PartitionPlan {
        runs: runs_in(&whole.runs, &offsets),
        offsets,
        ..whole
    }))
}

pub(super) fn runs_in(runs: &[ColdRun], offsets: &Range<Offset>) -> Arc<[ColdRun]> {
    runs.iter()
        .filter(|run| run.extent.end_offset > offsets.start && run.extent.base_offset < offsets.end)
        .cloned()
        .collect()
}
