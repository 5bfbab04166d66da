//! DescribeTopicPartitions: topics page by page (KIP-966).

use std::collections::BTreeMap;
use std::sync::Arc;

use meridian_controller::Topic;
use meridian_types::Partition;
use meridian_wire::describe_topic_partitions::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use meridian_wire::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, ErrorCode, Str};

use crate::catalog;
use crate::cluster_view::ClusterView;
use crate::context::Caller;

/// Most partitions of one page, whatever is asked for (`max.request.partition.size.limit`).
const PAGE_PARTITIONS_MAX: usize = 2000;

pub(crate) fn handle(
    caller: &Caller,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let page = usize::try_from(request.response_partition_limit)
        .unwrap_or(0)
        .clamp(1, PAGE_PARTITIONS_MAX);
    let (from_name, from_index) = match &request.cursor {
        Some(cursor) => (
            cursor.topic_name.to_string(),
            u32::try_from(cursor.partition_index).unwrap_or(0),
        ),
        None => (String::new(), 0),
    };
    let view = ClusterView::new(caller);
    let mut pages = Pages {
        view: &view,
        left: page,
        from: (from_name.clone(), from_index),
        topics: Vec::new(),
    };
    let controller = caller.context.region.controller();
    let mut next_cursor = None;
    if request.topics.is_empty() {
        for topic in controller.topics_from(&from_name) {
            next_cursor = pages.add(topic);
            if next_cursor.is_some() {
                break;
            }
        }
    } else {
        // In order of name, so that a cursor means something.
        let asked: BTreeMap<String, Str> = request
            .topics
            .into_iter()
            .map(|topic| (topic.name.to_string(), topic.name))
            .collect();
        for (key, name) in asked.range(from_name..) {
            next_cursor = match controller.topic(key) {
                Some(topic) => pages.add(topic),
                None => {
                    let error = match catalog::is_valid_name(key) {
                        true => ErrorCode::UnknownTopicOrPartition,
                        false => ErrorCode::InvalidTopicException,
                    };
                    pages.topics.push(DescribeTopicPartitionsResponseTopic {
                        error_code: caller.code(error),
                        name: Some(name.clone()),
                        ..Default::default()
                    });
                    None
                }
            };
            if next_cursor.is_some() {
                break;
            }
        }
    }
    DescribeTopicPartitionsResponse {
        topics: pages.topics,
        next_cursor,
        ..Default::default()
    }
}

struct Pages<'a> {
    view: &'a ClusterView,
    /// Partitions that the page still takes.
    left: usize,
    from: (String, u32),
    topics: Vec<DescribeTopicPartitionsResponseTopic>,
}

impl Pages<'_> {
    /// Adds as much of a topic as fits; where to go on if that is not all of it.
    fn add(&mut self, topic: &Arc<Topic>) -> Option<Cursor> {
        let first = if *topic.name == *self.from.0 {
            self.from.1
        } else {
            0
        };
        let cursor = |index: u32| {
            Some(Cursor {
                topic_name: topic.name.to_string().into(),
                partition_index: index.cast_signed(),
            })
        };
        if self.left == 0 {
            return cursor(first);
        }
        let end = topic
            .partitions
            .min(first.saturating_add(u32::try_from(self.left).unwrap_or(u32::MAX)));
        let indexes = first.min(end)..end;
        self.left -= indexes.len();
        let partition = |index: u32| {
            let shard = self.view.of(Partition {
                topic: topic.id,
                index,
            });
            DescribeTopicPartitionsResponsePartition {
                error_code: shard.error().code(),
                partition_index: index.cast_signed(),
                leader_id: shard.leader_id(),
                leader_epoch: shard.leader_epoch(),
                replica_nodes: shard.replicas.clone(),
                isr_nodes: shard.in_sync.clone(),
                eligible_leader_replicas: Some(Vec::new()),
                last_known_elr: Some(Vec::new()),
                offline_replicas: shard.offline.clone(),
            }
        };
        self.topics.push(DescribeTopicPartitionsResponseTopic {
            name: Some(Str::from(topic.name.to_string())),
            topic_id: topic.id.0,
            partitions: indexes.map(partition).collect(),
            ..Default::default()
        });
        if end < topic.partitions { cursor(end) } else { None }
    }
}
