//! What a client asks first: versions, brokers, topics.

use crate::harness::TestBroker;
use meridian_wire::metadata::MetadataRequestTopic;
use meridian_wire::{ApiVersionsRequest, ErrorCode, MetadataRequest};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn metadata_creates_what_is_asked_for_and_tells_brokers_and_leaders() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let ask = |name: &'static str, allow| MetadataRequest {
        topics: Some(vec![MetadataRequestTopic {
            name: Some(name.into()),
            ..Default::default()
        }]),
        allow_auto_topic_creation: allow,
        ..Default::default()
    };
    let refused = client.call(&ask("made", false), 12).await;
    assert_eq!(
        refused.topics[0].error_code,
        ErrorCode::UnknownTopicOrPartition.code()
    );
    let made = client.call(&ask("made", true), 12).await;
    assert_eq!(
        (made.topics[0].error_code, made.topics[0].partitions.len()),
        (0, 1)
    );
    assert_eq!(made.topics[0].partitions[0].leader_id, 1);
    assert_eq!(made.brokers[0].port, i32::from(broker.address.port()));
    assert_eq!(made.brokers[0].rack.as_deref(), Some("a"));
    assert_eq!(made.controller_id, 1);
    assert_eq!(made.cluster_id.as_deref().map(str::len), Some(22));
    let invalid = client.call(&ask("a b", true), 12).await;
    assert_eq!(
        invalid.topics[0].error_code,
        ErrorCode::InvalidTopicException.code()
    );
    let by_id = MetadataRequest {
        topics: Some(vec![MetadataRequestTopic {
            topic_id: made.topics[0].topic_id,
            name: None,
        }]),
        ..Default::default()
    };
    assert_eq!(
        client.call(&by_id, 12).await.topics[0].name.as_deref(),
        Some("made")
    );
    let all = MetadataRequest {
        topics: None,
        ..Default::default()
    };
    assert_eq!(client.call(&all, 1).await.topics.len(), 1);
    let none = MetadataRequest {
        topics: Some(Vec::new()),
        ..Default::default()
    };
    assert_eq!(client.call(&none, 1).await.topics.len(), 0);
    assert_eq!(
        client.call(&none, 0).await.topics.len(),
        1,
        "version 0 asks for all with an empty list"
    );
    broker.stop().await;
}

#[tokio::test]
async fn a_newer_api_versions_is_answered_with_ours() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    // Version 99, header of a flexible version, a body that nobody knows.
    let mut frame = vec![0, 18, 0, 99, 0, 0, 0, 5, 0, 1, b'c', 0, 1, 2, 3];
    let mut bytes = (frame.len() as i32).to_be_bytes().to_vec();
    bytes.append(&mut frame);
    client.stream.write_all(&bytes).await.unwrap();
    let response = client.receive::<ApiVersionsRequest>(0, 5).await;
    assert_eq!(response.error_code, ErrorCode::UnsupportedVersion.code());
    assert!(
        response
            .api_keys
            .iter()
            .any(|api| api.api_key == 18 && api.max_version == 4)
    );
    broker.stop().await;
}

#[tokio::test]
async fn produce_zero_to_two_are_advertised_and_refused() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let versions = client.call(&ApiVersionsRequest::default(), 0).await;
    assert_eq!(versions.api_keys[0].min_version, 0);
    let frame = [0, 0, 0, 2, 0, 0, 0, 5, 0, 1, b'c'];
    let mut bytes = (frame.len() as i32).to_be_bytes().to_vec();
    bytes.extend_from_slice(&frame);
    client.stream.write_all(&bytes).await.unwrap();
    assert!(client.frame().await.is_none());
    broker.stop().await;
}
