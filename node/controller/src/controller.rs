//! The region's facts, and how a command changes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meridian_lineage::{ContentCommand, Effect, Staging, Standing, TurnRejected};
use meridian_types::{
    LogPosition, NodeId, Partition, ProducerId, RegionEpoch, RegionNumber, ShardId, ShardMap, TimestampMs,
    TopicId,
};

use crate::command::Command;
use crate::configs::{self, ConfigChange, ConfigError, ConfigResource, Configs};
use crate::geo::Geo;
use crate::node::{Node, NodeNotFound, RemoveNodeError};
use crate::outcome::{
    AllocateError, CreatePartitionsError, FoundingError, Outcome, ProducerIds, TopicNotFound,
};
use crate::placement::Placement;
use crate::settings::broker::BrokerSettings;
use crate::settings::topic::{self, TopicSettings};
use crate::topic::{CreateTopicError, DeletedTopic, NewTopic, PARTITIONS_MAX, Topic, Topics};

mod membership;

/// Everything the region agrees on, as of the last applied command.
#[derive(Clone, Debug)]
pub struct Controller {
    pub(crate) applied: LogPosition,
    pub(crate) founding: Option<Founding>,
    pub(crate) topics: Topics,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    /// Ids that no node is given any more, from feature level 3 on.
    pub(crate) retired: BTreeSet<NodeId>,
    /// Of every shard and of the controller, as soon as there is a node.
    pub(crate) placements: BTreeMap<ShardId, Placement>,
    /// Never falls: the log holds commands of this level.
    pub(crate) feature_level: u16,
    pub(crate) cluster_configs: Configs,
    /// Only nodes that have some.
    pub(crate) node_configs: BTreeMap<NodeId, Configs>,
    /// Producer ids dealt so far under all region epochs.
    pub(crate) producer_ids_dealt: u64,
    /// What the region is among others of its logical cluster, if it is one of several.
    pub(crate) geo: Option<Geo>,
    /// Where the facts stand among the regions.
    pub(crate) standing: Standing,
    /// A checkpoint of the owner's controller on its way in.
    pub(crate) staged: Option<Box<Staging>>,
    /// Settings of a topic without configs of its own; derived.
    topic_defaults: Arc<TopicSettings>,
    /// Settings of a node without configs of its own; derived.
    broker_defaults: Arc<BrokerSettings>,
    /// Settings of the nodes in `node_configs`; derived.
    broker_settings: BTreeMap<NodeId, Arc<BrokerSettings>>,
}

/// What is decided once, when the region is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// Id of the logical Kafka cluster, the same in all its regions.
    pub cluster_id: String,
    /// Name of this region.
    pub region: String,
    /// How many data shards the region has: a power of two.
    pub shards: u32,
    /// The epoch the region starts with.
    pub region_epoch: RegionEpoch,
    /// When it was founded, by the proposer's clock.
    pub founded_at: TimestampMs,
}

/// Most data shards of a region.
pub const SHARDS_MAX: u32 = 1 << 12;

/// Most shards of a region for topics that stay in it.
pub(crate) const HOME_SHARDS_MAX: u32 = 4;

/// Most producer ids of one block.
pub const PRODUCER_IDS_MAX: u32 = 1_000_000;

/// Bits that count producer ids; the region's number stands above them, so that no two regions deal the same id. In a
/// region without a number it is the epoch it was founded with, which rises when it is rebuilt.
const PRODUCER_ID_BITS: u32 = RegionNumber::PRODUCER_ID_BITS;

impl Founding {
    pub(crate) fn check(&self) -> Result<(), FoundingError> {
        let shards = self.shards;
        if !shards.is_power_of_two() || shards > SHARDS_MAX {
            return Err(FoundingError::Shards { shards });
        }
        for (what, name) in [("cluster id", &self.cluster_id), ("region name", &self.region)] {
            if !is_name(name) {
                return Err(FoundingError::Name {
                    what,
                    name: name.clone(),
                });
            }
        }
        if self.region_epoch > RegionEpoch::MAX {
            return Err(FoundingError::RegionEpoch {
                epoch: self.region_epoch,
            });
        }
        Ok(())
    }
}

