//! Servers that are not there, silent, wrong or dying: the error says where, in which phase, and whether the request
//! may have been executed.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]

use std::time::Duration;

use bytes::BytesMut;
use meridian_client::{
    Cluster, ClusterSettings, Connection, ConnectionSettings, Endpoint, NewRecord, Phase, Producer,
    ProducerSettings, RequestCause, RequestError,
};
use meridian_wire::frame::{decode_request, encode_response, frame_bytes};
use meridian_wire::messages::api_versions::ApiVersion;
use meridian_wire::messages::metadata::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use meridian_wire::messages::produce::{PartitionProduceResponse, TopicProduceResponse};
use meridian_wire::{
    ApiKey, ApiVersionsResponse, ErrorCode, InitProducerIdResponse, MetadataRequest, MetadataResponse,
    ProduceResponse, RequestBody, ResponseBody,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

async fn listen() -> (TcpListener, Endpoint) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, Endpoint::new("127.0.0.1", port))
}

/// For a server that leaves one waiting.
fn impatient() -> ConnectionSettings {
    ConnectionSettings {
        connect_timeout: Duration::from_millis(500),
        ..ConnectionSettings::default()
    }
}

/// For a server that answers as soon as the machine lets it.
fn settings() -> ConnectionSettings {
    ConnectionSettings {
        connect_timeout: Duration::from_secs(30),
        ..ConnectionSettings::default()
    }
}

/// Opens a connection to a server that answers the first bytes with `answer` and then closes.
async fn open_against(answer: Vec<u8>) -> RequestError {
    let (listener, endpoint) = listen().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_buf(&mut BytesMut::with_capacity(1024)).await.unwrap();
        stream.write_all(&answer).await.unwrap();
    });
    Connection::open(&endpoint, &settings()).await.unwrap_err()
}

#[tokio::test]
async fn nothing_listens() {
    let (listener, endpoint) = listen().await;
    drop(listener);
    let error = Connection::open(&endpoint, &settings()).await.unwrap_err();
    assert_eq!((error.phase, error.may_have_executed), (Phase::Connect, false));
    assert!(error.is_retriable());
    assert!(error.to_string().contains(&endpoint.to_string()), "{error}");
}

#[tokio::test]
async fn the_host_is_unknown() {
    let endpoint = Endpoint::new("no-such-host.invalid", 9092);
    let error = Connection::open(&endpoint, &impatient()).await.unwrap_err();
    assert_eq!(error.phase, Phase::Resolve);
}

#[tokio::test]
async fn the_server_says_nothing() {
    let (listener, endpoint) = listen().await;
    let error = Connection::open(&endpoint, &impatient()).await.unwrap_err();
    drop(listener);
    assert_eq!(error.phase, Phase::Negotiate);
    assert!(matches!(error.cause, RequestCause::Timeout(_)), "{error}");
}

#[tokio::test]
async fn the_server_speaks_something_else() {
    for answer in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        vec![0xff; 64],
        vec![0, 0, 0, 2, 1, 2],
        vec![0, 0, 0, 10, 0, 0, 0, 1, 0, 0, 0x7f, 0xff, 0xff, 0xff],
        Vec::new(),
    ] {
        let error = open_against(answer.clone()).await;
        assert_eq!(error.phase, Phase::Negotiate, "{answer:?}: {error}");
    }
}

/// What a scripted server does with a request.
enum Reply {
    With(Box<ResponseBody>),
    Silence,
    Close,
}

/// Serves connections by a script; requests are answered with what it says.
fn serve(listener: TcpListener, mut script: impl FnMut(RequestBody) -> Reply + Send + 'static) {
    let (asks, mut asked) = mpsc::channel::<(RequestBody, tokio::sync::oneshot::Sender<Reply>)>(16);
    tokio::spawn(async move {
        while let Some((request, reply)) = asked.recv().await {
            drop(reply.send(script(request)));
        }
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, asks.clone()));
        }
    });
}

async fn answer(
    mut stream: TcpStream,
    asks: mpsc::Sender<(RequestBody, tokio::sync::oneshot::Sender<Reply>)>,
) -> Option<()> {
    loop {
        let mut prefix = [0; 4];
        stream.read_exact(&mut prefix).await.ok()?;
        let mut frame = BytesMut::zeroed(frame_bytes(prefix, 1 << 20).unwrap());
        stream.read_exact(&mut frame).await.ok()?;
        let (header, body) = decode_request(frame).unwrap();
        let reply = if header.api == ApiKey::ApiVersions {
            Reply::With(Box::new(versions().into()))
        } else {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            asks.send((body, sender)).await.ok()?;
            receiver.await.ok()?
        };
        match reply {
            Reply::With(response) => {
                let segments = encode(&response, header.version, header.correlation_id);
                for segment in segments {
                    stream.write_all(&segment).await.ok()?;
                }
            }
            Reply::Silence => {}
            Reply::Close => return None,
        }
    }
}

