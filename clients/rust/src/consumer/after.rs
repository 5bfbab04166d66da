//! A partition that is read only where a token's record is. Pure.
//!
//! Before a broker is read for the first time it is asked for that record itself, by an ordinary long poll: it answers
//! as soon as it has it. So this works with every server, and a broker that waits for its own copy is not asked again and again.

use std::time::Duration;

use meridian_types::{LeaderEpoch, NodeId, Offset};
use meridian_wire::batch;
use meridian_wire::messages::fetch::PartitionData;
use meridian_wire::{ErrorCode, Records};
use tokio::time::Instant;

use super::fetch_session::Wanted;
use crate::error::check;
use crate::metadata::node;
use crate::token::Token;

/// What a partition waits for.
#[derive(Clone, Debug)]
pub(super) struct After {
    token: Token,
    limit: Duration,
    /// Since when the present broker is asked.
    since: Instant,
    /// The broker that has it.
    found_at: Option<NodeId>,
    /// Where the log ended that was asked last, and whose it is.
    end: Option<(NodeId, Offset)>,
}

/// What an answer says about the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// It is there, or was and has been deleted since.
    Found,
    /// It is not there yet.
    NotYet,
    /// Another record is there in its place.
    Replaced(LeaderEpoch),
    /// The answer speaks of something else: where to ask, or why not here.
    Elsewhere,
}

impl After {
    pub(super) fn new(now: Instant, token: Token, limit: Duration) -> Self {
        Self {
            token,
            limit,
            since: now,
            found_at: None,
            end: None,
        }
    }

    /// Whether who reads on at `position` has the record behind it.
    pub(super) fn is_behind(&self, position: Offset) -> bool {
        position > self.token.offset
    }

    pub(super) fn offset(&self) -> Offset {
        self.token.offset
    }

    /// What to ask `broker` for instead of `wanted`, if it must be asked for the record first.
    pub(super) fn instead(&mut self, now: Instant, broker: NodeId, wanted: Wanted) -> Option<Wanted> {
        if self.found_at == Some(broker) {
            return None;
        }
        if self.found_at.take().is_some() {
            // Reading has moved, and the new broker gets its own time.
            self.since = now;
        }
        Some(Wanted {
            offset: self.token.offset,
            // What was read last lies elsewhere in the log.
            last_epoch: -1,
            bytes_max: 1,
            ..wanted
        })
    }

    /// Whether an answer of `broker` is one to the question for the record.
    pub(super) fn is_asking(&self, broker: NodeId) -> bool {
        self.found_at != Some(broker)
    }

    /// An answer to it came.
    pub(super) fn handle_answer(&mut self, broker: NodeId, data: &PartitionData) -> Looked {
        if let Ok(end) = u64::try_from(data.high_watermark) {
            self.end = Some((broker, Offset(end)));
        }
        let has = |end: i64| u64::try_from(end).is_ok_and(|end| end > self.token.offset.0);
        match check(data.error_code) {
            Ok(()) if node(data.preferred_read_replica).is_some() => Looked::Elsewhere,
            Ok(()) if has(data.high_watermark) => match self.replaced(&data.records) {
                Some(epoch) => Looked::Replaced(epoch),
                None => {
                    self.found_at = Some(broker);
                    Looked::Found
                }
            },
            Err(ErrorCode::OffsetOutOfRange) if has(data.log_start_offset) => {
                self.found_at = Some(broker);
                Looked::Found
            }
            // A follower of Kafka says the first of these, one of Meridian the second.
            Ok(()) | Err(ErrorCode::OffsetOutOfRange | ErrorCode::OffsetNotAvailable) => Looked::NotYet,
            Err(_) => Looked::Elsewhere,
        }
    }

    /// The epoch of the record that is at the place, if that is not the token's. Records that the answer has no room for say nothing.
    fn replaced(&self, records: &Records) -> Option<LeaderEpoch> {
        let bytes = records.clone().into_bytes();
        let first = batch::batches(&bytes).next()?.ok()?.header;
        let is_there = first.base_offset <= self.token.offset && self.token.offset <= first.last_offset();
        first
            .leader_epoch
            .filter(|epoch| is_there && *epoch != self.token.leader_epoch)
    }

    /// When the present broker's time is over; `None` where the record was found.
    pub(super) fn until(&self) -> Option<Instant> {
        self.found_at.is_none().then(|| self.since + self.limit)
    }

    /// How far the broker was that was asked last.
    pub(super) fn end(&self) -> Option<(NodeId, Offset)> {
        self.end
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    pub(super) fn epoch(&self) -> LeaderEpoch {
        self.token.leader_epoch
    }
}
