//! The facts of a region whose nodes are lost, as the region that is rebuilt from its bucket begins with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meridian_lineage::Standing;
use meridian_types::{LogPosition, NodeId, RegionEpoch, ShardId, ShardMap, TimestampMs, TopicId};
use thiserror::Error;

use crate::controller::Controller;
use crate::node::{Node, NodeRegistration, RegisterNodeError};
use crate::outcome::FoundingError;
use crate::placement::Placement;
use crate::topic::Topic;

/// What the rebuilt region begins with beside the facts.
#[derive(Clone, Debug)]
pub struct Successor {
    /// Where its log begins: beyond every entry of the log that was lost.
    pub at: LogPosition,
    /// Its only node.
    pub node: NodeRegistration,
    /// Its epoch, above every one before.
    pub region_epoch: RegionEpoch,
    /// When it begins.
    pub now: TimestampMs,
    /// Topics that the shards have dropped: they were deleted after the facts were copied.
    pub dropped: BTreeSet<TopicId>,
    /// Topics of which shards have records, with the least number of partitions that fits. Those that the facts do not name
    /// were made after the facts were copied; their names are lost, and they are called `restored-<id>`.
    pub seen: BTreeMap<TopicId, u32>,
}

/// What had to be changed so that the facts fit what the shards have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Topics with records and without a name: the names they got.
    pub renamed: Vec<(TopicId, String)>,
    /// Topics that got partitions after the facts were copied.
    pub grown: Vec<String>,
    /// Topics deleted because the shards had dropped them.
    pub deleted: Vec<String>,
    /// Ids of the lost nodes, which are not given again.
    pub retired: Vec<NodeId>,
}

