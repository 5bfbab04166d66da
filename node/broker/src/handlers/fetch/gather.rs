//! One look at all partitions of a fetch.

use meridian_shard::{Positions, ReadError};
use meridian_types::{LeaderEpoch, NodeId, Offset, Partition};
use meridian_wire::{ErrorCode, Records};

use crate::budget::{ByteBudget, ByteLease};
use crate::catalog;
use crate::context::Caller;
use crate::errors;
use crate::fetch_session::SessionPartition;

/// Most bytes read from one partition at a time, however much the client would take: it asks again.
const READ_BYTES_MAX: u32 = 16 << 20;

/// A fetch takes at most this part of the memory that is free, so that those who do not read their answers leave
/// something for all others.
const FREE_SHARE: usize = 16;
/// It may take so much in any case.
const ALLOWANCE_BYTES_MIN: usize = 64 << 10;

fn allowance(budget: &ByteBudget) -> u32 {
    u32::try_from((budget.bytes_free() / FREE_SHARE).max(ALLOWANCE_BYTES_MIN)).unwrap_or(u32::MAX)
}

/// What bounds a fetch.
pub(super) struct Limits {
    /// Of the whole response; the first batch may exceed it (KIP-74).
    pub(super) bytes_max: u32,
    /// Only up to the last stable offset.
    pub(super) is_read_committed: bool,
    /// From v12 on: the client says the epoch of its last record.
    pub(super) checks_epochs: bool,
}

/// What a look found, one answer per partition, in their order.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) answers: Vec<Answer>,
    /// Bytes towards `min_bytes`: of each partition no more than its own limit.
    pub(super) counted_bytes: u64,
    /// There is more than fits: to wait would not make the answer larger.
    pub(super) is_full: bool,
    /// Something cannot wait: an error, or a log that has diverged.
    pub(super) is_urgent: bool,
    /// Memory of what was read.
    pub(super) lease: Option<ByteLease>,
    /// Where the partitions stood, to be woken when they move on.
    pub(super) seen: Vec<(Partition, Offset)>,
}

/// The answer for one partition.
pub(super) enum Answer {
    Data {
        positions: Positions,
        records: Records,
    },
    /// The client's log has diverged from ours: it truncates to `end_offset` of `epoch` and asks again (KIP-595).
    Diverging {
        positions: Positions,
        epoch: LeaderEpoch,
        end_offset: Offset,
    },
    Failed {
        error: ErrorCode,
        leader: Option<(NodeId, Option<LeaderEpoch>)>,
        positions: Option<Positions>,
    },
}

impl Answer {
    fn failed(error: ErrorCode) -> Self {
        Self::Failed {
            error,
            leader: None,
            positions: None,
        }
    }
}

pub(super) async fn gather(caller: &Caller, partitions: &[SessionPartition], limits: &Limits) -> Gathered {
    let mut gathered = Gathered::default();
    let allowance = allowance(&caller.context.response_budget);
    let mut bytes_left = limits.bytes_max.min(allowance);
    let resolved = catalog::resolve(&caller.context.region, partitions);
    let mut unknown = 0;
    for (asked, resolved) in partitions.iter().zip(resolved) {
        let partition = match resolved {
            Ok(partition) => partition,
            Err(error) => {
                unknown += 1;
                gathered.answers.push(Answer::failed(error));
                continue;
            }
        };
        let answer = match look(caller, partition, asked, limits) {
            Ok((positions, from)) => {
                gathered.seen.push((partition, positions.high_watermark));
                read(
                    caller,
                    partition,
                    asked,
                    (positions, from),
                    limits,
                    &mut bytes_left,
                    &mut gathered,
                )
                .await
            }
            Err(answer) => {
                gathered.is_urgent = true;
                *answer
            }
        };
        gathered.answers.push(answer);
    }
    // Partitions of deleted topics must not turn a long poll into a storm; with nothing else there is nothing
    // to wait for.
    gathered.is_urgent |= unknown == partitions.len();
    // Whole batches fill an allowance at least by half.
    gathered.is_full |= gathered.counted_bytes >= u64::from(allowance / 2);
    gathered
}

