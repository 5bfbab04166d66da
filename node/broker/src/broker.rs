//! A running broker: its listeners, and its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use meridian_shard::Region;
use parking_lot::Mutex;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::{ByteBudget, FrameBudget};
use crate::configs::ConfigCache;
use crate::context::Context;
use crate::coordinator::{Coordinator, GroupCoordinator, GroupSettings, MemberIds};
use crate::fetch_session::{FetchSessions, SessionLimits};
use crate::groups::{self, Groups};
use crate::listener::{BoundListener, ConnectionCounts, ListenError};
use crate::metrics::Metrics;
use crate::producer_ids::ProducerIds;
use crate::settings::{BrokerSettings, ListenerSettings};

/// Kafka evicts fetch sessions that are idle for so long, not settable (`min.incremental.fetch.session.eviction.ms`).
const SESSION_EVICTION_MS: i64 = 120_000;
/// Gauges of memory are renewed so often.
const GAUGE_INTERVAL: Duration = Duration::from_secs(1);

/// Serves Kafka clients from a [`Region`].
pub struct Broker;

/// A broker that runs.
pub struct BrokerHandle {
    local_addresses: Vec<SocketAddr>,
    finished: tokio::task::JoinHandle<()>,
}

impl Broker {
    /// Binds every listener and starts to serve. Ends when `shutdown` is cancelled: what is in flight is finished within
    /// [`crate::Limits::shutdown_timeout`], then every connection is closed.
    ///
    /// Errors: an address that cannot be bound; a registry that has a broker's metrics already.
    pub fn start(
        settings: BrokerSettings,
        region: Region,
        listeners: Vec<ListenerSettings>,
        registry: &Registry,
        shutdown: CancellationToken,
    ) -> BoxFuture<'_, Result<BrokerHandle, ListenError>> {
        // Boxed, so that this crate compiles what it awaits, and not each that awaits it (docs/HACKING.md, "Compile time").
        Box::pin(async move {
            let metrics = Metrics::new(registry)?;
            let mut bound = Vec::with_capacity(listeners.len());
            for listener in listeners {
                bound.push(BoundListener::bind(listener).await?);
            }
            let local_addresses = bound.iter().map(|listener| listener.local_address).collect();

            let aborted = CancellationToken::new();
            let context = Arc::new(context(
                settings,
                region,
                metrics,
                shutdown.clone(),
                aborted.clone(),
            ));
            let background = TaskTracker::new();
            groups::start(&context, &background, &aborted);
            background.spawn(renew_gauges(context.clone()));

            let counts = ConnectionCounts::default();
            let (acceptors, connections) = (TaskTracker::new(), TaskTracker::new());
            for listener in bound {
                tracing::info!(listener = &*listener.name, address = %listener.local_address, "serving Kafka clients");
                acceptors.spawn(listener.serve(context.clone(), connections.clone(), counts.clone()));
            }
            acceptors.close();
            let finished = tokio::spawn(run(context, acceptors, connections, background));
            Ok(BrokerHandle {
                local_addresses,
                finished,
            })
        })
    }
}

impl BrokerHandle {
    /// Where it listens, in the order of the listeners it was started with.
    pub fn local_addresses(&self) -> &[SocketAddr] {
        &self.local_addresses
    }

    /// Waits until the broker has shut down and every connection is closed.
    pub async fn join(self) {
        if let Err(error) = self.finished.await {
            tracing::error!(%error, "the broker ended abnormally");
        }
    }
}

fn context(
    settings: BrokerSettings,
    region: Region,
    metrics: Metrics,
    draining: CancellationToken,
    aborted: CancellationToken,
) -> Context {
    let limits = &settings.limits;
    let config_cache = ConfigCache::default();
    let configs = config_cache.get(&region.controller(), region.node_id(), &settings);
    let session_limits = SessionLimits {
        sessions_max: configs.fetch_sessions_max,
        partitions_max: limits.fetch_session_partitions_max,
        eviction_ms: SESSION_EVICTION_MS,
    };
    // A topic id is 122 random bits from the node's own source.
    let random = || region.new_topic_id(None).0.as_u128();
    let ids = region.clone();
    let member_ids: MemberIds = Box::new(move || ids.new_topic_id(None).to_string());
    let group_settings = GroupSettings {
        session_timeout_min_ms: configs.group_session_timeout_min_ms,
        session_timeout_max_ms: configs.group_session_timeout_max_ms,
        initial_rebalance_delay_ms: configs.group_initial_rebalance_delay_ms,
        group_size_max: configs.group_members_max,
        ..settings.groups.clone()
    };
    let core = Coordinator::new(group_settings, region.shards(), member_ids);
    let coordinator =
        GroupCoordinator::start(core, groups::store(region.clone()), region.now(), aborted.clone());
    Context {
        metrics,
        frame_budget: FrameBudget::new(limits.node_bytes_in_flight_max),
        response_budget: ByteBudget::new(limits.response_bytes_in_flight_max),
        fetch_sessions: Mutex::new(FetchSessions::new(session_limits, random() as u64)),
        groups: Groups::new(coordinator, region.clone()),
        producer_ids: ProducerIds::default(),
        configs: config_cache,
        draining,
        aborted,
        warn_limit: Context::client_log_limit(),
        region,
        settings,
    }
}

async fn run(
    context: Arc<Context>,
    acceptors: TaskTracker,
    connections: TaskTracker,
    background: TaskTracker,
) {
    context.draining.cancelled().await;
    acceptors.wait().await;
    connections.close();
    let open = connections.len();
    tracing::info!(connections = open, "shutting down: finishing what is in flight");
    if tokio::time::timeout(context.settings.limits.shutdown_timeout, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            connections = connections.len(),
            "connections did not finish in time and are closed"
        );
    }
    context.aborted.cancel();
    connections.wait().await;
    background.close();
    background.wait().await;
}

async fn renew_gauges(context: Arc<Context>) {
    let mut ticks = tokio::time::interval(GAUGE_INTERVAL);
    loop {
        tokio::select! {
            () = context.aborted.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let gauge = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        context
            .metrics
            .request_bytes_in_flight
            .set(gauge(context.frame_budget.bytes_in_use()));
        context
            .metrics
            .response_bytes_in_flight
            .set(gauge(context.response_budget.bytes_in_use()));
    }
}
