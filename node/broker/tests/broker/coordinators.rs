//! Coordinators of a region of several nodes: groups outlive them.

use std::time::Duration;

use bytes::Bytes;
use meridian_wire::join_group::JoinGroupRequestProtocol;
use meridian_wire::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use meridian_wire::offset_fetch::OffsetFetchRequestGroup;
use meridian_wire::sync_group::SyncGroupRequestAssignment;
use meridian_wire::{
    ErrorCode, FindCoordinatorRequest, HeartbeatRequest, JoinGroupRequest, OffsetCommitRequest,
    OffsetFetchRequest, Str, SyncGroupRequest,
};
use tokio::time::Instant;

use crate::harness::{Client, PATIENCE};
use crate::nodes::Nodes;
use crate::several::create;

const GROUP: &str = "readers";

fn join(member_id: &str) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: GROUP.into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        member_id: member_id.to_owned().into(),
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".into(),
            metadata: Bytes::from_static(b"\x00\x00\x00\x00\x00\x01\x00\x01t\xff\xff\xff\xff"),
        }],
        ..Default::default()
    }
}

/// An id for a new member, once the coordinator has loaded its groups.
async fn member_id(client: &mut Client) -> Str {
    let started = Instant::now();
    loop {
        let refused = client.call(&join(""), 9).await;
        if !is_loading(refused.error_code) || started.elapsed() > PATIENCE {
            assert_eq!(refused.error_code, ErrorCode::MemberIdRequired.code());
            return refused.member_id;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether the next coordinator leads already, but does not answer for its groups yet.
fn is_loading(error_code: i16) -> bool {
    [ErrorCode::NotCoordinator, ErrorCode::CoordinatorLoadInProgress]
        .iter()
        .any(|code| code.code() == error_code)
}

async fn become_member(client: &mut Client) -> (String, i32) {
    let member_id = member_id(client).await;
    let joined = client.call(&join(&member_id), 9).await;
    assert_eq!(joined.error_code, 0);
    let sync = SyncGroupRequest {
        group_id: GROUP.into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        protocol_type: Some("consumer".into()),
        protocol_name: Some("range".into()),
        assignments: vec![SyncGroupRequestAssignment {
            member_id: joined.member_id.clone(),
            assignment: Bytes::from_static(b"all of it"),
        }],
        ..Default::default()
    };
    assert_eq!(client.call(&sync, 5).await.error_code, 0);
    (joined.member_id.to_string(), joined.generation_id)
}

fn heartbeat(member_id: &str, generation_id: i32) -> HeartbeatRequest {
    HeartbeatRequest {
        group_id: GROUP.into(),
        generation_id,
        member_id: member_id.to_owned().into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_group_goes_on_at_another_coordinator_with_its_members_and_offsets() {
    let mut nodes = Nodes::start(3).await;
    create(&nodes, 2, "t", 1, &[]).await;
    let first = nodes.coordinator_of(GROUP).await;
    let other = first % 3 + 1;
    let find = FindCoordinatorRequest {
        coordinator_keys: vec![GROUP.into()],
        ..Default::default()
    };
    let found = nodes.client(other).await.call(&find, 4).await;
    assert_eq!(
        (found.coordinators[0].node_id, found.coordinators[0].port),
        (first.cast_signed(), nodes.port(first))
    );
    let wrong = nodes.client(other).await.call(&join(""), 9).await;
    assert_eq!(wrong.error_code, ErrorCode::NotCoordinator.code());

    let mut client = nodes.client(first).await;
    let (member, generation) = become_member(&mut client).await;
    let commit = OffsetCommitRequest {
        group_id: GROUP.into(),
        generation_id_or_member_epoch: generation,
        member_id: member.clone().into(),
        topics: vec![OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![OffsetCommitRequestPartition {
                committed_offset: 42,
                committed_leader_epoch: -1,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let committed = client.call(&commit, 8).await;
    assert_eq!(committed.topics[0].partitions[0].error_code, 0);

    nodes.kill(first);
    let second = nodes.coordinator_of(GROUP).await;
    assert_ne!(second, first);
    let found = nodes.client(second).await.call(&find, 4).await;
    assert_eq!(found.coordinators[0].node_id, second.cast_signed());
    let mut client = nodes.client(second).await;
    let started = Instant::now();
    loop {
        let beat = client.call(&heartbeat(&member, generation), 4).await;
        if beat.error_code == 0 {
            break;
        }
        assert!(is_loading(beat.error_code), "{beat:?}");
        assert!(started.elapsed() < PATIENCE, "{beat:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let offsets = OffsetFetchRequest {
        groups: vec![OffsetFetchRequestGroup {
            group_id: GROUP.into(),
            topics: None,
            ..Default::default()
        }],
        ..Default::default()
    };
    let fetched = client.call(&offsets, 8).await;
    assert_eq!(fetched.groups[0].topics[0].partitions[0].committed_offset, 42);
    assert_eq!(
        client
            .call(&heartbeat(&member, generation + 1), 4)
            .await
            .error_code,
        ErrorCode::IllegalGeneration.code(),
        "it is the same generation"
    );
    nodes.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_waits_at_a_coordinator_that_hands_over_is_told_at_once() {
    let nodes = Nodes::with(3, |settings| {
        settings.kafka.group_initial_rebalance_delay = Duration::from_secs(60);
    })
    .await;
    let first = nodes.coordinator_of(GROUP).await;
    let mut client = nodes.client(first).await;
    let member_id = member_id(&mut client).await;
    let waiting = client.send(&join(&member_id), 9).await;
    let begun = Instant::now();
    let region = nodes.region(first).clone();
    let handing = tokio::spawn(async move { region.hand_over(Duration::from_secs(30)).await });
    let answer = client.receive::<JoinGroupRequest>(9, waiting).await;
    assert_eq!(answer.error_code, ErrorCode::NotCoordinator.code());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(handing.await.unwrap(), 0);
    assert_ne!(nodes.coordinator_of(GROUP).await, first);
    nodes.stop();
}
