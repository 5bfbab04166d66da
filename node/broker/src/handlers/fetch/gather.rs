//! One look at all partitions of a fetch.

use std::time::Duration;

use meridian_shard::{CopyAge, Positions, ReadError, ReadFrom};
use meridian_types::{LeaderEpoch, NodeId, Offset, Partition, RegionNumber, ShardId};
use meridian_wire::{ErrorCode, Records};
use tokio::time::Instant;

use crate::budget::{ByteBudget, ByteLease};
use crate::catalog::{self, Fetchable};
use crate::cluster_view;
use crate::context::Caller;
use crate::errors;
use crate::fetch_session::SessionPartition;
use crate::read_replicas;

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
    /// Who may answer.
    pub(super) reader: ReadFrom,
    /// The client's rack; empty where it says none.
    pub(super) rack: String,
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
    /// A replica in the client's own rack can answer (KIP-392).
    Elsewhere {
        positions: Positions,
        replica: NodeId,
    },
    /// This replica has not come so far yet: it may at any moment.
    Behind {
        positions: Positions,
    },
    Failed {
        error: ErrorCode,
        leader: Option<(NodeId, LeaderEpoch)>,
        positions: Option<Positions>,
    },
}

impl Answer {
    /// Whether it says that a partition ends before the offset that is asked for.
    fn is_beyond(&self, asked: &SessionPartition) -> bool {
        let Self::Failed {
            error: ErrorCode::OffsetOutOfRange,
            positions: Some(positions),
            ..
        } = self
        else {
            return false;
        };
        let from = u64::try_from(asked.fetch_offset).map(Offset);
        from.is_ok_and(|from| from > positions.high_watermark)
    }

    /// Of one that says so: makes it say that this is not known yet.
    fn doubt(&mut self, asked: &SessionPartition) {
        if let (true, Self::Failed { error, .. }) = (self.is_beyond(asked), self) {
            *error = ErrorCode::OffsetNotAvailable;
        }
    }

    fn failed(error: ErrorCode) -> Self {
        Self::Failed {
            error,
            leader: None,
            positions: None,
        }
    }
}

impl Gathered {
    /// Sends those back to the leader that have waited in vain for this replica. They keep their position, which
    /// OFFSET_OUT_OF_RANGE would cost a client that takes this node for the leader.
    pub(super) fn give_up_on_those_behind(&mut self) {
        for answer in &mut self.answers {
            if let Answer::Behind { positions } = answer {
                *answer = Answer::Failed {
                    error: ErrorCode::OffsetNotAvailable,
                    leader: None,
                    positions: Some(*positions),
                };
            }
        }
    }
}

