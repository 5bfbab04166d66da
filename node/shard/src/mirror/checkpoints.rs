//! The owner's side of a checkpoint for another region: its state, the objects of its bucket, and its batches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_geo_mirror::Refusal;
use meridian_lineage::{STAGE_PART_BYTES_MAX, STAGED_BYTES_MAX};
use meridian_tiered_storage::manifest::ObjectName;
use meridian_types::{Offset, Partition, ShardId, TimestampMs};
use meridian_wire::batch::BatchHeader;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::question::{BatchesPart, CheckpointPart, Question};
use super::reader;
use super::stream::Stream;
use crate::errors::ReadError;
use crate::read::ReadFrom;
use crate::region::Inner;

/// A checkpoint that nobody asked for in so long is forgotten.
const KEPT: Duration = Duration::from_secs(60);

/// Bytes of an object, or of batches, in one answer (of batches soft by one).
pub(super) const ANSWER_BYTES: usize = 1 << 20;

/// Checkpoints that other regions are fetching.
#[derive(Default)]
pub(super) struct Checkpoints(Mutex<BTreeMap<ShardId, Made>>);

/// A checkpoint as it was made.
struct Made {
    checkpoint: u64,
    body: Bytes,
    used: Instant,
}

impl Checkpoints {
    /// Keeps a new one, in place of an older one of the log.
    fn keep(&self, shard: ShardId, checkpoint: u64, body: Bytes) {
        let used = Instant::now();
        let mut made = self.0.lock();
        made.retain(|_, made| made.used.elapsed() < KEPT);
        made.insert(
            shard,
            Made {
                checkpoint,
                body,
                used,
            },
        );
    }

    fn part(&self, shard: ShardId, checkpoint: u64, at: u64) -> Option<CheckpointPart> {
        let mut made = self.0.lock();
        let made = made
            .get_mut(&shard)
            .filter(|made| made.checkpoint == checkpoint)?;
        made.used = Instant::now();
        let start = usize::try_from(at).ok().filter(|at| *at <= made.body.len())?;
        let end = made.body.len().min(start + STAGE_PART_BYTES_MAX);
        Some(CheckpointPart {
            checkpoint,
            total_bytes: made.body.len() as u64,
            at,
            bytes: made.body.slice(start..end),
        })
    }
}

/// Answers another region's leader of the same log.
pub(super) async fn answer(inner: &Arc<Inner>, shard: ShardId, question: &[u8]) -> Result<Bytes, Refusal> {
    let question = Question::decode(question).map_err(|error| unknown(format!("a question: {error}")))?;
    let stream = Stream::new(inner, shard).ok_or(Refusal::NotHosted)?;
    if let Question::Alter { command } = &question {
        return super::alter::carry_out(inner, command).await;
    }
    reader::leads(inner, &stream)?;
    let stand = stream.stand();
    reader::may_serve(&stand, stand.progress.sequence)?;
    match question {
        Question::Checkpoint { part } => checkpoint(inner, shard, part).await,
        Question::Object { name, at } => object(inner, shard, name, at).await,
        Question::Batches { partition, from, end } => {
            if inner.shard_map().of(partition) != shard {
                return Err(unknown(format!("{partition} is none of {shard}")));
            }
            batches(inner, shard, partition, from, end).await
        }
        Question::Alter { .. } => Err(unknown("it was answered before".to_owned())),
    }
}