fn encode(response: &ResponseBody, version: i16, correlation_id: i32) -> Vec<bytes::Bytes> {
    match response {
        ResponseBody::ApiVersions(it) => encode_response(it, ApiKey::ApiVersions, version, correlation_id),
        ResponseBody::Metadata(it) => encode_response(it, ApiKey::Metadata, version, correlation_id),
        ResponseBody::Produce(it) => encode_response(it, ApiKey::Produce, version, correlation_id),
        ResponseBody::InitProducerId(it) => {
            encode_response(it, ApiKey::InitProducerId, version, correlation_id)
        }
        other => panic!("the script answers {:?}", other.api()),
    }
    .unwrap()
}

fn versions() -> ApiVersionsResponse {
    let apis = [
        ApiKey::Metadata,
        ApiKey::Produce,
        ApiKey::InitProducerId,
        ApiKey::ApiVersions,
    ];
    ApiVersionsResponse {
        api_keys: apis
            .into_iter()
            .map(|api| ApiVersion {
                api_key: api.code(),
                min_version: api.versions().first,
                max_version: api.versions().last,
            })
            .collect(),
        ..ApiVersionsResponse::default()
    }
}

fn metadata(endpoint: &Endpoint) -> ResponseBody {
    MetadataResponse {
        brokers: vec![MetadataResponseBroker {
            node_id: 1,
            host: endpoint.host.clone().into(),
            port: endpoint.port.into(),
            ..MetadataResponseBroker::default()
        }],
        topics: vec![MetadataResponseTopic {
            name: Some("t".into()),
            partitions: vec![MetadataResponsePartition {
                leader_id: 1,
                ..MetadataResponsePartition::default()
            }],
            ..MetadataResponseTopic::default()
        }],
        ..MetadataResponse::default()
    }
    .into()
}

#[tokio::test]
async fn a_request_that_was_sent_may_have_been_executed_and_one_that_was_not_has_not() {
    let (listener, endpoint) = listen().await;
    serve(listener, |_| Reply::Silence);
    let connection = Connection::open(&endpoint, &settings()).await.unwrap();
    let limit = Duration::from_millis(200);
    let error = connection
        .send(&MetadataRequest::default(), limit)
        .await
        .unwrap_err();
    assert_eq!(
        (error.phase, error.may_have_executed),
        (Phase::Request(ApiKey::Metadata), true)
    );
    assert!(error.to_string().contains("may have executed"), "{error}");
    // The connection is closed with it, in a moment; what comes later was never sent.
    while connection.is_open() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let error = connection
        .send(&MetadataRequest::default(), limit)
        .await
        .unwrap_err();
    assert!(!error.may_have_executed, "{error}");
}

#[tokio::test]
async fn every_request_on_a_connection_that_dies_learns_of_it() {
    let (listener, endpoint) = listen().await;
    serve(listener, |_| Reply::Close);
    let connection = Connection::open(&endpoint, &settings()).await.unwrap();
    let limit = Duration::from_secs(10);
    let request = MetadataRequest::default();
    let mut pending = Vec::new();
    for _ in 0..5 {
        pending.push(connection.submit(&request, limit).await.unwrap());
    }
    for pending in pending {
        let error = pending.wait().await.unwrap_err();
        assert!(error.is_retriable(), "{error}");
    }
}

#[tokio::test]
async fn an_api_that_is_not_served_is_named() {
    let (listener, endpoint) = listen().await;
    serve(listener, |_| Reply::Silence);
    let connection = Connection::open(&endpoint, &settings()).await.unwrap();
    let request = meridian_wire::ListGroupsRequest::default();
    let error = connection
        .send(&request, Duration::from_secs(30))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error.cause,
            RequestCause::Unsupported {
                api: ApiKey::ListGroups,
                ..
            }
        ),
        "{error}"
    );
    assert!(!error.may_have_executed);
}

