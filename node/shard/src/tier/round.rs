//! One round: what a shard's log holds beyond the bucket goes there, as one bundle.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use meridian_journal::{Journal, Usage};
use meridian_raft::ENTRY_PREFIX_BYTES;
use meridian_state::{Chunk, Command, State};
use meridian_tiered_storage::bundle::{Bundle, BundleLimits, BundleWriter, PushError};
use meridian_types::{Offset, Partition, RaftIndex, ShardId, TimestampMs};
use thiserror::Error;
use tokio::time::Instant;

use super::Tier;
use super::burst;
use super::commit::{CommitError, commit};
use super::driver::Led;
use super::pace::{Looked, Urgency};
use super::step::Bringing;
use super::window::Window;
use crate::region::Inner;
use crate::shard::Shard;

/// So much is read at once, and then checked and compressed.
const PIECE_BYTES: u64 = 1 << 20;

/// As many chunks as are found in memory in some tenths of a millisecond.
const PIECE_CHUNKS: usize = 256;

/// Why a round brought nothing. The next one begins anew from the state as it is then; what was uploaded may be an
/// orphan.
#[derive(Debug, Error)]
pub(super) enum RoundError {
    /// Bytes that the bucket lacks cannot be read here, or are not what the state says.
    #[error("entry {index} cannot be read: {reason}")]
    Read { index: RaftIndex, reason: String },
    /// A batch is damaged here: it must not go into the bucket.
    #[error(transparent)]
    Batch(#[from] PushError),
    /// The bundle does not hold what was to go into it: a defect.
    #[error("the bundle holds {found} of partition {partition}, expected {expected}")]
    Bundle {
        partition: Partition,
        found: String,
        expected: String,
    },
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("the task ended: {0}")]
    Task(String),
}

/// What a round takes.
pub(super) struct Plan {
    sequence: u64,
    through: RaftIndex,
    /// In the order of the log.
    chunks: Vec<(Partition, Chunk)>,
    pub(super) bytes: u64,
}

/// Looks what waits for the bucket, and how much of it goes now.
pub(super) fn look(shard: &Shard, bundle_bytes: u64) -> (Looked, Option<Plan>) {
    look_and(shard, |state| plan(state, bundle_bytes))
}

/// Looks what waits for the bucket.
pub(super) fn measure(shard: &Shard) -> Looked {
    look_and(shard, |_| ()).0
}

fn look_and<T>(shard: &Shard, then: impl FnOnce(&State) -> T) -> (Looked, T) {
    // Before the state, so that what is applied in between counts as waiting.
    let (at, applied_bytes) = (Instant::now(), shard.applied_bytes());
    let state = shard.applied_state();
    let looked = Looked {
        at,
        applied_bytes,
        waiting_bytes: state.untiered_bytes(),
    };
    (looked, then(&state))
}

fn plan(state: &State, bundle_bytes: u64) -> Option<Plan> {
    let mut window = Window::new(bundle_bytes);
    for (_, held, start) in state.untiered() {
        let mut chunks = held.chunks_from(start);
        while let Some(chunk) = chunks.next()
            && window.offer(chunk.index, chunk.bytes.into())
        {}
    }
    let through = window.through(state.applied().index)?;
    let left_out = mutant!(LeaveOutPartition)
        .then(|| state.partitions().last())
        .flatten();
    let mut chunks = Vec::new();
    for (partition, held, start) in state.untiered() {
        if left_out.is_some_and(|(left_out, _)| left_out == partition) {
            continue;
        }
        let taken = held.chunks_from(start).take_while(|chunk| chunk.index <= through);
        chunks.extend(taken.map(|chunk| (partition, chunk)));
    }
    chunks.sort_unstable_by_key(|(_, chunk)| (chunk.index, chunk.at));
    Some(Plan {
        sequence: state.manifest().sequence(),
        through,
        bytes: chunks.iter().map(|(_, chunk)| u64::from(chunk.bytes)).sum(),
        chunks,
    })
}

