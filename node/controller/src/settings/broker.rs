//! Configs of brokers: the part of Kafka's that clients ask for and that means something here.
//!
//! Most hold for the whole cluster, since every broker of a region must answer alike. How a node itself is set
//! up (listeners, directories, budgets) stands in its own configuration, not here.

use super::SettingKind::{Boolean, Double, Int, List, Long, String as Text};
use super::{Reader, Scope, Setting, SettingKind, Valid};
use crate::configs::{Configs, items};
use crate::pattern;

const fn cluster(name: &'static str, kind: SettingKind, default: &'static str) -> Setting {
    Setting::new(Scope::Cluster, name, kind, default)
}

const fn node(name: &'static str, kind: SettingKind, default: &'static str) -> Setting {
    Setting::new(Scope::Node, name, kind, default)
}

const fn fact(name: &'static str, kind: SettingKind, default: &'static str) -> Setting {
    Setting::new(Scope::ReadOnly, name, kind, default)
}

const FOREVER: &str = "9223372036854775807";
const INT_MAX: &str = "2147483647";
const TOPIC_DEFAULT: &str = "Default of the topic config.";
const TOPIC_INERT: &str = "Default of a topic config that has no effect here.";
const CODECS: &[&str] = &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];

/// Every config of a broker, by name.
pub static SETTINGS: &[Setting] = &[
    cluster("auto.create.topics.enable", Boolean, "true")
        .acts("Whether a topic is created when a client asks for it."),
    fact("broker.id", Int, "-1").inert("The node's id."),
    fact("broker.rack", Text, "").null().inert("The node's rack."),
    cluster("compression.gzip.level", Int, "-1")
        .range_or(1, 9, -1)
        .inert(TOPIC_INERT),
    cluster("compression.lz4.level", Int, "9")
        .range(1, 17)
        .inert(TOPIC_INERT),
    cluster("compression.type", Text, "producer")
        .one_of(CODECS)
        .inert(TOPIC_INERT),
    cluster("compression.zstd.level", Int, "3")
        .range(-131_072, 22)
        .inert(TOPIC_INERT),
    node("connections.max.idle.ms", Long, "600000")
        .min(1)
        .acts("A connection without requests is closed after this long."),
    cluster("default.replication.factor", Int, "3")
        .range(1, 7)
        .acts("How many copies a shard wants; it gets as many as there are nodes. A new region takes it from the node's `region.replicas`."),
    cluster("delete.topic.enable", Boolean, "true").acts("Whether topics can be deleted."),
    node("fetch.max.bytes", Int, "57671680")
        .min(1024)
        .acts("The most that one fetch answers, whatever the client asks for."),
    node("follower.replication.throttled.rate", Long, FOREVER)
        .min(0)
        .inert("No effect here: replicas follow shards, not partitions."),
    cluster("geo.topics.exclude", List, "")
        .valid(Valid::TopicPatterns)
        .acts("Topics that are not mirrored, by name; '*' stands for any characters. A topic that is made with such a name stays in the region whose broker was asked for it, unless its geo.home says otherwise. What was made before stays as it is."),
    cluster("group.initial.rebalance.delay.ms", Int, "3000")
        .min(0)
        .acts("How long the first rebalance of an empty group waits for more members."),
    cluster("group.max.session.timeout.ms", Int, "1800000")
        .min(1)
        .acts("The longest session timeout that a consumer may ask for."),
    cluster("group.max.size", Int, INT_MAX)
        .min(1)
        .acts("The most members that a group may have."),
    cluster("group.min.session.timeout.ms", Int, "6000")
        .min(1)
        .acts("The shortest session timeout that a consumer may ask for."),
    node("leader.replication.throttled.rate", Long, FOREVER)
        .min(0)
        .inert("No effect here: replicas follow shards, not partitions."),
    cluster("log.cleaner.delete.retention.ms", Long, "86400000")
        .min(0)
        .acts(TOPIC_DEFAULT),
    cluster("log.cleaner.max.compaction.lag.ms", Long, FOREVER)
        .min(1)
        .acts(TOPIC_DEFAULT),
    cluster("log.cleaner.min.cleanable.ratio", Double, "0.5")
        .valid(Valid::Ratio)
        .acts(TOPIC_DEFAULT),
    cluster("log.cleaner.min.compaction.lag.ms", Long, "0")
        .min(0)
        .acts(TOPIC_DEFAULT),
    cluster("log.cleanup.policy", List, "delete")
        .one_of(&["compact", "delete"])
        .acts(TOPIC_DEFAULT),
    cluster("log.flush.interval.messages", Long, FOREVER)
        .min(1)
        .inert(TOPIC_INERT),
    cluster("log.flush.interval.ms", Long, "")
        .null()
        .min(0)
        .inert(TOPIC_INERT),
    cluster("log.flush.scheduler.interval.ms", Long, FOREVER)
        .min(0)
        .inert(TOPIC_INERT),
    cluster("log.index.interval.bytes", Int, "4096")
        .min(0)
        .inert(TOPIC_INERT),
    cluster("log.index.size.max.bytes", Int, "10485760")
        .min(4)
        .inert(TOPIC_INERT),
    cluster("log.local.retention.bytes", Long, "-2")
        .min(-2)
        .acts(TOPIC_DEFAULT),
    cluster("log.local.retention.ms", Long, "-2")
        .min(-2)
        .acts(TOPIC_DEFAULT),
    cluster("log.message.timestamp.after.max.ms", Long, "3600000")
        .min(0)
        .acts(TOPIC_DEFAULT),
    cluster("log.message.timestamp.before.max.ms", Long, FOREVER)
        .min(0)
        .acts(TOPIC_DEFAULT),
    cluster("log.message.timestamp.type", Text, "CreateTime")
        .one_of(&["CreateTime", "LogAppendTime"])
        .acts(TOPIC_DEFAULT),
    cluster("log.preallocate", Boolean, "false").inert(TOPIC_INERT),
    cluster("log.retention.bytes", Long, "-1").acts(TOPIC_DEFAULT),
    cluster("log.retention.check.interval.ms", Long, "300000")
        .min(1)
        .inert("No effect here: how often is a setting of the node."),
    cluster("log.retention.hours", Int, "168")
        .min(-1)
        .acts(TOPIC_DEFAULT),
    cluster("log.retention.minutes", Int, "")
        .null()
        .min(-1)
        .acts(TOPIC_DEFAULT),
    cluster("log.retention.ms", Long, "")
        .null()
        .min(-1)
        .acts(TOPIC_DEFAULT),
    cluster("log.roll.hours", Int, "168").min(1).inert(TOPIC_INERT),
    cluster("log.roll.jitter.hours", Int, "0")
        .min(0)
        .inert(TOPIC_INERT),
    cluster("log.roll.jitter.ms", Long, "")
        .null()
        .min(0)
        .inert(TOPIC_INERT),
    cluster("log.roll.ms", Long, "").null().min(1).inert(TOPIC_INERT),
    cluster("log.segment.bytes", Int, "1073741824")
        .min(1_048_576)
        .inert(TOPIC_INERT),
    cluster("log.segment.delete.delay.ms", Long, "60000")
        .min(0)
        .inert(TOPIC_INERT),
    node("max.connections", Int, INT_MAX)
        .min(0)
        .acts("The most connections to a node."),
    node("max.connections.per.ip", Int, INT_MAX)
        .min(0)
        .acts("The most connections to a node from one address."),
    node("max.incremental.fetch.session.cache.slots", Int, "1000")
        .min(0)
        .acts("The most incremental fetch sessions of a node (KIP-227)."),
    cluster("message.max.bytes", Int, "1048588")
        .min(0)
        .acts(TOPIC_DEFAULT),
    cluster("min.insync.replicas", Int, "1")
        .min(1)
        .acts(TOPIC_DEFAULT),
    fact("node.id", Int, "-1").inert("The node's id."),
    cluster("num.partitions", Int, "1")
        .min(1)
        .acts("Partitions of a topic that is created without a number."),
    cluster("offset.metadata.max.bytes", Int, "4096")
        .min(0)
        .acts("The most text that may go with a committed offset."),
    cluster("offsets.retention.check.interval.ms", Long, "600000")
        .min(1)
        .acts("How often committed offsets are discarded by retention."),
    cluster("offsets.retention.minutes", Int, "10080")
        .min(1)
        .acts("How long an empty group keeps its committed offsets."),
    fact("process.roles", List, "broker,controller").inert("Every node is both."),
    fact("producer.id.expiration.ms", Int, "86400000")
        .inert("A silent producer is forgotten after this long."),
    cluster("unclean.leader.election.enable", Boolean, "false").inert(TOPIC_INERT),
];

