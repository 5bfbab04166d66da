//! From what was gathered to the response.

use std::collections::BTreeMap;

use meridian_shard::Positions;
use meridian_types::{LeaderEpoch, NodeId};
use meridian_wire::batch::BatchHeader;
use meridian_wire::fetch::{
    EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use meridian_wire::{ErrorCode, FetchResponse, Records, Str};

use super::gather::{Answer, Gathered};
use super::{count_sessions, session_of};
use crate::budget::ByteLease;
use crate::cluster_view;
use crate::context::Caller;
use crate::fetch_session::{BeginKind, PartitionAnswer, Reported, SessionPartition, TopicKey};

/// First version with the current leader and diverging epochs.
const LEADER_FROM: i16 = 12;
/// First version with the endpoints of leaders (KIP-951).
const ENDPOINTS_FROM: i16 = 16;

pub(super) fn respond(
    caller: &Caller,
    kind: BeginKind,
    partitions: Vec<SessionPartition>,
    gathered: Gathered,
    is_read_committed: bool,
) -> (FetchResponse, Option<ByteLease>) {
    let context = &caller.context;
    // Nothing was gathered for a peer that is gone.
    let answers: Vec<PartitionAnswer> = partitions
        .iter()
        .zip(&gathered.answers)
        .map(|(asked, answer)| session_answer(asked, answer))
        .collect();
    let mut is_news = vec![true; answers.len()];
    let mut session_id = session_of(kind).unwrap_or(0);
    {
        let mut sessions = context.fetch_sessions.lock();
        match kind {
            BeginKind::Sessionless => {}
            BeginKind::Full { uses_topic_ids } => {
                let now_ms = context.region.now().0;
                session_id = sessions.create(now_ms, uses_topic_ids, partitions.clone(), answers);
                count_sessions(caller, &sessions);
            }
            BeginKind::Incremental { session_id } => is_news = sessions.report(session_id, answers),
        }
    }

    let mut leaders = BTreeMap::new();
    let mut responses: Vec<FetchableTopicResponse> = Vec::new();
    let mut last_topic: Option<TopicKey> = None;
    for ((asked, answer), is_news) in partitions.into_iter().zip(gathered.answers).zip(is_news) {
        if !is_news {
            continue;
        }
        if last_topic.as_ref() != Some(&asked.topic) {
            responses.push(topic_response(&asked.topic));
            last_topic = Some(asked.topic.clone());
        }
        let data = partition_data(caller, asked.index, answer, is_read_committed, &mut leaders);
        count(caller, &data.records);
        responses.last_mut().expect("pushed above").partitions.push(data);
    }
    let node_endpoints = if caller.version >= ENDPOINTS_FROM {
        endpoints(caller, leaders)
    } else {
        Vec::new()
    };
    let response = FetchResponse {
        session_id,
        responses,
        node_endpoints,
        ..Default::default()
    };
    (response, gathered.lease)
}

/// Counts what goes out. The headers were read a moment ago to find the batches, so they are at hand.
fn count(caller: &Caller, records: &Records) {
    let (mut batches, mut count) = (0, 0);
    for segment in records.segments() {
        let mut rest = &segment[..];
        while let Ok(header) = BatchHeader::parse(rest) {
            batches += 1;
            count += u64::from(header.record_count);
            rest = rest.get(header.size()..).unwrap_or_default();
        }
    }
    let metrics = &caller.context.metrics;
    metrics.fetch_bytes.inc_by(records.bytes() as u64);
    metrics.fetch_batches.inc_by(batches);
    metrics.fetch_records.inc_by(count);
}

fn topic_response(topic: &TopicKey) -> FetchableTopicResponse {
    match topic {
        TopicKey::Name(name) => FetchableTopicResponse {
            topic: name.to_string().into(),
            ..Default::default()
        },
        TopicKey::Id(id) => FetchableTopicResponse {
            topic_id: id.0,
            ..Default::default()
        },
    }
}

fn reported(positions: Option<Positions>) -> Reported {
    let Some(positions) = positions else {
        return Reported {
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
        };
    };
    Reported {
        high_watermark: positions.high_watermark.0.cast_signed(),
        last_stable_offset: positions.last_stable_offset.0.cast_signed(),
        log_start_offset: positions.log_start_offset.0.cast_signed(),
    }
}

fn session_answer(asked: &SessionPartition, answer: &Answer) -> PartitionAnswer {
    let (positions, has_data, must) = match answer {
        Answer::Data { positions, records } => (Some(*positions), !records.is_empty(), false),
        Answer::Diverging { positions, .. } | Answer::Elsewhere { positions, .. } => {
            (Some(*positions), false, true)
        }
        Answer::Behind { positions } => (Some(*positions), false, false),
        Answer::Failed { positions, .. } => (*positions, false, true),
    };
    PartitionAnswer {
        topic: asked.topic.clone(),
        index: asked.index,
        reported: reported(positions),
        has_data,
        must,
    }
}

fn partition_data(
    caller: &Caller,
    partition_index: i32,
    answer: Answer,
    is_read_committed: bool,
    leaders: &mut BTreeMap<NodeId, ()>,
) -> PartitionData {
    let positions = match &answer {
        Answer::Data { positions, .. }
        | Answer::Diverging { positions, .. }
        | Answer::Elsewhere { positions, .. }
        | Answer::Behind { positions } => Some(*positions),
        Answer::Failed { positions, .. } => *positions,
    };
    let reported = reported(positions);
    let mut data = PartitionData {
        partition_index,
        high_watermark: reported.high_watermark,
        last_stable_offset: reported.last_stable_offset,
        log_start_offset: reported.log_start_offset,
        // Null for read_uncommitted, which must see aborted records as they are.
        aborted_transactions: is_read_committed.then(Vec::new),
        records: Records::EMPTY,
        ..Default::default()
    };
    match answer {
        Answer::Data { records, .. } => data.records = records,
        Answer::Elsewhere { replica, .. } => data.preferred_read_replica = replica.0.cast_signed(),
        Answer::Behind { .. } => {}
        Answer::Diverging {
            epoch, end_offset, ..
        } => {
            data.diverging_epoch = EpochEndOffset {
                epoch: epoch.0.cast_signed(),
                end_offset: end_offset.0.cast_signed(),
            };
        }
        Answer::Failed { error, leader, .. } => {
            data.error_code = caller.code(error);
            if let Some((node, epoch)) = leader
                && caller.version >= LEADER_FROM
            {
                data.current_leader = current_leader(node, epoch);
                if matches!(
                    error,
                    ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch
                ) {
                    leaders.insert(node, ());
                }
            }
        }
    }
    data
}

fn current_leader(node: NodeId, epoch: LeaderEpoch) -> LeaderIdAndEpoch {
    LeaderIdAndEpoch {
        leader_id: node.0.cast_signed(),
        leader_epoch: epoch.0.cast_signed(),
    }
}

fn endpoints(caller: &Caller, leaders: BTreeMap<NodeId, ()>) -> Vec<NodeEndpoint> {
    let endpoint = |node: cluster_view::Node| NodeEndpoint {
        node_id: node.id.0.cast_signed(),
        host: node.endpoint.host.into(),
        port: node.endpoint.port.into(),
        rack: node.rack.map(Str::from),
    };
    leaders
        .into_keys()
        .filter_map(|node| cluster_view::node(caller, node))
        .map(endpoint)
        .collect()
}
