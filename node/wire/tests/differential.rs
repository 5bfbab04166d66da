//! Two independent codecs, made from Kafka's schemas by others, as oracles.
//!
//! Messages are written from our tables, byte by byte (`support/sample.rs`). Whoever decodes and encodes such
//! a message must come back to the same bytes, so each side reads what the other one writes.
//!
//! `kafka-protocol` 0.18 knows Kafka 4.1, `kafka-wire` 0.1 knows 4.3. ListOffsets 11, DescribeLogDirs 5 and the
//! requests OffsetCommit 10 and OffsetFetch 10 are held against the second alone.
//!
//! Neither oracle ever sees bytes of unknown origin: `kafka-protocol` aborts on a false array count.

mod support;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as kp;
use kafka_protocol::protocol::{Decodable, Encodable};
use kafka_wire_core::{ApiVersion, DecodeLimits};
use meridian_wire::{
    ApiKey, ConsumerProtocolAssignment, ConsumerProtocolSubscription, Decoder, Encoder, Message,
    RequestHeader, ResponseHeader, embedded,
};
use support::{Body, Case, Random, sample};

/// What an oracle makes of a message: decoded and encoded again. `None` if it does not know the version.
struct Oracles {
    kafka_protocol: Option<Vec<u8>>,
    kafka_wire: Option<Vec<u8>>,
}

macro_rules! oracles {
    ($($api:ident, $request:ident, $response:ident;)*) => {
        fn ask_oracles(case: Case, bytes: &[u8]) -> Oracles {
            match (case.api, case.response) {$(
                (ApiKey::$api, false) => Oracles {
                    kafka_protocol: by_kafka_protocol::<kp::$request>(case, bytes),
                    kafka_wire: by_kafka_wire::<kafka_wire::$request>(case, bytes),
                },
                (ApiKey::$api, true) => Oracles {
                    kafka_protocol: by_kafka_protocol::<kp::$response>(case, bytes),
                    kafka_wire: by_kafka_wire::<kafka_wire::$response>(case, bytes),
                },
            )*
                _ => panic!("{case:?}: only we know it"),
            }
        }

        /// The message nobody has filled in.
        fn our_default(case: Case) -> Body {
            match (case.api, case.response) {$(
                (ApiKey::$api, false) => Body::Request(meridian_wire::$request::default().into()),
                (ApiKey::$api, true) => Body::Response(meridian_wire::$response::default().into()),
            )*
                _ => panic!("{case:?}: only we know it"),
            }
        }

        fn oracle_default(case: Case) -> Option<Vec<u8>> {
            match (case.api, case.response) {$(
                (ApiKey::$api, false) => default_by_kafka_wire::<kafka_wire::$request>(case),
                (ApiKey::$api, true) => default_by_kafka_wire::<kafka_wire::$response>(case),
            )*
                _ => panic!("{case:?}: only we know it"),
            }
        }
    };
}

oracles! {
    Produce, ProduceRequest, ProduceResponse;
    Fetch, FetchRequest, FetchResponse;
    ListOffsets, ListOffsetsRequest, ListOffsetsResponse;
    Metadata, MetadataRequest, MetadataResponse;
    OffsetCommit, OffsetCommitRequest, OffsetCommitResponse;
    OffsetFetch, OffsetFetchRequest, OffsetFetchResponse;
    FindCoordinator, FindCoordinatorRequest, FindCoordinatorResponse;
    JoinGroup, JoinGroupRequest, JoinGroupResponse;
    Heartbeat, HeartbeatRequest, HeartbeatResponse;
    LeaveGroup, LeaveGroupRequest, LeaveGroupResponse;
    SyncGroup, SyncGroupRequest, SyncGroupResponse;
    DescribeGroups, DescribeGroupsRequest, DescribeGroupsResponse;
    ListGroups, ListGroupsRequest, ListGroupsResponse;
    ApiVersions, ApiVersionsRequest, ApiVersionsResponse;
    CreateTopics, CreateTopicsRequest, CreateTopicsResponse;
    DeleteTopics, DeleteTopicsRequest, DeleteTopicsResponse;
    DeleteRecords, DeleteRecordsRequest, DeleteRecordsResponse;
    InitProducerId, InitProducerIdRequest, InitProducerIdResponse;
    OffsetForLeaderEpoch, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse;
    DescribeConfigs, DescribeConfigsRequest, DescribeConfigsResponse;
    AlterConfigs, AlterConfigsRequest, AlterConfigsResponse;
    DescribeLogDirs, DescribeLogDirsRequest, DescribeLogDirsResponse;
    CreatePartitions, CreatePartitionsRequest, CreatePartitionsResponse;
    DeleteGroups, DeleteGroupsRequest, DeleteGroupsResponse;
    IncrementalAlterConfigs, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse;
    OffsetDelete, OffsetDeleteRequest, OffsetDeleteResponse;
    DescribeCluster, DescribeClusterRequest, DescribeClusterResponse;
    DescribeProducers, DescribeProducersRequest, DescribeProducersResponse;
    UnregisterBroker, UnregisterBrokerRequest, UnregisterBrokerResponse;
    ListConfigResources, ListConfigResourcesRequest, ListConfigResourcesResponse;
    DescribeTopicPartitions, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse;
}