/// Why a region cannot begin with these facts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// The copy is of before the founding: there is nothing to restore.
    #[error("the facts are of a region that was not founded yet")]
    NotFounded,
    /// Other regions have its content: what they hold is newer than its bucket.
    #[error(
        "the region is one of several of its logical cluster, and the others hold what it held: start an empty node that follows them instead"
    )]
    OneOfSeveral,
    /// The region understood more. Run a newer version of Meridian.
    #[error(
        "the region was at feature level {feature_level}, and this version understands {version_max}; use a newer version of Meridian"
    )]
    Version {
        /// The level in force.
        feature_level: u16,
        /// What the node understands.
        version_max: u16,
    },
    /// Epochs must rise, or leaders of both regions would mint the same.
    #[error("region epoch {asked} is not above {present}")]
    RegionEpoch {
        /// The epoch asked for.
        asked: RegionEpoch,
        /// The epoch of the lost region.
        present: RegionEpoch,
    },
    /// A lost node had the id, and may come back. Take another one.
    #[error(
        "node id {node} was that of a lost node, which may come back; take an id that none had, such as {free}"
    )]
    NodeTaken {
        /// The id.
        node: NodeId,
        /// One that is free.
        free: NodeId,
    },
    /// The node's registration cannot be.
    #[error(transparent)]
    Node(#[from] RegisterNodeError),
    /// Nothing above the last region epoch is left.
    #[error(transparent)]
    Founding(#[from] FoundingError),
    /// What comes out does not hold: a defect.
    #[error("the facts do not hold together: {0}")]
    Check(String),
}

impl Controller {
    /// The lowest node id that is above every one ever given.
    pub fn next_node_id(&self) -> NodeId {
        let given = self.nodes.keys().chain(&self.retired).max();
        NodeId(given.map_or(1, |last| last.0.saturating_add(1)))
    }

    /// The facts as the rebuilt region begins with them: topics, configs, and producer ids as they were, every shard on
    /// its one node, the ids of the lost nodes retired.
    pub fn restored(mut self, successor: Successor) -> Result<(Self, Mended), RestoreError> {
        let Successor {
            at,
            node,
            region_epoch,
            now,
            dropped,
            seen,
        } = successor;
        node.check()?;
        let id = node.node;
        if self.nodes.contains_key(&id) || self.retired.contains(&id) {
            let free = self.next_node_id();
            return Err(RestoreError::NodeTaken { node: id, free });
        }
        if node.version_max < self.feature_level {
            return Err(RestoreError::Version {
                feature_level: self.feature_level,
                version_max: node.version_max,
            });
        }
        if self.geo.is_some() {
            return Err(RestoreError::OneOfSeveral);
        }
        self.standing = Standing::default();
        let founding = self.founding.as_mut().ok_or(RestoreError::NotFounded)?;
        if region_epoch <= founding.region_epoch {
            return Err(RestoreError::RegionEpoch {
                asked: region_epoch,
                present: founding.region_epoch,
            });
        }
        founding.region_epoch = region_epoch;
        // Whoever compares the two finds two regions.
        founding.founded_at = now;
        founding.check()?;
        let shards = founding.shards;

        let mut mended = Mended {
            retired: self.nodes.keys().copied().collect(),
            ..Mended::default()
        };
        self.retired.extend(std::mem::take(&mut self.nodes).into_keys());
        self.node_configs.clear();
        self.resolve_settings();
        self.applied = at;
        let placement = Placement {
            // The groups are made: nobody is ever to make them again.
            founders: Vec::new(),
            replicas: vec![id],
            epoch: at.index.0,
        };
        let shards = ShardMap::shared(shards).all().chain([ShardId::CONTROLLER]);
        self.placements = shards.map(|shard| (shard, placement.clone())).collect();
        let row = Node {
            registration: node,
            epoch: at.index.0,
            registered_at: now,
            draining: false,
        };
        self.nodes.insert(id, row);

        for topic in dropped {
            if let Some(topic) = self.topics.delete(topic, now) {
                mended.deleted.push(topic.name.to_string());
            }
        }
        for (id, partitions) in seen {
            if self.deleted_topic(id).is_some() {
                continue;
            }
            if let Some(topic) = self.topic_by_id(id) {
                if topic.partitions < partitions {
                    let grown = Topic {
                        partitions,
                        ..Topic::clone(topic)
                    };
                    mended.grown.push(grown.name.to_string());
                    self.topics.put(Arc::new(grown));
                }
                continue;
            }
            let name = format!("restored-{id}");
            let topic = Topic {
                name: name.as_str().into(),
                id,
                partitions,
                configs: crate::configs::Configs::new(),
                created_at: now,
                settings: Arc::clone(self.topic_defaults()),
            };
            self.topics.put(Arc::new(topic));
            mended.renamed.push((id, name));
        }
        self.check().map_err(RestoreError::Check)?;
        Ok((self, mended))
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::{RaftIndex, Term, Uuid};

    use super::*;
    use crate::command::Command;
    use crate::controller::Founding;
    use crate::node::FEATURE_LEVEL_MAX;
    use crate::topic::NewTopic;

    const NEW_LOG: LogPosition = LogPosition {
        term: Term(0),
        index: RaftIndex(1_000_000),
    };

    fn registration(id: u32) -> NodeRegistration {
        NodeRegistration {
            node: NodeId(id),
            incarnation: Uuid::from_u128(id.into()),
            kafka: None,
            peer: Some(crate::node::HostPort {
                host: "h".to_owned(),
                port: 7,
            }),
            version_max: FEATURE_LEVEL_MAX,
            rack: None,
        }
    }

    fn topic(n: u128) -> TopicId {
        TopicId(Uuid::from_u128(n))
    }

    /// A region of three nodes with the topics 1 and 2.
    fn lost() -> Controller {
        let mut controller = Controller::new();
        let founding = Founding {
            cluster_id: "c".to_owned(),
            region: "eu".to_owned(),
            shards: 4,
            region_epoch: RegionEpoch(0),
            founded_at: TimestampMs(1),
        };
        let nodes = (1..=3).map(registration).collect();
        let topics = [1, 2].map(|n| NewTopic {
            name: format!("topic-{n}"),
            id: topic(n),
            partitions: 3,
            configs: BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())]),
        });
        let commands = [
            Command::found(founding, nodes, BTreeMap::new()),
            Command::CreateTopics {
                topics: topics.to_vec(),
                now: TimestampMs(2),
            },
            Command::AllocateProducerIds { count: 10 },
        ];
        for (index, command) in (1..).zip(&commands) {
            let at = LogPosition {
                term: Term(1),
                index: RaftIndex(index),
            };
            controller.apply(at, command);
        }
        controller
    }

    fn successor(id: u32) -> Successor {
        Successor {
            at: NEW_LOG,
            node: NodeRegistration {
                peer: None,
                ..registration(id)
            },
            region_epoch: RegionEpoch(1),
            now: TimestampMs(50),
            dropped: BTreeSet::new(),
            seen: BTreeMap::new(),
        }
    }

    #[test]
    fn a_rebuilt_region_has_its_topics_and_one_node_and_never_gives_a_lost_id_again() {
        let lost = lost();
        assert_eq!(lost.next_node_id(), NodeId(4));
        let dealt = lost.producer_ids_dealt;
        let (mut region, mended) = lost.restored(successor(4)).expect("restored");
        assert_eq!(mended.retired, [1, 2, 3].map(NodeId));
        assert_eq!(region.topic("topic-1").expect("it is there").configs.len(), 1);
        assert_eq!(region.producer_ids_dealt, dealt);
        assert_eq!(region.founding().expect("founded").region_epoch, RegionEpoch(1));
        assert!(
            region
                .placements()
                .all(|(_, placement)| placement.replicas == [NodeId(4)])
        );
        let bytes = region.encode_snapshot().concat();
        let read = Controller::decode_snapshot(&bytes).expect("its snapshot is sound");
        assert_eq!(read.digest(), region.digest());
        let at = LogPosition {
            term: Term(1),
            index: RaftIndex(NEW_LOG.index.0 + 1),
        };
        let back = Command::RegisterNode {
            node: registration(2),
            now: TimestampMs(60),
        };
        let refused = crate::Outcome::NodeRegistered(Err(RegisterNodeError::Retired { node: NodeId(2) }));
        assert_eq!(region.apply(at, &back), refused);
    }

    #[test]
    fn topics_follow_what_the_shards_have() {
        let changes = Successor {
            dropped: BTreeSet::from([topic(2)]),
            seen: BTreeMap::from([(topic(1), 7), (topic(9), 5), (topic(2), 3)]),
            ..successor(4)
        };
        let (region, mended) = lost().restored(changes).expect("restored");
        assert_eq!(mended.deleted, ["topic-2"]);
        assert_eq!(mended.grown, ["topic-1"]);
        assert_eq!(region.topic("topic-1").expect("kept").partitions, 7);
        let name = format!("restored-{}", topic(9));
        assert_eq!(mended.renamed, [(topic(9), name.clone())]);
        assert_eq!(region.topic(&name).expect("named").partitions, 5);
        assert_eq!(region.topic_count(), 2);
        assert!(region.deleted_topic(topic(2)).is_some());
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_to_do() {
        let taken = lost().restored(successor(2)).expect_err("a lost node's");
        assert!(taken.to_string().contains("such as 4"), "{taken}");
        let same = Successor {
            region_epoch: RegionEpoch(0),
            ..successor(4)
        };
        assert!(matches!(
            lost().restored(same),
            Err(RestoreError::RegionEpoch { .. })
        ));
        let mut older = successor(4);
        older.node.version_max = 1;
        assert!(matches!(
            lost().restored(older),
            Err(RestoreError::Version { .. })
        ));
        assert_eq!(
            Controller::new().restored(successor(4)).map(|_| ()),
            Err(RestoreError::NotFounded)
        );
    }
}
