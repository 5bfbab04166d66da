//! A broker over a real region in a temporary directory, and a client that speaks raw messages.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meridian_broker::{Broker, BrokerHandle, BrokerSettings, ListenerSettings};
use meridian_controller::HostPort;
use meridian_journal::{Disk, Journal, JournalSettings, RealDisk};
use meridian_net::testing::MemoryNet;
use meridian_shard::{
    GeoSettings, GeoTls, LinkSettings, OsNetwork, PeerSettings, Region, RegionParts, RegionSettings,
};
use meridian_types::{NodeId, RegionNumber, TimestampMs, Uuid};
use meridian_wire::batch::{BatchBuilder, Compression};
use meridian_wire::create_topics::{CreatableTopic, CreatableTopicConfig};
use meridian_wire::fetch::{FetchPartition, FetchTopic};
use meridian_wire::frame::{decode_response, encode_request};
use meridian_wire::produce::{PartitionProduceData, TopicProduceData};
use meridian_wire::{
    CreateTopicsRequest, FetchRequest, FetchResponse, ProduceRequest, ProduceResponse, Request, Str,
};
use prometheus::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A node's worth of broker.
pub(crate) struct TestBroker {
    pub(crate) address: SocketAddr,
    pub(crate) region: Region,
    pub(crate) registry: Registry,
    pub(crate) now: Arc<AtomicI64>,
    shutdown: CancellationToken,
    handle: BrokerHandle,
    writer: std::thread::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl TestBroker {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut BrokerSettings)) -> Self {
        let settings = RegionSettings {
            rack: Some("a".to_owned()),
            ..RegionSettings::new(PeerSettings::new(NodeId(1), Uuid::from_u128(1), "test"))
        };
        Self::of(settings, change).await
    }

    /// The only broker of region `number`, which mirrors the region that answers at one of `seeds`; without any it owns.
    pub(crate) async fn of_region(number: u16, seeds: Vec<String>) -> Self {
        let loopback = std::net::Ipv4Addr::LOCALHOST;
        let region = RegionNumber(number);
        let geo = GeoSettings {
            number: region,
            listen: (loopback, 0).into(),
            advertise: None,
            seeds,
            buckets: Vec::new(),
            send_bytes_per_second_max: None,
            transport: LinkSettings {
                bind: loopback.into(),
                connections: 1,
                ..LinkSettings::new([number as u8; 32])
            },
            tls: GeoTls::ephemeral().unwrap(),
            network: Arc::new(OsNetwork),
        };
        let node = region.node(1).unwrap();
        let incarnation = Uuid::from_u128(u128::from(number) << 64 | 1);
        let settings = RegionSettings {
            maintenance_interval: Duration::from_millis(100),
            geo: Some(geo),
            ..RegionSettings::new(PeerSettings::new(node, incarnation, format!("region-{number}")))
        };
        Self::of(settings, |_| {}).await
    }

    async fn of(settings: RegionSettings, change: impl FnOnce(&mut BrokerSettings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::open(directory.path().join("journal")).unwrap());
        let journal = JournalSettings {
            file_bytes: 8 << 20,
            bytes_max: 64 << 20,
            ..JournalSettings::new(7)
        };
        let (journal, writer) = Journal::open(disk, journal).unwrap();
        let writer = std::thread::Builder::new().spawn(move || writer.run()).unwrap();
        let checkpoints: Arc<dyn Disk> =
            Arc::new(RealDisk::open(directory.path().join("checkpoints")).unwrap());
        let now = Arc::new(AtomicI64::new(1_700_000_000_000));
        let clock = now.clone();
        let random = AtomicU64::new(1 + u64::from(settings.peer.node.0));
        let region_settings = RegionSettings {
            shards: 4,
            journal_bytes_max: 64 << 20,
            start_timeout: PATIENCE,
            ..settings
        };
        let parts = RegionParts {
            journal,
            checkpoints,
            net: Arc::new(MemoryNet::new().host("alone")),
            clock: Arc::new(move || TimestampMs(clock.load(Ordering::Relaxed))),
            random: Arc::new(move || u128::from(random.fetch_add(1, Ordering::Relaxed)) << 80 | 0xabcd),
        };
        let region = Region::start(region_settings, parts).await.unwrap();
        let mut settings = BrokerSettings::default();
        settings.kafka.group_initial_rebalance_delay = Duration::ZERO;
        change(&mut settings);
        let registry = Registry::new();
        let shutdown = CancellationToken::new();
        let listener = ListenerSettings {
            name: "test".to_owned(),
            bind: "127.0.0.1:0".parse().unwrap(),
            advertised: None,
        };
        let handle = Broker::start(
            settings,
            region.clone(),
            vec![listener],
            &registry,
            shutdown.clone(),
        )
        .await
        .unwrap();
        let address = handle.local_addresses()[0];
        let told = HostPort {
            host: address.ip().to_string(),
            port: address.port(),
        };
        region.register(told).await.unwrap();
        Self {
            address,
            region,
            registry,
            now,
            shutdown,
            handle,
            writer,
            _directory: directory,
        }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    pub(crate) async fn create_topic(
        &self,
        name: &'static str,
        partitions: i32,
        configs: &[(&'static str, &'static str)],
    ) -> Uuid {
        let mut client = self.client().await;
        let configs = configs.iter().map(|(name, value)| CreatableTopicConfig {
            name: (*name).into(),
            value: Some((*value).into()),
        });
        let topic = CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: -1,
            configs: configs.collect(),
            ..Default::default()
        };
        let request = CreateTopicsRequest {
            topics: vec![topic],
            timeout_ms: 10_000,
            ..Default::default()
        };
        let response = client.call(&request, 7).await;
        assert_eq!(
            response.topics[0].error_code, 0,
            "{:?}",
            response.topics[0].error_message
        );
        response.topics[0].topic_id
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let value = |metric: &prometheus::proto::Metric| {
            metric.get_gauge().get_value() + metric.get_counter().get_value()
        };
        family.get_metric().iter().map(value).sum()
    }

    /// Waits until a metric has a value.
    pub(crate) async fn until_metric(&self, name: &str, value: f64) {
        let started = Instant::now();
        while self.metric(name) != value {
            assert!(started.elapsed() < PATIENCE, "{name} is {}", self.metric(name));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn begin_shutdown(&self) {
        self.shutdown.cancel();
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.handle.join().await;
        self.region.shutdown().await;
        self.writer.join().unwrap();
    }
}

/// One connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    correlation_id: i32,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            correlation_id: 0,
        }
    }

    /// Sends without waiting; the number that the response will bear.
    pub(crate) async fn send<R: Request>(&mut self, request: &R, version: i16) -> i32 {
        self.correlation_id += 1;
        let frame = encode_request(request, version, self.correlation_id, Some(Str::from("test"))).unwrap();
        for segment in frame {
            self.stream.write_all(&segment).await.unwrap();
        }
        self.correlation_id
    }

    /// The next response, which must be that to `correlation_id`.
    pub(crate) async fn receive<R: Request>(&mut self, version: i16, correlation_id: i32) -> R::Response {
        let frame = self.frame().await.expect("the broker answers");
        let (header, response) = decode_response::<R>(frame, version).unwrap();
        assert_eq!(header.correlation_id, correlation_id);
        response
    }

    pub(crate) async fn call<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
        let correlation_id = self.send(request, version).await;
        self.receive::<R>(version, correlation_id).await
    }

    /// The next frame; `None` when the broker has closed the connection.
    pub(crate) async fn frame(&mut self) -> Option<BytesMut> {
        let mut prefix = [0; 4];
        let read = tokio::time::timeout(PATIENCE, self.stream.read_exact(&mut prefix));
        match read.await.expect("in time") {
            Ok(_) => {}
            Err(error) if is_end(&error) => return None,
            Err(error) => panic!("{error}"),
        }
        let mut frame = BytesMut::zeroed(i32::from_be_bytes(prefix) as usize);
        self.stream.read_exact(&mut frame).await.unwrap();
        Some(frame)
    }

    pub(crate) async fn produce(
        &mut self,
        topic: &'static str,
        partition: i32,
        records: Bytes,
    ) -> ProduceResponse {
        self.call(&produce(topic, partition, &records, -1), 9).await
    }

    pub(crate) async fn fetch(&mut self, request: &FetchRequest) -> FetchResponse {
        self.call(request, 12).await
    }
}

