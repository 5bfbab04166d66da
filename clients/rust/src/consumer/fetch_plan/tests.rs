use meridian_types::{LeaderEpoch, TimestampMs, TopicId, Uuid};
use meridian_wire::batch::{BatchBuilder, Compression};
use meridian_wire::messages::fetch::{EpochEndOffset, FetchableTopicResponse};

use super::*;
use crate::endpoint::Endpoint;
use crate::metadata::{Broker as KnownBroker, PartitionMetadata, TopicMetadata};

fn metadata(leaders: &[u32]) -> Metadata {
    let mut metadata = Metadata::default();
    for id in 1..=3 {
        metadata.brokers.insert(
            NodeId(id),
            KnownBroker {
                id: NodeId(id),
                endpoint: Endpoint::new("x", 1),
                rack: None,
            },
        );
    }
    let partitions = (0..)
        .zip(leaders)
        .map(|(index, leader)| PartitionMetadata {
            index,
            leader: Some(NodeId(*leader)).filter(|leader| leader.0 > 0),
            leader_epoch: None,
            replicas: Vec::new(),
            in_sync_replicas: Vec::new(),
            offline_replicas: Vec::new(),
        })
        .collect();
    let topic = TopicMetadata {
        name: "t".to_owned(),
        id: None,
        is_internal: false,
        partitions,
    };
    metadata.topics.insert("t".to_owned(), Arc::new(topic));
    metadata
}

fn plan_of(partitions: u32) -> FetchPlan {
    let mut plan = FetchPlan::new(&ConsumerSettings::default());
    for index in 0..partitions {
        plan.assign("t".into(), index, Offset(0));
    }
    plan
}

fn batch(base: u64, count: u32, epoch: u32) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None).stored_at(Offset(base), LeaderEpoch(epoch));
    for _ in 0..count {
        builder.push(TimestampMs(0), None, Some(b"v"), &[]).unwrap();
    }
    builder.build().unwrap()
}

fn answer(partitions: Vec<PartitionData>) -> FetchResponse {
    FetchResponse {
        responses: vec![FetchableTopicResponse {
            topic: "t".into(),
            partitions,
            ..FetchableTopicResponse::default()
        }],
        ..FetchResponse::default()
    }
}

fn data(index: i32, error: ErrorCode, records: &[Bytes]) -> PartitionData {
    PartitionData {
        partition_index: index,
        error_code: error.code(),
        records: records.iter().cloned().collect(),
        ..PartitionData::default()
    }
}

#[test]
fn each_broker_gets_one_fetch_for_the_partitions_it_leads() {
    let mut plan = plan_of(3);
    let now = Instant::now();
    let metadata = metadata(&[1, 2, 1]);
    let (fetches, needs_refresh, _) = plan.plan(now, &metadata);
    assert!(!needs_refresh);
    let asked: Vec<_> = fetches.iter().map(|it| (it.broker.0, it.asked.len())).collect();
    assert_eq!(asked, [(1, 2), (2, 1)]);
    assert!(plan.plan(now, &metadata).0.is_empty(), "both are busy");
}