fn by_kafka_protocol<M: Decodable + Encodable + kafka_protocol::protocol::Message>(
    case: Case,
    bytes: &[u8],
) -> Option<Vec<u8>> {
    if !(M::VERSIONS.min..=M::VERSIONS.max).contains(&case.version) {
        return None;
    }
    let mut input = Bytes::copy_from_slice(bytes);
    let message = M::decode(&mut input, case.version)
        .unwrap_or_else(|error| panic!("{case:?}: kafka-protocol cannot decode: {error}"));
    assert!(
        input.is_empty(),
        "{case:?}: kafka-protocol leaves {} bytes",
        input.len()
    );
    let mut output = BytesMut::new();
    message
        .encode(&mut output, case.version)
        .unwrap_or_else(|error| panic!("{case:?}: kafka-protocol cannot encode: {error}"));
    Some(output.to_vec())
}

fn by_kafka_wire<M: kafka_wire::KafkaMessage>(case: Case, bytes: &[u8]) -> Option<Vec<u8>> {
    let version = ApiVersion::new(case.version);
    if !M::supports(version) {
        return None;
    }
    let message = M::decode_from_bytes(Bytes::copy_from_slice(bytes), version, DecodeLimits::default())
        .unwrap_or_else(|error| panic!("{case:?}: kafka-wire cannot decode: {error}"));
    let output = message
        .encode_to_bytes(version)
        .unwrap_or_else(|error| panic!("{case:?}: kafka-wire cannot encode: {error}"));
    Some(output.to_vec())
}

fn default_by_kafka_wire<M: kafka_wire::KafkaMessage + Default>(case: Case) -> Option<Vec<u8>> {
    Some(
        M::default()
            .encode_to_bytes(ApiVersion::new(case.version))
            .ok()?
            .to_vec(),
    )
}

#[test]
fn an_empty_message_is_the_same_to_us_and_to_the_oracle() {
    let mut compared = 0;
    for case in Case::all_of_kafka() {
        let ours = case
            .encode(&our_default(case))
            .unwrap_or_else(|error| panic!("{case:?}: {error}"));
        if let Some(theirs) = oracle_default(case) {
            assert_eq!(ours, theirs, "{case:?}");
            compared += 1;
        }
    }
    assert_eq!(compared, Case::all_of_kafka().count());
}

#[test]
fn both_oracles_and_we_agree_on_every_message_in_every_version() {
    let mut random = Random(1);
    let (mut by_protocol, mut by_wire) = (0, 0);
    for case in Case::all_of_kafka() {
        for _ in 0..24 {
            let bytes = case.sample(&mut random);
            let ours = case
                .decode(&bytes)
                .unwrap_or_else(|error| panic!("{case:?}: {error}"));
            let encoded = case
                .encode(&ours)
                .unwrap_or_else(|error| panic!("{case:?}: {error}"));
            assert_eq!(encoded, bytes, "{case:?}: {ours:?}");
            let oracles = ask_oracles(case, &bytes);
            if let Some(theirs) = &oracles.kafka_protocol {
                assert_eq!(theirs, &encoded, "{case:?} by kafka-protocol");
                by_protocol += 1;
            }
            if let Some(theirs) = &oracles.kafka_wire {
                assert_eq!(theirs, &encoded, "{case:?} by kafka-wire");
                by_wire += 1;
            }
            assert!(
                oracles.kafka_protocol.is_some() || oracles.kafka_wire.is_some(),
                "{case:?}: no oracle"
            );
        }
    }
    println!("{by_protocol} messages held against kafka-protocol, {by_wire} against kafka-wire");
}

