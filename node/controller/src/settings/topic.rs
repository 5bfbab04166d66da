//! Configs of a topic, through Kafka 4.3. Those that begin with `geo.` are Meridian's own.

use super::SettingKind::{Boolean, Double, Int, List, Long, String as Text};
use super::{Reader, Scope, Setting, SettingKind, Valid};
use crate::configs::{ConfigError, Configs, items};

const fn topic(name: &'static str, kind: SettingKind, default: &'static str) -> Setting {
    Setting::new(Scope::Topic, name, kind, default)
}

const HOUR_MS: i64 = 60 * 60 * 1000;
const FOREVER: &str = "9223372036854775807";
const SEGMENTS: &str = "No effect here: the journal has no segments per partition.";
const AS_SENT: &str = "No effect in this version: batches stay as they were sent.";
const TIERING: &str = "No effect here: a region with a bucket brings every topic there, one without none.";
const SYNCED: &str = "No effect here: every acknowledged record is synced already.";
const CODECS: &[&str] = &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];

/// Every config of a topic, by name.
pub static SETTINGS: &[Setting] = &[
    topic("cleanup.policy", List, "delete")
        .one_of(&["compact", "delete"])
        .synonyms(&[("log.cleanup.policy", 1)])
        .acts("What happens to old records: delete discards them by retention, an empty list keeps all. compact keeps the latest record of each key, of what lies in the region's bucket; a region without one keeps all records of such a topic, unless delete stands beside it."),
    topic("compression.gzip.level", Int, "-1")
        .range_or(1, 9, -1)
        .synonyms(&[("compression.gzip.level", 1)])
        .inert(AS_SENT),
    topic("compression.lz4.level", Int, "9")
        .range(1, 17)
        .synonyms(&[("compression.lz4.level", 1)])
        .inert(AS_SENT),
    topic("compression.type", Text, "producer")
        .one_of(CODECS)
        .synonyms(&[("compression.type", 1)])
        .inert(AS_SENT),
    topic("compression.zstd.level", Int, "3")
        .range(-131_072, 22)
        .synonyms(&[("compression.zstd.level", 1)])
        .inert(AS_SENT),
    topic("delete.retention.ms", Long, "86400000")
        .min(0)
        .synonyms(&[("log.cleaner.delete.retention.ms", 1)])
        .acts("How long a tombstone can still be read after compaction first met it."),
    topic("file.delete.delay.ms", Long, "60000")
        .min(0)
        .synonyms(&[("log.segment.delete.delay.ms", 1)])
        .inert(SEGMENTS),
    topic("flush.messages", Long, FOREVER)
        .min(1)
        .synonyms(&[("log.flush.interval.messages", 1)])
        .inert(SYNCED),
    topic("flush.ms", Long, FOREVER)
        .min(0)
        .synonyms(&[("log.flush.interval.ms", 1), ("log.flush.scheduler.interval.ms", 1)])
        .inert(SYNCED),
    topic("follower.replication.throttled.replicas", List, "")
        .valid(Valid::ThrottledReplicas)
        .inert("No effect here: replicas follow shards, not partitions."),
    topic("geo.acks", Int, "0")
        .range(0, 9)
        .acts("With acks=all, how many other regions must hold a record on a quorum before it is acknowledged. While fewer are heard, produce is refused, unless geo.acks.fallback.ms says otherwise."),
    topic("geo.acks.fallback.ms", Long, "-1")
        .min(-1)
        .acts("A record that too few other regions hold after so long is acknowledged all the same, and the node's log and metrics say so; -1 never."),
    topic("geo.home", Text, "")
        .acts("Name of the region that the topic's records stay in: only its nodes hold and serve them, wherever the cluster is owned, and no other region gets a copy. Empty: every region has the topic. Decided when the topic is made; geo.topics.exclude of the cluster gives it to topics by their names."),
    topic("geo.staleness.max.ms", Long, "-1")
        .min(-1)
        .acts("A region that mirrors the topic answers fetches only from a copy that was complete at most so long ago; others it sends to the owner, as one whose age is not known. The owner points consumers to a region that lags by at most half of it. Watermarks come ten times a second, so values below 1000 keep readers at the owner; 0 does always, -1 never."),
    topic("geo.weight", Int, "10")
        .range(1, 255)
        .acts("Share of a full link between regions for the shards that hold the topic's partitions, beside other shards: 20 gets twice what 10 gets. A shard has the greatest weight of its topics, since what lies in one shard travels in one order; the controller's log has 255."),
    topic("index.interval.bytes", Int, "4096")
        .min(0)
        .synonyms(&[("log.index.interval.bytes", 1)])
        .inert("No effect here: every append is indexed."),
    topic("leader.replication.throttled.replicas", List, "")
        .valid(Valid::ThrottledReplicas)
        .inert("No effect here: replicas follow shards, not partitions."),
    topic("local.retention.bytes", Long, "-2")
        .min(-2)
        .synonyms(&[("log.local.retention.bytes", 1)])
        .acts("How many bytes of a partition are read from local disks although the bucket has them; -2 follows retention.bytes, -1 is any number. Acts where the region has a bucket."),
    topic("local.retention.ms", Long, "-2")
        .min(-2)
        .synonyms(&[("log.local.retention.ms", 1)])
        .acts("How long records are read from local disks although the bucket has them; -2 follows retention.ms, -1 is for ever. Acts where the region has a bucket."),
    topic("max.compaction.lag.ms", Long, FOREVER)
        .min(1)
        .synonyms(&[("log.cleaner.max.compaction.lag.ms", 1)])
        .acts("Records older than this are compacted whatever min.cleanable.dirty.ratio says."),
    topic("max.message.bytes", Int, "1048588")
        .min(0)
        .synonyms(&[("message.max.bytes", 1)])
        .acts("The largest batch that a producer may send, as it is sent."),
    topic("message.timestamp.after.max.ms", Long, "3600000")
        .min(0)
        .synonyms(&[("log.message.timestamp.after.max.ms", 1)])
        .acts("How far a record's timestamp may lie after the broker's clock, under CreateTime."),
    topic("message.timestamp.before.max.ms", Long, FOREVER)
        .min(0)
        .synonyms(&[("log.message.timestamp.before.max.ms", 1)])
        .acts("How far a record's timestamp may lie before the broker's clock, under CreateTime."),
    topic("message.timestamp.type", Text, "CreateTime")
        .one_of(&["CreateTime", "LogAppendTime"])
        .synonyms(&[("log.message.timestamp.type", 1)])
        .acts("Whether a record's timestamp is the producer's or the broker's."),
    topic("min.cleanable.dirty.ratio", Double, "0.5")
        .valid(Valid::Ratio)
        .synonyms(&[("log.cleaner.min.cleanable.ratio", 1)])
        .acts("Compaction begins when what was not compacted yet makes up this share of the partition in the bucket."),
    topic("min.compaction.lag.ms", Long, "0")
        .min(0)
        .synonyms(&[("log.cleaner.min.compaction.lag.ms", 1)])
        .acts("Records younger than this, and all behind them, are not compacted yet."),
    topic("min.insync.replicas", Int, "1")
        .min(1)
        .synonyms(&[("min.insync.replicas", 1)])
        .acts("With acks=all, produce is refused while the shard has fewer replicas than this."),
    topic("preallocate", Boolean, "false")
        .synonyms(&[("log.preallocate", 1)])
        .inert("No effect here: the journal is always preallocated."),
    topic("remote.log.copy.disable", Boolean, "false")
        .inert(TIERING),
    topic("remote.log.delete.on.disable", Boolean, "false")
        .inert(TIERING),
    topic("remote.storage.enable", Boolean, "false")
        .inert(TIERING),
    topic("retention.bytes", Long, "-1")
        .synonyms(&[("log.retention.bytes", 1)])
        .acts("How large a partition may grow before its oldest records go; -1 for any size."),
    topic("retention.ms", Long, "604800000")
        .min(-1)
        .synonyms(&[
            ("log.retention.ms", 1),
            ("log.retention.minutes", 60_000),
            ("log.retention.hours", HOUR_MS),
        ])
        .acts("How long records are kept; -1 for ever."),
    topic("segment.bytes", Int, "1073741824")
        .min(1_048_576)
        .synonyms(&[("log.segment.bytes", 1)])
        .inert(SEGMENTS),
    topic("segment.index.bytes", Int, "10485760")
        .min(4)
        .synonyms(&[("log.index.size.max.bytes", 1)])
        .inert(SEGMENTS),
    topic("segment.jitter.ms", Long, "0")
        .min(0)
        .synonyms(&[("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", HOUR_MS)])
        .inert(SEGMENTS),
    topic("segment.ms", Long, "604800000")
        .min(1)
        .synonyms(&[("log.roll.ms", 1), ("log.roll.hours", HOUR_MS)])
        .inert(SEGMENTS),
    topic("unclean.leader.election.enable", Boolean, "false")
        .synonyms(&[("unclean.leader.election.enable", 1)])
        .inert("No effect here: a leader always has every acknowledged record."),
];

