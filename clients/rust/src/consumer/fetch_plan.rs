//! Which partition is fetched where, from which offset, and what an answer means. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_types::{NodeId, Offset, ProducerId};
use meridian_wire::batch;
use meridian_wire::messages::fetch::PartitionData;
use meridian_wire::{ErrorCode, FetchRequest, FetchResponse};
use tokio::time::Instant;

use super::after::{After, Looked};
use super::fetch_session::{FetchSession, Wanted};
use super::{ConsumeError, ConsumerSettings, Key};
use crate::admin::millis;
use crate::error::check;
use crate::metadata::{Metadata, node};
use crate::token::Token;

/// Wait before a partition is asked for again that its leader could not serve.
const RETRY_WAIT: Duration = Duration::from_millis(100);
/// So long a replica nearby is read before the leader is asked again which one it should be.
const REPLICA_LEASE: Duration = Duration::from_secs(60);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct FetchPlan {
    wait_max_ms: i32,
    bytes_min: i32,
    bytes_max: i32,
    partition_bytes_max: i32,
    read_committed: bool,
    rack: String,
    partitions: BTreeMap<Key, Position>,
    brokers: BTreeMap<NodeId, Broker>,
    next_version: u64,
    is_closed: bool,
}

/// Where reading stands in a partition.
#[derive(Clone, Debug)]
struct Position {
    /// Of this assignment: what comes for an older one is not for us.
    version: u64,
    offset: Offset,
    last_epoch: i32,
    blocked_until: Option<Instant>,
    /// Its offset is being looked up anew, or it has failed: not fetched.
    is_stopped: bool,
    /// Where the leader has pointed us to, and until when.
    replica: Option<(NodeId, Instant)>,
    /// What must be there before it is read.
    after: Option<After>,
}

#[derive(Debug, Default)]
struct Broker {
    session: FetchSession,
    is_busy: bool,
}

/// A fetch to send.
#[derive(Debug)]
pub(super) struct PlannedFetch {
    pub(super) broker: NodeId,
    pub(super) request: FetchRequest,
    /// The assignment that each partition is fetched for, and from where.
    pub(super) asked: BTreeMap<Key, (u64, Offset)>,
}

/// What an answer means.
#[derive(Debug)]
pub(super) enum Effect {
    /// Records.
    Records {
        key: Key,
        version: u64,
        from: Offset,
        next: Offset,
        high_watermark: Offset,
        batches: Bytes,
        aborted: Vec<(ProducerId, Offset)>,
    },
    /// The position is not in the log.
    OutOfRange { key: Key, version: u64, offset: Offset },
    /// The partition cannot be read.
    Failed {
        key: Key,
        version: u64,
        error: ConsumeError,
    },
    /// A broker names the leader, by id and epoch, in its own place (KIP-951).
    Moved {
        key: Key,
        version: u64,
        leader: (i32, i32),
    },
    /// Leaders have moved.
    Refresh,
}

impl FetchPlan {
    pub(super) fn new(settings: &ConsumerSettings) -> Self {
        let int = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        Self {
            wait_max_ms: millis(settings.wait_max),
            bytes_min: int(settings.bytes_min),
            bytes_max: int(settings.bytes_max),
            partition_bytes_max: int(settings.partition_bytes_max),
            read_committed: settings.read_committed,
            rack: settings.rack.clone().unwrap_or_default(),
            partitions: BTreeMap::new(),
            brokers: BTreeMap::new(),
            next_version: 0,
            is_closed: false,
        }
    }

    pub(super) fn assign(&mut self, topic: Arc<str>, index: u32, offset: Offset) {
        self.next_version += 1;
        let position = Position {
            version: self.next_version,
            offset,
            last_epoch: -1,
            blocked_until: None,
            is_stopped: false,
            replica: None,
            after: None,
        };
        self.partitions.insert((topic, index), position);
    }

