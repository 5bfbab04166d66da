use meridian_types::{LeaderEpoch, TimestampMs};
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
