//! Where nodes of other regions connect, and read what this region owns.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use meridian_types::{NodeId, RegionNumber};
use parking_lot::Mutex;
use quinn::{Connection, Endpoint, Incoming};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsStream;
use tracing::{debug, info, warn};

use crate::counters::{Counters, add};
use crate::frame::{Frame, Greeting, Intent, Reject};
use crate::greet::{answer, check_certificate, hear, judge, say, turn_away};
use crate::lane::Lane;
use crate::limits::Limits;
use crate::network::{ByteStream, Network, StreamAcceptor};
use crate::quic;
use crate::session::Session;
use crate::settings::Settings;
use crate::sink::Sink;
use crate::source::Source;
use crate::source_session::SourceSession;
use crate::status::SessionStatus;
use crate::tcp;
use crate::tls::GeoTls;

/// Connections that are being greeted; beyond half of it, UDP addresses must prove themselves first.
const HANDSHAKES_MAX: usize = 64;
/// Connections of one link.
const LANES_MAX: usize = 16;
/// Free ports tried for UDP and TCP alike.
const PORT_TRIES: usize = 16;
/// How long a node that only asked has to read the answer.
const FAREWELL: Duration = Duration::from_millis(500);

/// Why nobody can connect here.
#[derive(Debug, Error)]
pub enum StartError {
    /// Choose another address, or see who holds it.
    #[error("cannot listen for other regions at {at} (geo.listen): {source}")]
    Bind {
        /// Where.
        at: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Give it certificates, or allow it in so many words.
    #[error(
        "{at} (geo.listen) can be reached from outside, and there are no certificates: \
         set geo.tls_cert, geo.tls_key and geo.tls_ca, or start with --insecure"
    )]
    Insecure {
        /// Where.
        at: SocketAddr,
    },
}

/// Lets links of other regions in. Dropping it ends them.
pub struct GeoListener {
    shared: Arc<Shared>,
    local: SocketAddr,
    task: AbortHandle,
}

struct Shared {
    settings: Settings,
    tls: GeoTls,
    source: Arc<dyn Source>,
    sink: Arc<dyn Sink>,
    counters: Arc<Counters>,
    limits: Limits,
    sessions: Mutex<BTreeMap<u128, Entry>>,
}

/// A link that is let in.
struct Entry {
    region: RegionNumber,
    name: String,
    node: NodeId,
    lanes: mpsc::Sender<Connection>,
    status: Option<Arc<Mutex<SessionStatus>>>,
}

impl GeoListener {
    /// Listens for QUIC and TCP at one address; port 0 takes one that is free for both.
    ///
    /// Errors: the address cannot be had, or must not be without certificates.
    pub fn start(
        settings: Settings,
        tls: GeoTls,
        network: Arc<dyn Network>,
        at: SocketAddr,
        source: Arc<dyn Source>,
        sink: Arc<dyn Sink>,
        counters: Arc<Counters>,
    ) -> BoxFuture<'static, Result<Self, StartError>> {
        // Boxed, so that this crate compiles what it awaits, and not each that awaits it (docs/HACKING.md, "Compile time").
        Box::pin(async move {
            if !tls.is_authenticated() && !at.ip().is_loopback() && !settings.is_insecure_allowed {
                return Err(StartError::Insecure { at });
            }
            let bind = |source| StartError::Bind { at, source };
            let (endpoint, acceptor) = listen(&settings, &tls, network.as_ref(), at)
                .await
                .map_err(bind)?;
            let local = endpoint.local_addr().map_err(bind)?;
            tls.watch(settings.tls_reload_interval, counters.clone());
            let shared = Arc::new(Shared {
                settings,
                tls,
                source,
                sink,
                counters,
                limits: Limits::default(),
                sessions: Mutex::default(),
            });
            let task = tokio::spawn(accept(shared.clone(), endpoint, acceptor)).abort_handle();
            Ok(Self { shared, local, task })
        })
    }

    /// The address bound, with its real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The links that others opened.
    pub fn status(&self) -> Vec<SessionStatus> {
        let sessions = self.shared.sessions.lock();
        let statuses = sessions.values().filter_map(|entry| entry.status.as_ref());
        statuses.map(|status| status.lock().clone()).collect()
    }

    /// Limits what this node sends to a region, at once and until changed. Frames are counted as they travel, packets
    /// sent again are not.
    pub fn throttle(&self, region: RegionNumber, bytes_per_second: Option<u64>) {
        self.shared.limits.set(region, bytes_per_second);
    }

    /// That limit.
    pub fn limit(&self, region: RegionNumber) -> Option<u64> {
        self.shared.limits.of(region).bucket.lock().rate()
    }
}