/// What regions and clusters may be called.
pub(crate) fn is_name(name: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=64).contains(&name.len()) && name.chars().all(is_allowed)
}

impl Default for Controller {
    fn default() -> Self {
        Self::new()
    }
}

impl Controller {
    /// A region before its founding.
    pub fn new() -> Self {
        let none = Configs::new();
        Self {
            applied: LogPosition::default(),
            founding: None,
            topics: Topics::default(),
            nodes: BTreeMap::new(),
            retired: BTreeSet::new(),
            placements: BTreeMap::new(),
            feature_level: 1,
            cluster_configs: Configs::new(),
            node_configs: BTreeMap::new(),
            producer_ids_dealt: 0,
            geo: None,
            standing: Standing::default(),
            staged: None,
            topic_defaults: Arc::new(TopicSettings::resolve(&none, &none)),
            broker_defaults: Arc::new(BrokerSettings::resolve(&none, &none)),
            broker_settings: BTreeMap::new(),
        }
    }

    /// Place of the last applied command: two views with the same one are equal.
    pub fn applied(&self) -> LogPosition {
        self.applied
    }

    /// What was decided at the founding; `None` before.
    pub fn founding(&self) -> Option<&Founding> {
        self.founding.as_ref()
    }

    /// The shard that holds a partition; `None` before the founding.
    pub fn shard_of(&self, partition: Partition) -> Option<ShardId> {
        Some(self.shard_map()?.of(partition))
    }

    /// How partitions are dealt to the region's shards; `None` before the founding.
    pub fn shard_map(&self) -> Option<ShardMap> {
        let shared = self.founding.as_ref()?.shards;
        // Every shard has a placement, and the controller; or none has, where the first nodes are not told.
        let placed = u32::try_from(self.placements.len()).unwrap_or(u32::MAX);
        let count = placed.saturating_sub(1).max(shared);
        ShardMap::new(self.region_number(), shared, count)
    }

