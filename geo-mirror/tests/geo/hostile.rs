//! A follower with a good certificate and bad manners.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_geo_mirror::{
    Applied, Cursor, Follow, Frame, Greeting, Intent, OsNetwork, Settings, Subscription, Watermark,
    WatermarkOf,
};
use meridian_types::{RegionEpoch, ShardId, TimestampMs};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::time::{sleep, timeout};

use crate::authority::Authority;
use crate::harness::{Node, Region, commands, settings, until};

struct Hostile {
    connection: Connection,
    writer: SendStream,
    reader: RecvStream,
    _endpoint: Endpoint,
}

const SUBSCRIPTION: Subscription = Subscription {
    shard: ShardId(0),
    number: 1,
};

async fn dial(authority: &Authority, to: SocketAddr) -> Hostile {
    let (client, _) = authority.raw("node-200001.region-2");
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket");
    let client = QuicClientConfig::try_from(client).expect("a suite");
    let mut config = quinn::ClientConfig::new(Arc::new(client));
    let mut transport = quinn::TransportConfig::default();
    transport.max_concurrent_uni_streams(100_u32.into());
    config.transport_config(Arc::new(transport));
    endpoint.set_default_client_config(config);
    let connection = endpoint
        .connect(to, "127.0.0.1")
        .expect("an address")
        .await
        .expect("connected");
    let (writer, reader) = connection.open_bi().await.expect("a stream");
    Hostile {
        connection,
        writer,
        reader,
        _endpoint: endpoint,
    }
}

fn greeting() -> Greeting {
    Greeting {
        versions: 1..=1,
        intent: Intent::Link,
        session: 99,
        hello: Region::new(2).hello.lock().clone(),
    }
}

impl Hostile {
    async fn say(&mut self, bytes: &[u8]) {
        // The other side may have ended it already.
        let _ = self.writer.write_all(bytes).await;
    }

    async fn greet(&mut self) {
        self.say(&Frame::Hello(greeting()).encode()).await;
        let mut head = [0; 12];
        self.reader.read_exact(&mut head).await.expect("an answer");
        assert_eq!(head[8], 1, "welcome");
    }

    /// Waits until the other side has ended the connection.
    async fn ended(self) -> String {
        let reason = timeout(Duration::from_secs(30), self.connection.closed()).await;
        reason.expect("it ends").to_string()
    }
}

fn follow() -> Frame {
    Frame::Follow(Follow {
        subscription: SUBSCRIPTION,
        weight: 1,
        window_bytes: u32::MAX,
        cursor: Cursor {
            sequence: 0,
            digest: 0,
            lineage: vec![(RegionEpoch(1), 0)],
        },
    })
}

async fn pair(authority: &Authority) -> (Node, Node) {
    let settings = Settings {
        handshake_timeout: Duration::from_secs(5),
        link_window_bytes: 4 << 20,
        ..settings()
    };
    let network = Arc::new(OsNetwork);
    let owner = Node::start_with(
        0,
        settings.clone(),
        authority.tls("node-1.region-0"),
        network.clone(),
    )
    .await;
    let mirror = Node::start_with(1, settings, authority.tls("node-100001.region-1"), network).await;
    owner.region.append(ShardId(0), commands(1, 100, 1000, true));
    mirror.follow(&owner, [0]);
    mirror.caught_up(&owner, 0).await;
    (owner, mirror)
}