/// A broker that writes batches down, loses connections and refuses, by turns.
#[tokio::test]
async fn a_producer_gets_every_record_through_a_broker_that_fails_by_turns() {
    let (listener, endpoint) = listen().await;
    let told = endpoint.clone();
    let (written, mut log) = mpsc::unbounded_channel();
    let mut turn = 0;
    let mut known: Vec<i32> = Vec::new();
    serve(listener, move |request| {
        let request = match request {
            RequestBody::Metadata(_) => return Reply::With(Box::new(metadata(&told))),
            RequestBody::InitProducerId(_) => {
                let identity = InitProducerIdResponse {
                    producer_id: 7,
                    ..InitProducerIdResponse::default()
                };
                return Reply::With(Box::new(identity.into()));
            }
            RequestBody::Produce(request) => request,
            _ => return Reply::Close,
        };
        turn += 1;
        let partition = &request.topic_data[0].partition_data[0];
        let batch = partition.records.clone().unwrap().freeze();
        let header = meridian_wire::batch::BatchHeader::parse(&batch).unwrap();
        let answer = |code: ErrorCode| {
            let response = ProduceResponse {
                responses: vec![TopicProduceResponse {
                    name: "t".into(),
                    partition_responses: vec![PartitionProduceResponse {
                        error_code: code.code(),
                        ..PartitionProduceResponse::default()
                    }],
                    ..TopicProduceResponse::default()
                }],
                ..ProduceResponse::default()
            };
            Reply::With(Box::new(response.into()))
        };
        if turn % 5 == 1 {
            return Reply::Close;
        }
        if turn % 5 == 2 {
            return answer(ErrorCode::NotLeaderOrFollower);
        }
        let next = known.last().map_or(0, |last| last + 1);
        if !known.contains(&header.base_sequence) {
            if header.base_sequence != next {
                return answer(ErrorCode::OutOfOrderSequenceNumber);
            }
            known.push(header.base_sequence);
            for record in meridian_wire::batch::records(&batch, 1 << 20).unwrap() {
                written.send(record.unwrap().value.unwrap()).unwrap();
            }
        }
        if turn % 5 == 3 {
            Reply::Close
        } else {
            answer(ErrorCode::None)
        }
    });
    let cluster = ClusterSettings {
        retry_wait: Duration::from_millis(1),
        retry_wait_max: Duration::from_millis(2),
        ..ClusterSettings::new(vec![endpoint])
    };
    let cluster = Cluster::connect(cluster).await.unwrap();
    let settings = ProducerSettings {
        // A batch for each record.
        batch_bytes: 1,
        ..ProducerSettings::default()
    };
    let producer = Producer::start(&cluster, settings).await.unwrap();
    let mut deliveries = Vec::new();
    for number in 0..50_u8 {
        deliveries.push(producer.send(&NewRecord::new("t", &[number])).await.unwrap());
    }
    for delivery in deliveries {
        delivery.wait().await.unwrap();
    }
    drop(producer);
    let mut values = Vec::new();
    while let Ok(value) = log.try_recv() {
        values.push(value[0]);
    }
    assert!(values.iter().copied().eq(0..50), "{values:?}");
}

#[tokio::test]
async fn a_record_that_cannot_be_delivered_in_time_fails_with_the_last_reason() {
    let (listener, endpoint) = listen().await;
    let told = endpoint.clone();
    serve(listener, move |request| match request {
        RequestBody::Metadata(_) => Reply::With(Box::new(metadata(&told))),
        RequestBody::InitProducerId(_) => Reply::With(Box::new(InitProducerIdResponse::default().into())),
        _ => Reply::Close,
    });
    let cluster = Cluster::connect(ClusterSettings::new(vec![endpoint]))
        .await
        .unwrap();
    let settings = ProducerSettings {
        delivery_timeout: Duration::from_secs(1),
        ..ProducerSettings::default()
    };
    let producer = Producer::start(&cluster, settings).await.unwrap();
    let mut errors = Vec::new();
    // A machine that stands still lets one record expire before it was ever sent.
    for _ in 0..5 {
        let delivery = producer.send(&NewRecord::new("t", b"x")).await.unwrap();
        let error = delivery.wait().await.unwrap_err().to_string();
        if error.contains("it may be written") && error.contains("closed the connection") {
            return;
        }
        errors.push(error);
    }
    panic!("{errors:?}");
}

#[tokio::test]
async fn a_full_buffer_makes_the_sender_wait_and_then_says_so() {
    let (listener, endpoint) = listen().await;
    let told = endpoint.clone();
    serve(listener, move |request| match request {
        RequestBody::Metadata(_) => Reply::With(Box::new(metadata(&told))),
        RequestBody::InitProducerId(_) => Reply::With(Box::new(InitProducerIdResponse::default().into())),
        _ => Reply::Silence,
    });
    let cluster = Cluster::connect(ClusterSettings::new(vec![endpoint]))
        .await
        .unwrap();
    let settings = ProducerSettings {
        buffer_bytes: 10_000,
        buffer_timeout: Duration::from_millis(100),
        ..ProducerSettings::default()
    };
    let producer = Producer::start(&cluster, settings).await.unwrap();
    let value = [0; 1000];
    let mut taken = 0;
    let error = loop {
        match producer.send(&NewRecord::new("t", &value)).await {
            Ok(_) => taken += 1,
            Err(error) => break error.to_string(),
        }
    };
    assert!((8..=10).contains(&taken), "{taken} records are in the buffer");
    assert!(error.contains("buffer stayed full"), "{error}");
    let large = [0; 20_000];
    let error = producer
        .send(&NewRecord::new("t", &large))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("at most 10000"), "{error}");
}