fn is_end(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset
    )
}

/// A produce request of one batch.
pub(crate) fn produce(topic: &'static str, partition: i32, records: &[u8], acks: i16) -> ProduceRequest {
    let data = PartitionProduceData {
        index: partition,
        records: Some(BytesMut::from(records)),
    };
    let topic = TopicProduceData {
        name: topic.into(),
        partition_data: vec![data],
        ..Default::default()
    };
    ProduceRequest {
        acks,
        timeout_ms: 10_000,
        topic_data: vec![topic],
        ..Default::default()
    }
}

/// A fetch request of one partition, outside of any session.
pub(crate) fn fetch(topic: &'static str, partition: i32, offset: i64) -> FetchRequest {
    let partition = FetchPartition {
        partition,
        fetch_offset: offset,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    let topic = FetchTopic {
        topic: topic.into(),
        partitions: vec![partition],
        ..Default::default()
    };
    FetchRequest {
        max_wait_ms: 0,
        min_bytes: 1,
        max_bytes: 50 << 20,
        topics: vec![topic],
        ..Default::default()
    }
}

/// A batch with these values.
pub(crate) fn batch(timestamp: i64, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        builder
            .push(TimestampMs(timestamp), Some(b"key"), Some(value.as_bytes()), &[])
            .unwrap();
    }
    builder.build().unwrap()
}