/// Where to read, or what to say instead.
fn look(
    caller: &Caller,
    partition: Partition,
    asked: &SessionPartition,
    limits: &Limits,
) -> Result<(Positions, Offset), Box<Answer>> {
    let region = &caller.context.region;
    let positions = region
        .positions(partition)
        .map_err(|error| Box::new(unreadable(caller, partition, &error)))?;
    if let Some(error) = catalog::check_epoch(asked.current_leader_epoch, positions.leader_epoch) {
        let leader = Some((region.node_id(), Some(positions.leader_epoch)));
        return Err(Box::new(Answer::Failed {
            error,
            leader,
            positions: Some(positions),
        }));
    }
    let from = u64::try_from(asked.fetch_offset).ok().map(Offset);
    if let (true, Some(fetched), Some(from)) = (limits.checks_epochs, asked.last_fetched_epoch, from) {
        let end = region
            .end_offset_for_epoch(partition, fetched)
            .map_err(|error| Box::new(unreadable(caller, partition, &error)))?;
        match end {
            None => return Err(Box::new(out_of_range(positions))),
            Some((epoch, end_offset)) if epoch < fetched || end_offset < from => {
                return Err(Box::new(Answer::Diverging {
                    positions,
                    epoch,
                    end_offset,
                }));
            }
            Some(_) => {}
        }
    }
    match from {
        Some(from) if positions.log_start_offset <= from && from <= positions.high_watermark => {
            Ok((positions, from))
        }
        _ => Err(Box::new(out_of_range(positions))),
    }
}

async fn read(
    caller: &Caller,
    partition: Partition,
    asked: &SessionPartition,
    (positions, from): (Positions, Offset),
    limits: &Limits,
    bytes_left: &mut u32,
    gathered: &mut Gathered,
) -> Answer {
    let context = &caller.context;
    let end = if limits.is_read_committed {
        positions.last_stable_offset
    } else {
        positions.high_watermark
    };
    let is_first = gathered.counted_bytes == 0 && gathered.lease.is_none();
    let bytes_max = asked.bytes_max.min(*bytes_left).min(READ_BYTES_MAX);
    let nothing = Answer::Data {
        positions,
        records: Records::EMPTY,
    };
    if from >= end {
        return nothing;
    }
    if bytes_max == 0 && !is_first {
        gathered.is_full = true;
        return nothing;
    }
    let lease = if is_first {
        tokio::select! {
            lease = context.response_budget.take(bytes_max as usize) => lease,
            () = context.draining.cancelled() => return nothing,
        }
    } else {
        // Who already holds memory must not wait for more: the response goes out with what it has.
        match context.response_budget.try_take(bytes_max as usize) {
            Some(lease) => lease,
            None => {
                gathered.is_full = true;
                return nothing;
            }
        }
    };
    let batches = match context.region.read(partition, from, bytes_max as usize).await {
        Ok(batches) => batches,
        Err(error) => {
            gathered.is_urgent = true;
            return unreadable(caller, partition, &error);
        }
    };
    let records: Records = batches.records.into_iter().collect();
    let bytes = u32::try_from(records.bytes()).unwrap_or(u32::MAX);
    if records.is_empty() || (bytes > bytes_max && !is_first) {
        // Only the first may exceed its limit; this one comes first in a later fetch.
        gathered.is_full |= bytes > 0;
        return Answer::Data {
            positions: batches.positions,
            records: Records::EMPTY,
        };
    }
    let mut lease = lease;
    lease.shrink_to(bytes as usize);
    // The first batch is whole, whatever its size; it is counted as far as that is possible without waiting.
    if let Some(excess) = (bytes as usize).checked_sub(lease.bytes())
        && let Some(more) = context.response_budget.try_take(excess)
    {
        lease.merge(more);
    }
    match &mut gathered.lease {
        Some(held) => held.merge(lease),
        None => gathered.lease = Some(lease),
    }
    *bytes_left = bytes_left.saturating_sub(bytes);
    gathered.counted_bytes += u64::from(bytes.min(asked.bytes_max.max(1)));
    Answer::Data {
        positions: batches.positions,
        records,
    }
}

fn out_of_range(positions: Positions) -> Answer {
    Answer::Failed {
        error: ErrorCode::OffsetOutOfRange,
        leader: None,
        positions: Some(positions),
    }
}

fn unreadable(caller: &Caller, partition: Partition, error: &ReadError) -> Answer {
    if let ReadError::Storage { .. } = error {
        caller.context.warn_limited(|suppressed| {
            tracing::warn!(%partition, %error, suppressed, "partition cannot be fetched");
        });
    }
    let leader = match error {
        ReadError::NotLeader { leader: Some(leader) } => {
            Some((*leader, catalog::leader_epoch(&caller.context.region, partition)))
        }
        _ => None,
    };
    let positions = match error {
        ReadError::OffsetOutOfRange { positions } => Some(*positions),
        _ => None,
    };
    Answer::Failed {
        error: errors::of_read(error),
        leader,
        positions,
    }
}