/// The honest link is the one from before, and works.
async fn undisturbed(owner: &Node, mirror: &Node) {
    owner.region.append(ShardId(0), commands(2, 10, 1000, true));
    mirror.caught_up(owner, 0).await;
    assert_eq!(
        mirror
            .counters
            .connects
            .load(std::sync::atomic::Ordering::Relaxed),
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_huge_lengths_and_frames_out_of_place_end_their_own_connection_only() {
    let authority = Authority::new("all regions");
    let (owner, mirror) = pair(&authority).await;
    let to = owner.listener.local_addr();
    let huge = {
        let mut head = vec![0; 12];
        head[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        head[8] = 7;
        head[9] = 1;
        head
    };
    let before: [Vec<u8>; 4] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        huge.clone(),
        Frame::Ping(1).encode().to_vec(),
        vec![0; 5],
    ];
    for bytes in before {
        let mut hostile = dial(&authority, to).await;
        hostile.say(&bytes).await;
        hostile.ended().await;
    }
    let watermarks = Frame::Watermarks(vec![WatermarkOf {
        subscription: SUBSCRIPTION,
        watermark: Watermark {
            sequence: 1,
            closed_at: TimestampMs(1),
        },
    }]);
    let applied = |sequence| {
        Frame::Applied(Applied {
            subscription: SUBSCRIPTION,
            sequence,
        })
    };
    let question = |number, bytes| {
        let question = Frame::Question {
            number,
            shard: ShardId(0),
            body: Bytes::from_static(bytes),
        };
        question.encode().to_vec()
    };
    let after: [(&str, Vec<u8>); 8] = [
        (
            "an answer to a source",
            Frame::Answer {
                number: 0,
                answer: Ok(Bytes::new()),
            }
            .encode()
            .to_vec(),
        ),
        (
            "more questions than may wait",
            (0..80).flat_map(|number| question(number, b"never")).collect(),
        ),
        ("garbage", vec![0xff; 100]),
        ("a huge length", huge),
        ("a second greeting", Frame::Hello(greeting()).encode().to_vec()),
        ("a frame of a source", watermarks.encode().to_vec()),
        ("a broken checksum", {
            let mut frame = follow().encode().to_vec();
            frame[20] ^= 1;
            frame
        }),
        (
            "more applied than sent",
            [follow().encode(), applied(u64::MAX).encode()].concat(),
        ),
    ];
    for (what, bytes) in after {
        let mut hostile = dial(&authority, to).await;
        hostile.greet().await;
        hostile.say(&bytes).await;
        if what.starts_with("more") {
            // Only counts for what is being sent, which begins a moment later.
            for _ in 0..100 {
                let closed = timeout(Duration::from_millis(100), hostile.connection.closed()).await;
                if closed.is_ok() {
                    break;
                }
                hostile.say(&applied(u64::MAX).encode()).await;
            }
        }
        let reason = hostile.ended().await;
        let says = ["frame", "more was sent than was asked for"];
        assert!(says.iter().any(|says| reason.contains(says)), "{what}: {reason}");
        until("the session is gone", || owner.listener.status().len() == 1).await;
    }
    undisturbed(&owner, &mirror).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_beyond_the_one_are_not_to_be_had() {
    let authority = Authority::new("all regions");
    let (owner, mirror) = pair(&authority).await;
    let mut hostile = dial(&authority, owner.listener.local_addr()).await;
    hostile.greet().await;
    for _ in 0..3 {
        let uni = timeout(Duration::from_millis(100), hostile.connection.open_uni()).await;
        assert!(uni.is_err(), "no stream of its own");
        let bi = timeout(Duration::from_millis(100), hostile.connection.open_bi()).await;
        assert!(bi.is_err(), "no second stream");
    }
    undisturbed(&owner, &mirror).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_does_not_read_bounds_what_is_read_for_it() {
    let authority = Authority::new("all regions");
    let (owner, mirror) = pair(&authority).await;
    let mut hostile = dial(&authority, owner.listener.local_addr()).await;
    hostile.greet().await;
    owner.region.append(ShardId(0), commands(3, 4000, 10_000, true));
    mirror.caught_up(&owner, 0).await;
    let read = || owner.region.bytes_read.load(std::sync::atomic::Ordering::Relaxed);
    let before = read();
    // Any window is asked for; the link's own still counts.
    hostile.say(&follow().encode()).await;
    until("it is served", || read() > before).await;
    sleep(Duration::from_millis(500)).await;
    assert!(read() - before < 8 << 20, "{}", read() - before);
    // Nor does a flood of questions pile answers up.
    let ping = Frame::Ping(1).encode();
    let flood: Vec<u8> = std::iter::repeat_n(ping, 20_000).flatten().collect();
    hostile.say(&flood).await;
    undisturbed(&owner, &mirror).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_and_says_nothing_is_let_go() {
    let authority = Authority::new("all regions");
    let (owner, mirror) = pair(&authority).await;
    let quiet = dial(&authority, owner.listener.local_addr()).await;
    let tcp = tokio::net::TcpStream::connect(owner.listener.local_addr())
        .await
        .expect("connected");
    quiet.ended().await;
    let mut byte = [0];
    let read = timeout(Duration::from_secs(30), async {
        let mut tcp = tcp;
        tokio::io::AsyncReadExt::read(&mut tcp, &mut byte).await
    });
    assert!(
        matches!(read.await, Ok(Ok(0) | Err(_))),
        "the connection is closed"
    );
    undisturbed(&owner, &mirror).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_without_its_link_and_a_link_told_twice_are_turned_away() {
    let authority = Authority::new("all regions");
    let (owner, mirror) = pair(&authority).await;
    let to = owner.listener.local_addr();
    let mut first = dial(&authority, to).await;
    first.greet().await;
    let strays = [
        Greeting {
            intent: Intent::Lane,
            session: 5,
            ..greeting()
        },
        greeting(),
    ];
    for stray in strays {
        let mut answer = Vec::new();
        for _ in 0..5 {
            let mut hostile = dial(&authority, to).await;
            hostile.say(&Frame::Hello(stray.clone()).encode()).await;
            answer = vec![0; 1000];
            // Who reads late finds the connection closed, and the answer gone with it.
            if let Ok(Some(read)) = hostile.reader.read(&mut answer).await {
                answer.truncate(read);
                break;
            }
        }
        let frame = Frame::decode(Bytes::from(answer)).expect("a frame");
        assert!(matches!(frame, Frame::Rejected { .. }), "{frame:?}");
    }
    undisturbed(&owner, &mirror).await;
}
