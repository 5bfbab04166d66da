//! Regions whose shards are lists in memory.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use meridian_geo_mirror::{
    ByteStream, Counters, Cursor, Entries, GeoListener, GeoTls, Hello, LinkStatus, Links, Network, OsNetwork,
    PeerRegion, Reader, Refusal, Settings, Sink, SinkError, Source, StreamAcceptor, Watermark,
};
use meridian_types::{RegionEpoch, RegionNumber, ShardId, TimestampMs};
use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn fold(digest: u64, command: &[u8]) -> u64 {
    command
        .iter()
        .fold(digest ^ command.len() as u64, |digest, byte| {
            (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// One shard's content, and the digest after each command.
#[derive(Clone, Default)]
pub(crate) struct Content {
    pub(crate) commands: Vec<Bytes>,
    pub(crate) digests: Vec<u64>,
    /// What lies below is in no log any more.
    pub(crate) oldest: usize,
}

impl Content {
    fn push(&mut self, command: Bytes) {
        let digest = fold(self.digest(self.commands.len()), &command);
        self.commands.push(command);
        self.digests.push(digest);
    }

    pub(crate) fn digest(&self, sequence: usize) -> u64 {
        sequence.checked_sub(1).map_or(0, |at| self.digests[at])
    }
}

/// A region as one node.
pub(crate) struct Region {
    pub(crate) hello: Mutex<Hello>,
    pub(crate) shards: Mutex<BTreeMap<ShardId, Content>>,
    changed: watch::Sender<u64>,
    pub(crate) card: watch::Sender<Bytes>,
    pub(crate) cards: Mutex<BTreeMap<RegionNumber, Bytes>>,
    pub(crate) acknowledged: Mutex<BTreeMap<(RegionNumber, ShardId), u64>>,
    pub(crate) refused: Mutex<Vec<(ShardId, Refusal)>>,
    /// What the sink was given out of order or twice; must stay 0.
    pub(crate) misfits: AtomicUsize,
    pub(crate) bytes_read: Arc<AtomicUsize>,
    pub(crate) is_sink_stuck: AtomicBool,
    pub(crate) is_promising: AtomicBool,
}

impl Region {
    pub(crate) fn new(number: u16) -> Arc<Self> {
        let number = RegionNumber(number);
        Arc::new(Self {
            hello: Mutex::new(Hello {
                cluster_id: "cluster".to_owned(),
                region: format!("region-{number}"),
                number,
                node: number.node(1).expect("in range"),
                shards: 8,
                region_epoch: RegionEpoch(1),
                feature_level: 4,
            }),
            shards: Mutex::default(),
            changed: watch::Sender::new(0),
            card: watch::Sender::new(Bytes::from(format!("card of {number}"))),
            cards: Mutex::default(),
            acknowledged: Mutex::default(),
            refused: Mutex::default(),
            misfits: AtomicUsize::new(0),
            bytes_read: Arc::default(),
            is_sink_stuck: AtomicBool::new(false),
            is_promising: AtomicBool::new(true),
        })
    }

    pub(crate) fn number(&self) -> RegionNumber {
        self.hello.lock().number
    }

    pub(crate) fn append(&self, shard: ShardId, commands: impl IntoIterator<Item = Bytes>) {
        {
            let mut shards = self.shards.lock();
            let content = shards.entry(shard).or_default();
            commands.into_iter().for_each(|command| content.push(command));
        }
        self.changed.send_modify(|changes| *changes += 1);
    }

    pub(crate) fn sequence(&self, shard: ShardId) -> u64 {
        self.shards
            .lock()
            .get(&shard)
            .map_or(0, |content| content.commands.len() as u64)
    }

    pub(crate) fn commands(&self, shard: ShardId) -> Vec<Bytes> {
        let shards = self.shards.lock();
        shards
            .get(&shard)
            .map(|content| content.commands.clone())
            .unwrap_or_default()
    }
}

struct MemoryReader {
    region: Arc<Region>,
    shard: ShardId,
    next: usize,
}

impl Reader for MemoryReader {
    fn next(&mut self, bytes_max: usize) -> BoxFuture<'_, Result<Entries, Refusal>> {
        async move {
            let mut changed = self.region.changed.subscribe();
            loop {
                changed.mark_unchanged();
                {
                    let shards = self.region.shards.lock();
                    let content = shards.get(&self.shard).ok_or(Refusal::NotHosted)?;
                    if self.next < content.oldest {
                        return Err(Refusal::Purged {
                            oldest: content.oldest as u64,
                        });
                    }
                    let mut bytes = 0;
                    let commands: Vec<_> = content.commands[self.next..]
                        .iter()
                        .take_while(|command| {
                            let is_first = bytes == 0;
                            bytes += command.len();
                            is_first || bytes <= bytes_max
                        })
                        .cloned()
                        .collect();
                    if !commands.is_empty() {
                        let first_sequence = self.next as u64;
                        self.next += commands.len();
                        let read = commands.iter().map(Bytes::len).sum();
                        self.region.bytes_read.fetch_add(read, Ordering::Relaxed);
                        return Ok(Entries {
                            region_epoch: RegionEpoch(1),
                            first_sequence,
                            commands,
                            digest: content.digest(self.next),
                        });
                    }
                }
                let _ = changed.changed().await;
            }
        }
        .boxed()
    }
}

/// A region's two sides: `Source` and `Sink` need an `Arc` to hand to readers.
#[derive(Clone)]
pub(crate) struct Sides(pub(crate) Arc<Region>);

impl Source for Sides {
    fn hello(&self) -> Hello {
        self.0.hello.lock().clone()
    }

    fn card(&self) -> watch::Receiver<Bytes> {
        self.0.card.subscribe()
    }

    fn open(&self, shard: ShardId, cursor: Cursor) -> BoxFuture<'_, Result<Box<dyn Reader>, Refusal>> {
        async move {
            let shards = self.0.shards.lock();
            let content = shards.get(&shard).ok_or(Refusal::NotHosted)?;
            let end = content.commands.len() as u64;
            if cursor.sequence > end {
                return Err(Refusal::Diverged { fork: end });
            }
            let next = usize::try_from(cursor.sequence).expect("small");
            if next < content.oldest {
                return Err(Refusal::Purged {
                    oldest: content.oldest as u64,
                });
            }
            if content.digest(next) != cursor.digest {
                return Err(Refusal::DigestDiffers { at: cursor.sequence });
            }
            Ok(Box::new(MemoryReader {
                region: self.0.clone(),
                shard,
                next,
            }) as Box<dyn Reader>)
        }
        .boxed()
    }

    fn watermark(&self, shard: ShardId) -> Option<Watermark> {
        let is_promising = self.0.is_promising.load(Ordering::Relaxed);
        is_promising.then(|| Watermark {
            sequence: self.0.sequence(shard),
            closed_at: TimestampMs(1_700_000_000_000),
        })
    }

    /// As many bytes as the question says.
    fn answer(&self, _: ShardId, question: Bytes) -> BoxFuture<'_, Result<Bytes, Refusal>> {
        async move {
            if question == b"never"[..] {
                return std::future::pending().await;
            }
            let count = std::str::from_utf8(&question)
                .ok()
                .and_then(|text| text.parse().ok());
            let reason = || Refusal::Unknown {
                reason: "no number".to_owned(),
            };
            count.map(|count| vec![7; count].into()).ok_or_else(reason)
        }
        .boxed()
    }

    fn acknowledged(&self, from: RegionNumber, shard: ShardId, sequence: u64) {
        let before = self.0.acknowledged.lock().insert((from, shard), sequence);
        assert!(before <= Some(sequence), "acknowledgements never fall");
    }
}

impl Sink for Sides {
    fn cursor(&self, shard: ShardId) -> BoxFuture<'_, Result<Cursor, SinkError>> {
        async move {
            let shards = self.0.shards.lock();
            let content = shards.get(&shard).cloned().unwrap_or_default();
            let sequence = content.commands.len();
            Ok(Cursor {
                sequence: sequence as u64,
                digest: content.digest(sequence),
                lineage: vec![(RegionEpoch(1), 0)],
            })
        }
        .boxed()
    }

    fn apply(&self, shard: ShardId, entries: Entries) -> BoxFuture<'_, Result<u64, SinkError>> {
        async move {
            while self.0.is_sink_stuck.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(5)).await;
            }
            let mut shards = self.0.shards.lock();
            let content = shards.entry(shard).or_default();
            let sequence = content.commands.len() as u64;
            if entries.first_sequence != sequence {
                self.0.misfits.fetch_add(1, Ordering::Relaxed);
                return Err(SinkError::OutOfStep { sequence });
            }
            let before = content.clone();
            let end = entries.end_sequence();
            entries
                .commands
                .into_iter()
                .for_each(|command| content.push(command));
            if content.digest(content.commands.len()) != entries.digest {
                *content = before;
                return Err(SinkError::Diverged { at: sequence });
            }
            Ok(end)
        }
        .boxed()
    }

    fn watermark(&self, _: ShardId, _: Watermark) {}

    fn card(&self, from: RegionNumber, card: Bytes) {
        self.0.cards.lock().insert(from, card);
    }

    fn refused(&self, shard: ShardId, refusal: Refusal) {
        self.0.refused.lock().push((shard, refusal));
    }
}

