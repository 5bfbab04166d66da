//! A source with a good certificate and bad manners.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use meridian_geo_mirror::{
    Codec, EntriesFrame, Frame, Greeting, Intent, OsNetwork, Subscription, Transport, TransportSetting,
};
use meridian_types::{RegionEpoch, RegionNumber, ShardId};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::time::timeout;

use crate::authority::Authority;
use crate::harness::{Node, Region, fold, settings, until};

/// Where region 0 is said to be.
struct Hostile {
    endpoint: Endpoint,
}

struct Link {
    connection: Connection,
    writer: SendStream,
    reader: RecvStream,
    _rest: Endpoint,
}

impl Hostile {
    fn start(authority: &Authority) -> Self {
        let (_, server) = authority.raw("node-1.region-0");
        let server = QuicServerConfig::try_from(server).expect("a suite");
        let config = quinn::ServerConfig::with_crypto(Arc::new(server));
        let at: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        Self {
            endpoint: Endpoint::server(config, at).expect("a socket"),
        }
    }

    /// Lets the mirror's first connection in.
    async fn accept(&self) -> Link {
        let incoming = timeout(Duration::from_secs(30), self.endpoint.accept()).await;
        let connection = incoming
            .expect("it dials")
            .expect("open")
            .await
            .expect("connected");
        let (writer, reader) = connection.accept_bi().await.expect("a stream");
        let mut link = Link {
            connection,
            writer,
            reader,
            _rest: self.endpoint.clone(),
        };
        let Frame::Hello(theirs) = link.hear().await else {
            panic!("a greeting")
        };
        let hello = Region::new(0).hello.lock().clone();
        let ours = Greeting {
            versions: 1..=1,
            intent: Intent::Link,
            session: theirs.session,
            hello,
        };
        link.say(&Frame::Hello(ours)).await;
        link
    }
}

impl Link {
    async fn hear(&mut self) -> Frame {
        let mut head = [0; 12];
        self.reader.read_exact(&mut head).await.expect("a head");
        let bytes = u32::from_le_bytes(head[4..8].try_into().expect("four")) as usize;
        let mut frame = head.to_vec();
        frame.resize(12 + bytes, 0);
        self.reader.read_exact(&mut frame[12..]).await.expect("fields");
        Frame::decode(frame.into()).expect("a frame")
    }

    /// Waits until the shard is asked for.
    async fn asked(&mut self) -> (Subscription, u64) {
        loop {
            if let Frame::Follow(follow) = self.hear().await {
                self.say(&Frame::Following(follow.subscription)).await;
                return (follow.subscription, follow.cursor.sequence);
            }
        }
    }

    async fn say(&mut self, frame: &Frame) {
        self.writer.write_all(&frame.encode()).await.expect("said");
    }

    async fn stream(&self, bytes: &[u8]) {
        let mut stream = self.connection.open_uni().await.expect("a stream");
        // The other side may end the connection before all is written.
        let _ = stream.write_all(bytes).await;
        let _ = stream.finish();
    }
}

/// One command per sequence: its number.
fn frame(subscription: Subscription, first: u64, count: u32) -> EntriesFrame {
    let end = first + u64::from(count);
    let digest = (0..end).fold(0, |digest, n| fold(digest, &n.to_le_bytes()));
    let body: Vec<u8> = (first..end)
        .flat_map(|n| [&8_u32.to_le_bytes()[..], &n.to_le_bytes()].concat())
        .collect();
    EntriesFrame {
        subscription,
        number: first,
        region_epoch: RegionEpoch(1),
        first_sequence: first,
        digest,
        count,
        codec: Codec::None,
        raw_bytes: u32::try_from(body.len()).expect("small"),
        body: Bytes::from(body),
    }
}

fn bytes(frame: &EntriesFrame) -> Vec<u8> {
    Frame::Entries(frame.clone()).encode().to_vec()
}

async fn mirror(authority: &Authority, hostile: &Hostile) -> Node {
    let settings = meridian_geo_mirror::Settings {
        connections: 1,
        transport: TransportSetting::Quic,
        shard_window_bytes: 1 << 20,
        ..settings()
    };
    let tls = authority.tls("node-100001.region-1");
    let mirror = Node::start_with(1, settings, tls, Arc::new(OsNetwork)).await;
    let address = hostile.endpoint.local_addr().expect("bound").to_string();
    mirror.know(RegionNumber(0), address.clone());
    mirror.links.follow(ShardId(0), RegionNumber(0), &address, 1);
    mirror
}