/// Name of the config that keeps a topic's records in one region.
pub const HOME: &str = "geo.home";

/// The region that a topic's configs keep it in.
pub(crate) fn home(configs: &Configs) -> Option<&String> {
    configs.get(HOME).filter(|name| !name.is_empty())
}

/// The settings in force for a topic, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicSettings {
    /// Old records are discarded by retention.
    pub deletes: bool,
    /// Only the newest record of each key is kept, in time.
    pub compacts: bool,
    /// How batches are compressed at rest.
    pub compression: TopicCompression,
    /// The largest batch that a producer may send.
    pub max_message_bytes: u32,
    /// Whose timestamps count.
    pub timestamp_type: MessageTimestampType,
    /// How far a timestamp may lie before the broker's clock.
    pub timestamp_before_max_ms: u64,
    /// How far a timestamp may lie after the broker's clock.
    pub timestamp_after_max_ms: u64,
    /// Level for gzip, if one is set.
    pub gzip_level: Option<u32>,
    /// Level for zstd.
    pub zstd_level: i32,
    /// How long compaction keeps tombstones.
    pub delete_retention_ms: u64,
    /// The shortest that compaction leaves a record alone.
    pub min_compaction_lag_ms: u64,
    /// The longest that compaction may leave a record alone.
    pub max_compaction_lag_ms: u64,
    /// The share of a log that must be uncompacted before compaction takes it on, from 0 to 1.
    pub min_cleanable_dirty_ratio: f64,
    /// Replicas that a shard must have for produce with acks=all.
    pub min_insync_replicas: u32,
    /// Other regions that must hold a record before it is acknowledged with acks=all.
    pub geo_acks: usize,
    /// Waiting for them ends after so long with an acknowledgement all the same; `None`: it does not.
    pub geo_acks_fallback_ms: Option<u64>,
    /// A mirror's copy that was complete longer ago is not read; `None`: however old it is.
    pub geo_staleness_max_ms: Option<u64>,
    /// Share of a link between regions of the shards that hold the topic.
    pub geo_weight: u8,
    retention_ms: Option<u64>,
    retention_bytes: Option<u64>,
    local_retention_ms: Option<u64>,
    local_retention_bytes: Option<u64>,
}