    /// Reads a partition that was just assigned only where a token's record is; a broker has `limit` for getting it.
    pub(super) fn read_after(&mut self, now: Instant, key: &Key, token: Token, limit: Duration) {
        if let Some(position) = self.partitions.get_mut(key) {
            let after = After::new(now, token, limit);
            let is_later = |known: &After| known.offset() < after.offset();
            if !after.is_behind(position.offset) && position.after.as_ref().is_none_or(is_later) {
                position.after = Some(after);
            }
        }
    }

    /// The partitions that have waited in vain for what must be there first; they are read no further.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (key, position) in &mut self.partitions {
            let Some(after) = position.after.as_ref().filter(|_| !position.is_stopped) else {
                continue;
            };
            if after.until().is_none_or(|until| until > now) {
                continue;
            }
            position.is_stopped = true;
            effects.push(Effect::Failed {
                key: key.clone(),
                version: position.version,
                error: ConsumeError::NotYet {
                    topic: key.0.to_string(),
                    partition: key.1,
                    offset: after.offset(),
                    end: after.end(),
                    waited: after.limit(),
                },
            });
        }
        effects
    }

    pub(super) fn unassign(&mut self, topic: &str, index: u32) {
        self.partitions
            .retain(|key, _| (&*key.0, key.1) != (topic, index));
    }

    pub(super) fn assignment(&self) -> Vec<(String, u32)> {
        self.partitions
            .keys()
            .map(|(topic, index)| (topic.to_string(), *index))
            .collect()
    }

    pub(super) fn positions(&self) -> BTreeMap<(String, u32), Offset> {
        let positions = self.partitions.iter();
        positions
            .map(|((topic, index), position)| ((topic.to_string(), *index), position.offset))
            .collect()
    }

    /// The topics of the assignment.
    pub(super) fn topics(&self) -> BTreeSet<Arc<str>> {
        self.partitions
            .keys()
            .map(|(topic, _)| Arc::clone(topic))
            .collect()
    }

    /// Whether what was fetched for `version` is still wanted.
    pub(super) fn is_current(&self, key: &Key, version: u64) -> bool {
        self.partitions
            .get(key)
            .is_some_and(|position| position.version == version)
    }

    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// The fetches to send now: one for each broker without one. Also whether some partition has no leader, and when to
    /// look again.
    pub(super) fn plan(
        &mut self,
        now: Instant,
        metadata: &Metadata,
    ) -> (Vec<PlannedFetch>, bool, Option<Instant>) {
        let mut by_broker: BTreeMap<NodeId, BTreeMap<Key, Wanted>> = BTreeMap::new();
        let mut needs_refresh = false;
        let mut next: Option<Instant> = None;
        for (key, position) in &mut self.partitions {
            if position.is_stopped {
                continue;
            }
            if let Some(until) = position.after.as_ref().and_then(After::until) {
                next = Some(next.map_or(until, |next| next.min(until)));
            }
            if let Some(until) = position.blocked_until.filter(|until| *until > now) {
                next = Some(next.map_or(until, |next| next.min(until)));
                continue;
            }
            position.replica = position.replica.filter(|(_, until)| *until > now);
            if let Some((replica, _)) = &position.replica
                && !metadata.brokers.contains_key(replica)
            {
                // What was learned was older than this node, or came from one that had not heard of it yet.
                needs_refresh = true;
                position.replica = None;
            }
            let replica = position.replica.map(|(replica, _)| replica);
            let known = metadata.partition(&key.0, key.1);
            let Some(broker) = replica.or_else(|| known?.leader) else {
                needs_refresh = true;
                let until = now + RETRY_WAIT;
                position.blocked_until = Some(until);
                next = Some(next.map_or(until, |next| next.min(until)));
                continue;
            };
            let wanted = Wanted {
                offset: position.offset,
                last_epoch: position.last_epoch,
                leader_epoch: known
                    .and_then(|known| known.leader_epoch)
                    .map_or(-1, |epoch| epoch.0.cast_signed()),
                bytes_max: self.partition_bytes_max,
            };
            let instead = match &mut position.after {
                Some(after) => after.instead(now, broker, wanted),
                None => None,
            };
            let wanted = instead.unwrap_or(wanted);
            by_broker.entry(broker).or_default().insert(key.clone(), wanted);
        }
        let mut fetches = Vec::new();
        for (id, wanted) in by_broker {
            let broker = self.brokers.entry(id).or_default();
            if broker.is_busy {
                continue;
            }
            broker.is_busy = true;
            let asked = wanted
                .iter()
                .map(|(key, want)| (key.clone(), (self.partitions[key].version, want.offset)))
                .collect();
            let session = broker.session.request(wanted);
            let request = FetchRequest {
                max_wait_ms: self.wait_max_ms,
                min_bytes: self.bytes_min,
                max_bytes: self.bytes_max,
                isolation_level: i8::from(self.read_committed),
                session_id: session.id,
                session_epoch: session.epoch,
                topics: session.topics,
                forgotten_topics_data: session.forgotten,
                rack_id: self.rack.clone().into(),
                ..FetchRequest::default()
            };
            fetches.push(PlannedFetch {
                broker: id,
                request,
                asked,
            });
        }
        (fetches, needs_refresh, next)
    }

    /// A fetch got no answer.
    pub(super) fn failed(&mut self, now: Instant, broker: NodeId, asked: &BTreeMap<Key, (u64, Offset)>) {
        self.free(broker).reset();
        for (key, (version, _)) in asked {
            if let Some(position) = self.current(key, *version) {
                position.blocked_until = Some(now + RETRY_WAIT);
                position.replica = None;
            }
        }
    }

    /// A fetch was answered.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        broker: NodeId,
        asked: &BTreeMap<Key, (u64, Offset)>,
        response: FetchResponse,
    ) -> Vec<Effect> {
        let session = self.free(broker);
        if let Err(code) = check(response.error_code) {
            // The server has forgotten the session; the next request begins another.
            session.reset();
            let is_about_session = matches!(
                code,
                ErrorCode::FetchSessionIdNotFound
                    | ErrorCode::InvalidFetchSessionEpoch
                    | ErrorCode::FetchSessionTopicIdError
            );
            if !is_about_session {
                for (key, (version, _)) in asked {
                    if let Some(position) = self.current(key, *version) {
                        position.blocked_until = Some(now + RETRY_WAIT);
                    }
                }
                return vec![Effect::Refresh];
            }
            return Vec::new();
        }
        session.answered(response.session_id);
        let mut effects = Vec::new();
        for topic in response.responses {
            for data in topic.partitions {
                let Ok(index) = u32::try_from(data.partition_index) else {
                    continue;
                };
                let named = asked.get_key_value(&(Arc::from(&*topic.topic), index));
                let Some((key, (version, from))) = named else {
                    continue;
                };
                let (key, version, from) = (key.clone(), *version, *from);
                if let Some(position) = self.current(&key, version) {
                    effects.extend(position.answered(now, broker, key, from, data));
                }
            }
        }
        effects
    }

    /// Asks for a partition at once, after its leader has become known.
    pub(super) fn unblock(&mut self, key: &Key, version: u64) {
        if let Some(position) = self.current(key, version) {
            position.blocked_until = None;
        }
    }

    /// Goes on at `offset`, after the position was not in the log.
    pub(super) fn go_on_at(&mut self, now: Instant, key: &Key, version: u64, offset: Option<Offset>) {
        let Some(position) = self.current(key, version) else {
            return;
        };
        position.is_stopped = false;
        match offset {
            Some(offset) => {
                position.offset = offset;
                position.last_epoch = -1;
            }
            // It could not be found out: the next fetch asks for the same again.
            None => position.blocked_until = Some(now + RETRY_WAIT),
        }
    }

    fn free(&mut self, broker: NodeId) -> &mut FetchSession {
        let broker = self.brokers.entry(broker).or_default();
        broker.is_busy = false;
        &mut broker.session
    }

    fn current(&mut self, key: &Key, version: u64) -> Option<&mut Position> {
        self.partitions
            .get_mut(key)
            .filter(|position| position.version == version)
    }
}

