//! Reads a partition from front to back: from the bucket, and behind its end from brokers.

use std::ops::Range;

use bytes::Bytes;
use meridian_types::Offset;
use meridian_wire::batch::BatchHeader;

use super::error::ReplayError;
use super::plan::PartitionPlan;
use super::tail::{Source, TailError, TailPartition, TailReader};
use crate::cold::ColdError;

/// Runs that are given to the cold reader at once: enough for what it reads ahead.
const RUNS_AT_ONCE: usize = 64;

/// Reads the batches of a [`PartitionPlan`] in order. The cold reader reads ahead meanwhile.
///
/// Where the bucket ends is a matter of offsets alone: what the plan's runs do not hold is asked of the brokers, batches are
/// cut to the offset that comes next, so a batch on both sides of the seam counts once. Objects that were merged and deleted
/// since the plan was made are read from the brokers too, if there are any.
pub struct PartitionReader {
    source: Source,
    plan: PartitionPlan,
    /// The offset to go on with.
    next: Offset,
    /// The first run that may hold it.
    run: usize,
    /// What lies below is not in the bucket any more, though a run names it.
    missing_until: Offset,
    /// Brokers, and the offset that they go on with.
    tail: Option<(Box<dyn TailReader>, Offset)>,
    deleted_offsets: u64,
    chunk_bytes: usize,
}

/// Some batches in a row.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Whole batches, as producers made them; their checksums are right. The first and the last may reach beyond `offsets`.
    pub batches: Vec<Bytes>,
    /// The records that are wanted of them, and where the next chunk begins.
    pub offsets: Range<Offset>,
    /// Bytes of the batches.
    pub bytes: u64,
}

impl PartitionReader {
    /// Reads what `plan` names; from the bucket in chunks of about `chunk_bytes`.
    pub fn new(source: Source, plan: PartitionPlan, chunk_bytes: usize) -> Self {
        Self {
            source,
            next: plan.offsets.start,
            plan,
            run: 0,
            missing_until: Offset(0),
            tail: None,
            deleted_offsets: 0,
            chunk_bytes,
        }
    }

    /// What it reads.
    pub fn plan(&self) -> &PartitionPlan {
        &self.plan
    }

    /// Offsets that were deleted by retention before they could be read from brokers.
    pub fn deleted_offsets(&self) -> u64 {
        self.deleted_offsets
    }

    /// The next chunk; `None` at the end. After an error the same chunk may be asked for again.
    pub async fn next(&mut self) -> Result<Option<Chunk>, ReplayError> {
        while self.next < self.plan.offsets.end {
            let runs = &self.plan.runs;
            while self.run < runs.len() && runs[self.run].extent.end_offset <= self.next {
                self.run += 1;
            }
            let has_tail = self.source.tail.is_some();
            let is_cold = runs.get(self.run).is_some_and(|run| {
                let is_there = self.next >= self.missing_until && self.next >= run.extent.base_offset;
                is_there || !has_tail
            });
            let chunk = match (is_cold, has_tail) {
                (true, _) => self.next_cold().await?,
                (false, true) => self.next_tail().await?,
                (false, false) => return Ok(None),
            };
            if chunk.is_some() {
                return Ok(chunk);
            }
        }
        Ok(None)
    }

    /// From the bucket; `None` if it does not have it any more, and brokers are there to be asked.
    async fn next_cold(&mut self) -> Result<Option<Chunk>, ReplayError> {
        let runs = &self.plan.runs;
        let window = &runs[self.run..runs.len().min(self.run + RUNS_AT_ONCE)];
        let read = self
            .source
            .cold
            .read(self.plan.partition, window.to_vec(), self.next, self.chunk_bytes)
            .await;
        let batches = match read {
            Ok(batches) => batches,
            Err(ColdError::Missing { key }) if self.source.tail.is_some() && key == window[0].key => {
                self.missing_until = window[0].extent.end_offset;
                return Ok(None);
            }
            Err(error) => return Err(self.failed(error)),
        };
        let last = batches.last().expect("a read is never empty");
        let behind = match BatchHeader::parse(last) {
            Ok(header) => header.next_offset(),
            Err(error) => return Err(self.failed(ColdError::damaged(&window[0].key, &error))),
        };
        Ok(Some(self.chunk(batches, behind)))
    }

    /// From brokers; `None` if the position was deleted, or nothing is left before the end.
    async fn next_tail(&mut self) -> Result<Option<Chunk>, ReplayError> {
        let batches = match self.fetch().await {
            Ok(batches) => batches,
            Err(TailError::OutOfRange { start, .. }) if start > self.next => {
                let start = start.min(self.plan.offsets.end);
                self.deleted_offsets += start.0 - self.next.0;
                self.next = start;
                return Ok(None);
            }
            Err(source) => {
                return Err(ReplayError::Tail {
                    topic: self.plan.topic.to_string(),
                    partition: self.plan.partition.index,
                    offset: self.next,
                    source,
                });
            }
        };
        let end = self.plan.offsets.end;
        let (mut wanted, mut behind) = (Vec::with_capacity(batches.len()), self.next);
        for batch in batches {
            let header = match BatchHeader::parse(&batch) {
                Ok(header) => header,
                Err(error) => return Err(self.tail_damaged(error.to_string())),
            };
            if header.next_offset() <= behind {
                continue;
            }
            if !wanted.is_empty() && header.base_offset < behind {
                return Err(self.tail_damaged(format!(
                    "a batch at offset {} comes behind one that ends at {behind}",
                    header.base_offset
                )));
            }
            if header.base_offset >= end {
                // Compaction left nothing before the end.
                behind = end;
                break;
            }
            behind = header.next_offset();
            wanted.push(batch);
        }
        if let Some((_, position)) = &mut self.tail {
            *position = behind;
        }
        if wanted.is_empty() {
            self.next = behind;
            return Ok(None);
        }
        Ok(Some(self.chunk(wanted, behind)))
    }

    async fn fetch(&mut self) -> Result<Vec<Bytes>, TailError> {
        let Some(source) = &self.source.tail else {
            return Err(TailError::Refused {
                reason: "no brokers were named".to_owned(),
            });
        };
        let (mut reader, position) = match self.tail.take() {
            Some((reader, position)) if position == self.next => (reader, position),
            _ => {
                let partition = TailPartition {
                    topic: self.plan.topic.clone(),
                    partition: self.plan.partition,
                };
                (source.read(&partition, self.next), self.next)
            }
        };
        let batches = reader.next().await?;
        self.tail = Some((reader, position));
        Ok(batches)
    }

    fn chunk(&mut self, batches: Vec<Bytes>, behind: Offset) -> Chunk {
        let chunk = Chunk {
            bytes: batches.iter().map(|batch| batch.len() as u64).sum(),
            batches,
            offsets: self.next..behind.min(self.plan.offsets.end),
        };
        self.next = behind;
        chunk
    }

    fn failed(&self, source: ColdError) -> ReplayError {
        ReplayError::Read {
            topic: self.plan.topic.to_string(),
            partition: self.plan.partition.index,
            offset: self.next,
            source,
        }
    }

    fn tail_damaged(&mut self, reason: String) -> ReplayError {
        self.tail = None;
        ReplayError::Tail {
            topic: self.plan.topic.to_string(),
            partition: self.plan.partition.index,
            offset: self.next,
            source: TailError::Damaged { reason },
        }
    }
}
