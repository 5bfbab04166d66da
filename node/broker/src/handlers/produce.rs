//! Produce: batches to the shards that own their partitions.
//!
//! Nothing tells a leader's memory from a quorum's disk here: acks of 1 and of all are both answered when the batch
//! is committed. What differs is who may be refused for want of replicas (all), and who is not answered (0).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use meridian_controller::{MessageTimestampType, Topic};
use meridian_shard::{Append, AppendError, Appended, Region};
use meridian_types::{LeaderEpoch, NodeId, Partition, TimestampMs};
use meridian_wire::batch::{
    self, BatchHeader, Compression, ProduceBatchError, ProduceRules, TimestampType, Validated,
    validate_produce,
};
use meridian_wire::produce::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceData,
    PartitionProduceResponse, TopicProduceResponse,
};
use meridian_wire::{ErrorCode, ProduceRequest, ProduceResponse, Str};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::{Instant, timeout_at};

use crate::catalog;
use crate::cluster_view;
use crate::context::Caller;
use crate::dispatch::RequestError;
use crate::errors;

/// First version that names topics by id.
const TOPIC_IDS_FROM: i16 = 13;
/// First version with hints about the new leader (KIP-951).
const LEADER_HINTS_FROM: i16 = 10;
/// First version whose clients know zstd.
const ZSTD_FROM: i16 = 7;
/// Producers with acks=1 may ask for no time at all, since Kafka does not wait for them; we wait for the commit.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// A batch may inflate to so much while it is checked, or to this multiple of the topic's largest batch. Producers
/// fill batches of at most a few megabytes before they compress them.
const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;
const DECOMPRESSED_RATIO_MAX: usize = 8;
/// A compressed batch from this size on is checked apart from the other connections' work: inflating it may take
/// a tenth of a second.
const HEAVY_BATCH_BYTES: usize = 16 << 10;

/// A produce request whose batches are on their way.
pub(crate) struct PendingProduce {
    acks: i16,
    deadline: Instant,
    topics: Vec<PendingTopic>,
}

struct PendingTopic {
    name: Str,
    topic_id: meridian_types::Uuid,
    partitions: Vec<(i32, PendingPartition)>,
}

enum PendingPartition {
    Refused(Refusal),
    Appending {
        partition: Partition,
        append: Append,
        log_append_time: Option<TimestampMs>,
        header: BatchHeader,
        /// Other regions that must hold it before it is acknowledged.
        geo: Option<GeoAcks>,
    },
}

/// What a topic wants of other regions (`geo.acks`).
#[derive(Clone, Copy)]
struct GeoAcks {
    regions: usize,
    /// Waiting for them ends after so long all the same.
    fallback: Option<Duration>,
}

/// Why a partition's batch is not appended.
struct Refusal {
    error: ErrorCode,
    message: Option<String>,
    record_errors: Vec<(u32, String)>,
    /// Who leads instead, if that is why and is known.
    leader: Option<(NodeId, LeaderEpoch)>,
}

impl Refusal {
    fn new(error: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            error,
            message: Some(message.into()),
            record_errors: Vec::new(),
            leader: None,
        }
    }
}

/// Checks the batches of a request and hands them to their shards, in the order of the call.
pub(crate) fn submit(caller: &Caller, request: ProduceRequest) -> PendingProduce {
    let timeout = Duration::from_millis(request.timeout_ms.max(0).unsigned_abs().into()).max(TIMEOUT_MIN);
    let whole_request = refuse_whole(&request);
    let now = caller.context.region.now();
    let topics = request.topic_data.into_iter().map(|data| {
        let topic = catalog::produce_topic(
            &caller.context.region,
            caller.version >= TOPIC_IDS_FROM,
            &data.name,
            data.topic_id,
        );
        let partitions = data.partition_data.into_iter().map(|partition| {
            let index = partition.index;
            let pending = match (&whole_request, &topic) {
                (Some((error, message)), _) => Err(Refusal::new(*error, *message)),
                (None, Err((error, message))) => Err(Refusal::new(*error, message.clone())),
                (None, Ok(topic)) => append(caller, topic, request.acks, now, partition),
            };
            (index, pending.unwrap_or_else(PendingPartition::Refused))
        });
        PendingTopic {
            partitions: partitions.collect(),
            name: data.name.detached(),
            topic_id: data.topic_id,
        }
    });
    PendingProduce {
        acks: request.acks,
        deadline: Instant::now() + timeout,
        topics: topics.collect(),
    }
}