/// How batches are compressed at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicCompression {
    /// As the producer sent them.
    Producer,
    /// Not at all.
    Uncompressed,
    /// With gzip.
    Gzip,
    /// With snappy.
    Snappy,
    /// With lz4.
    Lz4,
    /// With zstd.
    Zstd,
}

/// Whose timestamps count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageTimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's.
    LogAppendTime,
}

impl TopicSettings {
    /// The settings of a topic with configs `own` in a cluster with configs `cluster`.
    pub(crate) fn resolve(own: &Configs, cluster: &Configs) -> Self {
        let read = Reader {
            table: SETTINGS,
            own,
            cluster,
        };
        let policy = read.text("cleanup.policy");
        let retention_ms = read.limit("retention.ms");
        let retention_bytes = read.limit("retention.bytes");
        Self {
            deletes: items(&policy).any(|item| item == "delete"),
            compacts: items(&policy).any(|item| item == "compact"),
            compression: match read.text("compression.type").as_str() {
                "uncompressed" => TopicCompression::Uncompressed,
                "gzip" => TopicCompression::Gzip,
                "snappy" => TopicCompression::Snappy,
                "lz4" => TopicCompression::Lz4,
                "zstd" => TopicCompression::Zstd,
                _ => TopicCompression::Producer,
            },
            max_message_bytes: read.number("max.message.bytes"),
            timestamp_type: match read.text("message.timestamp.type").as_str() {
                "LogAppendTime" => MessageTimestampType::LogAppendTime,
                _ => MessageTimestampType::CreateTime,
            },
            timestamp_before_max_ms: read.unsigned("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: read.unsigned("message.timestamp.after.max.ms"),
            gzip_level: u32::try_from(read.number::<i32>("compression.gzip.level")).ok(),
            zstd_level: read.number("compression.zstd.level"),
            delete_retention_ms: read.unsigned("delete.retention.ms"),
            min_compaction_lag_ms: read.unsigned("min.compaction.lag.ms"),
            max_compaction_lag_ms: read.unsigned("max.compaction.lag.ms"),
            min_cleanable_dirty_ratio: read.number("min.cleanable.dirty.ratio"),
            min_insync_replicas: read.number("min.insync.replicas"),
            geo_acks: read.number("geo.acks"),
            geo_acks_fallback_ms: read.limit("geo.acks.fallback.ms"),
            geo_staleness_max_ms: read.limit("geo.staleness.max.ms"),
            geo_weight: read.number("geo.weight"),
            retention_ms,
            retention_bytes,
            local_retention_ms: local(read.number("local.retention.ms"), retention_ms),
            local_retention_bytes: local(read.number("local.retention.bytes"), retention_bytes),
        }
    }

    /// Whether old records are discarded by retention.
    pub fn deletes(&self) -> bool {
        self.deletes
    }

    /// How long records are kept; `None` for ever, and always where records are not discarded.
    pub fn retention_ms(&self) -> Option<u64> {
        self.retention_ms.filter(|_| self.deletes)
    }

    /// How large a partition may grow; `None` for any size, and always where records are not discarded.
    pub fn retention_bytes(&self) -> Option<u64> {
        self.retention_bytes.filter(|_| self.deletes)
    }

    /// How long tiered records stay on local disks too, at most `retention.ms`; `None` for ever.
    pub fn local_retention_ms(&self) -> Option<u64> {
        self.local_retention_ms
    }

    /// How many tiered bytes of a partition stay on local disks too, at most `retention.bytes`; `None` for any
    /// number.
    pub fn local_retention_bytes(&self) -> Option<u64> {
        self.local_retention_bytes
    }

    /// Holds values against one another that are each valid alone.
    pub(crate) fn check(own: &Configs, cluster: &Configs) -> Result<(), ConfigError> {
        let read = Reader {
            table: SETTINGS,
            own,
            cluster,
        };
        let number = |name| read.number::<i64>(name);
        let conflict = |what: String| Err(ConfigError::Conflict { what });
        let acks = number("geo.acks");
        if home(own).is_some() && acks > 0 {
            return conflict(format!(
                "geo.acks ({acks}) must be 0 for a topic that stays in one region (geo.home)"
            ));
        }
        let (least, most) = (number("min.compaction.lag.ms"), number("max.compaction.lag.ms"));
        if least > most {
            return conflict(format!(
                "min.compaction.lag.ms ({least}) must not be greater than max.compaction.lag.ms ({most})"
            ));
        }
        if read.text("remote.storage.enable") == "true" {
            for (local_name, name) in [
                ("local.retention.ms", "retention.ms"),
                ("local.retention.bytes", "retention.bytes"),
            ] {
                let (local, total) = (number(local_name), number(name));
                if total >= 0 && (local == -1 || local > total) {
                    return conflict(format!(
                        "{local_name} ({local}) must not be greater than {name} ({total})"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// A local limit never outlasts the total one; -2 follows it.
fn local(value: i64, total: Option<u64>) -> Option<u64> {
    match (u64::try_from(value).ok(), total) {
        (Some(local), Some(total)) => Some(local.min(total)),
        (Some(local), None) => Some(local),
        (None, total) => total,
    }
}
