//! Fetch: committed batches to consumers, with long polls and sessions.

mod gather;
mod respond;

use std::sync::Arc;
use std::time::Duration;

use meridian_shard::ReadFrom;
use meridian_types::{LeaderEpoch, TopicId};
use meridian_wire::fetch::ForgottenTopic;
use meridian_wire::{FetchRequest, FetchResponse};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use self::gather::{Gathered, Limits};
use crate::budget::ByteLease;
use crate::context::Caller;
use crate::fetch_session::{Begin, BeginKind, SessionPartition, SessionRequest, TopicKey};

/// First version that names topics by id.
pub(super) const TOPIC_IDS_FROM: i16 = 13;
/// First version whose consumers know that a replica may answer (KIP-392).
const REPLICAS_FROM: i16 = 11;
/// First version with sessions.
const SESSIONS_FROM: i16 = 7;
/// With a demand for more than one byte, each single append would wake the fetch to find too little; it looks
/// again at most this often.
const RECHECK_INTERVAL: Duration = Duration::from_millis(2);

/// Answers a fetch, and says what memory the answer holds until it is written.
pub(crate) async fn handle(caller: &Caller, request: FetchRequest) -> (FetchResponse, Option<ByteLease>) {
    let context = &caller.context;
    let bytes_max = u32::try_from(request.max_bytes)
        .unwrap_or(0)
        .min(context.configs().fetch_bytes_max);
    let limits = Limits {
        bytes_max,
        is_read_committed: request.isolation_level == 1,
        checks_epochs: caller.version >= 12,
        reader: match caller.version >= REPLICAS_FROM {
            true => ReadFrom::Any,
            false => ReadFrom::Leader,
        },
        // The frame that it is a part of does not outlive the request.
        rack: request.rack_id.to_string(),
    };
    let bytes_min = u32::try_from(request.min_bytes).unwrap_or(0).min(bytes_max);
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = Instant::now() + wait;

    let begun = {
        let now_ms = context.region.now().0;
        let request = session_request(caller, request);
        let mut sessions = context.fetch_sessions.lock();
        let begun = sessions.handle_request(now_ms, request);
        count_sessions(caller, &sessions);
        begun
    };
    let Begin { kind, partitions } = match begun {
        Ok(begin) => begin,
        Err(error) => {
            return (
                FetchResponse {
                    error_code: caller.code(error),
                    ..Default::default()
                },
                None,
            );
        }
    };
    let mut gathered = wait_for_enough(caller, &partitions, &limits, bytes_min, deadline).await;
    if Instant::now() >= deadline {
        gathered.give_up_on_those_behind();
    }
    respond::respond(caller, kind, partitions, gathered, limits.is_read_committed)
}

/// Gathers until there is enough, something needs telling at once, or the time is over.
async fn wait_for_enough(
    caller: &Caller,
    partitions: &[SessionPartition],
    limits: &Limits,
    bytes_min: u32,
    deadline: Instant,
) -> Gathered {
    let context = &caller.context;
    let mut has_waited = false;
    loop {
        let waiter = Arc::new(Notify::new());
        let gathered = gather::gather(caller, partitions, limits).await;
        let is_enough =
            gathered.is_urgent || gathered.is_full || gathered.counted_bytes >= u64::from(bytes_min);
        if is_enough || Instant::now() >= deadline || context.draining.is_cancelled() {
            return gathered;
        }
        if !has_waited {
            has_waited = true;
            context.metrics.fetch_waits.inc();
        }
        // One that has moved on since the look wakes the waiter at once.
        for (partition, seen) in &gathered.seen {
            context.region.watch(*partition, *seen, limits.reader, &waiter);
        }
        // What was read is dropped, with its memory: a waiting fetch holds none.
        drop(gathered);
        let _waiting = WaitingGauge::new(caller);
        tokio::select! {
            woken = timeout_at(deadline, waiter.notified()) => {
                if woken.is_ok() && bytes_min > 1 {
                    tokio::time::sleep_until(deadline.min(Instant::now() + RECHECK_INTERVAL)).await;
                }
            }
            () = context.draining.cancelled() => {}
            () = caller.peer.closed.cancelled() => {}
        }
        if caller.peer.closed.is_cancelled() {
            return Gathered::default();
        }
    }
}

struct WaitingGauge<'a>(&'a Caller);

impl<'a> WaitingGauge<'a> {
    fn new(caller: &'a Caller) -> Self {
        caller.context.metrics.fetches_waiting.inc();
        Self(caller)
    }
}

impl Drop for WaitingGauge<'_> {
    fn drop(&mut self) {
        self.0.context.metrics.fetches_waiting.dec();
    }
}

fn session_request(caller: &Caller, request: FetchRequest) -> SessionRequest {
    let uses_topic_ids = caller.version >= TOPIC_IDS_FROM;
    let mut partitions = Vec::new();
    for topic in request.topics {
        let key = if uses_topic_ids {
            TopicKey::Id(TopicId(topic.topic_id))
        } else {
            TopicKey::Name(topic.topic.as_str().into())
        };
        partitions.extend(topic.partitions.into_iter().map(|partition| SessionPartition {
            topic: key.clone(),
            index: partition.partition,
            fetch_offset: partition.fetch_offset,
            bytes_max: u32::try_from(partition.partition_max_bytes).unwrap_or(0),
            current_leader_epoch: epoch(partition.current_leader_epoch),
            last_fetched_epoch: epoch(partition.last_fetched_epoch),
        }));
    }
    let forgotten = request
        .forgotten_topics_data
        .into_iter()
        .flat_map(|topic: ForgottenTopic| {
            let key = if uses_topic_ids {
                TopicKey::Id(TopicId(topic.topic_id))
            } else {
                TopicKey::Name(topic.topic.as_str().into())
            };
            topic
                .partitions
                .into_iter()
                .map(move |index| (key.clone(), index))
        });
    let has_sessions = caller.version >= SESSIONS_FROM;
    SessionRequest {
        session_id: if has_sessions { request.session_id } else { 0 },
        session_epoch: if has_sessions { request.session_epoch } else { -1 },
        uses_topic_ids,
        forgotten: forgotten.collect(),
        partitions,
    }
}

/// A negative epoch says that the client does not know it.
pub(super) fn epoch(epoch: i32) -> Option<LeaderEpoch> {
    u32::try_from(epoch).ok().map(LeaderEpoch)
}

fn count_sessions(caller: &Caller, sessions: &crate::fetch_session::FetchSessions) {
    let metrics = &caller.context.metrics;
    metrics.fetch_sessions.set(sessions.len() as i64);
    metrics.fetch_session_partitions.set(sessions.partitions() as i64);
    metrics
        .fetch_session_evictions
        .set(sessions.evictions().cast_signed());
}

/// Whether a kind of fetch remembers, for [`respond`].
fn session_of(kind: BeginKind) -> Option<i32> {
    match kind {
        BeginKind::Incremental { session_id } => Some(session_id),
        BeginKind::Sessionless | BeginKind::Full { .. } => None,
    }
}