async fn checkpoint(inner: &Arc<Inner>, shard: ShardId, part: Option<(u64, u64)>) -> Result<Bytes, Refusal> {
    let made = &inner.mirror().ok_or(Refusal::NotHosted)?.checkpoints;
    if let Some((checkpoint, at)) = part {
        let part = made.part(shard, checkpoint, at);
        return part
            .map(|part| part.encode())
            .ok_or_else(|| unknown("the checkpoint is not kept any more".to_owned()));
    }
    // It holds the state's lock for as long as a checkpoint of this region's own does.
    let body = {
        let inner = Arc::clone(inner);
        meridian_raft::blocking(move || match shard {
            ShardId::CONTROLLER => inner.control.controller().encode_snapshot().concat(),
            shard => inner.shard(shard).applied_state().encode_snapshot().concat(),
        })
    };
    let body = body.await.map_err(|error| unknown(error.to_string()))?;
    if body.len() as u64 > STAGED_BYTES_MAX {
        return Err(unknown(format!(
            "the state has {} bytes, and a checkpoint at most {STAGED_BYTES_MAX}",
            body.len()
        )));
    }
    let checkpoint = u64::try_from((inner.random)() >> 64).unwrap_or_default();
    tracing::info!(%shard, bytes = body.len(), "another region takes a checkpoint");
    made.keep(shard, checkpoint, body.into());
    let part = made.part(shard, checkpoint, 0).map(|part| part.encode());
    part.ok_or_else(|| unknown("the checkpoint is not kept any more".to_owned()))
}

async fn object(inner: &Inner, shard: ShardId, name: ObjectName, at: u64) -> Result<Bytes, Refusal> {
    let tier = inner
        .tier()
        .ok_or_else(|| unknown("this node was not told of the bucket".to_owned()))?;
    if shard == ShardId::CONTROLLER {
        return Err(unknown("the controller has no objects".to_owned()));
    }
    let bytes = {
        let state = inner.shard(shard).applied_state();
        let manifest = state.manifest();
        let objects = manifest.objects().map(|(_, object)| (object.name, object.bytes));
        // One that was merged away meanwhile is there until the grace period is over.
        let unlinked = manifest
            .unlinked()
            .map(|(_, unlinked)| (unlinked.name, unlinked.bytes));
        let mut all = objects.chain(unlinked);
        all.find(|(known, _)| *known == name).map(|(_, bytes)| bytes)
    };
    let bytes =
        bytes.ok_or_else(|| unknown(format!("the bucket's manifest has no object {name} any more")))?;
    let end = bytes.min(at.saturating_add(ANSWER_BYTES as u64));
    if at >= end {
        return Err(unknown(format!("the object {name} has {bytes} bytes")));
    }
    let key = name.key(&tier.cluster, shard);
    let part = tier.store.get_range(&key, at..end).await;
    part.map_err(|error| unknown(error.to_string()))
}

async fn batches(
    inner: &Inner,
    shard: ShardId,
    partition: Partition,
    from: Offset,
    end: Offset,
) -> Result<Bytes, Refusal> {
    let shard = inner.shard(shard);
    let read = match shard.read(partition, from, ANSWER_BYTES, ReadFrom::Any).await {
        Ok(read) => read,
        Err(ReadError::OffsetOutOfRange { positions }) => {
            let start = match positions.log_start_offset > from {
                true => positions.log_start_offset,
                // The topic is deleted; that comes with the content.
                false => end,
            };
            return Ok(BatchesPart::Deleted { start }.encode());
        }
        Err(error) => return Err(unknown(error.to_string())),
    };
    let mut next = None;
    let mut max_timestamp = TimestampMs(i64::MIN);
    let mut bytes = Vec::with_capacity(read.bytes);
    for piece in read.records {
        let mut rest = piece;
        while !rest.is_empty() {
            let header = BatchHeader::parse(&rest).map_err(|error| unknown(error.to_string()))?;
            if header.size() > rest.len() {
                return Err(unknown("a stored batch is longer than its span".to_owned()));
            }
            let batch = rest.split_to(header.size());
            if header.next_offset() > end {
                rest.clear();
                continue;
            }
            next = Some(header.next_offset());
            max_timestamp = max_timestamp.max(header.max_timestamp);
            bytes.extend_from_slice(&batch);
        }
    }
    let next = next.ok_or_else(|| unknown(format!("{partition}: compaction has passed {from}")))?;
    if max_timestamp.0 < 0 {
        // Records without a timestamp are as old as their append, which nobody knows any more.
        max_timestamp = (inner.clock)();
    }
    let part = BatchesPart::Batches {
        next,
        max_timestamp,
        bytes: bytes.into(),
    };
    Ok(part.encode())
}

fn unknown(reason: String) -> Refusal {
    Refusal::Unknown { reason }
}