impl Drop for GeoListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn server_config(settings: &Settings, tls: &GeoTls) -> quinn::ServerConfig {
    let mut config = quinn::ServerConfig::with_crypto(tls.current.load().quic_server.clone());
    config.transport_config(quic::transport(settings, false));
    config
}

async fn listen(
    settings: &Settings,
    tls: &GeoTls,
    network: &dyn Network,
    at: SocketAddr,
) -> io::Result<(Endpoint, Box<dyn StreamAcceptor>)> {
    let mut tries = 0;
    loop {
        let endpoint = quic::endpoint(network, at, Some(server_config(settings, tls)))?;
        match network.listen(endpoint.local_addr()?).await {
            Ok(acceptor) => return Ok((endpoint, acceptor)),
            // Free for UDP does not mean free for TCP.
            Err(error)
                if at.port() == 0 && error.kind() == io::ErrorKind::AddrInUse && tries < PORT_TRIES =>
            {
                tries += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn accept(shared: Arc<Shared>, endpoint: Endpoint, mut acceptor: Box<dyn StreamAcceptor>) {
    let mut handshakes = JoinSet::new();
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            incoming = endpoint.accept() => {
                let Some(incoming) = incoming else { return };
                if handshakes.len() >= HANDSHAKES_MAX {
                    incoming.refuse();
                } else if handshakes.len() >= HANDSHAKES_MAX / 2 && !incoming.remote_address_validated() {
                    // It fails only for an address that has been validated.
                    let _ = incoming.retry();
                } else {
                    handshakes.spawn(greet_quic(shared.clone(), incoming));
                }
            }
            accepted = acceptor.accept() => match accepted {
                Ok((stream, peer)) if handshakes.len() < HANDSHAKES_MAX => {
                    handshakes.spawn(greet_tcp(shared.clone(), stream, peer));
                }
                Ok(_) => {}
                Err(error) => {
                    debug!(%error, "a connection was not accepted");
                    sleep(Duration::from_millis(20)).await;
                }
            },
            Some(greeted) = handshakes.join_next() => {
                if let Ok(Some((lane, greeting, lanes))) = greeted {
                    sessions.spawn(serve(shared.clone(), lane, greeting, lanes));
                }
            }
            Some(_) = sessions.join_next() => {}
        }
    }
}

type Greeted = Option<(Lane, Greeting, mpsc::Receiver<Connection>)>;

async fn greet_quic(shared: Arc<Shared>, incoming: Incoming) -> Greeted {
    let from = incoming.remote_address();
    let config = Arc::new(server_config(&shared.settings, &shared.tls));
    let is_authenticated = shared.tls.is_authenticated();
    let opening = async {
        let connection = incoming.accept_with(config)?.await?;
        let (writer, reader) = connection.accept_bi().await?;
        Ok::<_, quinn::ConnectionError>(quic::lane(connection, writer, reader, is_authenticated))
    };
    match timeout(shared.settings.handshake_timeout, opening).await {
        Ok(Ok(lane)) => greet(shared, lane).await,
        Ok(Err(error)) => {
            add(&shared.counters.rejected, 1);
            debug!(%from, %error, "a connection did not come up");
            None
        }
        Err(_) => {
            add(&shared.counters.rejected, 1);
            None
        }
    }
}

async fn greet_tcp(shared: Arc<Shared>, stream: Box<dyn ByteStream>, from: SocketAddr) -> Greeted {
    let acceptor = shared.tls.current.load().acceptor.clone();
    match timeout(shared.settings.handshake_timeout, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let lane = tcp::lane(TlsStream::from(stream), from, shared.tls.is_authenticated());
            greet(shared, lane).await
        }
        Ok(Err(error)) => {
            add(&shared.counters.rejected, 1);
            debug!(%from, %error, "a connection did not come up");
            None
        }
        Err(_) => {
            add(&shared.counters.rejected, 1);
            None
        }
    }
}

/// Hears who is there, and answers.
async fn greet(shared: Arc<Shared>, mut lane: Lane) -> Greeted {
    let idle = shared.settings.handshake_timeout;
    let greeting = match hear(&mut lane, idle).await {
        Ok(greeting) => greeting,
        Err(error) => {
            add(&shared.counters.rejected, 1);
            debug!(from = %lane.peer, %error, "a connection did not greet");
            turn_away(lane, Reject::Protocol, error.to_string()).await;
            return None;
        }
    };
    let own = shared.source.hello();
    let judged = judge(&own, &greeting).and_then(|version| {
        check_certificate(&lane, &greeting.hello).map_err(|reason| (Reject::Certificate, reason))?;
        shared
            .source
            .admit(&greeting.hello)
            .map_err(|reason| (Reject::NotAdmitted, reason))?;
        Ok((version, shared.enter(&lane, &greeting)?))
    });
    let (version, entered) = match judged {
        Ok(judged) => judged,
        Err((reject, reason)) => {
            add(&shared.counters.rejected, 1);
            let (region, node) = (&greeting.hello.region, greeting.hello.node);
            warn!(from = %lane.peer, %region, %node, %reason, "a node of another region was turned away");
            turn_away(lane, reject, reason).await;
            return None;
        }
    };
    let answered = Frame::Hello(Greeting {
        versions: version..=version,
        intent: greeting.intent,
        session: greeting.session,
        hello: own,
    });
    let said = say(&mut lane, &answered, idle).await;
    match entered {
        Entered::Link(lanes) if said.is_ok() => Some((lane, greeting, lanes)),
        Entered::Link(_) => {
            shared.sessions.lock().remove(&greeting.session);
            None
        }
        Entered::Lane(lanes) => {
            if let Some(connection) = lane.quic {
                // The link may be over by now; then this ends with it.
                let _ = lanes.send(connection).await;
            }
            None
        }
        Entered::Question => {
            let _ = timeout(FAREWELL, answer(&mut lane, FAREWELL)).await;
            None
        }
    }
}

enum Entered {
    Link(mpsc::Receiver<Connection>),
    Lane(mpsc::Sender<Connection>),
    Question,
}

impl Shared {
    /// Finds the place of a connection among the links.
    fn enter(&self, lane: &Lane, greeting: &Greeting) -> Result<Entered, (Reject, String)> {
        let peer = &greeting.hello;
        let mut sessions = self.sessions.lock();
        if let Some(other) = sessions
            .values()
            .find(|entry| entry.region == peer.number && entry.name != peer.region)
        {
            return Err((
                Reject::DuplicateRegion,
                format!(
                    "region number {} is that of region `{}`, which is linked: give each region its own region.number",
                    peer.number, other.name
                ),
            ));
        }
        match greeting.intent {
            Intent::Question => Ok(Entered::Question),
            Intent::Lane => sessions
                .get(&greeting.session)
                .filter(|entry| entry.region == peer.number && entry.node == peer.node && lane.quic.is_some())
                .map(|entry| Entered::Lane(entry.lanes.clone()))
                .ok_or_else(|| (Reject::Session, "there is no such link".to_owned())),
            Intent::Link if sessions.len() >= self.settings.sessions_max => Err((
                Reject::TooMany,
                format!("this node has {} links already", sessions.len()),
            )),
            Intent::Link if sessions.contains_key(&greeting.session) => {
                Err((Reject::Session, "there is such a link already".to_owned()))
            }
            Intent::Link => {
                let (lanes, received) = mpsc::channel(LANES_MAX);
                let entry = Entry {
                    region: peer.number,
                    name: peer.region.clone(),
                    node: peer.node,
                    lanes,
                    status: None,
                };
                sessions.insert(greeting.session, entry);
                Ok(Entered::Link(received))
            }
        }
    }
}

/// Takes the link out of the table when it ends, however it does.
struct Leave {
    shared: Arc<Shared>,
    session: u128,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.shared.sessions.lock().remove(&self.session);
        add(&self.shared.counters.disconnects, 1);
    }
}