fn refuse_whole(request: &ProduceRequest) -> Option<(ErrorCode, &'static str)> {
    if !(-1..=1).contains(&request.acks) {
        return Some((ErrorCode::InvalidRequiredAcks, "acks must be 0, 1 or -1 (all)"));
    }
    if request.transactional_id.is_some() {
        return Some((
            ErrorCode::InvalidTxnState,
            "this broker does not serve transactions",
        ));
    }
    None
}

fn append(
    caller: &Caller,
    topic: &Topic,
    acks: i16,
    now: TimestampMs,
    data: PartitionProduceData,
) -> Result<PendingPartition, Refusal> {
    let index = u32::try_from(data.index)
        .ok()
        .filter(|index| *index < topic.partitions)
        .ok_or_else(|| {
            let message = format!(
                "topic {} has no partition {}, it has {}",
                topic.name, data.index, topic.partitions
            );
            Refusal::new(ErrorCode::UnknownTopicOrPartition, message)
        })?;
    let partition = Partition {
        topic: topic.id,
        index,
    };
    let region = &caller.context.region;
    let shard = region.shard_of(partition);
    // Before the batch is looked at: after a failover every producer comes to the old leader first.
    if region.leader_epoch(shard).is_none() {
        return Err(not_leader(
            region,
            partition,
            "this node does not lead the partition",
        ));
    }
    let wanted = topic.settings.min_insync_replicas as usize;
    if acks == -1 && wanted > 1 {
        let (live, replicas) = cluster_view::live_replicas(region, shard);
        if live < wanted {
            let message = format!("{live} of {replicas} replicas are alive, min.insync.replicas is {wanted}");
            return Err(Refusal::new(ErrorCode::NotEnoughReplicas, message));
        }
    }
    let geo = geo_acks(acks, topic);
    if let Some(GeoAcks {
        regions,
        fallback: None,
    }) = geo
    {
        let heard = region.regions_heard();
        if heard < regions {
            let message = format!("{heard} other regions are heard, geo.acks is {regions}");
            return Err(Refusal::new(ErrorCode::NotEnoughReplicas, message));
        }
    }
    let timestamp_type = match topic.settings.timestamp_type {
        MessageTimestampType::CreateTime => TimestampType::CreateTime,
        MessageTimestampType::LogAppendTime => TimestampType::LogAppendTime,
    };
    let mut batch = data.records.unwrap_or_default();
    let rules = ProduceRules {
        message_bytes_max: topic.settings.max_message_bytes as usize,
        decompressed_bytes_max: decompressed_bytes_max(topic.settings.max_message_bytes as usize),
        now,
        timestamp_type,
        timestamp_before_max_ms: i64::try_from(topic.settings.timestamp_before_max_ms).unwrap_or(i64::MAX),
        timestamp_after_max_ms: i64::try_from(topic.settings.timestamp_after_max_ms).unwrap_or(i64::MAX),
        is_compacted: topic.settings.compacts,
        is_zstd_allowed: caller.version >= ZSTD_FROM,
    };
    let validated = validate(&batch, &rules).map_err(|error| refused(&error))?;
    if validated.header.is_transactional {
        return Err(Refusal::new(
            ErrorCode::InvalidTxnState,
            "this broker does not serve transactions",
        ));
    }
    let header = stamp_time(&mut batch, &validated, timestamp_type)?;
    let log_append_time = (timestamp_type == TimestampType::LogAppendTime).then_some(now);
    let append = region.append(partition, batch, header);
    Ok(PendingPartition::Appending {
        partition,
        append,
        log_append_time,
        header,
        geo,
    })
}