/// A region that runs.
pub(crate) struct Node {
    pub(crate) region: Arc<Region>,
    pub(crate) listener: GeoListener,
    pub(crate) links: Links,
    pub(crate) counters: Arc<Counters>,
}

pub(crate) fn settings() -> Settings {
    Settings {
        bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
        connections: 2,
        // A machine that stands still for seconds neither ends a link nor makes it run over TCP.
        quic_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(15),
        handshake_timeout: Duration::from_secs(10),
        backoff_min: Duration::from_millis(20),
        backoff_max: Duration::from_millis(200),
        watermark_interval: Duration::from_millis(20),
        ..Settings::new([7; 32])
    }
}

pub(crate) fn anywhere() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
}

impl Node {
    pub(crate) async fn start(number: u16) -> Self {
        Self::start_with(
            number,
            settings(),
            GeoTls::ephemeral().expect("TLS"),
            Arc::new(OsNetwork),
        )
        .await
    }

    pub(crate) async fn start_with(
        number: u16,
        mut settings: Settings,
        tls: GeoTls,
        network: Arc<dyn Network>,
    ) -> Self {
        settings.seed[0] = u8::try_from(number).expect("small");
        let region = Region::new(number);
        let sides = Arc::new(Sides(region.clone()));
        let counters: Arc<Counters> = Arc::default();
        let listener = GeoListener::start(
            settings.clone(),
            tls.clone(),
            network.clone(),
            anywhere(),
            sides.clone(),
            sides.clone(),
            counters.clone(),
        )
        .await
        .expect("it listens");
        let links = Links::start(settings, tls, network, sides.clone(), sides, counters.clone());
        Self {
            region,
            listener,
            links,
            counters,
        }
    }

