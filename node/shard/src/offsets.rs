//! Finding an offset by name or by time (ListOffsets).

use bytes::Bytes;
use meridian_state::Chunk;
use meridian_types::{LeaderEpoch, Offset, Partition, TimestampMs};
use meridian_wire::batch::{self, BatchHeader};

use crate::errors::ReadError;
use crate::read::{ReadFrom, read_chunks, storage};
use crate::shard::Shard;

/// Bytes that one batch may inflate to while its records are searched.
const INFLATED_BYTES_MAX: usize = 256 << 20;

/// Which offset is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The log start offset.
    Earliest,
    /// The high watermark.
    Latest,
    /// The last stable offset.
    LatestStable,
    /// The record with the greatest timestamp; the first of them (KIP-734).
    MaxTimestamp,
    /// The first record at or after a time.
    AtOrAfter(TimestampMs),
    /// The first offset on local disk (KIP-405).
    EarliestLocal,
    /// The last offset in the bucket (KIP-1005).
    LatestTiered,
    /// The first offset that is not in the bucket (KIP-1023); without a bucket, the log start offset.
    EarliestPendingUpload,
}

/// An offset, with the time of its record where one was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundOffset {
    /// The offset.
    pub offset: Offset,
    /// The record's timestamp; `None` for the named positions.
    pub timestamp: Option<TimestampMs>,
    /// The epoch of that offset, not of the present leader.
    pub leader_epoch: LeaderEpoch,
}

impl Shard {
    /// Answers `spec`; `None` when no record fits.
    pub(crate) async fn offset_for(
        &self,
        partition: Partition,
        spec: OffsetSpec,
    ) -> Result<Option<FoundOffset>, ReadError> {
        let positions = self.positions(partition, ReadFrom::Leader)?;
        let named = |offset: Offset| {
            let epoch = self
                .epoch_at(partition, offset, ReadFrom::Leader)?
                .unwrap_or(positions.leader_epoch);
            Ok(Some(FoundOffset {
                offset,
                timestamp: None,
                leader_epoch: epoch,
            }))
        };
        let end = |offset| {
            Ok(Some(FoundOffset {
                offset,
                timestamp: None,
                leader_epoch: positions.leader_epoch,
            }))
        };
        match spec {
            OffsetSpec::Earliest => named(positions.log_start_offset),
            OffsetSpec::EarliestLocal => {
                let state = self.state(ReadFrom::Leader)?;
                let local_start = state
                    .partition(partition)
                    .map_or(positions.log_start_offset, |held| held.local_start_offset());
                drop(state);
                named(local_start)
            }
            OffsetSpec::Latest => end(positions.high_watermark),
            OffsetSpec::LatestStable => end(positions.last_stable_offset),
            OffsetSpec::LatestTiered => {
                let state = self.state(ReadFrom::Leader)?;
                let last = state.manifest().end(partition).map(|end| Offset(end.0 - 1));
                drop(state);
                last.map_or(Ok(None), named)
            }
            OffsetSpec::EarliestPendingUpload => {
                let state = self.state(ReadFrom::Leader)?;
                let tiered_end = state.manifest().end(partition).unwrap_or_default();
                drop(state);
                named(tiered_end.max(positions.log_start_offset))
            }
            OffsetSpec::AtOrAfter(time) => self.at_or_after(partition, time).await,
            OffsetSpec::MaxTimestamp => {
                let max = {
                    let state = self.state(ReadFrom::Leader)?;
                    let cold = state.extents(partition).iter().map(|extent| extent.max_timestamp);
                    let hot = state
                        .partition(partition)
                        .and_then(|held| held.max_timestamp_chunk());
                    cold.chain(hot.map(|chunk| chunk.max_timestamp)).max()
                };
                match max {
                    Some(max) => self.at_or_after(partition, max).await,
                    None => Ok(None),
                }
            }
        }
    }

    /// The first record at or after `time`: in the bucket where only that has the records, then in the journal.
    async fn at_or_after(
        &self,
        partition: Partition,
        time: TimestampMs,
    ) -> Result<Option<FoundOffset>, ReadError> {
        let log_start = self.positions(partition, ReadFrom::Leader)?.log_start_offset;
        let mut from = log_start;
        loop {
            let (place, tiered) = {
                let state = self.state(ReadFrom::Leader)?;
                let Some(held) = state.partition(partition) else {
                    return Ok(None);
                };
                let local_start = held.local_start_offset();
                let cold = state
                    .manifest()
                    .find_timestamp(partition, time, from)
                    .filter(|extent| extent.base_offset < local_start);
                let place = match cold {
                    Some(extent) => Place::Cold {
                        base: extent.base_offset.max(from),
                        end: extent.end_offset,
                    },
                    None => match held.chunk_for_timestamp(time, from) {
                        Some(chunk) => Place::Hot(chunk),
                        None => return Ok(None),
                    },
                };
                (place, state.manifest().through())
            };
            let found = match &place {
                Place::Cold { base, .. } => self.find_in_bucket(partition, *base, 0, time).await?,
                Place::Hot(chunk) => match read_chunks(self.journal(), self.id(), &[*chunk], tiered).await? {
                    Some(records) => meridian_raft::blocking(move || find_record(&records, from, time))
                        .await
                        .map_err(|error| storage(&error))??,
                    None => {
                        let base = chunk.base_offset.max(from);
                        self.find_in_bucket(partition, base, chunk.bytes.into(), time)
                            .await?
                    }
                },
            };
            if let Some((offset, timestamp)) = found {
                let leader_epoch = self
                    .epoch_at(partition, offset, ReadFrom::Leader)?
                    .unwrap_or_default();
                return Ok(Some(FoundOffset {
                    offset,
                    timestamp: Some(timestamp),
                    leader_epoch,
                }));
            }
            // A record that counted for the greatest timestamp lies before the log start, or compaction took it.
            from = match place {
                Place::Cold { end, .. } => end,
                Place::Hot(chunk) => chunk.end_offset(),
            };
        }
    }

    async fn find_in_bucket(
        &self,
        partition: Partition,
        from: Offset,
        bytes: u64,
        time: TimestampMs,
    ) -> Result<Option<(Offset, TimestampMs)>, ReadError> {
        let found = self.find_cold(partition, from, bytes, time).await?;
        Ok(found.map(|found| (found.offset, found.timestamp)))
    }
}

/// Where a record with a timestamp may lie.
enum Place {
    Cold { base: Offset, end: Offset },
    Hot(Chunk),
}

fn find_record(
    records: &[Bytes],
    start: Offset,
    time: TimestampMs,
) -> Result<Option<(Offset, TimestampMs)>, ReadError> {
    for piece in records {
        let mut rest = piece.clone();
        while !rest.is_empty() {
            let header = BatchHeader::parse(&rest).map_err(|error| storage(&error))?;
            let batch = rest.split_to(header.size().min(rest.len()));
            if header.max_timestamp < time || header.last_offset() < start {
                continue;
            }
            let records = batch::records(&batch, INFLATED_BYTES_MAX).map_err(|error| storage(&error))?;
            for record in records {
                let record = record.map_err(|error| storage(&error))?;
                if record.timestamp >= time && record.offset >= start {
                    return Ok(Some((record.offset, record.timestamp)));
                }
            }
        }
    }
    Ok(None)
}