fn geo_acks(acks: i16, topic: &Topic) -> Option<GeoAcks> {
    let settings = &topic.settings;
    (acks == -1 && settings.geo_acks > 0).then(|| GeoAcks {
        regions: settings.geo_acks,
        fallback: settings.geo_acks_fallback_ms.map(Duration::from_millis),
    })
}

/// Waits until so many other regions hold what was appended (invariant 2).
async fn wait_for_regions(
    caller: &Caller,
    partition: Partition,
    geo: GeoAcks,
    deadline: Instant,
) -> Result<(), Refusal> {
    let region = &caller.context.region;
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = geo.fallback.map_or(left, |fallback| fallback.min(left));
    let held = region.held_by_regions(region.shard_of(partition), geo.regions, timeout);
    match held.await {
        Ok(()) => Ok(()),
        Err(too_few) if geo.fallback.is_some_and(|fallback| fallback <= left) => {
            caller.context.metrics.geo_acks_fallbacks.inc();
            caller.context.warn_limited(|suppressed| {
                tracing::warn!(%partition, %too_few, suppressed, "acknowledged without other regions (geo.acks.fallback.ms)");
            });
            Ok(())
        }
        Err(too_few) => Err(Refusal::new(
            ErrorCode::NotEnoughReplicasAfterAppend,
            too_few.to_string(),
        )),
    }
}

fn decompressed_bytes_max(message_bytes_max: usize) -> usize {
    DECOMPRESSED_BYTES_MAX.max(message_bytes_max.saturating_mul(DECOMPRESSED_RATIO_MAX))
}

/// Checks a batch without keeping other connections waiting for this thread.
fn validate(batch: &[u8], rules: &ProduceRules) -> Result<Validated, ProduceBatchError> {
    let is_compressed = BatchHeader::parse(batch).is_ok_and(|header| header.compression != Compression::None);
    let has_other_threads =
        Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if is_compressed && batch.len() >= HEAVY_BATCH_BYTES && has_other_threads {
        tokio::task::block_in_place(|| validate_produce(batch, rules))
    } else {
        validate_produce(batch, rules)
    }
}

/// Makes the header tell the truth about time; the header as it then is.
fn stamp_time(
    batch: &mut BytesMut,
    validated: &Validated,
    kind: TimestampType,
) -> Result<BatchHeader, Refusal> {
    let unchanged =
        validated.header.timestamp_type == kind && validated.header.max_timestamp == validated.max_timestamp;
    if unchanged {
        return Ok(validated.header);
    }
    // Neither can fail on a batch that was just validated; if it does, the batch is not appended.
    batch::set_max_timestamp(batch, kind, validated.max_timestamp)
        .and_then(|()| BatchHeader::parse(batch))
        .map_err(|error| Refusal::new(ErrorCode::CorruptMessage, error.to_string()))
}

fn refused(error: &ProduceBatchError) -> Refusal {
    let record_errors = error
        .record_rejections()
        .iter()
        .map(|record| (record.batch_index, record.reason.to_string()))
        .collect();
    Refusal {
        error: errors::of_batch(error),
        message: Some(error.to_string()),
        record_errors,
        leader: None,
    }
}

impl PendingProduce {
    /// Waits until every batch is committed or refused, or the request's time is over. `None` for acks=0.
    ///
    /// Errors: with acks=0, any failure: only the end of the connection can tell such a producer.
    pub(crate) async fn finish(self, caller: &Caller) -> Result<Option<ProduceResponse>, RequestError> {
        let mut responses = Vec::with_capacity(self.topics.len());
        let mut leaders = BTreeMap::new();
        for topic in self.topics {
            let mut partition_responses = Vec::with_capacity(topic.partitions.len());
            for (index, pending) in topic.partitions {
                let answer = settle(caller, self.deadline, pending).await;
                if let (0, Err(refusal)) = (self.acks, &answer) {
                    caller.code(refusal.error);
                    let reason = refusal
                        .message
                        .clone()
                        .unwrap_or_else(|| refusal.error.name().to_owned());
                    return Err(RequestError::AcksZero { reason });
                }
                partition_responses.push(respond(caller, index, answer, &mut leaders));
            }
            responses.push(TopicProduceResponse {
                name: topic.name,
                topic_id: topic.topic_id,
                partition_responses,
            });
        }
        if self.acks == 0 {
            return Ok(None);
        }
        let node_endpoints = leaders
            .into_iter()
            .filter_map(|(node, ())| cluster_view::node(caller, node))
            .map(|node| NodeEndpoint {
                node_id: node.id.0.cast_signed(),
                host: node.endpoint.host.into(),
                port: node.endpoint.port.into(),
                rack: node.rack.map(Str::from),
            })
            .collect();
        Ok(Some(ProduceResponse {
            responses,
            node_endpoints,
            ..Default::default()
        }))
    }
}

