//! DescribeLogDirs: the sizes of the partitions that this node holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meridian_controller::Topic;
use meridian_types::{Partition, TopicId};
use meridian_wire::describe_log_dirs::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use meridian_wire::{DescribeLogDirsRequest, DescribeLogDirsResponse, Str};

use crate::budget::ByteLease;
use crate::context::Caller;

/// A node has one journal for all its shards; this is what Kafka's tools show in place of a directory.
const LOG_DIR: &str = "journal";
/// Memory of one partition in an answer.
const PARTITION_BYTES: usize = 80;

pub(crate) async fn handle(
    caller: &Caller,
    request: DescribeLogDirsRequest,
    lease: &mut Option<ByteLease>,
) -> DescribeLogDirsResponse {
    let wanted = wanted(caller, request);
    *lease = caller
        .reserve(
            wanted
                .values()
                .map(|(_, indexes)| indexes.len() * PARTITION_BYTES)
                .sum(),
        )
        .await;
    let region = &caller.context.region;
    let topic = |(name, (id, indexes)): (Str, (TopicId, BTreeSet<u32>))| {
        let partition = |index: u32| DescribeLogDirsPartition {
            partition_index: index.cast_signed(),
            partition_size: region.size_bytes(Partition { topic: id, index }).cast_signed(),
            ..Default::default()
        };
        DescribeLogDirsTopic {
            name,
            partitions: indexes.into_iter().map(partition).collect(),
        }
    };
    let result = DescribeLogDirsResult {
        log_dir: LOG_DIR.into(),
        topics: wanted.into_iter().map(topic).collect(),
        ..Default::default()
    };
    DescribeLogDirsResponse {
        results: vec![result],
        ..Default::default()
    }
}

/// The partitions asked for that exist, each once.
fn wanted(caller: &Caller, request: DescribeLogDirsRequest) -> BTreeMap<Str, (TopicId, BTreeSet<u32>)> {
    let controller = caller.context.region.controller();
    let here = caller.context.region.node_id();
    // Of shards that are placed elsewhere there is nothing here.
    let is_held = |topic: TopicId, index: u32| {
        let shard = controller.shard_of(Partition { topic, index });
        shard.is_some_and(|shard| controller.replicas_of(shard).contains(&here))
    };
    let Some(asked) = request.topics else {
        let all = |topic: &Arc<Topic>| {
            let held = (0..topic.partitions).filter(|index| is_held(topic.id, *index));
            (Str::from(topic.name.to_string()), (topic.id, held.collect()))
        };
        return controller.topics().map(all).collect();
    };
    let mut wanted: BTreeMap<Str, (TopicId, BTreeSet<u32>)> = BTreeMap::new();
    for asked in asked {
        let Some(topic) = controller.topic(&asked.topic) else {
            continue;
        };
        let indexes = asked
            .partitions
            .iter()
            .filter_map(|index| u32::try_from(*index).ok());
        let (_, known) = wanted
            .entry(asked.topic)
            .or_insert_with(|| (topic.id, BTreeSet::new()));
        known.extend(indexes.filter(|index| *index < topic.partitions && is_held(topic.id, *index)));
    }
    wanted
}
