//! Several brokers by script: leaders that move, and brokers that have stopped without dying.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use meridian_client::{Cluster, ClusterSettings, Endpoint, NewRecord, Producer, ProducerSettings};
use meridian_types::Offset;
use meridian_wire::frame::{decode_request, encode_response, frame_bytes};
use meridian_wire::messages::api_versions::ApiVersion;
use meridian_wire::messages::metadata::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use meridian_wire::messages::produce::{
    LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use meridian_wire::{
    ApiKey, ApiVersionsResponse, ErrorCode, InitProducerIdResponse, MetadataResponse, ProduceResponse,
    RequestBody, ResponseBody,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

type Script = Arc<dyn Fn(RequestBody) -> Option<ResponseBody> + Send + Sync>;

async fn listen() -> (TcpListener, Endpoint) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, Endpoint::new("127.0.0.1", port))
}

/// Answers by the script; `None` is never answered, as by a process that was stopped.
fn serve(listener: TcpListener, script: Script) {
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, Arc::clone(&script)));
        }
    });
}

async fn answer(mut stream: TcpStream, script: Script) -> Option<()> {
    loop {
        let mut prefix = [0; 4];
        stream.read_exact(&mut prefix).await.ok()?;
        let mut frame = BytesMut::zeroed(frame_bytes(prefix, 1 << 20).unwrap());
        stream.read_exact(&mut frame).await.ok()?;
        let (header, body) = decode_request(frame).unwrap();
        let (version, id) = (header.version, header.correlation_id);
        let body = match body {
            RequestBody::ApiVersions(_) => Some(versions().into()),
            body => script(body),
        };
        let segments = match &body {
            None => continue,
            Some(ResponseBody::ApiVersions(it)) => encode_response(it, header.api, version, id),
            Some(ResponseBody::Metadata(it)) => encode_response(it, header.api, version, id),
            Some(ResponseBody::Produce(it)) => encode_response(it, header.api, version, id),
            Some(ResponseBody::InitProducerId(it)) => encode_response(it, header.api, version, id),
            Some(other) => panic!("the script answers {:?}", other.api()),
        };
        for segment in segments.unwrap() {
            stream.write_all(&segment).await.ok()?;
        }
    }
}

fn versions() -> ApiVersionsResponse {
    let apis = [
        ApiKey::Metadata,
        ApiKey::Produce,
        ApiKey::InitProducerId,
        ApiKey::ApiVersions,
    ];
    let version = |api: ApiKey| ApiVersion {
        api_key: api.code(),
        min_version: api.versions().first,
        max_version: api.versions().last,
    };
    ApiVersionsResponse {
        api_keys: apis.into_iter().map(version).collect(),
        ..ApiVersionsResponse::default()
    }
}

/// Broker `n` is the `n`-th endpoint, from 1 on; partition 0 of `t` is led by broker 1.
fn metadata(brokers: &[Endpoint]) -> ResponseBody {
    let broker = |(id, endpoint): (i32, &Endpoint)| MetadataResponseBroker {
        node_id: id,
        host: endpoint.host.clone().into(),
        port: endpoint.port.into(),
        ..MetadataResponseBroker::default()
    };
    MetadataResponse {
        brokers: (1..).zip(brokers).map(broker).collect(),
        topics: vec![MetadataResponseTopic {
            name: Some("t".into()),
            partitions: vec![MetadataResponsePartition {
                leader_id: 1,
                leader_epoch: 4,
                ..MetadataResponsePartition::default()
            }],
            ..MetadataResponseTopic::default()
        }],
        ..MetadataResponse::default()
    }
    .into()
}

fn identity() -> ResponseBody {
    InitProducerIdResponse {
        producer_id: 7,
        ..InitProducerIdResponse::default()
    }
    .into()
}

fn produced(partition: PartitionProduceResponse, node_endpoints: Vec<NodeEndpoint>) -> ResponseBody {
    ProduceResponse {
        responses: vec![TopicProduceResponse {
            name: "t".into(),
            partition_responses: vec![partition],
            ..TopicProduceResponse::default()
        }],
        node_endpoints,
        ..ProduceResponse::default()
    }
    .into()
}

#[tokio::test]
async fn a_batch_follows_the_leader_that_the_refusal_names_without_new_metadata() {
    let (old, old_endpoint) = listen().await;
    let (new, new_endpoint) = listen().await;
    let asked_metadata = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked_metadata);
    // The new leader is in no metadata: its address comes with the refusal.
    let (told, moved_to) = (old_endpoint.clone(), new_endpoint);
    serve(
        old,
        Arc::new(move |request| match request {
            RequestBody::Metadata(_) => {
                count.fetch_add(1, Ordering::Relaxed);
                Some(metadata(std::slice::from_ref(&told)))
            }
            RequestBody::InitProducerId(_) => Some(identity()),
            RequestBody::Produce(_) => {
                let refused = PartitionProduceResponse {
                    error_code: ErrorCode::NotLeaderOrFollower.code(),
                    current_leader: LeaderIdAndEpoch {
                        leader_id: 2,
                        leader_epoch: 5,
                    },
                    ..PartitionProduceResponse::default()
                };
                let endpoint = NodeEndpoint {
                    node_id: 2,
                    host: moved_to.host.clone().into(),
                    port: moved_to.port.into(),
                    ..NodeEndpoint::default()
                };
                Some(produced(refused, vec![endpoint]))
            }
            _ => None,
        }),
    );
    serve(
        new,
        Arc::new(|request| match request {
            RequestBody::Produce(_) => {
                let written = PartitionProduceResponse {
                    base_offset: 40,
                    ..PartitionProduceResponse::default()
                };
                Some(produced(written, Vec::new()))
            }
            _ => None,
        }),
    );
    let cluster = Cluster::connect(ClusterSettings {
        // Whoever waits for another try, or for metadata, is too late.
        retry_wait: Duration::from_secs(20),
        retry_wait_max: Duration::from_secs(20),
        ..ClusterSettings::new(vec![old_endpoint])
    })
    .await
    .unwrap();
    let producer = Producer::start(&cluster, ProducerSettings::default())
        .await
        .unwrap();
    cluster.topic("t").await.unwrap();
    let before = asked_metadata.load(Ordering::Relaxed);
    let delivery = producer.send(&NewRecord::new("t", b"x")).await.unwrap();
    let written = tokio::time::timeout(Duration::from_secs(15), delivery.wait()).await;
    assert_eq!(written.unwrap().unwrap().offset, Some(Offset(40)));
    assert_eq!(asked_metadata.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn a_broker_that_has_stopped_keeps_nobody_from_the_others() {
    let (stopped, stopped_endpoint) = listen().await;
    let (well, well_endpoint) = listen().await;
    serve(stopped, Arc::new(|_| None));
    let told = [stopped_endpoint.clone(), well_endpoint.clone()];
    serve(
        well,
        Arc::new(move |request| match request {
            RequestBody::Metadata(_) => Some(metadata(&told)),
            _ => None,
        }),
    );
    let settings = ClusterSettings::new(vec![stopped_endpoint, well_endpoint]);
    let begun = Instant::now();
    let cluster = Cluster::connect(settings).await.unwrap();
    // Whichever of the two is asked first.
    for _ in 0..2 {
        cluster.refresh(Some(&["t"])).await.unwrap();
    }
    // Whoever waits for the stopped one waits for 30 s.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