#[test]
fn the_consumer_protocol_is_that_of_the_oracle() {
    let mut random = Random(9);
    for version in ConsumerProtocolSubscription::VERSIONS.iter() {
        for _ in 0..50 {
            let mut bytes = version.to_be_bytes().to_vec();
            bytes.extend(sample::message(
                &mut random,
                ConsumerProtocolSubscription::SCHEMA,
                version,
                false,
            ));
            let bytes = Bytes::from(bytes);
            let ours: ConsumerProtocolSubscription = embedded::decode(&bytes).expect("a subscription");
            assert_eq!(embedded::encode(&ours, version), Ok(bytes.clone()));
            let (theirs_version, theirs) =
                kafka_wire::decode_consumer_protocol_subscription(bytes.clone(), DecodeLimits::default())
                    .expect("a subscription");
            assert_eq!(theirs_version.value(), version);
            let mut output = BytesMut::new();
            kafka_wire::encode_consumer_protocol_subscription(&mut output, &theirs, theirs_version)
                .expect("it was read");
            assert_eq!(output, bytes);

            let mut bytes = version.to_be_bytes().to_vec();
            bytes.extend(sample::message(
                &mut random,
                ConsumerProtocolAssignment::SCHEMA,
                version,
                false,
            ));
            let bytes = Bytes::from(bytes);
            let ours: ConsumerProtocolAssignment = embedded::decode(&bytes).expect("an assignment");
            assert_eq!(embedded::encode(&ours, version), Ok(bytes.clone()));
            let (_, theirs) =
                kafka_wire::decode_consumer_protocol_assignment(bytes.clone(), DecodeLimits::default())
                    .expect("an assignment");
            let mut output = BytesMut::new();
            kafka_wire::encode_consumer_protocol_assignment(&mut output, &theirs, ApiVersion::new(version))
                .expect("it was read");
            assert_eq!(output, bytes);
        }
    }
}

#[test]
fn headers_are_those_of_the_oracle() {
    for case in Case::all_of_kafka().filter(|case| !case.response) {
        let key = kp::ApiKey::try_from(case.api.code()).expect("the oracle knows every API");
        assert_eq!(
            case.api.request_header_version(case.version),
            key.request_header_version(case.version),
            "{case:?}"
        );
        assert_eq!(
            case.api.response_header_version(case.version),
            key.response_header_version(case.version),
            "{case:?}"
        );
        for client_id in [None, Some("über")] {
            let header = RequestHeader {
                api: case.api,
                version: case.version,
                correlation_id: 0x0102_0304,
                client_id: client_id.map(Into::into),
            };
            let mut e = Encoder::new();
            header.encode(&mut e).expect("short");
            let ours = e.finish_in_one().expect("short");
            let mut theirs = BytesMut::new();
            kp::RequestHeader::default()
                .with_request_api_key(case.api.code())
                .with_request_api_version(case.version)
                .with_correlation_id(0x0102_0304)
                .with_client_id(client_id.map(kafka_protocol::protocol::StrBytes::from_static_str))
                .encode(&mut theirs, key.request_header_version(case.version))
                .expect("short");
            assert_eq!(ours, theirs, "{case:?}");
            let mut d = Decoder::new(theirs);
            assert_eq!(RequestHeader::decode(&mut d), Ok(header));
            assert_eq!(d.finish(), Ok(()));
        }
        let header = ResponseHeader { correlation_id: -7 };
        let mut e = Encoder::new();
        header.encode(&mut e, case.api, case.version).expect("short");
        let ours = e.finish_in_one().expect("short");
        let mut theirs = BytesMut::new();
        kp::ResponseHeader::default()
            .with_correlation_id(-7)
            .encode(&mut theirs, key.response_header_version(case.version))
            .expect("short");
        assert_eq!(ours, theirs, "{case:?}");
        let mut d = Decoder::new(theirs);
        assert_eq!(ResponseHeader::decode(&mut d, case.api, case.version), Ok(header));
        assert_eq!(d.finish(), Ok(()));
    }
}
