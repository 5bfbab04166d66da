//! Consumer groups and their offsets, over the wire.

use crate::harness::{Client, TestBroker};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use meridian_types::Uuid;
use meridian_wire::incremental_alter_configs::{AlterConfigsResource, AlterableConfig};
use meridian_wire::join_group::JoinGroupRequestProtocol;
use meridian_wire::leave_group::MemberIdentity;
use meridian_wire::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use meridian_wire::offset_delete::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use meridian_wire::offset_fetch::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use meridian_wire::sync_group::SyncGroupRequestAssignment;
use meridian_wire::{
    DeleteGroupsRequest, DescribeGroupsRequest, ErrorCode, FindCoordinatorRequest, HeartbeatRequest,
    IncrementalAlterConfigsRequest, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest,
    OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest, SyncGroupRequest,
};

/// Version 0 of a consumer's subscription to topic `t`.
const SUBSCRIPTION: &[u8] = b"\x00\x00\x00\x00\x00\x01\x00\x01t\xff\xff\xff\xff";

fn join(group: &'static str, member_id: &str) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol {
        name: "range".into(),
        metadata: Bytes::from_static(SUBSCRIPTION),
    };
    JoinGroupRequest {
        group_id: group.into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        member_id: member_id.to_owned().into(),
        protocol_type: "consumer".into(),
        protocols: vec![protocol],
        ..Default::default()
    }
}

/// Joins and syncs as the only member; its id and generation.
async fn become_member(client: &mut Client, group: &'static str) -> (String, i32) {
    let refused = client.call(&join(group, ""), 9).await;
    assert_eq!(refused.error_code, ErrorCode::MemberIdRequired.code());
    let joined = client.call(&join(group, &refused.member_id), 9).await;
    assert_eq!((joined.error_code, joined.leader == joined.member_id), (0, true));
    let assignment = SyncGroupRequestAssignment {
        member_id: joined.member_id.clone(),
        assignment: Bytes::from_static(b"all of it"),
    };
    let sync = SyncGroupRequest {
        group_id: group.into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        protocol_type: Some("consumer".into()),
        protocol_name: Some("range".into()),
        assignments: vec![assignment],
        ..Default::default()
    };
    let synced = client.call(&sync, 5).await;
    assert_eq!(
        (synced.error_code, &synced.assignment[..]),
        (0, &b"all of it"[..])
    );
    (joined.member_id.to_string(), joined.generation_id)
}

fn commit(group: &'static str, member_id: &str, generation: i32, offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition {
        committed_offset: offset,
        committed_leader_epoch: 3,
        committed_metadata: Some("where I was".into()),
        ..Default::default()
    };
    OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: generation,
        member_id: member_id.to_owned().into(),
        topics: vec![OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![partition],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn fetch_offsets(group: &'static str) -> OffsetFetchRequest {
    let topic = OffsetFetchRequestTopics {
        name: "t".into(),
        partition_indexes: vec![0, 1],
        ..Default::default()
    };
    let group = OffsetFetchRequestGroup {
        group_id: group.into(),
        topics: Some(vec![topic]),
        ..Default::default()
    };
    OffsetFetchRequest {
        groups: vec![group],
        ..Default::default()
    }
}

#[tokio::test]
async fn a_member_joins_commits_leaves_and_finds_its_offsets_again() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 2, &[]).await;
    let mut client = broker.client().await;
    let found = client
        .call(
            &FindCoordinatorRequest {
                coordinator_keys: vec!["g".into()],
                ..Default::default()
            },
            4,
        )
        .await;
    assert_eq!(
        (found.coordinators[0].error_code, found.coordinators[0].node_id),
        (0, 1)
    );
    let (member_id, generation) = become_member(&mut client, "g").await;
    let heartbeat = HeartbeatRequest {
        group_id: "g".into(),
        generation_id: generation,
        member_id: member_id.clone().into(),
        ..Default::default()
    };
    assert_eq!(client.call(&heartbeat, 4).await.error_code, 0);
    let committed = client.call(&commit("g", &member_id, generation, 42), 9).await;
    assert_eq!(committed.topics[0].partitions[0].error_code, 0);
    let stale = client.call(&commit("g", &member_id, generation + 1, 1), 9).await;
    assert_eq!(
        stale.topics[0].partitions[0].error_code,
        ErrorCode::IllegalGeneration.code()
    );

    let described = client
        .call(
            &DescribeGroupsRequest {
                groups: vec!["g".into()],
                ..Default::default()
            },
            5,
        )
        .await;
    let group = &described.groups[0];
    assert_eq!(
        (&*group.group_state, &*group.protocol_data, group.members.len()),
        ("Stable", "range", 1)
    );
    assert_eq!(
        (&*group.members[0].client_id, &*group.members[0].client_host),
        ("test", "/127.0.0.1")
    );

    let member = MemberIdentity {
        member_id: member_id.into(),
        ..Default::default()
    };
    let leave = LeaveGroupRequest {
        group_id: "g".into(),
        members: vec![member],
        ..Default::default()
    };
    assert_eq!(client.call(&leave, 5).await.members[0].error_code, 0);
    let fetched = client.call(&fetch_offsets("g"), 9).await;
    let partitions = &fetched.groups[0].topics[0].partitions;
    let first = &partitions[0];
    assert_eq!((first.committed_offset, first.committed_leader_epoch), (42, 3));
    assert_eq!(first.metadata.as_deref(), Some("where I was"));
    assert_eq!(
        (partitions[1].committed_offset, partitions[1].error_code),
        (-1, 0)
    );
    let listed = client.call(&ListGroupsRequest::default(), 5).await;
    let group = &listed.groups[0];
    assert_eq!(
        (&*group.group_id, &*group.group_state, &*group.group_type),
        ("g", "Empty", "classic")
    );
    broker.stop().await;
}