/// Brings what was planned into the bucket, and commits it under the leadership `led`.
pub(super) async fn carry_out(
    inner: &Inner,
    tier: &Tier,
    led: &Led<'_>,
    plan: Plan,
) -> Result<(), RoundError> {
    let shard = led.shard.id();
    let Plan {
        sequence,
        through,
        chunks,
        bytes,
    } = plan;
    let mut bundle = bundle(inner, tier, shard, &chunks).await?;
    let (extents, now) = (std::mem::take(&mut bundle.extents), (inner.clock)());
    let command = |object| Command::Tiered {
        sequence,
        through,
        object,
        extents,
        now,
    };
    commit(inner, tier, led, Bringing::Round, &bundle, command).await?;
    tracing::debug!(%shard, %through, bytes, object_bytes = bundle.bytes, "a bundle is in the bucket");
    Ok(())
}

/// Whether bundles of this node are urgent now.
fn urgency(inner: &Inner, tier: &Tier, journal: &Usage) -> Urgency {
    let now = Instant::now();
    let (mut waiting_bytes, mut waiting_for) = (0, Duration::ZERO);
    for (shard, pace) in tier.stats.paces() {
        waiting_bytes += pace.waiting_bytes(inner.shard(shard).applied_bytes());
        waiting_for = waiting_for.max(pace.waiting_for(now));
    }
    let left = journal.free_bytes.unwrap_or(u64::MAX);
    let room = inner
        .settings
        .journal_bytes_max
        .min(journal.disk_bytes.saturating_add(left));
    Urgency::of(waiting_bytes, waiting_for, room, &tier.settings)
}

/// Waits while a burst of writes needs the disk for itself and the round is not urgent.
async fn stand_aside(inner: &Inner, tier: &Tier) -> Urgency {
    loop {
        let journal = inner.journal.usage();
        let urgency = urgency(inner, tier, &journal);
        let is_burst = tier.burst.lock().look(Instant::now(), &journal);
        if urgency == Urgency::Urgent || !is_burst {
            return urgency;
        }
        tokio::time::sleep(burst::INTERVAL).await;
    }
}

/// Reads the chunks and makes the bundle, piece by piece.
///
/// Reading takes locks that writers take too, so it has their priority, in short pieces: who holds a lock and is not let run holds
/// up everybody. Checking and compressing, which is what takes long, takes none.
async fn bundle(
    inner: &Inner,
    tier: &Tier,
    shard: ShardId,
    chunks: &[(Partition, Chunk)],
) -> Result<Bundle, RoundError> {
    let mut writer = BundleWriter::new(BundleLimits::default());
    let (mut urgency, mut looked) = (stand_aside(inner, tier).await, Instant::now());
    for piece in pieces(chunks) {
        if looked.elapsed() >= burst::INTERVAL {
            (urgency, looked) = (stand_aside(inner, tier).await, Instant::now());
        }
        let (journal, piece) = (inner.journal.clone(), piece.to_vec());
        let batches = tier.read(move || read(&journal, shard, &piece)).await;
        let batches = batches.map_err(|error| RoundError::Task(error.to_string()))??;
        let push = move || {
            for (partition, parts) in batches {
                writer.push(partition, &parts)?;
            }
            Ok::<_, PushError>(writer)
        };
        writer = compute(tier, urgency, push).await??;
    }
    let bundle = compute(tier, urgency, move || writer.finish()).await?;
    let bundle = bundle.ok_or_else(|| RoundError::Task("nothing to bundle".to_owned()))?;
    checked(bundle, chunks)
}

/// Does what computes long: behind those who answer clients, unless it is urgent.
async fn compute<T: Send + 'static>(
    tier: &Tier,
    urgency: Urgency,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RoundError> {
    let done = match urgency {
        Urgency::Aside => tier.bundler.run(work).await.map_err(|error| error.to_string()),
        Urgency::Urgent => meridian_raft::blocking(work)
            .await
            .map_err(|error| error.to_string()),
    };
    done.map_err(RoundError::Task)
}