    /// A topic by its name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.by_name(name)
    }

    /// A topic by its id.
    pub fn topic_by_id(&self, topic: TopicId) -> Option<&Arc<Topic>> {
        self.topics.by_id(topic)
    }

    /// Every topic, by name.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<Topic>> {
        self.topics.iter()
    }

    /// The topics whose name is `name` or comes after it, by name: for answers in pages.
    pub fn topics_from(&self, name: &str) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.iter_from(name)
    }

    /// How many topics there are.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// How many partitions all topics have together.
    pub fn partition_count(&self) -> u64 {
        self.topics.partitions()
    }

    /// Topics deleted within the last week, by id.
    ///
    /// A shard drops a topic because it stands here. A topic that merely is not known may be one whose
    /// creation has not reached this node yet.
    pub fn deleted_topics(&self) -> impl ExactSizeIterator<Item = (TopicId, &DeletedTopic)> {
        self.topics.deleted.iter().map(|(id, topic)| (*id, topic))
    }

    /// A topic deleted within the last week.
    pub fn deleted_topic(&self, topic: TopicId) -> Option<&DeletedTopic> {
        self.topics.deleted.get(&topic)
    }

    /// The settings in force for a topic.
    pub fn topic_settings(&self, topic: TopicId) -> Option<Arc<TopicSettings>> {
        self.topic_by_id(topic).map(|topic| topic.settings.clone())
    }

    /// The settings of a topic that has no configs of its own.
    pub fn topic_defaults(&self) -> &Arc<TopicSettings> {
        &self.topic_defaults
    }

    /// The settings in force for a node, registered or not.
    pub fn broker_settings(&self, node: NodeId) -> &Arc<BrokerSettings> {
        self.broker_settings.get(&node).unwrap_or(&self.broker_defaults)
    }

    /// A registered node.
    pub fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(&node)
    }

    /// Every registered node, by id.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.nodes.values()
    }

    /// Where a shard, or the controller, belongs; `None` for another id and before there is a node.
    pub fn placement(&self, shard: ShardId) -> Option<&Placement> {
        self.placements.get(&shard)
    }

    /// Every placement by shard, the controller's last.
    pub fn placements(&self) -> impl ExactSizeIterator<Item = (ShardId, &Placement)> {
        self.placements
            .iter()
            .map(|(shard, placement)| (*shard, placement))
    }

    /// The nodes that should hold a shard, the preferred leader first; none where there is no placement.
    pub fn replicas_of(&self, shard: ShardId) -> &[NodeId] {
        self.placement(shard).map_or(&[], |placement| &placement.replicas)
    }

    /// How many copies each shard should have, if there are as many nodes: `default.replication.factor`.
    pub fn copies_wanted(&self) -> usize {
        usize::from(self.broker_defaults.default_replication_factor)
    }

    /// The feature level in force: once all nodes understood it, and from then on for good. Commands are
    /// written at this level, and a node that understands less is refused.
    pub fn feature_level(&self) -> u16 {
        self.feature_level
    }

    /// What [`Command::RemoveNode`] would answer now, changing nothing.
    pub fn check_remove_node(&self, node: NodeId, force: bool) -> Result<(), RemoveNodeError> {
        if !self.nodes.contains_key(&node) {
            return Err(NodeNotFound { node }.into());
        }
        let held = || {
            self.placements()
                .filter(|(_, placement)| placement.contains(node))
        };
        if let Some((shard, _)) = held().find(|(_, placement)| placement.replicas.len() == 1) {
            return Err(RemoveNodeError::LastReplica { node, shard });
        }
        match held().count() {
            0 => Ok(()),
            _ if force => Ok(()),
            replicas => Err(RemoveNodeError::HoldsReplicas { node, replicas }),
        }
    }

    /// What [`Command::CreateTopics`] would answer now, changing nothing.
    pub fn check_create_topics(&self, topics: &[NewTopic]) -> Vec<Result<(), CreateTopicError>> {
        topics
            .iter()
            .map(|new| self.check_new_topic(new).map(|_| ()))
            .collect()
    }

    /// What [`Command::CreatePartitions`] would answer now, changing nothing.
    pub fn check_create_partitions(&self, topic: TopicId, total: u32) -> Result<(), CreatePartitionsError> {
        let present = self.topic_by_id(topic).ok_or(TopicNotFound { topic })?.partitions;
        if total > PARTITIONS_MAX {
            return Err(CreatePartitionsError::TooMany { total });
        }
        if total <= present {
            return Err(CreatePartitionsError::NotMore { present, total });
        }
        Ok(())
    }

    /// What [`Command::AlterConfigs`] would answer now to this change alone, changing nothing.
    pub fn check_alter_configs(&self, change: &ConfigChange) -> Result<(), ConfigError> {
        self.altered(change).map(|_| ())
    }

    /// Applies the command at `at`, which must lie beyond every one applied before.
    ///
    /// Deterministic in the facts and the command (invariant 4). What is refused changes nothing.
    pub fn apply(&mut self, at: LogPosition, command: &Command) -> Outcome {
        debug_assert!(
            at.index > self.applied.index,
            "commands are applied once and in order"
        );
        self.applied = at;
        if let Command::Found {
            founding,
            nodes,
            placements,
            configs,
            geo,
        } = command
        {
            return Outcome::Founded(self.found(at, founding, nodes, placements, configs, geo.as_ref()));
        }
        if self.founding.is_none() {
            return Outcome::NotFounded;
        }
        match command.effect() {
            Effect::Run(run) => Outcome::Mirrored(self.apply_mirrored(at, run)),
            Effect::Content(turn) => match self.standing.check_content(turn) {
                Ok(()) => {
                    let outcome = self.apply_command(at, command);
                    self.standing.add(at.index, command, self.region_number());
                    outcome
                }
                Err(TurnRejected::NotOwner(not_owner)) => Outcome::NotOwner(not_owner),
                Err(rejected) => Outcome::OwnershipSet(Err(rejected)),
            },
            Effect::Own | Effect::Begin(_) | Effect::Fence(_) => self.apply_command(at, command),
        }
    }

    /// Applies a command that may be applied here.
    pub(crate) fn apply_command(&mut self, at: LogPosition, command: &Command) -> Outcome {
        match command {
            Command::Found { .. } | Command::Mirrored(_) => unreachable!("they are applied elsewhere"),
            Command::CreateTopics { topics, now } => {
                self.topics.forget_deleted(*now);
                Outcome::TopicsCreated(topics.iter().map(|new| self.create_topic(new, *now)).collect())
            }
            Command::DeleteTopics { topics, now } => {
                self.topics.forget_deleted(*now);
                let delete = |topic: &TopicId| {
                    self.topics
                        .delete(*topic, *now)
                        .ok_or(TopicNotFound { topic: *topic })
                };
                Outcome::TopicsDeleted(topics.iter().map(delete).collect())
            }
            Command::CreatePartitions { topics } => Outcome::PartitionsCreated(
                topics
                    .iter()
                    .map(|(topic, total)| self.create_partitions(*topic, *total))
                    .collect(),
            ),
            Command::AlterConfigs { changes } => Outcome::ConfigsAltered(self.alter_configs(changes)),
            Command::RegisterNode { node, now } => Outcome::NodeRegistered(self.register(at, node, *now)),
            Command::RemoveNode { node, force } => Outcome::NodeRemoved(self.remove_node(at, *node, *force)),
            Command::DrainNode { node, draining } => Outcome::NodeDrained(self.drain(*node, *draining)),
            Command::SetPlacement {
                shard,
                replicas,
                expected,
            } => Outcome::PlacementSet(self.place(at, *shard, replicas, *expected)),
            Command::AllocateProducerIds { count } => Outcome::ProducerIds(self.allocate(*count)),
            Command::SetRegion(region) => Outcome::RegionSet(self.set_region(region)),
            Command::RemoveRegion { number } => Outcome::RegionRemoved(self.remove_region(*number)),
            Command::SetOwnership(ownership) => {
                self.note_deadline(ownership);
                Outcome::OwnershipSet(Ok(()))
            }
            Command::Stage(part) => Outcome::Staged(self.stage(part)),
            Command::Install { checkpoint } => Outcome::Installed(self.install(at, *checkpoint)),
        }
    }

    /// Asserts what must hold of the facts; says what does not.
    pub fn check(&self) -> Result<(), String> {
        self.topics.check()?;
        if let Some(founding) = &self.founding {
            founding.check().map_err(|error| error.to_string())?;
        }
        for (id, node) in &self.nodes {
            if *id != node.registration.node {
                return Err(format!("node {} is filed as {id}", node.registration.node));
            }
        }
        if let Some((node, _)) = self.node_configs.iter().find(|(_, configs)| configs.is_empty()) {
            return Err(format!("node {node} is kept in the configs without having any"));
        }
        for topic in self.topics() {
            if *topic.settings != TopicSettings::resolve(&topic.configs, &self.cluster_configs) {
                return Err(format!("settings of topic {:?} are out of date", topic.name));
            }
        }
        self.check_placements()?;
        self.check_geo()?;
        if self.founding.is_none() && (self.topics.len() > 0 || !self.nodes.is_empty()) {
            return Err("there are facts before the founding".into());
        }
        Ok(())
    }

    /// Derives all settings anew, after the cluster's configs changed or a snapshot was read.
    pub(crate) fn resolve_settings(&mut self) {
        let none = Configs::new();
        self.topic_defaults = Arc::new(TopicSettings::resolve(&none, &self.cluster_configs));
        self.broker_defaults = Arc::new(BrokerSettings::resolve(&none, &self.cluster_configs));
        self.broker_settings = self
            .node_configs
            .iter()
            .map(|(node, configs)| {
                (
                    *node,
                    Arc::new(BrokerSettings::resolve(configs, &self.cluster_configs)),
                )
            })
            .collect();
        let topics: Vec<_> = self.topics.iter().cloned().collect();
        for topic in topics {
            let settings = self.settings_for(&topic.configs);
            if topic.settings != settings {
                self.topics.put(Arc::new(Topic {
                    settings,
                    ..Topic::clone(&topic)
                }));
            }
        }
    }

    /// Topics without configs share one.
    pub(crate) fn settings_for(&self, configs: &Configs) -> Arc<TopicSettings> {
        if configs.is_empty() {
            return self.topic_defaults.clone();
        }
        Arc::new(TopicSettings::resolve(configs, &self.cluster_configs))
    }

    /// Answers the topic's configs in canonical form.
    fn check_new_topic(&self, new: &NewTopic) -> Result<Configs, CreateTopicError> {
        self.topics.check_new(new)?;
        let configs = configs::canonical_topic_configs(&new.configs, &self.cluster_configs)?;
        let home = new.id.home().and_then(|number| self.region(number));
        match (new.id.home(), topic::home(&configs)) {
            (None, None) => Ok(configs),
            (Some(_), Some(name)) if home.is_some_and(|region| region.name == *name) => Ok(configs),
            (_, named) => Err(CreateTopicError::Home {
                name: new.name.clone(),
                home: named.cloned().unwrap_or_default(),
            }),
        }
    }

    fn create_topic(&mut self, new: &NewTopic, now: TimestampMs) -> Result<Arc<Topic>, CreateTopicError> {
        let configs = self.check_new_topic(new)?;
        let settings = self.settings_for(&configs);
        let (name, id, partitions) = (new.name.as_str().into(), new.id, new.partitions);
        let topic = Arc::new(Topic {
            name,
            id,
            partitions,
            configs,
            created_at: now,
            settings,
        });
        self.topics.put(topic.clone());
        Ok(topic)
    }

    fn create_partitions(&mut self, id: TopicId, total: u32) -> Result<Arc<Topic>, CreatePartitionsError> {
        self.check_create_partitions(id, total)?;
        let topic = self.topic_by_id(id).ok_or(TopicNotFound { topic: id })?;
        let topic = Arc::new(Topic {
            partitions: total,
            ..Topic::clone(topic)
        });
        self.topics.put(topic.clone());
        Ok(topic)
    }

    /// The configs of a resource as a change would leave them.
    fn altered(&self, change: &ConfigChange) -> Result<Configs, ConfigError> {
        let none = Configs::new();
        match change.resource {
            ConfigResource::Topic(id) => {
                let topic = self
                    .topic_by_id(id)
                    .ok_or(ConfigError::TopicNotFound { topic: id })?;
                configs::alter_topic(change, &topic.configs, &self.cluster_configs)
            }
            ConfigResource::Cluster => configs::alter_cluster(change, &self.cluster_configs),
            ConfigResource::Node(node) => {
                let present = match self.node_configs.get(&node) {
                    Some(present) => present,
                    None if self.nodes.contains_key(&node) => &none,
                    None => return Err(ConfigError::NodeNotFound { node }),
                };
                configs::alter_node(change, present, &self.cluster_configs)
            }
        }
    }

    fn alter_configs(&mut self, changes: &[ConfigChange]) -> Vec<Result<(), ConfigError>> {
        let mut is_shared_changed = false;
        let mut results = Vec::with_capacity(changes.len());
        for change in changes {
            results.push(self.altered(change).map(|configs| match change.resource {
                ConfigResource::Topic(id) => {
                    let topic = self.topic_by_id(id).expect("altered found it").clone();
                    let settings = self.settings_for(&configs);
                    self.topics.put(Arc::new(Topic {
                        configs,
                        settings,
                        ..Topic::clone(&topic)
                    }));
                }
                ConfigResource::Cluster => {
                    self.cluster_configs = configs;
                    is_shared_changed = true;
                }
                ConfigResource::Node(node) => {
                    if configs.is_empty() {
                        self.node_configs.remove(&node);
                    } else {
                        self.node_configs.insert(node, configs);
                    }
                    is_shared_changed = true;
                }
            }));
        }
        if is_shared_changed {
            self.resolve_settings();
        }
        results
    }

    fn allocate(&mut self, count: u32) -> Result<ProducerIds, AllocateError> {
        if !(1..=PRODUCER_IDS_MAX).contains(&count) {
            return Err(AllocateError::Count { count });
        }
        let first = self.producer_ids_dealt;
        let dealt = first + u64::from(count);
        if dealt > 1 << PRODUCER_ID_BITS {
            return Err(AllocateError::Exhausted);
        }
        self.producer_ids_dealt = dealt;
        let region_epoch = self
            .founding
            .as_ref()
            .map_or(0, |founding| founding.region_epoch.0);
        let above = match &self.geo {
            Some(geo) => geo.number.first_producer_id().0,
            None => u64::from(region_epoch) << PRODUCER_ID_BITS,
        };
        let first = ProducerId(above | first);
        Ok(ProducerIds { first, count })
    }
}

#[cfg(test)]
mod tests;
