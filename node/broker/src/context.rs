//! What every connection and handler of a broker shares.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meridian_shard::Region;
use meridian_types::NodeId;
use meridian_wire::{ApiKey, ErrorCode, Str};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::budget::{ByteBudget, ByteLease, FrameBudget};
use crate::configs::{ConfigCache, Configs};
use crate::fetch_session::FetchSessions;
use crate::groups::Groups;
use crate::listener::ListenerInfo;
use crate::log_limit::LogLimit;
use crate::metrics::Metrics;
use crate::producer_ids::ProducerIds;
use crate::read_replicas::Redirects;
use crate::settings::{BrokerSettings, HostPort};

/// Answers below this are not counted against the budget of responses.
const SMALL_ANSWER_BYTES: usize = 256 << 10;

/// The parts of a running broker.
pub(crate) struct Context {
    pub(crate) settings: BrokerSettings,
    pub(crate) region: Region,
    pub(crate) metrics: Metrics,
    /// Memory for requests in flight.
    pub(crate) frame_budget: FrameBudget,
    /// Memory for responses in flight.
    pub(crate) response_budget: ByteBudget,
    pub(crate) fetch_sessions: Mutex<FetchSessions>,
    pub(crate) groups: Groups,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) configs: ConfigCache,
    /// The broker shuts down: take nothing new, finish what is begun, wake who waits.
    pub(crate) draining: CancellationToken,
    /// The time for that is over.
    pub(crate) aborted: CancellationToken,
    pub(crate) warn_limit: LogLimit,
}

impl Context {
    /// The broker configs in force for this node.
    pub(crate) fn configs(&self) -> Arc<Configs> {
        self.configs
            .get(&self.region.controller(), self.region.node_id(), &self.settings)
    }

    /// At most so many warnings about clients per period.
    pub(crate) fn client_log_limit() -> LogLimit {
        LogLimit::new(20, Duration::from_secs(10))
    }

    /// Logs through `log`, which is told how many lines were left out, unless there have been too many.
    pub(crate) fn warn_limited(&self, log: impl FnOnce(u64)) {
        if let Some(suppressed) = self.warn_limit.allow(Instant::now()) {
            log(suppressed);
        }
    }
}

/// The other end of a connection.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// The address of ours that it has reached.
    pub(crate) local_address: SocketAddr,
    pub(crate) listener: Arc<ListenerInfo>,
    /// Ends when the connection does: nobody reads an answer any more.
    pub(crate) closed: CancellationToken,
    client_id: Mutex<Str>,
    /// Where its consumer was pointed to a replica nearby.
    pub(crate) redirects: Mutex<Redirects>,
}

impl Peer {
    pub(crate) fn new(
        address: SocketAddr,
        local_address: SocketAddr,
        listener: Arc<ListenerInfo>,
        closed: CancellationToken,
    ) -> Self {
        Self {
            address,
            local_address,
            listener,
            closed,
            client_id: Mutex::default(),
            redirects: Mutex::default(),
        }
    }

    /// What the client last called itself, for the log.
    pub(crate) fn client_id(&self) -> String {
        self.client_id.lock().to_string()
    }

    /// Remembers the client's name of itself.
    pub(crate) fn set_client_id(&self, client_id: &Str) {
        let mut known = self.client_id.lock();
        if *known != *client_id {
            *known = client_id.detached();
        }
    }
}

/// Who asks, and in which version.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) context: Arc<Context>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) api: ApiKey,
    pub(crate) version: i16,
    pub(crate) client_id: Option<Str>,
}

impl Caller {
    /// The number of an error on its way to the client; counted.
    pub(crate) fn code(&self, error: ErrorCode) -> i16 {
        if error != ErrorCode::None {
            self.context.metrics.error(self.api, error);
        }
        error.code()
    }

    /// Memory for an answer of about `bytes` that is not made of records; small answers need none. Waits until
    /// it is there, so that many large answers are made one after the other.
    pub(crate) async fn reserve(&self, bytes: usize) -> Option<ByteLease> {
        if bytes < SMALL_ANSWER_BYTES {
            return None;
        }
        Some(self.context.response_budget.take(bytes).await)
    }

    /// Where clients of this listener reach a node. `known`: what the controller says of it.
    pub(crate) fn endpoint(&self, node: NodeId, known: HostPort) -> HostPort {
        if node != self.context.region.node_id() {
            return known;
        }
        if let Some(advertised) = &self.peer.listener.advertised {
            return advertised.clone();
        }
        // A wildcard address is one to listen on, not to connect to: what this client has reached, it can reach again.
        let is_wildcard = known.host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
        if !is_wildcard && !known.host.is_empty() {
            return known;
        }
        let local = self.peer.local_address;
        HostPort {
            host: local.ip().to_string(),
            port: local.port(),
        }
    }
}