type Settled = Result<(Appended, Option<TimestampMs>), Refusal>;

async fn settle(caller: &Caller, deadline: Instant, pending: PendingPartition) -> Settled {
    let (partition, append, log_append_time, header, geo) = match pending {
        PendingPartition::Refused(refusal) => return Err(refusal),
        PendingPartition::Appending {
            partition,
            append,
            log_append_time,
            header,
            geo,
        } => (partition, append, log_append_time, header, geo),
    };
    match timeout_at(deadline, append).await {
        Ok(Ok(appended)) => {
            let metrics = &caller.context.metrics;
            if !appended.duplicate {
                metrics.produce_batches.inc();
                metrics.produce_records.inc_by(header.record_count.into());
                metrics.produce_bytes.inc_by(header.size() as u64);
            }
            if let Some(geo) = geo {
                wait_for_regions(caller, partition, geo, deadline).await?;
            }
            Ok((appended, log_append_time))
        }
        Ok(Err(error)) => Err(not_appended(caller, partition, &error)),
        Err(_) => Err(Refusal::new(
            ErrorCode::RequestTimedOut,
            "the batch was not committed in time",
        )),
    }
}

fn not_appended(caller: &Caller, partition: Partition, error: &AppendError) -> Refusal {
    let code = errors::of_append(error);
    match error {
        AppendError::Storage { .. } | AppendError::Unknown { .. } => {
            caller.context.warn_limited(|suppressed| {
                tracing::warn!(%partition, %error, suppressed, "batch not acknowledged");
            });
        }
        _ => tracing::debug!(%partition, %error, "batch refused"),
    }
    match code {
        ErrorCode::NotLeaderOrFollower => not_leader(&caller.context.region, partition, error.to_string()),
        code => Refusal::new(code, error.to_string()),
    }
}

/// Tells the producer where to go instead.
fn not_leader(region: &Region, partition: Partition, message: impl Into<String>) -> Refusal {
    Refusal {
        leader: cluster_view::leader_hint(region, partition),
        ..Refusal::new(ErrorCode::NotLeaderOrFollower, message)
    }
}

fn respond(
    caller: &Caller,
    index: i32,
    answer: Settled,
    leaders: &mut BTreeMap<NodeId, ()>,
) -> PartitionProduceResponse {
    let refusal = match answer {
        Ok((appended, log_append_time)) => {
            return PartitionProduceResponse {
                index,
                base_offset: appended.base_offset.0.cast_signed(),
                log_append_time_ms: log_append_time.map_or(-1, |time| time.0),
                log_start_offset: appended.log_start_offset.0.cast_signed(),
                ..Default::default()
            };
        }
        Err(refusal) => refusal,
    };
    let mut current_leader = LeaderIdAndEpoch::default();
    if let Some((leader, epoch)) = refusal.leader
        && caller.version >= LEADER_HINTS_FROM
    {
        leaders.insert(leader, ());
        current_leader.leader_id = leader.0.cast_signed();
        current_leader.leader_epoch = epoch.0.cast_signed();
    }
    PartitionProduceResponse {
        index,
        error_code: caller.code(refusal.error),
        base_offset: -1,
        record_errors: refusal.record_errors.into_iter().map(record_error).collect(),
        error_message: refusal.message.map(Str::from),
        current_leader,
        ..Default::default()
    }
}

fn record_error((batch_index, message): (u32, String)) -> BatchIndexAndErrorMessage {
    BatchIndexAndErrorMessage {
        batch_index: batch_index.cast_signed(),
        batch_index_error_message: Some(message.into()),
    }
}