async fn has(mirror: &Node, sequence: u64) {
    until("the entries are there", || {
        mirror.region.sequence(ShardId(0)) == sequence
    })
    .await;
    let found = mirror.region.commands(ShardId(0));
    let expected: Vec<_> = (0..sequence)
        .map(|n| Bytes::copy_from_slice(&n.to_le_bytes()))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(mirror.region.misfits.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_reordered_and_replayed_frames_change_nothing() {
    let authority = Authority::new("all regions");
    let hostile = Hostile::start(&authority);
    let mirror = mirror(&authority, &hostile).await;
    let mut link = hostile.accept().await;
    let (subscription, from) = link.asked().await;
    assert_eq!(from, 0);
    let frames: Vec<_> = (0..20).map(|n| bytes(&frame(subscription, n * 5, 5))).collect();
    for _ in 0..3 {
        for frame in frames.iter().rev() {
            link.stream(frame).await;
        }
    }
    has(&mirror, 100).await;
    // A whole connection later, the frames of before come again.
    link.connection.close(0_u32.into(), b"");
    let mut link = hostile.accept().await;
    let (subscription, from) = link.asked().await;
    assert_eq!(from, 100);
    for frame in &frames {
        link.stream(frame).await;
    }
    link.stream(&bytes(&frame(subscription, 100, 5))).await;
    has(&mirror, 105).await;
    assert!(mirror.counters.frames_dropped.load(Ordering::Relaxed) >= 20);
    let transport = mirror.link().transport.map(|status| status.transport);
    assert!(transport.is_none_or(|transport| transport == Transport::Quic));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_lie_are_refused_and_the_shard_is_asked_for_again() {
    let authority = Authority::new("all regions");
    let hostile = Hostile::start(&authority);
    let mirror = mirror(&authority, &hostile).await;
    let mut link = hostile.accept().await;
    let lies: [&dyn Fn(&mut EntriesFrame); 5] = [
        // Of an older epoch.
        &|frame| frame.region_epoch = RegionEpoch(0),
        // Not the commands that it says.
        &|frame| {
            frame.count = 3;
        },
        // Compressed, it says.
        &|frame| frame.codec = Codec::Zstd,
        &|frame| {
            frame.codec = Codec::Lz4;
            frame.raw_bytes = 100 << 20;
        },
        // Of another size.
        &|frame| frame.raw_bytes += 1,
    ];
    for (n, lie) in lies.iter().enumerate() {
        let (subscription, from) = link.asked().await;
        assert_eq!(from, n as u64 * 4);
        link.stream(&bytes(&frame(subscription, from, 4))).await;
        has(&mirror, from + 4).await;
        let mut bad = frame(subscription, from + 4, 4);
        lie(&mut bad);
        link.stream(&bytes(&bad)).await;
    }
    let (subscription, from) = link.asked().await;
    link.stream(&bytes(&frame(subscription, from, 4))).await;
    has(&mirror, 24).await;
    assert_eq!(mirror.counters.frames_refused.load(Ordering::Relaxed), 5);
    // Wrong content is not asked for again before somebody looks.
    let mut bad = frame(subscription, 24, 4);
    bad.digest ^= 1;
    link.stream(&bytes(&bad)).await;
    until("the shard is parked", || {
        mirror.link().shards.first().is_some_and(|shard| {
            shard
                .trouble
                .as_ref()
                .is_some_and(|text| text.contains("differs"))
        })
    })
    .await;
    has(&mirror, 24).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_floods_end_the_link_which_comes_back() {
    let authority = Authority::new("all regions");
    let hostile = Hostile::start(&authority);
    let mirror = mirror(&authority, &hostile).await;
    for n in 0..4 {
        let mut link = hostile.accept().await;
        let (subscription, from) = link.asked().await;
        match n {
            0 => link.stream(&[0xff; 1000]).await,
            1 => link.stream(&Frame::Ping(1).encode()).await,
            2 => {
                link.connection
                    .send_datagram(Bytes::from_static(b"nothing"))
                    .expect("sent");
            }
            _ => {
                // Never what comes next: everything has to wait.
                for n in 0..1000 {
                    let far = EntriesFrame {
                        first_sequence: from + 10 + n * 2,
                        body: Bytes::from(vec![0; 4096]),
                        raw_bytes: 4096,
                        ..frame(subscription, 0, 1)
                    };
                    link.stream(&bytes(&far)).await;
                    if mirror.counters.frames_refused.load(Ordering::Relaxed) > 0 {
                        break;
                    }
                }
                until("it is too much", || {
                    mirror.counters.frames_refused.load(Ordering::Relaxed) > 0
                })
                .await;
                link.connection.close(0_u32.into(), b"");
                continue;
            }
        }
        let ended = timeout(Duration::from_secs(30), link.connection.closed()).await;
        assert!(ended.is_ok(), "case {n}");
    }
    let mut link = hostile.accept().await;
    let (subscription, from) = link.asked().await;
    link.stream(&bytes(&frame(subscription, from, 4))).await;
    has(&mirror, 4).await;
}