/// The settings in force for a broker, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerSettings {
    /// Whether a topic is created when a client asks for it.
    pub auto_create_topics: bool,
    /// Whether topics can be deleted.
    pub delete_topics: bool,
    /// Partitions of a topic that is created without a number.
    pub num_partitions: u32,
    /// How many copies a shard wants.
    pub default_replication_factor: u16,
    /// Names of topics that are not mirrored.
    topics_excluded: Vec<String>,
    /// How long the first rebalance of an empty group waits for more members.
    pub group_initial_rebalance_delay_ms: u32,
    /// The shortest session timeout that a consumer may ask for.
    pub group_min_session_timeout_ms: u32,
    /// The longest session timeout that a consumer may ask for.
    pub group_max_session_timeout_ms: u32,
    /// The most members that a group may have.
    pub group_max_size: u32,
    /// The most text that may go with a committed offset.
    pub offset_metadata_bytes_max: u32,
    /// How long an empty group keeps its committed offsets.
    pub offsets_retention_ms: u64,
    /// How often committed offsets are discarded by retention.
    pub offsets_retention_check_interval_ms: u64,
    /// The most that one fetch answers.
    pub fetch_bytes_max: u32,
    /// A connection without requests is closed after this long.
    pub connections_max_idle_ms: u64,
    /// The most connections to this node.
    pub connections_max: u32,
    /// The most connections to this node from one address.
    pub connections_per_ip_max: u32,
    /// The most incremental fetch sessions of this node.
    pub fetch_sessions_max: u32,
}