pub(super) async fn gather(caller: &Caller, partitions: &[SessionPartition], limits: &Limits) -> Gathered {
    let mut gathered = Gathered::default();
    let allowance = allowance(&caller.context.response_budget);
    let mut bytes_left = limits.bytes_max.min(allowance);
    let resolved = catalog::resolve(&caller.context.region, partitions);
    let near = nodes_near(caller, &limits.rack);
    let mut unknown = 0;
    for (asked, resolved) in partitions.iter().zip(resolved) {
        let found = match resolved {
            Ok(found) => found,
            Err(error) => {
                unknown += 1;
                gathered.answers.push(Answer::failed(error));
                continue;
            }
        };
        let partition = found.partition;
        let mut looked = look(caller, found, asked, limits, &near);
        if looked.as_ref().is_err_and(|answer| answer.is_beyond(asked)) {
            // A follower may have shown it before it is applied here.
            let shard = caller.context.region.shard_of(partition);
            let is_applied = caller.context.region.catch_up(shard, CATCH_UP).await;
            looked = look(caller, found, asked, limits, &near);
            if let (Err(answer), false) = (&mut looked, is_applied) {
                answer.doubt(asked);
            }
        }
        let answer = match looked {
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
                match &*answer {
                    Answer::Behind { positions } => {
                        gathered.seen.push((partition, positions.high_watermark));
                    }
                    _ => gathered.is_urgent = true,
                }
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

/// How long a leader may take to apply what its log has, before it says that it does not know yet.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Where to read, or what to say instead.
fn look(
    caller: &Caller,
    Fetchable {
        partition,
        staleness_max,
    }: Fetchable,
    asked: &SessionPartition,
    limits: &Limits,
    near: &[NodeId],
) -> Result<(Positions, Offset), Box<Answer>> {
    let region = &caller.context.region;
    let shard = region.shard_of(partition);
    let is_leader = region.leader_epoch(shard).is_some();
    // A replica that knows of no leader may be cut off from the others: nobody should wait for what it will not get.
    if !is_leader && region.leader_of(shard).is_none() {
        return Err(Box::new(Answer::Failed {
            error: ErrorCode::NotLeaderOrFollower,
            leader: cluster_view::leader_hint(region, partition),
            positions: None,
        }));
    }
    let positions = region
        .positions(partition, limits.reader)
        .map_err(|error| Box::new(unreadable(caller, partition, &error)))?;
    if let Some(error) = catalog::check_epoch(asked.current_leader_epoch, positions.leader_epoch) {
        let leader = match is_leader {
            true => Some((region.node_id(), positions.leader_epoch)),
            false => cluster_view::leader_hint(region, partition),
        };
        return Err(Box::new(Answer::Failed {
            error,
            leader,
            positions: Some(positions),
        }));
    }
    if let Some(bound) = staleness_max
        && let Some(answer) = too_stale(caller, partition, bound, positions)
    {
        return Err(Box::new(answer));
    }
    let from = u64::try_from(asked.fetch_offset).ok().map(Offset);
    // Before its epochs are held against ours: a replica that lags behind knows no more than a truncated one.
    if !is_leader && from.is_some_and(|from| from > positions.high_watermark) {
        return Err(Box::new(Answer::Behind { positions }));
    }
    if let (true, Some(fetched), Some(from)) = (limits.checks_epochs, asked.last_fetched_epoch, from) {
        let end = region
            .end_offset_for_epoch(partition, fetched, limits.reader)
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
            let near = if is_leader { near } else { &[] };
            let near = near_enough(caller, shard, near, staleness_max);
            match replica_near(caller, partition, &near, from, positions) {
                Some(replica) => Err(Box::new(Answer::Elsewhere { positions, replica })),
                None => Ok((positions, from)),
            }
        }
        _ => Err(Box::new(out_of_range(positions))),
    }
}

/// Where a consumer goes whose topic bounds how old a copy may be, if the copy here is older: to the node of this region
/// that takes the shard in and knows its age, or to the owner.
///
/// The answer is a preferred replica, not an error. Errors that send Java's and librdkafka's consumers back to the
/// leader (NOT_LEADER_OR_FOLLOWER, OFFSET_NOT_AVAILABLE) leave franz-go's with the replica for half an hour, unless the leader's
/// epoch has risen too; a named replica all of them follow, the leader being one (KIP-392).
fn too_stale(caller: &Caller, partition: Partition, bound: Duration, positions: Positions) -> Option<Answer> {
    let region = &caller.context.region;
    let replica = match region.copy_age(region.shard_of(partition)) {
        CopyAge::Own => return None,
        CopyAge::Known(age) if age <= bound => return None,
        CopyAge::KnownTo(node) if cluster_view::node(caller, node).is_some() => Some(node),
        CopyAge::KnownTo(_) | CopyAge::Known(_) | CopyAge::Unknown => {
            caller.context.metrics.fetch_stale_redirects.inc();
            cluster_view::leader_hint(region, partition).map(|(leader, _)| leader)
        }
    };
    Some(match replica {
        Some(replica) => Answer::Elsewhere { positions, replica },
        // The owner is not known: to look for it is all that the client can do.
        None => Answer::failed(ErrorCode::NotLeaderOrFollower),
    })
}

/// Of the nodes near a client those that may be named where a topic bounds how old a copy may be: in other regions the node that
/// takes the shard in, and only where the region lags by at most half of the bound, or consumers would go to and fro.
fn near_enough(
    caller: &Caller,
    shard: ShardId,
    near: &[NodeId],
    staleness_max: Option<Duration>,
) -> Vec<NodeId> {
    let (Some(bound), false) = (staleness_max, near.is_empty()) else {
        return near.to_vec();
    };
    let region = &caller.context.region;
    let own = RegionNumber::of(region.node_id());
    let remote = region.remote();
    let named = |node: &NodeId| {
        let number = RegionNumber::of(*node)?;
        if Some(number) == own {
            return Some(*node);
        }
        let age = region.mirror_age(shard, number)?;
        let taken_in = remote.region(number)?.shards.get(shard.0 as usize)?.leader;
        taken_in.filter(|_| age <= bound / 2).map(|(leader, _)| leader)
    };
    near.iter().filter_map(named).collect()
}

/// The nodes in the client's rack, if this one is not.
fn nodes_near(caller: &Caller, rack: &str) -> Vec<NodeId> {
    if rack.is_empty() {
        return Vec::new();
    }
    let nodes = cluster_view::nodes(caller);
    let racks: Vec<_> = nodes.iter().map(|node| (node.id, node.rack.as_deref())).collect();
    read_replicas::near(rack, caller.context.region.node_id(), &racks)
}

/// The replica that a consumer at `from` should read from instead of this leader.
fn replica_near(
    caller: &Caller,
    partition: Partition,
    near: &[NodeId],
    from: Offset,
    positions: Positions,
) -> Option<NodeId> {
    if near.is_empty() {
        return None;
    }
    let region = &caller.context.region;
    let shard = region.shard_of(partition);
    let mut in_step = region.replicas_in_step(shard);
    in_step.extend(region.remote().in_step(shard));
    let replica = read_replicas::select(near, &in_step, caller.peer.address.port().into())?;
    let mut redirects = caller.peer.redirects.lock();
    let may_point = redirects.may_point(Instant::now(), partition, from, positions.high_watermark);
    may_point.then_some(replica)
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
    let read = context
        .region
        .read(partition, from, bytes_max as usize, limits.reader);
    let batches = match read.await {
        Ok(batches) => batches,
        Err(ReadError::Behind { positions }) => return Answer::Behind { positions },
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
        ReadError::NotLeader { .. } => cluster_view::leader_hint(&caller.context.region, partition),
        _ => None,
    };
    let positions = match error {
        ReadError::OffsetOutOfRange { positions }
        | ReadError::Behind { positions }
        | ReadError::NotHeld { positions } => Some(*positions),
        ReadError::NotLeader { .. } | ReadError::Unavailable { .. } | ReadError::Storage { .. } => None,
    };
    Answer::Failed {
        error: errors::of_read(error),
        leader,
        positions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch_session::TopicKey;

    #[test]
    fn an_offset_beyond_the_end_is_in_doubt_and_one_before_the_start_is_not() {
        let positions = Positions {
            log_start_offset: Offset(10),
            last_stable_offset: Offset(20),
            high_watermark: Offset(20),
            leader_epoch: LeaderEpoch(3),
        };
        let asked = |fetch_offset| SessionPartition {
            topic: TopicKey::Name("t".into()),
            index: 0,
            fetch_offset,
            bytes_max: 1,
            current_leader_epoch: None,
            last_fetched_epoch: None,
        };
        for (offset, is_beyond) in [(21, true), (20, false), (9, false), (-1, false)] {
            let mut answer = out_of_range(positions);
            assert_eq!(answer.is_beyond(&asked(offset)), is_beyond, "{offset}");
            answer.doubt(&asked(offset));
            let doubted = matches!(
                answer,
                Answer::Failed {
                    error: ErrorCode::OffsetNotAvailable,
                    ..
                }
            );
            assert_eq!(doubted, is_beyond, "{offset}");
        }
        assert!(!Answer::Behind { positions }.is_beyond(&asked(21)));
    }
}