    pub(crate) fn address(&self) -> String {
        self.listener.local_addr().to_string()
    }

    /// Makes the other region known and follows shards of it.
    pub(crate) fn follow(&self, other: &Self, shards: impl IntoIterator<Item = u32>) {
        self.know(other.region.number(), other.address());
        for shard in shards {
            self.links
                .follow(ShardId(shard), other.region.number(), &other.address(), 1);
        }
    }

    pub(crate) fn know(&self, number: RegionNumber, address: String) {
        self.links.set_peers(vec![PeerRegion {
            number,
            name: None,
            addresses: vec![address],
        }]);
    }

    /// The only link.
    pub(crate) fn link(&self) -> LinkStatus {
        let mut links = self.links.status();
        assert_eq!(links.len(), 1, "{links:?}");
        links.remove(0)
    }

    /// Waits until a shard here has as much as there, and compares the bytes.
    pub(crate) async fn caught_up(&self, other: &Self, shard: u32) {
        let shard = ShardId(shard);
        until("the mirror has everything", || {
            self.region.sequence(shard) == other.region.sequence(shard)
        })
        .await;
        assert!(
            self.region.commands(shard) == other.region.commands(shard),
            "bytes differ"
        );
        assert_eq!(self.region.misfits.load(Ordering::Relaxed), 0);
    }
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "not in time: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Bytes that do not compress, or that do.
pub(crate) fn commands(seed: u64, count: usize, bytes: usize, is_random: bool) -> Vec<Bytes> {
    let mut state = seed | 1;
    (0..count)
        .map(|n| {
            let body: Vec<u8> = (0..bytes)
                .map(|at| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if is_random {
                        (state >> 33) as u8
                    } else {
                        b"meridian "[(at + n) % 9]
                    }
                })
                .collect();
            Bytes::from(body)
        })
        .collect()
}

/// Loopback that can be cut, or lets no UDP through.
#[derive(Debug, Default)]
pub(crate) struct Cuttable {
    pub(crate) is_udp_cut: Arc<AtomicBool>,
}

impl Network for Cuttable {
    fn udp(&self, at: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(CuttableSocket {
            inner: OsNetwork.udp(at)?,
            is_cut: self.is_udp_cut.clone(),
        }))
    }

    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        async move { OsNetwork.resolve(host, port).await }.boxed()
    }

    fn connect(&self, from: IpAddr, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>> {
        async move { OsNetwork.connect(from, to).await }.boxed()
    }

    fn listen(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn StreamAcceptor>>> {
        async move { OsNetwork.listen(at).await }.boxed()
    }
}

#[derive(Debug)]
struct CuttableSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    is_cut: Arc<AtomicBool>,
}

impl AsyncUdpSocket for CuttableSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.is_cut.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [io::IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