#[tokio::test]
async fn offsets_are_fetched_in_every_shape_of_the_request() {
    let broker = TestBroker::start().await;
    let id = broker.create_topic("t", 2, &[]).await;
    let mut client = broker.client().await;
    client.call(&commit("g", "", -1, 7), 2).await;
    let topic = OffsetFetchRequestTopic {
        name: "t".into(),
        partition_indexes: vec![0],
    };
    let single = OffsetFetchRequest {
        group_id: "g".into(),
        topics: Some(vec![topic]),
        ..Default::default()
    };
    for version in 1..8 {
        let fetched = client.call(&single, version).await;
        assert_eq!(
            fetched.topics[0].partitions[0].committed_offset, 7,
            "version {version}"
        );
    }
    let all = OffsetFetchRequest {
        group_id: "g".into(),
        topics: None,
        ..Default::default()
    };
    assert_eq!(client.call(&all, 5).await.topics[0].partitions.len(), 1);
    let mut by_id = fetch_offsets("g");
    let unknown = OffsetFetchRequestTopics {
        topic_id: Uuid::from_u128(5),
        partition_indexes: vec![0],
        ..Default::default()
    };
    let topics = by_id.groups[0].topics.as_mut().unwrap();
    topics[0].topic_id = id;
    topics.push(unknown);
    let fetched = client.call(&by_id, 10).await;
    assert_eq!(fetched.groups[0].topics[0].partitions[0].committed_offset, 7);
    let error = fetched.groups[0].topics[1].partitions[0].error_code;
    assert_eq!(error, ErrorCode::UnknownTopicId.code());
    let none = client.call(&fetch_offsets("nobody"), 8).await;
    assert_eq!(
        (
            none.groups[0].error_code,
            none.groups[0].topics[0].partitions[0].committed_offset
        ),
        (0, -1)
    );
    broker.stop().await;
}

#[tokio::test]
async fn commits_are_refused_for_unknown_topics_and_long_metadata_only() {
    let broker = TestBroker::start().await;
    let id = broker.create_topic("t", 1, &[]).await;
    let mut client = broker.client().await;
    let mut request = commit("g", "", -1, 5);
    let long = OffsetCommitRequestPartition {
        committed_metadata: Some("x".repeat(4097).into()),
        ..request.topics[0].partitions[0].clone()
    };
    request.topics[0].partitions.push(long);
    let mut unknown = request.topics[0].clone();
    unknown.name = "nope".into();
    unknown.partitions.truncate(1);
    request.topics.push(unknown);
    let response = client.call(&request, 8).await;
    let codes: Vec<i16> = response
        .topics
        .iter()
        .flat_map(|t| &t.partitions)
        .map(|p| p.error_code)
        .collect();
    let expected = [
        ErrorCode::None,
        ErrorCode::OffsetMetadataTooLarge,
        ErrorCode::UnknownTopicOrPartition,
    ];
    assert_eq!(codes, expected.map(ErrorCode::code));
    let mut by_id = commit("g", "", -1, 6);
    by_id.topics[0].topic_id = id;
    assert_eq!(
        client.call(&by_id, 10).await.topics[0].partitions[0].error_code,
        0
    );
    let fetched = client.call(&fetch_offsets("g"), 8).await;
    assert_eq!(fetched.groups[0].topics[0].partitions[0].committed_offset, 6);
    broker.stop().await;
}