impl BrokerSettings {
    /// The settings of a node with configs `own` in a cluster with configs `cluster`.
    pub(crate) fn resolve(own: &Configs, cluster: &Configs) -> Self {
        let read = Reader {
            table: SETTINGS,
            own,
            cluster,
        };
        Self {
            auto_create_topics: read.number("auto.create.topics.enable"),
            delete_topics: read.number("delete.topic.enable"),
            num_partitions: read.number("num.partitions"),
            default_replication_factor: read.number("default.replication.factor"),
            topics_excluded: items(&read.text("geo.topics.exclude"))
                .map(str::to_owned)
                .collect(),
            group_initial_rebalance_delay_ms: read.number("group.initial.rebalance.delay.ms"),
            group_min_session_timeout_ms: read.number("group.min.session.timeout.ms"),
            group_max_session_timeout_ms: read.number("group.max.session.timeout.ms"),
            group_max_size: read.number("group.max.size"),
            offset_metadata_bytes_max: read.number("offset.metadata.max.bytes"),
            offsets_retention_ms: read.number::<u64>("offsets.retention.minutes") * 60_000,
            offsets_retention_check_interval_ms: read.number("offsets.retention.check.interval.ms"),
            fetch_bytes_max: read.number("fetch.max.bytes"),
            connections_max_idle_ms: read.number("connections.max.idle.ms"),
            connections_max: read.number("max.connections"),
            connections_per_ip_max: read.number("max.connections.per.ip"),
            fetch_sessions_max: read.number("max.incremental.fetch.session.cache.slots"),
        }
    }

    /// Whether a topic of this name is not to be mirrored: `geo.topics.exclude`.
    pub fn excludes(&self, topic: &str) -> bool {
        self.topics_excluded
            .iter()
            .any(|pattern| pattern::fits(pattern, topic))
    }
}
