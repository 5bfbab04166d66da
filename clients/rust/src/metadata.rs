//! What a client knows of the cluster: brokers, topics, leaders. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use meridian_types::{LeaderEpoch, NodeId, TopicId};
use meridian_wire::ErrorCode;
use meridian_wire::messages::metadata::{MetadataResponse, MetadataResponseTopic};

use crate::endpoint::Endpoint;
use crate::error::check;

/// One view of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// The cluster's id, if the server tells it.
    pub cluster_id: Option<String>,
    /// The broker that administrative requests go to.
    pub controller: Option<NodeId>,
    /// Every broker.
    pub brokers: BTreeMap<NodeId, Broker>,
    /// The topics that were asked for, by name.
    pub topics: BTreeMap<String, Arc<TopicMetadata>>,
}

/// One broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Its id.
    pub id: NodeId,
    /// Where clients reach it.
    pub endpoint: Endpoint,
    /// Its rack.
    pub rack: Option<String>,
}

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMetadata {
    /// Its name.
    pub name: String,
    /// Its id, from servers that give one.
    pub id: Option<TopicId>,
    /// Whether it is the server's own.
    pub is_internal: bool,
    /// Its partitions, in the order of their indexes.
    pub partitions: Vec<PartitionMetadata>,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionMetadata {
    /// Its index in the topic.
    pub index: u32,
    /// Its leader; `None` while there is none.
    pub leader: Option<NodeId>,
    /// The epoch of that leader, from servers that tell it.
    pub leader_epoch: Option<LeaderEpoch>,
    /// Brokers with a copy.
    pub replicas: Vec<NodeId>,
    /// Those of them that are in sync.
    pub in_sync_replicas: Vec<NodeId>,
    /// Those of them that are away.
    pub offline_replicas: Vec<NodeId>,
}

/// A server's answer, read: the view, and the topics it could not describe.
#[derive(Clone, Debug, Default)]
pub struct MetadataUpdate {
    /// The view, with the topics of this answer only.
    pub metadata: Metadata,
    /// Topics that it has only an error for.
    pub errors: BTreeMap<String, ErrorCode>,
}

impl MetadataUpdate {
    /// Reads an answer. Partitions with indexes that do not run from 0 count as not there: they cannot be addressed.
    pub fn read(response: &MetadataResponse) -> Self {
        let mut update = Self::default();
        let metadata = &mut update.metadata;
        metadata.cluster_id = response.cluster_id.as_ref().map(|id| id.as_str().to_owned());
        metadata.controller = node(response.controller_id);
        for broker in &response.brokers {
            let (Some(id), Ok(port)) = (node(broker.node_id), u16::try_from(broker.port)) else {
                continue;
            };
            metadata.brokers.insert(
                id,
                Broker {
                    id,
                    endpoint: Endpoint::new(broker.host.as_str(), port),
                    rack: broker.rack.as_ref().map(|rack| rack.as_str().to_owned()),
                },
            );
        }
        for topic in &response.topics {
            let Some(name) = topic.name.as_ref().map(|name| name.as_str().to_owned()) else {
                continue;
            };
            match check(topic.error_code) {
                Ok(()) => {
                    metadata
                        .topics
                        .insert(name.clone(), Arc::new(read_topic(name, topic)));
                }
                Err(error) => {
                    update.errors.insert(name, error);
                }
            }
        }
        update
    }
}

impl Metadata {
    /// Takes an update in. Topics that the update does not speak of stay; topics it knows as gone go; a partition whose
    /// leader epoch would fall keeps what is known of it (KIP-320: the answer came from a broker that lags behind).
    pub fn merge(&mut self, update: MetadataUpdate) {
        let MetadataUpdate { metadata, errors } = update;
        self.cluster_id = metadata.cluster_id.or(self.cluster_id.take());
        self.controller = metadata.controller;
        self.brokers = metadata.brokers;
        for (name, error) in errors {
            if error == ErrorCode::UnknownTopicOrPartition {
                self.topics.remove(&name);
            }
        }
        for (name, mut topic) in metadata.topics {
            if let Some(known) = self.topics.get(&name).filter(|known| known.id == topic.id) {
                let topic = Arc::make_mut(&mut topic);
                for (new, old) in topic.partitions.iter_mut().zip(&known.partitions) {
                    if new.leader_epoch.is_some() && new.leader_epoch < old.leader_epoch {
                        *new = old.clone();
                    }
                }
            }
            self.topics.insert(name, topic);
        }
    }

    /// Takes in what a broker says of a partition that it no longer leads (KIP-951). Only a greater epoch is news, and
    /// only a broker that is known can be asked. `true`: the partition's leader is now this one.
    pub(crate) fn learn_leader(
        &mut self,
        topic: &str,
        index: u32,
        leader: NodeId,
        epoch: LeaderEpoch,
    ) -> bool {
        if !self.brokers.contains_key(&leader) {
            return false;
        }
        let is_news = self
            .partition(topic, index)
            .is_some_and(|known| known.leader_epoch.is_none_or(|known| known < epoch));
        if !is_news {
            return false;
        }
        let topic = self.topics.get_mut(topic).expect("its partition is known");
        let partition = &mut Arc::make_mut(topic).partitions[index as usize];
        (partition.leader, partition.leader_epoch) = (Some(leader), Some(epoch));
        true
    }

    /// The partition, if it is known.
    pub fn partition(&self, topic: &str, index: u32) -> Option<&PartitionMetadata> {
        self.topics.get(topic)?.partitions.get(index as usize)
    }

    /// The leader of a partition, if there is one.
    pub fn leader(&self, topic: &str, index: u32) -> Option<NodeId> {
        self.partition(topic, index)?.leader
    }
}

fn read_topic(name: String, topic: &MetadataResponseTopic) -> TopicMetadata {
    let nodes = |ids: &[i32]| ids.iter().filter_map(|id| node(*id)).collect();
    let mut partitions: Vec<PartitionMetadata> = topic
        .partitions
        .iter()
        .filter_map(|partition| {
            Some(PartitionMetadata {
                index: u32::try_from(partition.partition_index).ok()?,
                leader: node(partition.leader_id),
                leader_epoch: u32::try_from(partition.leader_epoch).ok().map(LeaderEpoch),
                replicas: nodes(&partition.replica_nodes),
                in_sync_replicas: nodes(&partition.isr_nodes),
                offline_replicas: nodes(&partition.offline_replicas),
            })
        })
        .collect();
    partitions.sort_by_key(|partition| partition.index);
    let whole = partitions
        .iter()
        .zip(0..)
        .take_while(|(partition, index)| partition.index == *index)
        .count();
    partitions.truncate(whole);
    TopicMetadata {
        name,
        id: Some(TopicId(topic.topic_id)).filter(|id| *id != TopicId::NIL),
        is_internal: topic.is_internal,
        partitions,
    }
}

/// A node id; -1 stands for none.
pub(crate) fn node(id: i32) -> Option<NodeId> {
    u32::try_from(id).ok().map(NodeId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_wire::messages::metadata::{MetadataResponseBroker, MetadataResponsePartition};

    fn answer(partitions: &[(i32, i32, i32)]) -> MetadataUpdate {
        MetadataUpdate::read(&MetadataResponse {
            brokers: vec![MetadataResponseBroker {
                node_id: 1,
                host: "a".into(),
                port: 9092,
                ..MetadataResponseBroker::default()
            }],
            controller_id: -1,
            topics: vec![MetadataResponseTopic {
                name: Some("t".into()),
                partitions: partitions
                    .iter()
                    .map(
                        |&(partition_index, leader_id, leader_epoch)| MetadataResponsePartition {
                            partition_index,
                            leader_id,
                            leader_epoch,
                            ..MetadataResponsePartition::default()
                        },
                    )
                    .collect(),
                ..MetadataResponseTopic::default()
            }],
            ..MetadataResponse::default()
        })
    }

    #[test]
    fn an_older_leader_epoch_does_not_overwrite_a_newer_one() {
        let mut metadata = Metadata::default();
        metadata.merge(answer(&[(0, 1, 5), (1, 1, 5)]));
        metadata.merge(answer(&[(0, 2, 4), (1, 2, 6)]));
        assert_eq!(metadata.leader("t", 0), Some(NodeId(1)));
        assert_eq!(metadata.leader("t", 1), Some(NodeId(2)));
        assert_eq!(metadata.controller, None, "-1 is no controller");
    }

    #[test]
    fn a_hint_moves_a_leader_only_under_a_greater_epoch_and_to_a_known_broker() {
        let mut metadata = Metadata::default();
        metadata.merge(answer(&[(0, 2, 5)]));
        assert!(!metadata.learn_leader("t", 0, NodeId(1), LeaderEpoch(5)));
        assert!(
            !metadata.learn_leader("t", 0, NodeId(3), LeaderEpoch(6)),
            "nobody knows broker 3"
        );
        assert!(!metadata.learn_leader("t", 7, NodeId(1), LeaderEpoch(6)));
        assert!(metadata.learn_leader("t", 0, NodeId(1), LeaderEpoch(6)));
        assert_eq!(metadata.leader("t", 0), Some(NodeId(1)));
        // Metadata of a broker that lags behind does not take it back.
        metadata.merge(answer(&[(0, 2, 5)]));
        assert_eq!(metadata.leader("t", 0), Some(NodeId(1)));
    }

    #[test]
    fn a_topic_that_is_gone_is_forgotten_and_others_stay() {
        let mut metadata = Metadata::default();
        metadata.merge(answer(&[(0, 1, 0)]));
        let mut update = answer(&[]);
        update.metadata.topics.clear();
        metadata.merge(update.clone());
        assert!(metadata.topics.contains_key("t"));
        update
            .errors
            .insert("t".to_owned(), ErrorCode::UnknownTopicOrPartition);
        metadata.merge(update);
        assert!(metadata.topics.is_empty());
    }

    #[test]
    fn partitions_are_sorted_and_cut_at_a_hole() {
        let update = answer(&[(3, 1, 0), (1, 1, 0), (0, -1, 0), (-7, 1, 0)]);
        let topic = &update.metadata.topics["t"];
        assert_eq!(topic.partitions.len(), 2);
        assert_eq!(topic.partitions[0].leader, None);
    }
}