#[tokio::test]
async fn groups_and_single_offsets_can_be_deleted_unless_they_are_in_use() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1, &[]).await;
    let mut client = broker.client().await;
    let (member_id, generation) = become_member(&mut client, "g").await;
    client.call(&commit("g", &member_id, generation, 1), 8).await;
    let delete = DeleteGroupsRequest {
        groups_names: vec!["g".into(), "nobody".into()],
    };
    let codes = |response: meridian_wire::DeleteGroupsResponse| -> Vec<i16> {
        response.results.iter().map(|result| result.error_code).collect()
    };
    let expected = [ErrorCode::NonEmptyGroup, ErrorCode::GroupIdNotFound].map(ErrorCode::code);
    assert_eq!(codes(client.call(&delete, 2).await), expected);
    let offsets = OffsetDeleteRequest {
        group_id: "g".into(),
        topics: vec![OffsetDeleteRequestTopic {
            name: "t".into(),
            partitions: vec![OffsetDeleteRequestPartition { partition_index: 0 }],
        }],
    };
    let subscribed = client.call(&offsets, 0).await;
    assert_eq!(
        subscribed.topics[0].partitions[0].error_code,
        ErrorCode::GroupSubscribedToTopic.code()
    );
    let leave = LeaveGroupRequest {
        group_id: "g".into(),
        member_id: member_id.into(),
        ..Default::default()
    };
    assert_eq!(client.call(&leave, 2).await.error_code, 0);
    let deleted = client.call(&offsets, 0).await;
    assert_eq!(
        (deleted.error_code, deleted.topics[0].partitions[0].error_code),
        (0, 0)
    );
    let fetched = client.call(&fetch_offsets("g"), 8).await;
    assert_eq!(fetched.groups[0].topics[0].partitions[0].committed_offset, -1);
    client.call(&commit("g", "", -1, 9), 8).await;
    assert_eq!(
        codes(client.call(&delete, 2).await),
        [0, ErrorCode::GroupIdNotFound.code()]
    );
    let fetched = client.call(&fetch_offsets("g"), 8).await;
    assert_eq!(fetched.groups[0].topics[0].partitions[0].committed_offset, -1);
    broker.stop().await;
}

#[tokio::test]
async fn transactions_are_refused_in_clear_words() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let request = FindCoordinatorRequest {
        coordinator_keys: vec!["tx".into()],
        key_type: 1,
        ..Default::default()
    };
    let found = client.call(&request, 4).await;
    assert_eq!(
        found.coordinators[0].error_code,
        ErrorCode::UnsupportedVersion.code()
    );
    assert!(
        found.coordinators[0]
            .error_message
            .as_deref()
            .unwrap()
            .contains("transactions")
    );
    let init = meridian_wire::InitProducerIdRequest {
        transactional_id: Some("tx".into()),
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    };
    assert_eq!(
        client.call(&init, 4).await.error_code,
        ErrorCode::UnsupportedVersion.code()
    );
    let init = meridian_wire::InitProducerIdRequest {
        transactional_id: None,
        ..init
    };
    let ids = [
        client.call(&init, 4).await.producer_id,
        client.call(&init, 0).await.producer_id,
    ];
    assert!(ids[0] >= 0 && ids[1] == ids[0] + 1);
    broker.stop().await;
}

#[tokio::test]
async fn offsets_that_nobody_renews_expire() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 2, &[]).await;
    let mut client = broker.client().await;
    let soon = AlterableConfig {
        name: "offsets.retention.check.interval.ms".into(),
        config_operation: 0,
        value: Some("10".into()),
    };
    let request = IncrementalAlterConfigsRequest {
        resources: vec![AlterConfigsResource {
            resource_type: 4,
            resource_name: "".into(),
            configs: vec![soon],
        }],
        validate_only: false,
    };
    assert_eq!(client.call(&request, 1).await.responses[0].error_code, 0);
    client.call(&commit("old", "", -1, 5), 8).await;
    let week_ms = 7 * 24 * 3600 * 1000;
    broker.now.fetch_add(week_ms, Ordering::Relaxed);
    client.call(&commit("young", "", -1, 6), 8).await;
    let mut offset = async |group| {
        client.call(&fetch_offsets(group), 8).await.groups[0].topics[0].partitions[0].committed_offset
    };
    let mut waited = 0;
    while offset("old").await != -1 {
        waited += 1;
        assert!(waited < 1200, "the offset is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(offset("young").await, 6);
    broker.stop().await;
}