/// Chunks in their order, in pieces that are read at once.
fn pieces(chunks: &[(Partition, Chunk)]) -> impl Iterator<Item = &[(Partition, Chunk)]> {
    let mut rest = chunks;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |(_, chunk): &&(Partition, Chunk)| {
            let fits = bytes < PIECE_BYTES;
            bytes += u64::from(chunk.bytes);
            fits
        };
        let count = rest.iter().take(PIECE_CHUNKS).take_while(fits).count();
        let (piece, behind) = rest.split_at(count);
        rest = behind;
        (count > 0).then_some(piece)
    })
}

/// The batches of chunks. Blocks on the disk.
fn read(
    journal: &Journal,
    shard: ShardId,
    chunks: &[(Partition, Chunk)],
) -> Result<Vec<(Partition, Vec<Bytes>)>, RoundError> {
    let read = |(partition, chunk): &(Partition, Chunk)| {
        let parts = journal.read(shard, chunk.index, chunk.at + ENTRY_PREFIX_BYTES, chunk.bytes);
        let parts = parts.map_err(|error| RoundError::Read {
            index: chunk.index,
            reason: error.to_string(),
        })?;
        Ok((*partition, parts))
    };
    chunks.iter().map(read).collect()
}

/// The bundle, when it holds what was to go into it.
fn checked(mut bundle: Bundle, chunks: &[(Partition, Chunk)]) -> Result<Bundle, RoundError> {
    let mut expected: BTreeMap<Partition, Run> = BTreeMap::new();
    for (partition, chunk) in chunks {
        let run = expected.entry(*partition).or_insert(Run {
            base: chunk.base_offset,
            end: chunk.base_offset,
            max_timestamp: chunk.max_timestamp,
        });
        run.end = chunk.end_offset();
        run.max_timestamp = run.max_timestamp.max(chunk.max_timestamp);
    }
    let mut found: BTreeMap<Partition, (Offset, Offset)> = BTreeMap::new();
    for (partition, extent) in &mut bundle.extents {
        let bounds = found
            .entry(*partition)
            .or_insert((extent.base_offset, extent.base_offset));
        bounds.1 = extent.end_offset;
        if let Some(run) = expected.get(partition).filter(|_| extent.max_timestamp.0 < 0) {
            // Records without a timestamp are as old as their append, which only the chunks remember; retention
            // would take them at once.
            extent.max_timestamp = run.max_timestamp;
        }
    }
    for (partition, run) in &expected {
        let bounds = found.get(partition);
        if bounds != Some(&(run.base, run.end)) {
            return Err(RoundError::Bundle {
                partition: *partition,
                found: bounds.map_or_else(|| "nothing".to_owned(), |(base, end)| format!("{base}..{end}")),
                expected: format!("{}..{}", run.base, run.end),
            });
        }
    }
    Ok(bundle)
}

/// What the bundle must hold of one partition.
struct Run {
    base: Offset,
    end: Offset,
    max_timestamp: TimestampMs,
}

#[cfg(test)]
mod tests {
    use meridian_types::{TopicId, Uuid};

    use super::*;

    fn lengths(bytes: impl IntoIterator<Item = u32>) -> Vec<usize> {
        let partition = Partition {
            topic: TopicId(Uuid::from_u128(1)),
            index: 0,
        };
        let chunks: Vec<_> = (0..)
            .zip(bytes)
            .map(|(at, bytes)| {
                let chunk = Chunk {
                    base_offset: Offset(at),
                    index: RaftIndex(at),
                    max_timestamp: TimestampMs(0),
                    count: 1,
                    at: 0,
                    bytes,
                };
                (partition, chunk)
            })
            .collect();
        let found: Vec<_> = pieces(&chunks).flatten().copied().collect();
        assert_eq!(found, chunks, "every chunk once, in order");
        pieces(&chunks).map(<[_]>::len).collect()
    }

    #[test]
    fn pieces_end_after_a_number_of_bytes_or_of_chunks() {
        assert_eq!(lengths([]), [0; 0]);
        assert_eq!(lengths([1024; 600]), [256, 256, 88]);
        assert_eq!(lengths([300 << 10; 9]), [4, 4, 1]);
        assert_eq!(lengths([64 << 20, 1, 1]), [1, 2]);
    }
}
