//! One node, from settings to a running server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures::future::BoxFuture;
use meridian_broker::{Broker, BrokerHandle, BrokerSettings, HostPort, ListenError, ListenerSettings};
use meridian_journal::{Disk, Journal, JournalSettings, RealDisk};
use meridian_net::TcpNet;
use meridian_peer::TlsError;
use meridian_shard::{
    PeerSettings, PeerTls, Region, RegionParts, RegionSettings, RegionStartError, RegisterError,
    ShardSettings,
};
use meridian_types::NodeId;
use prometheus::Registry;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin};
use crate::bucket::{self, BucketError};
use crate::driver::{self, UrgentRuntime};
use crate::geo;
use crate::identity::{self, IdentityError};
use crate::metrics::Metrics;
use crate::restore::{self, HalfRestored};
use crate::settings::{Durability, Settings};

/// Why a node does not start. The text says what to do.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The data directory cannot be used.
    #[error("data directory {directory}: {source}")]
    Data {
        /// The directory.
        directory: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] meridian_journal::OpenError),
    /// The data directory belongs to another node.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The data directory is not whole.
    #[error(transparent)]
    HalfRestored(#[from] HalfRestored),
    /// The Kafka listener cannot be opened.
    #[error(transparent)]
    Kafka(#[from] ListenError),
    /// The admin listener cannot be opened.
    #[error("cannot listen on {address} for admin: {source}")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The region does not take this node.
    #[error("this node cannot be registered: {0}")]
    Register(#[from] RegisterError),
    /// The node cannot take its part in the region.
    #[error(transparent)]
    Region(#[from] RegionStartError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The bucket cannot be used.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The certificates for the other nodes cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The certificates for other regions cannot be used.
    #[error(transparent)]
    GeoTls(#[from] meridian_shard::GeoTlsError),
    /// Metrics clash: a defect.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Left on the disk for checkpoints, unless half a file of the journal is less.
const CHECKPOINT_BYTES: u64 = 64 << 20;

/// Leaderships are given away for so long before a planned stop.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// A running node.
pub struct Server {
    kafka: SocketAddr,
    admin: SocketAddr,
    region: Region,
    broker: BrokerHandle,
    writer: JoinHandle<()>,
    /// Says that the node is about to stop.
    stopping: CancellationToken,
    broker_stop: CancellationToken,
    admin_stop: CancellationToken,
    _urgent: UrgentRuntime,
}

impl Server {
    /// Recovers what the data directory holds, and serves. Returns when the node takes requests.
    pub fn start(settings: &Settings) -> BoxFuture<'_, Result<Self, ServerError>> {
        // Boxed, so that this crate compiles what it awaits, and not each that awaits it (docs/HACKING.md, "Compile time").
        Box::pin(async move {
            let random = driver::randomness(None);
            let data = &settings.node.data;
            restore::check_whole(data)?;
            let incarnation = identity::identify(data, NodeId(settings.node.id), &random)?;
            let disk = |name: &str| {
                let directory = data.join(name);
                RealDisk::open(&directory)
                    .map(Arc::new)
                    .map_err(|source| ServerError::Data {
                        directory: directory.display().to_string(),
                        source,
                    })
            };
            let (journal_disk, checkpoint_disk) = (disk("journal")?, disk("checkpoints")?);
            let journal_bytes_max = journal_budget(&*journal_disk, settings);
            let journal_settings = JournalSettings {
                bytes_max: journal_bytes_max,
                ..journal_settings(settings, random() as u64)
            };
            let opened = tokio::task::spawn_blocking(move || Journal::open(journal_disk, journal_settings));
            let (journal, writer) = opened.await.expect("recovery does not panic")?;
            let writer = driver::spawn_writer(writer).map_err(ServerError::Thread)?;

            let urgent = UrgentRuntime::start().map_err(ServerError::Thread)?;
            let peer = PeerSettings {
                tls: peer_tls(settings)?,
                urgent: Some(urgent.handle()),
                ..PeerSettings::new(
                    geo::broker_id(settings),
                    incarnation,
                    settings.region.name.0.clone(),
                )
            };
            let parts = RegionParts {
                journal,
                checkpoints: checkpoint_disk,
                net: Arc::new(TcpNet),
                clock: driver::wall_clock(),
                random,
            };
            let (stopping, admin_stop) = (CancellationToken::new(), CancellationToken::new());
            let (progress, waiting_for) = watch::channel("the node starts".to_owned());
            let admin_error = |source| ServerError::Admin {
                address: settings.admin.listen,
                source,
            };
            let listener = admin::bind(settings.admin.listen).await.map_err(admin_error)?;
            let admin_address = listener.local_addr().map_err(admin_error)?;
            let admin = Arc::new(Admin::new(waiting_for, stopping.clone()));
            tokio::spawn(admin::serve(listener, Arc::clone(&admin), admin_stop.clone()));
            // A node that does not get to serve does not answer for long.
            let unless_started = admin_stop.clone().drop_guard();
            let region_settings = RegionSettings {
                journal_bytes_max,
                progress: Some(progress),
                bucket: bucket::open(settings, &parts).await?,
                geo: geo::settings(settings, &parts.random)?,
                ..region_settings(settings, peer)
            };
            let region = Region::start(region_settings, parts).await?;
            let registry = Registry::new();
            let broker_stop = CancellationToken::new();
            let broker_settings = broker_settings(settings);
            let listener = ListenerSettings {
                name: "kafka".to_owned(),
                bind: settings.kafka.listen,
                advertised: settings
                    .kafka
                    .advertise
                    .as_ref()
                    .and_then(|text| host_and_port(&text.0)),
            };
            let broker = Broker::start(
                broker_settings,
                region.clone(),
                vec![listener],
                &registry,
                broker_stop.clone(),
            )
            .await?;
            let kafka = broker.local_addresses()[0];
            region.register(told_address(settings, kafka)).await?;
            admin.started(region.clone(), Metrics::new(registry)?);
            unless_started.disarm();
            Ok(Self {
                kafka,
                admin: admin_address,
                region,
                broker,
                writer,
                stopping,
                broker_stop,
                admin_stop,
                _urgent: urgent,
            })
        })
    }

    /// Where Kafka clients connect.
    pub fn kafka_address(&self) -> SocketAddr {
        self.kafka
    }

    /// Where health and metrics are served.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Where nodes of other regions are told to connect, where this region is one of several.
    pub fn geo_address(&self) -> Option<String> {
        self.region.geo_address()
    }

    /// The id under which clients know this node.
    pub fn broker_id(&self) -> NodeId {
        self.region.node_id()
    }

    /// Hands leadership over, finishes what is in flight, makes checkpoints and stops.
    pub fn stop(self) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.stopping.cancel();
            let left = self.region.hand_over(HAND_OVER_TIMEOUT).await;
            if left > 0 {
                tracing::info!(
                    shards = left,
                    "no other node takes the leadership of these shards"
                );
            }
            self.broker_stop.cancel();
            self.broker.join().await;
            self.region.shutdown().await;
            let writer = self.writer;
            if tokio::task::spawn_blocking(move || writer.join().is_err())
                .await
                .unwrap_or(true)
            {
                tracing::error!("the journal's thread ended badly");
            }
            self.admin_stop.cancel();
        })
    }
}

/// `journal.bytes_max`, or what the disk has for the journal if that is less: a tenth of what is free is left for
/// checkpoints and others.
fn journal_budget(disk: &dyn Disk, settings: &Settings) -> u64 {
    let wanted = settings.journal.bytes_max.0;
    let (Ok(files), Ok(free_bytes)) = (disk.list(), disk.free_bytes()) else {
        return wanted;
    };
    let held_bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let room = (held_bytes + free_bytes / 10 * 9).max(3 * settings.journal.file_bytes.0);
    if wanted > room {
        tracing::info!(
            journal_bytes_max = wanted,
            room,
            "the disk has less room than journal.bytes_max: the oldest files go earlier"
        );
    }
    wanted.min(room)
}

fn journal_settings(settings: &Settings, seed: u64) -> JournalSettings {
    JournalSettings {
        file_bytes: settings.journal.file_bytes.0,
        left_free_bytes: (settings.journal.file_bytes.0 / 2).min(CHECKPOINT_BYTES),
        cache_bytes: settings.journal.cache_bytes.as_usize(),
        queue_bytes_max: settings.journal.queue_bytes_max.as_usize(),
        durability: match settings.journal.durability {
            Durability::Fsync => meridian_journal::Durability::Fsync,
            Durability::Memory => meridian_journal::Durability::Memory,
        },
        ..JournalSettings::new(seed)
    }
}

fn region_settings(settings: &Settings, peer: PeerSettings) -> RegionSettings {
    let address = |text: &str| host_and_port(text).map(|at| meridian_shard::HostPort::new(at.host, at.port));
    RegionSettings {
        peer_listen: settings.peer_listen(),
        peer_advertise: settings.peer.advertise.as_ref().and_then(|text| address(&text.0)),
        seeds: settings
            .region
            .seeds
            .0
            .iter()
            .filter_map(|seed| address(seed))
            .collect(),
        rack: settings.node.rack.as_ref().map(|rack| rack.0.clone()),
        feature_level_max: settings.node.feature_level_max,
        replicas: settings.region.replicas,
        shards: settings.region.shards,
        cluster_id: settings.region.cluster_id.as_ref().map(|id| id.0.clone()),
        heartbeat_interval: Duration::from_millis(settings.raft.heartbeat_interval_ms),
        election_timeout: Duration::from_millis(settings.raft.election_timeout_ms),
        dead_after: Duration::from_secs(settings.region.dead_after_seconds),
        maintenance_interval: Duration::from_millis(settings.shard.maintenance_interval_ms),
        start_timeout: Duration::from_secs(60),
        shard: ShardSettings {
            queue_bytes_max: settings.shard.queue_bytes_max.as_usize(),
            command_bytes_max: settings.shard.command_bytes_max.as_usize(),
            proposals_in_flight_max: settings.shard.proposals_in_flight_max,
            bytes_in_flight_max: settings.shard.bytes_in_flight_max.as_usize(),
            checkpoint_entries: settings.shard.checkpoint_entries,
            checkpoint_bytes: settings.shard.checkpoint_bytes.0,
        },
        ..RegionSettings::new(peer)
    }
}

fn peer_tls(settings: &Settings) -> Result<Option<PeerTls>, TlsError> {
    let peer = &settings.peer;
    match (&peer.tls_cert, &peer.tls_key, &peer.tls_ca) {
        (Some(certificate), Some(key), Some(ca)) => PeerTls::load(certificate, key, ca).map(Some),
        _ => Ok(None),
    }
}

/// Where clients are told to reach this node.
fn told_address(settings: &Settings, kafka: SocketAddr) -> meridian_controller::HostPort {
    let advertised = settings
        .kafka
        .advertise
        .as_ref()
        .and_then(|text| host_and_port(&text.0));
    let address = advertised.unwrap_or_else(|| HostPort {
        host: kafka.ip().to_string(),
        port: kafka.port(),
    });
    meridian_controller::HostPort {
        host: address.host,
        port: address.port,
    }
}

fn broker_settings(settings: &Settings) -> BrokerSettings {
    let mut broker = BrokerSettings::default();
    let (kafka, limits) = (&settings.kafka, &mut broker.limits);
    limits.connections_max = kafka.connections_max;
    limits.connections_per_ip_max = kafka.connections_per_ip_max;
    limits.frame_bytes_max = kafka.request_bytes_max.as_usize();
    limits.connection_bytes_in_flight_max = kafka.connection_in_flight_bytes_max.as_usize();
    limits.node_bytes_in_flight_max = kafka.in_flight_bytes_max.as_usize();
    limits.response_bytes_in_flight_max = kafka.response_bytes_max.as_usize();
    limits.idle_timeout = Duration::from_millis(kafka.idle_timeout_ms);
    broker.kafka.auto_create_topics = kafka.auto_create_topics;
    broker.kafka.partitions_default = kafka.partitions_default;
    broker.kafka.group_initial_rebalance_delay =
        Duration::from_millis(settings.group.initial_rebalance_delay_ms);
    broker.kafka.offsets_retention = Duration::from_secs(settings.group.offsets_retention_minutes * 60);
    broker
}

/// Splits `HOST:PORT`; an IPv6 host stands in brackets.
pub(crate) fn host_and_port(text: &str) -> Option<HostPort> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some(HostPort {
        host: (!host.is_empty()).then(|| host.to_owned())?,
        port: port.parse().ok()?,
    })
}
