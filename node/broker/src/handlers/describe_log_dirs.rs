//! DescribeLogDirs: the sizes of the partitions that this node holds.

use std::collections::BTreeMap;

use meridian_types::Partition;
use meridian_wire::describe_log_dirs::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use meridian_wire::{DescribeLogDirsRequest, DescribeLogDirsResponse};

use crate::context::Caller;

/// A node has one journal for all its shards; this is what Kafka's tools show in place of a directory.
const LOG_DIR: &str = "journal";

pub(crate) fn handle(caller: &Caller, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse {
    let region = &caller.context.region;
    let wanted: Vec<(String, Partition)> = {
        let controller = region.controller();
        match request.topics {
            None => controller
                .topics()
                .flat_map(|topic| {
                    let of = |index| {
                        (
                            topic.name.to_string(),
                            Partition {
                                topic: topic.id,
                                index,
                            },
                        )
                    };
                    (0..topic.partitions).map(of).collect::<Vec<_>>()
                })
                .collect(),
            Some(asked) => {
                let mut wanted = Vec::new();
                for asked in asked {
                    let Some(topic) = controller.topic(&asked.topic) else {
                        continue;
                    };
                    let indexes = asked
                        .partitions
                        .iter()
                        .filter_map(|index| u32::try_from(*index).ok());
                    let known = indexes.filter(|index| *index < topic.partitions);
                    wanted.extend(known.map(|index| {
                        (
                            topic.name.to_string(),
                            Partition {
                                topic: topic.id,
                                index,
                            },
                        )
                    }));
                }
                wanted
            }
        }
    };
    let mut topics: BTreeMap<String, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for (name, partition) in wanted {
        topics.entry(name).or_default().push(DescribeLogDirsPartition {
            partition_index: partition.index.cast_signed(),
            partition_size: region.size_bytes(partition).cast_signed(),
            ..Default::default()
        });
    }
    let topic = |(name, partitions): (String, _)| DescribeLogDirsTopic {
        name: name.into(),
        partitions,
    };
    let result = DescribeLogDirsResult {
        log_dir: LOG_DIR.into(),
        topics: topics.into_iter().map(topic).collect(),
        ..Default::default()
    };
    DescribeLogDirsResponse {
        results: vec![result],
        ..Default::default()
    }
}
