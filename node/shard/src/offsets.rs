//! Finding an offset by name or by time (ListOffsets).

use bytes::Bytes;
use meridian_state::Chunk;
use meridian_types::{LeaderEpoch, Offset, Partition, TimestampMs};
use meridian_wire::batch::{self, BatchHeader};

use crate::errors::ReadError;
use crate::read::{read_chunks, storage};
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
        let positions = self.positions(partition)?;
        let named = |offset: Offset| {
            let epoch = self
                .epoch_at(partition, offset)?
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
            OffsetSpec::Earliest | OffsetSpec::EarliestLocal => named(positions.log_start_offset),
            OffsetSpec::Latest => end(positions.high_watermark),
            OffsetSpec::LatestStable => end(positions.last_stable_offset),
            // Nothing is tiered yet, so no offset fits.
            OffsetSpec::LatestTiered => Ok(None),
            OffsetSpec::AtOrAfter(time) => {
                let chunk = self
                    .state()?
                    .partition(partition)
                    .and_then(|p| p.chunk_for_timestamp(time, p.log_start_offset()));
                self.record_in(partition, chunk, positions.log_start_offset, time)
                    .await
            }
            OffsetSpec::MaxTimestamp => {
                let chunk = self
                    .state()?
                    .partition(partition)
                    .and_then(|p| p.max_timestamp_chunk());
                let Some(chunk) = chunk else { return Ok(None) };
                self.record_in(
                    partition,
                    Some(chunk),
                    positions.log_start_offset,
                    chunk.max_timestamp,
                )
                .await
            }
        }
    }

    /// The first record of `chunk`, from `start` on, with a timestamp of at least `time`.
    async fn record_in(
        &self,
        partition: Partition,
        chunk: Option<Chunk>,
        start: Offset,
        time: TimestampMs,
    ) -> Result<Option<FoundOffset>, ReadError> {
        let Some(chunk) = chunk else { return Ok(None) };
        let records = read_chunks(self.journal(), self.id(), &[chunk]).await?;
        let found = tokio::task::spawn_blocking(move || find_record(&records, start, time))
            .await
            .map_err(|error| storage(&error))??;
        let Some((offset, timestamp)) = found else {
            return Ok(None);
        };
        let leader_epoch = self.epoch_at(partition, offset)?.unwrap_or_default();
        Ok(Some(FoundOffset {
            offset,
            timestamp: Some(timestamp),
            leader_epoch,
        }))
    }
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