#[test]
fn reading_goes_on_behind_the_last_whole_batch() {
    let mut plan = plan_of(1);
    let now = Instant::now();
    let metadata = metadata(&[1]);
    let fetch = plan.plan(now, &metadata).0.remove(0);
    let cut = batch(5, 9, 3).slice(..70);
    let response = answer(vec![data(
        0,
        ErrorCode::None,
        &[batch(0, 2, 1), batch(2, 3, 2), cut],
    )]);
    let effects = plan.answered(now, NodeId(1), &fetch.asked, response);
    let [Effect::Records { next, batches, .. }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(
        (*next, batches.len()),
        (Offset(5), batch(0, 2, 1).len() + batch(2, 3, 2).len())
    );
    let again = plan.plan(now, &metadata).0.remove(0);
    let sent = &again.request.topics[0].partitions[0];
    assert_eq!((sent.fetch_offset, sent.last_fetched_epoch), (5, 2));
}

#[test]
fn what_comes_for_an_older_assignment_is_left_out() {
    let mut plan = plan_of(1);
    let now = Instant::now();
    let fetch = plan.plan(now, &metadata(&[1])).0.remove(0);
    plan.assign("t".into(), 0, Offset(100));
    let response = answer(vec![data(0, ErrorCode::None, &[batch(0, 2, 1)])]);
    assert!(plan.answered(now, NodeId(1), &fetch.asked, response).is_empty());
    let again = plan.plan(now, &metadata(&[1])).0.remove(0);
    assert_eq!(again.request.topics[0].partitions[0].fetch_offset, 100);
}

#[test]
fn errors_stop_refresh_or_reset() {
    let mut plan = plan_of(3);
    let now = Instant::now();
    let fetch = plan.plan(now, &metadata(&[1, 1, 1])).0.remove(0);
    let response = answer(vec![
        data(0, ErrorCode::NotLeaderOrFollower, &[]),
        data(1, ErrorCode::OffsetOutOfRange, &[]),
        data(2, ErrorCode::TopicAuthorizationFailed, &[]),
        data(7, ErrorCode::None, &[batch(0, 1, 0)]),
    ]);
    let effects = plan.answered(now, NodeId(1), &fetch.asked, response);
    assert!(
        matches!(
            &effects[..],
            [Effect::Refresh, Effect::OutOfRange { .. }, Effect::Failed { .. }]
        ),
        "{effects:?}"
    );
    assert!(
        plan.plan(now, &metadata(&[2, 2, 2])).0.is_empty(),
        "one waits, two are stopped"
    );
    let (fetches, _, _) = plan.plan(now + RETRY_WAIT, &metadata(&[2, 2, 2]));
    assert_eq!(fetches[0].asked.len(), 1);
    let Effect::OutOfRange { key, version, .. } = &effects[1] else {
        unreachable!();
    };
    plan.go_on_at(now, key, *version, Some(Offset(50)));
    plan.failed(now, NodeId(2), &fetches[0].asked);
    let (fetches, _, _) = plan.plan(now + RETRY_WAIT * 2, &metadata(&[2, 2, 2]));
    assert_eq!(fetches[0].asked.len(), 2);
}

#[test]
fn a_truncated_log_takes_the_position_back() {
    let mut plan = plan_of(1);
    plan.assign("t".into(), 0, Offset(80));
    let now = Instant::now();
    let fetch = plan.plan(now, &metadata(&[1])).0.remove(0);
    let diverged = PartitionData {
        diverging_epoch: EpochEndOffset {
            epoch: 4,
            end_offset: 60,
        },
        ..data(0, ErrorCode::None, &[])
    };
    assert!(
        plan.answered(now, NodeId(1), &fetch.asked, answer(vec![diverged]))
            .is_empty()
    );
    let again = plan.plan(now, &metadata(&[1])).0.remove(0);
    assert_eq!(again.request.topics[0].partitions[0].fetch_offset, 60);
}

#[test]
fn a_replica_nearby_is_used_until_it_fails() {
    let mut plan = plan_of(1);
    let now = Instant::now();
    let fetch = plan.plan(now, &metadata(&[1])).0.remove(0);
    let pointed = PartitionData {
        preferred_read_replica: 3,
        ..data(0, ErrorCode::None, &[])
    };
    plan.answered(now, NodeId(1), &fetch.asked, answer(vec![pointed]));
    let fetch = plan.plan(now, &metadata(&[1])).0.remove(0);
    assert_eq!(fetch.broker, NodeId(3));
    plan.failed(now, NodeId(3), &fetch.asked);
    let later = now + RETRY_WAIT;
    assert_eq!(plan.plan(later, &metadata(&[1])).0[0].broker, NodeId(1));
}

#[test]
fn a_replica_that_is_not_known_yet_is_asked_for_and_the_leader_read_meanwhile() {
    let mut plan = plan_of(1);
    let now = Instant::now();
    let point = |plan: &mut FetchPlan, metadata: &Metadata| {
        let fetch = plan.plan(now, metadata).0.remove(0);
        let pointed = PartitionData {
            preferred_read_replica: 3,
            ..data(0, ErrorCode::None, &[])
        };
        plan.answered(now, NodeId(1), &fetch.asked, answer(vec![pointed]));
    };
    let mut without = metadata(&[1]);
    without.brokers.remove(&NodeId(3));
    point(&mut plan, &without);
    let (mut fetches, needs_refresh, _) = plan.plan(now, &without);
    assert!(needs_refresh);
    let fetch = fetches.remove(0);
    assert_eq!(fetch.broker, NodeId(1));
    plan.answered(
        now,
        NodeId(1),
        &fetch.asked,
        answer(vec![data(0, ErrorCode::None, &[])]),
    );
    let known = metadata(&[1]);
    point(&mut plan, &known);
    let (fetches, needs_refresh, _) = plan.plan(now, &known);
    assert!(!needs_refresh);
    assert_eq!(fetches[0].broker, NodeId(3));
}

#[test]
fn a_replica_that_lags_behind_costs_no_position_and_its_lease_ends() {
    let mut plan = plan_of(1);
    let now = Instant::now();
    let metadata = metadata(&[1]);
    let point = |plan: &mut FetchPlan, now| {
        let fetch = plan.plan(now, &metadata).0.remove(0);
        assert_eq!(fetch.broker, NodeId(1));
        let pointed = PartitionData {
            preferred_read_replica: 3,
            ..data(0, ErrorCode::None, &[])
        };
        plan.answered(now, NodeId(1), &fetch.asked, answer(vec![pointed]));
    };
    for code in [ErrorCode::OffsetOutOfRange, ErrorCode::OffsetNotAvailable] {
        point(&mut plan, now);
        let fetch = plan.plan(now, &metadata).0.remove(0);
        assert_eq!(fetch.broker, NodeId(3));
        let effects = plan.answered(now, NodeId(3), &fetch.asked, answer(vec![data(0, code, &[])]));
        assert!(effects.is_empty(), "{effects:?}");
    }
    point(&mut plan, now);
    let fetch = plan.plan(now, &metadata).0.remove(0);
    plan.answered(
        now,
        NodeId(3),
        &fetch.asked,
        answer(vec![data(0, ErrorCode::None, &[])]),
    );
    let later = now + REPLICA_LEASE;
    assert_eq!(plan.plan(later, &metadata).0[0].broker, NodeId(1));
}

#[test]
fn a_broker_that_names_the_leader_is_believed_by_id_and_epoch() {
    let mut plan = plan_of(1);
    let now = Instant::now();
    let fetch = plan.plan(now, &metadata(&[1])).0.remove(0);
    let mut moved = data(0, ErrorCode::NotLeaderOrFollower, &[]);
    (moved.current_leader.leader_id, moved.current_leader.leader_epoch) = (2, 7);
    let effects = plan.answered(now, NodeId(1), &fetch.asked, answer(vec![moved]));
    let [
        Effect::Moved {
            key,
            version,
            leader: (2, 7),
        },
    ] = &effects[..]
    else {
        panic!("{effects:?}");
    };
    let mut metadata = metadata(&[1]);
    assert!(metadata.learn_leader("t", 0, NodeId(2), LeaderEpoch(7)));
    plan.unblock(key, *version);
    let fetch = plan.plan(now, &metadata).0.remove(0);
    let asked = &fetch.request.topics[0].partitions[0];
    assert_eq!((fetch.broker, asked.current_leader_epoch), (NodeId(2), 7));
}

/// The plan of one partition, which is read behind the record at offset 5 of epoch 3.
fn plan_after() -> (FetchPlan, Instant) {
    let (mut plan, now) = (plan_of(1), Instant::now());
    let token = Token {
        topic: TopicId(Uuid::from_u128(1)),
        partition: 0,
        leader_epoch: LeaderEpoch(3),
        offset: Offset(5),
    };
    plan.read_after(now, &("t".into(), 0), token, Duration::from_secs(10));
    (plan, now)
}

/// What is asked next, of whom, and what the answer means.
fn exchange(
    plan: &mut FetchPlan,
    now: Instant,
    broker: u32,
    offset: i64,
    answered: PartitionData,
) -> Vec<Effect> {
    let fetch = plan.plan(now, &metadata(&[1])).0.remove(0);
    let asked = &fetch.request.topics[0].partitions[0];
    assert_eq!((fetch.broker.0, asked.fetch_offset), (broker, offset));
    plan.answered(now, fetch.broker, &fetch.asked, answer(vec![answered]))
}

fn up_to(end: i64, records: &[Bytes]) -> PartitionData {
    PartitionData {
        high_watermark: end,
        ..data(0, ErrorCode::None, records)
    }
}

fn pointing_to(replica: i32) -> PartitionData {
    PartitionData {
        preferred_read_replica: replica,
        ..up_to(9, &[])
    }
}

#[test]
fn a_broker_is_asked_for_the_tokens_record_before_it_is_read() {
    let (mut plan, now) = plan_after();
    assert!(exchange(&mut plan, now, 1, 5, pointing_to(2)).is_empty());
    assert!(exchange(&mut plan, now, 2, 5, up_to(3, &[])).is_empty());
    let behind = data(0, ErrorCode::OffsetNotAvailable, &[]);
    assert!(exchange(&mut plan, now, 2, 5, behind).is_empty());
    let later = now + RETRY_WAIT;
    let there = up_to(6, &[batch(4, 2, 3)]);
    assert!(
        exchange(&mut plan, later, 2, 5, there).is_empty(),
        "the question is not an answer"
    );
    let effects = exchange(&mut plan, later, 2, 0, up_to(6, &[batch(0, 2, 3)]));
    assert!(
        matches!(effects[..], [Effect::Records { next: Offset(2), .. }]),
        "{effects:?}"
    );
    // A restart of reading elsewhere asks there again, until the record is behind.
    let fetch = plan.plan(later, &metadata(&[1])).0.remove(0);
    plan.failed(later, fetch.broker, &fetch.asked);
    let later = later + RETRY_WAIT;
    assert!(exchange(&mut plan, later, 1, 5, up_to(6, &[batch(4, 2, 3)])).is_empty());
    exchange(&mut plan, later, 1, 2, up_to(6, &[batch(2, 4, 3)]));
    exchange(&mut plan, later, 1, 6, pointing_to(2));
    exchange(&mut plan, later, 2, 6, up_to(6, &[]));
}

#[test]
fn a_tokens_record_that_does_not_come_in_time_ends_the_partition_and_says_how_far_the_broker_is() {
    let (mut plan, now) = plan_after();
    exchange(&mut plan, now, 1, 5, pointing_to(2));
    exchange(&mut plan, now, 2, 5, up_to(3, &[]));
    let (_, _, next) = plan.plan(now, &metadata(&[1]));
    let until = now + Duration::from_secs(10);
    assert_eq!(next, Some(until), "somebody looks then");
    assert!(plan.expire(until - Duration::from_millis(1)).is_empty());
    let effects = plan.expire(until);
    let [Effect::Failed { error, .. }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(
        error.to_string(),
        "topic 't', partition 0: offset 5, which the token speaks of, was not there within 10s: the log of broker 2 ends at 3"
    );
    assert!(plan.expire(until).is_empty(), "it is said once");
}

#[test]
fn a_record_that_took_the_place_of_the_tokens_is_told() {
    let (mut plan, now) = plan_after();
    let effects = exchange(&mut plan, now, 1, 5, up_to(9, &[batch(4, 2, 7)]));
    let [Effect::Failed { error, .. }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(
        error.to_string(),
        "topic 't', partition 0: the record at offset 5 is of leader epoch 7, the token's was of 3"
    );
}

#[test]
fn a_record_that_was_deleted_since_was_there() {
    let (mut plan, now) = plan_after();
    let gone = PartitionData {
        log_start_offset: 6,
        ..data(0, ErrorCode::OffsetOutOfRange, &[])
    };
    assert!(exchange(&mut plan, now, 1, 5, gone).is_empty());
    exchange(&mut plan, now, 1, 0, up_to(9, &[]));
}
