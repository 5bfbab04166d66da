//! One node, from settings to a running server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use meridian_broker::{Broker, BrokerHandle, BrokerSettings, HostPort, ListenError, ListenerSettings};
use meridian_controller::NodeRegistration;
use meridian_journal::{Journal, JournalSettings, RealDisk};
use meridian_shard::{Region, RegionSettings, RegionStartError, RegisterError, ShardSettings};
use meridian_types::{NodeId, Uuid};
use prometheus::Registry;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin};
use crate::driver;
use crate::identity::{self, IdentityError};
use crate::metrics::Metrics;
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
    /// The journal's thread cannot be started.
    #[error("cannot start the journal's thread: {0}")]
    Thread(std::io::Error),
    /// Metrics clash: a defect.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// A running node.
pub struct Server {
    kafka: SocketAddr,
    admin: SocketAddr,
    region: Region,
    broker: BrokerHandle,
    writer: JoinHandle<()>,
    stopping: CancellationToken,
    admin_stop: CancellationToken,
}

impl Server {
    /// Recovers what the data directory holds, and serves. Returns when the node takes requests.
    pub async fn start(settings: &Settings) -> Result<Self, ServerError> {
        let random = driver::randomness(None);
        let data = &settings.node.data;
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
        let journal_settings = journal_settings(settings, random() as u64);
        let opened = tokio::task::spawn_blocking(move || Journal::open(journal_disk, journal_settings));
        let (journal, writer) = opened.await.expect("recovery does not panic")?;
        let writer = driver::spawn_writer(writer).map_err(ServerError::Thread)?;

        let region = Region::start(
            region_settings(settings),
            journal,
            checkpoint_disk,
            driver::wall_clock(),
            random,
        )
        .await?;
        let registry = Registry::new();
        let stopping = CancellationToken::new();
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
            stopping.clone(),
        )
        .await?;
        let kafka = broker.local_addresses()[0];
        region
            .register(registration(settings, kafka, incarnation))
            .await?;

        let admin_error = |source| ServerError::Admin {
            address: settings.admin.listen,
            source,
        };
        let listener = admin::bind(settings.admin.listen).await.map_err(admin_error)?;
        let admin_address = listener.local_addr().map_err(admin_error)?;
        let admin_stop = CancellationToken::new();
        let admin = Admin {
            region: region.clone(),
            metrics: Metrics::new(registry)?,
            stopping: stopping.clone(),
        };
        tokio::spawn(admin::serve(listener, Arc::new(admin), admin_stop.clone()));
        Ok(Self {
            kafka,
            admin: admin_address,
            region,
            broker,
            writer,
            stopping,
            admin_stop,
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

    /// Finishes what is in flight, makes checkpoints and stops.
    pub async fn stop(self) {
        self.stopping.cancel();
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
    }
}

fn journal_settings(settings: &Settings, seed: u64) -> JournalSettings {
    JournalSettings {
        file_bytes: settings.journal.file_bytes.0,
        bytes_max: settings.journal.bytes_max.0,
        cache_bytes: settings.journal.cache_bytes.as_usize(),
        queue_bytes_max: settings.journal.queue_bytes_max.as_usize(),
        durability: match settings.journal.durability {
            Durability::Fsync => meridian_journal::Durability::Fsync,
            Durability::Memory => meridian_journal::Durability::Memory,
        },
        ..JournalSettings::new(seed)
    }
}

fn region_settings(settings: &Settings) -> RegionSettings {
    RegionSettings {
        node: NodeId(settings.node.id),
        region: settings.region.name.0.clone(),
        shards: settings.region.shards,
        cluster_id: settings.region.cluster_id.as_ref().map(|id| id.0.clone()),
        heartbeat_interval: Duration::from_millis(settings.raft.heartbeat_interval_ms),
        election_timeout: Duration::from_millis(settings.raft.election_timeout_ms),
        maintenance_interval: Duration::from_millis(settings.shard.maintenance_interval_ms),
        journal_bytes_max: settings.journal.bytes_max.0,
        start_timeout: Duration::from_secs(60),
        shard: ShardSettings {
            queue_bytes_max: settings.shard.queue_bytes_max.as_usize(),
            command_bytes_max: settings.shard.command_bytes_max.as_usize(),
            proposals_in_flight_max: settings.shard.proposals_in_flight_max,
            bytes_in_flight_max: settings.shard.bytes_in_flight_max.as_usize(),
            checkpoint_entries: settings.shard.checkpoint_entries,
            checkpoint_bytes: settings.shard.checkpoint_bytes.0,
        },
    }
}

/// What the region is told about this node.
fn registration(settings: &Settings, kafka: SocketAddr, incarnation: Uuid) -> NodeRegistration {
    let advertised = settings
        .kafka
        .advertise
        .as_ref()
        .and_then(|text| host_and_port(&text.0));
    let address = advertised.unwrap_or_else(|| HostPort {
        host: kafka.ip().to_string(),
        port: kafka.port(),
    });
    NodeRegistration {
        node: NodeId(settings.node.id),
        incarnation,
        host: address.host,
        port: address.port,
        rack: settings.node.rack.as_ref().map(|rack| rack.0.clone()),
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