impl Position {
    fn answered(
        &mut self,
        now: Instant,
        broker: NodeId,
        key: Key,
        from: Offset,
        data: PartitionData,
    ) -> Option<Effect> {
        let version = self.version;
        if let Some(after) = self.after.as_mut().filter(|after| after.is_asking(broker)) {
            match after.handle_answer(broker, &data) {
                Looked::Found => return None,
                Looked::NotYet => {
                    if check(data.error_code).is_err() {
                        self.blocked_until = Some(now + RETRY_WAIT);
                    }
                    return None;
                }
                Looked::Replaced(found) => {
                    self.is_stopped = true;
                    let error = ConsumeError::Replaced {
                        topic: key.0.to_string(),
                        partition: key.1,
                        offset: after.offset(),
                        written: after.epoch(),
                        found,
                    };
                    return Some(Effect::Failed { key, version, error });
                }
                Looked::Elsewhere => {}
            }
        }
        if let Err(code) = check(data.error_code) {
            let was_at_replica = self.replica.take().is_some();
            let leader = (data.current_leader.leader_id, data.current_leader.leader_epoch);
            return Some(match code {
                // A replica may lag behind, or have dropped less or more: only the leader knows what the log holds.
                ErrorCode::OffsetOutOfRange | ErrorCode::OffsetNotAvailable if was_at_replica => return None,
                ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch if leader.0 >= 0 => {
                    self.blocked_until = Some(now + RETRY_WAIT);
                    Effect::Moved { key, version, leader }
                }
                ErrorCode::OffsetOutOfRange => {
                    self.is_stopped = true;
                    Effect::OutOfRange {
                        key,
                        version,
                        offset: from,
                    }
                }
                code if code.is_retriable() || code == ErrorCode::OffsetNotAvailable => {
                    self.blocked_until = Some(now + RETRY_WAIT);
                    Effect::Refresh
                }
                code => {
                    self.is_stopped = true;
                    Effect::Failed {
                        error: ConsumeError::Refused {
                            topic: key.0.to_string(),
                            partition: key.1,
                            refusal: code.into(),
                        },
                        key,
                        version,
                    }
                }
            });
        }
        if let Ok(end) = u64::try_from(data.diverging_epoch.end_offset) {
            // What we have read is no longer in the log: a leader was lost with its tail. Go back to where the
            // logs are the same.
            tracing::warn!(topic = %key.0, partition = key.1, from = %self.offset, to = end, "the log was truncated; reading goes back");
            self.offset = Offset(end);
            self.last_epoch = data.diverging_epoch.epoch;
            return None;
        }
        if let Some(replica) = node(data.preferred_read_replica) {
            self.replica = Some((replica, now + REPLICA_LEASE));
        }
        let bytes = data.records.into_bytes();
        if bytes.is_empty() {
            return None;
        }
        let mut batches = batch::batches(&bytes);
        let mut last = None;
        for found in &mut batches {
            match found {
                Ok(found) => last = Some(found.header),
                Err(error) => {
                    // What stands before it can still be read; then it comes first.
                    if last.is_some() {
                        break;
                    }
                    self.is_stopped = true;
                    return Some(Effect::Failed {
                        error: ConsumeError::Batch {
                            topic: key.0.to_string(),
                            partition: key.1,
                            offset: from,
                            error,
                        },
                        key,
                        version,
                    });
                }
            }
        }
        let last = last?;
        let whole = bytes.slice(..bytes.len() - batches.rest().len());
        self.offset = last.next_offset().max(self.offset);
        self.after = self.after.take().filter(|after| !after.is_behind(self.offset));
        self.last_epoch = last.leader_epoch.map_or(-1, |epoch| epoch.0.cast_signed());
        let aborted = data.aborted_transactions.unwrap_or_default();
        let mut aborted: Vec<_> = aborted
            .iter()
            .filter_map(|it| {
                let producer = ProducerId(u64::try_from(it.producer_id).ok()?);
                Some((producer, Offset(u64::try_from(it.first_offset).ok()?)))
            })
            .collect();
        aborted.sort_by_key(|(_, first)| *first);
        Some(Effect::Records {
            key,
            version,
            from,
            next: self.offset,
            high_watermark: Offset(u64::try_from(data.high_watermark).unwrap_or(0)),
            batches: whole,
            aborted,
        })
    }
}

#[cfg(test)]
mod tests;
