//! Nodes and what they answer.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use meridian_net::{HostPort, Net, TcpNet};
use meridian_peer::{Lane, LinkState, PeerAddress, PeerIdentity, PeerSettings, Peers, Refusal, Service};
use meridian_types::{NodeId, ShardId, Uuid};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

pub(crate) const SHARD: ShardId = ShardId(3);

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Kinds of calls that [`Answers`] knows.
pub(crate) const ECHO: u16 = 0x0201;
pub(crate) const REFUSE: u16 = 0x0202;
/// Answers when the notice [`RELEASE`] has come.
pub(crate) const HOLD: u16 = 0x0203;
pub(crate) const RELEASE: u16 = 0x0204;
/// Answers after the milliseconds in the body, u64.
pub(crate) const SLOW: u16 = 0x0205;
/// Answers with as many bytes as the body, u64, says.
pub(crate) const GIVE: u16 = 0x0206;

/// A service for tests, which remembers what came.
#[derive(Default)]
pub(crate) struct Answers {
    /// Sender, kind, shard and first eight bytes of all messages, in the order in which they came.
    pub(crate) heard: Mutex<Vec<(NodeId, u16, ShardId, u64)>>,
    pub(crate) heard_bytes: AtomicU64,
    release: Arc<Notify>,
}

impl Answers {
    fn hear(&self, from: &PeerIdentity, kind: u16, shard: ShardId, body: &Bytes) {
        self.heard.lock().push((from.node, kind, shard, number(body)));
        self.heard_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
    }

    pub(crate) fn numbers(&self, kind: u16) -> Vec<u64> {
        let heard = self.heard.lock();
        heard
            .iter()
            .filter(|heard| heard.1 == kind)
            .map(|heard| heard.3)
            .collect()
    }
}

impl Service for Answers {
    fn call(
        &self,
        from: &PeerIdentity,
        kind: u16,
        shard: ShardId,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Vec<Bytes>, Refusal>> {
        self.hear(from, kind, shard, &body);
        let release = self.release.clone();
        async move {
            match kind {
                // In two parts, as a header and a payload would be.
                ECHO => Ok(vec![body.slice(..body.len() / 2), body.slice(body.len() / 2..)]),
                HOLD => {
                    release.notified().await;
                    Ok(vec![body])
                }
                SLOW => {
                    sleep(Duration::from_millis(number(&body))).await;
                    Ok(vec![body])
                }
                GIVE => Ok(vec![Bytes::from(vec![
                    7;
                    usize::try_from(number(&body))
                        .expect("it fits")
                ])]),
                _ => Err(Refusal::new(format!("no call of kind {kind:04x}"))),
            }
        }
        .boxed()
    }

    fn notice(&self, from: &PeerIdentity, kind: u16, shard: ShardId, body: Bytes) {
        self.hear(from, kind, shard, &body);
        if kind == RELEASE {
            self.release.notify_waiters();
        }
    }
}

/// The first eight bytes.
fn number(body: &Bytes) -> u64 {
    body.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

pub(crate) fn body(number: u64) -> Vec<Bytes> {
    vec![Bytes::copy_from_slice(&number.to_le_bytes())]
}

/// One node under test.
pub(crate) struct TestNode {
    pub(crate) id: NodeId,
    pub(crate) incarnation: Uuid,
    pub(crate) peers: Peers,
    pub(crate) at: SocketAddr,
    pub(crate) answers: Arc<Answers>,
}

pub(crate) fn incarnation(node: u32) -> Uuid {
    Uuid::from_u128(0x1000 + u128::from(node))
}

pub(crate) fn settings(node: u32) -> PeerSettings {
    PeerSettings {
        backoff_min: Duration::from_millis(20),
        backoff_max: Duration::from_millis(200),
        ..PeerSettings::new(NodeId(node), incarnation(node), "west")
    }
}

/// Places so far.
static PLACES: AtomicU16 = AtomicU16::new(0);

/// An address that nobody else in this process uses: no other test takes the port of a node that is away.
pub(crate) fn loopback() -> SocketAddr {
    let [high, low] = PLACES.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    SocketAddr::from(([127, 2, high, low], 0))
}

impl TestNode {
    /// A node on loopback.
    pub(crate) async fn start(node: u32) -> Self {
        Self::start_with(settings(node), Arc::new(TcpNet), loopback()).await
    }

    pub(crate) async fn start_with(settings: PeerSettings, net: Arc<dyn Net>, at: SocketAddr) -> Self {
        let (id, incarnation) = (settings.node, settings.incarnation);
        let peers = Peers::new(settings, net);
        let answers = Arc::new(Answers::default());
        let at = peers.listen(at, answers.clone()).await.expect("a free port");
        Self {
            id,
            incarnation,
            peers,
            at,
            answers,
        }
    }

    pub(crate) fn host_port(&self) -> HostPort {
        HostPort::new(self.at.ip().to_string(), self.at.port())
    }

    pub(crate) fn address(&self) -> PeerAddress {
        PeerAddress {
            at: self.host_port(),
            incarnation: Some(self.incarnation),
        }
    }

    /// Learns where `other` is.
    pub(crate) fn learn(&self, other: &Self) {
        self.peers.set_address(other.id, Some(other.address()));
    }

    pub(crate) async fn connect(&self, other: &Self) {
        self.learn(other);
        self.until_link(other.id, LinkState::is_connected).await;
    }

    pub(crate) async fn until_link(&self, node: NodeId, wanted: impl Fn(LinkState) -> bool) -> LinkState {
        let mut links = self.peers.links();
        let wait = async {
            loop {
                let state = self.peers.link(node);
                if wanted(state) {
                    return state;
                }
                links.changed().await.expect("peers live");
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| {
            panic!(
                "the link stays {:?}: {:?}",
                self.peers.link(node),
                self.peers.stats()
            )
        })
    }

    pub(crate) fn last_failure(&self, lane: Lane) -> String {
        let stats = self.peers.stats();
        let lane = stats.iter().find(|stats| stats.lane == lane).expect("a link");
        lane.last_failure.clone().unwrap_or_default()
    }

    pub(crate) async fn stop(&self) {
        self.peers.shutdown();
        self.peers.stopped().await;
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Nothing in these tests may hang.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}