async fn serve(shared: Arc<Shared>, lane: Lane, greeting: Greeting, lanes: mpsc::Receiver<Connection>) {
    let _leave = Leave {
        shared: shared.clone(),
        session: greeting.session,
    };
    let peer = greeting.hello;
    let (session, events) = Session::start(lane, &shared.settings, 0);
    let status = Arc::new(Mutex::new(SessionStatus {
        region: peer.number,
        name: peer.region.clone(),
        node: peer.node,
        transport: session.status(),
        heard_at: Instant::now(),
        raw_bytes_sent: 0,
        wire_bytes_sent: 0,
        compression_time: Duration::ZERO,
        limit_bytes_per_second: None,
        shards: Vec::new(),
    }));
    if let Some(entry) = shared.sessions.lock().get_mut(&greeting.session) {
        entry.status = Some(status.clone());
    }
    let (region, node) = (peer.region.clone(), peer.node);
    info!(%region, %node, "a region has linked to this node");
    let runner = SourceSession {
        settings: shared.settings.clone(),
        source: shared.source.clone(),
        sink: shared.sink.clone(),
        counters: shared.counters.clone(),
        limit: shared.limits.of(peer.number),
        peer,
        status,
    };
    let reason = runner.run(session, events, lanes).await;
    info!(%region, %node, %reason, "the link of a region has ended");
}
