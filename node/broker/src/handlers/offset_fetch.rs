//! OffsetFetch: where a group left off.

use std::collections::{BTreeMap, HashSet};

use meridian_state::CommittedOffset;
use meridian_types::{Partition, TopicId};
use meridian_wire::offset_fetch::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponseGroup,
    OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use meridian_wire::{ErrorCode, OffsetFetchRequest, OffsetFetchResponse, Str};

use crate::catalog;
use crate::context::Caller;

/// First version for several groups at once.
const BATCH_FROM: i16 = 8;
/// First version that names topics by id.
const TOPIC_IDS_FROM: i16 = 10;

pub(crate) fn handle(caller: &Caller, request: OffsetFetchRequest) -> OffsetFetchResponse {
    if caller.version >= BATCH_FROM {
        let mut groups = request.groups;
        let mut seen = HashSet::new();
        // A group that is named more than once is told once: repetition must not multiply the answer.
        groups.retain(|group| seen.insert(group.group_id.clone()));
        let groups = groups.into_iter().map(|group| fetch(caller, group)).collect();
        return OffsetFetchResponse {
            groups,
            ..Default::default()
        };
    }
    let topics = request.topics.map(|topics| {
        let topic = |topic: meridian_wire::offset_fetch::OffsetFetchRequestTopic| OffsetFetchRequestTopics {
            name: topic.name,
            partition_indexes: topic.partition_indexes,
            ..Default::default()
        };
        topics.into_iter().map(topic).collect()
    });
    let group = fetch(
        caller,
        OffsetFetchRequestGroup {
            group_id: request.group_id,
            topics,
            ..Default::default()
        },
    );
    OffsetFetchResponse {
        topics: group
            .topics
            .into_iter()
            .map(|topic| before_batches(topic, group.error_code))
            .collect(),
        error_code: group.error_code,
        ..Default::default()
    }
}

/// Versions before 2 have no error of the group: there each partition bears it, which newer ones ignore.
fn before_batches(topic: OffsetFetchResponseTopics, group_error: i16) -> OffsetFetchResponseTopic {
    let partition = |partition: OffsetFetchResponsePartitions| OffsetFetchResponsePartition {
        partition_index: partition.partition_index,
        committed_offset: partition.committed_offset,
        committed_leader_epoch: partition.committed_leader_epoch,
        metadata: partition.metadata,
        error_code: if group_error == 0 {
            partition.error_code
        } else {
            group_error
        },
    };
    OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(partition).collect(),
    }
}

fn fetch(caller: &Caller, request: OffsetFetchRequestGroup) -> OffsetFetchResponseGroup {
    let group_id = request.group_id;
    let offsets = match caller.context.groups.committed(&group_id) {
        Ok(offsets) => offsets,
        Err(error) => {
            // Version 1 has to name its partitions, so that each can bear the error.
            let none = BTreeMap::new();
            let topics = match (caller.version, request.topics) {
                (0..2, Some(topics)) => topics
                    .into_iter()
                    .map(|topic| asked(caller, topic, &none))
                    .collect(),
                _ => Vec::new(),
            };
            return OffsetFetchResponseGroup {
                group_id,
                topics,
                error_code: caller.code(error),
            };
        }
    };
    let topics = match request.topics {
        Some(topics) => topics
            .into_iter()
            .map(|topic| asked(caller, topic, &offsets))
            .collect(),
        None => all(caller, &offsets),
    };
    OffsetFetchResponseGroup {
        group_id,
        topics,
        error_code: 0,
    }
}

fn asked(
    caller: &Caller,
    topic: OffsetFetchRequestTopics,
    offsets: &BTreeMap<Partition, CommittedOffset>,
) -> OffsetFetchResponseTopics {
    let found = {
        let controller = caller.context.region.controller();
        match caller.version >= TOPIC_IDS_FROM {
            true => catalog::topic_id_by_id(&controller, topic.topic_id).ok_or(ErrorCode::UnknownTopicId),
            // A topic that is not there has no committed offsets, which is no error.
            false => Ok(catalog::topic_id_by_name(&controller, &topic.name).unwrap_or(TopicId::NIL)),
        }
    };
    let partition = |partition_index: i32| {
        let committed = found.map(|topic| {
            let index = u32::try_from(partition_index).ok()?;
            offsets.get(&Partition { topic, index })
        });
        match committed {
            Ok(Some(committed)) => position(partition_index, committed),
            Ok(None) => no_position(partition_index, 0),
            Err(error) => no_position(partition_index, caller.code(error)),
        }
    };
    OffsetFetchResponseTopics {
        partitions: topic.partition_indexes.into_iter().map(partition).collect(),
        name: topic.name,
        topic_id: topic.topic_id,
    }
}

/// Every position of the group, of topics that still exist.
fn all(caller: &Caller, offsets: &BTreeMap<Partition, CommittedOffset>) -> Vec<OffsetFetchResponseTopics> {
    let controller = caller.context.region.controller();
    let mut topics: Vec<OffsetFetchResponseTopics> = Vec::new();
    for (partition, committed) in offsets {
        let Some(name) = catalog::topic_name(&controller, partition.topic) else {
            continue;
        };
        if topics
            .last()
            .is_none_or(|topic| topic.topic_id != partition.topic.0)
        {
            topics.push(OffsetFetchResponseTopics {
                name: Str::from(name.to_owned()),
                topic_id: partition.topic.0,
                partitions: Vec::new(),
            });
        }
        let topic = topics.last_mut().expect("pushed above");
        topic
            .partitions
            .push(position(partition.index.cast_signed(), committed));
    }
    topics
}

fn position(partition_index: i32, committed: &CommittedOffset) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: committed.offset.0.cast_signed(),
        committed_leader_epoch: committed.leader_epoch.map_or(-1, |epoch| epoch.0.cast_signed()),
        metadata: Some(committed.metadata.clone().into()),
        error_code: 0,
    }
}

fn no_position(partition_index: i32, error_code: i16) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: -1,
        committed_leader_epoch: -1,
        metadata: Some(Str::EMPTY),
        error_code,
    }
}
