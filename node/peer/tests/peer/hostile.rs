//! What no node would send.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meridian_peer::{Lane, LinkState, PeerAddress};
use meridian_types::NodeId;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::harness::{ECHO, PATIENCE, RELEASE, SHARD, TestNode, body, soon, until};

/// A connection whose bytes the test writes itself, by `docs/formats/peer.md`.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
}

/// A greeting with these fields.
pub(crate) fn sealed(fields: &[u8]) -> Vec<u8> {
    let mut bytes = b"MRDNPEER".to_vec();
    bytes.extend(u16::try_from(fields.len() + 4).expect("short").to_le_bytes());
    bytes.extend(fields);
    bytes.extend(crc_fast::crc32_iscsi(&bytes).to_le_bytes());
    bytes
}

pub(crate) fn hello(versions: (u16, u16), node: u32, incarnation: u128, region: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    fields.extend(versions.0.to_le_bytes());
    fields.extend(versions.1.to_le_bytes());
    fields.push(0);
    fields.extend(node.to_le_bytes());
    fields.extend(incarnation.to_be_bytes());
    fields.extend(u16::try_from(region.len()).expect("short").to_le_bytes());
    fields.extend(region.as_bytes());
    sealed(&fields)
}

pub(crate) fn frame(what: u8, request: u64, kind: u16, body: &[u8]) -> Vec<u8> {
    let mut rest = Vec::new();
    rest.extend(u32::try_from(body.len()).expect("short").to_le_bytes());
    rest.extend(request.to_le_bytes());
    rest.extend([what, 0]);
    rest.extend(kind.to_le_bytes());
    rest.extend(3_u32.to_le_bytes());
    rest.extend(body);
    let mut bytes = crc_fast::crc32_iscsi(&rest).to_le_bytes().to_vec();
    bytes.extend(rest);
    bytes
}

impl Raw {
    pub(crate) async fn connect(at: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(at).await.expect("it listens"),
        }
    }

    /// Let in, as node 7.
    pub(crate) async fn greeted(node: &TestNode) -> Self {
        let mut raw = Self::connect(node.at).await;
        raw.send(&hello((1, 1), 7, 7, "west")).await;
        let reply = raw.greeting().await;
        assert_eq!(reply[0], 0, "let in: {}", reply.escape_ascii());
        raw
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        // The other side may have hung up already, which is what some tests are about.
        let _ = self.stream.write_all(bytes).await;
    }

    /// The fields of the reply to a hello.
    pub(crate) async fn greeting(&mut self) -> Vec<u8> {
        let mut prefix = [0; 10];
        soon(self.stream.read_exact(&mut prefix))
            .await
            .expect("a greeting");
        assert_eq!(prefix[..8], *b"MRDNPEER");
        let mut fields = vec![0; usize::from(u16::from_le_bytes([prefix[8], prefix[9]]))];
        soon(self.stream.read_exact(&mut fields))
            .await
            .expect("a greeting");
        fields.truncate(fields.len() - 4);
        fields
    }

    /// Why this connection was turned away.
    pub(crate) async fn rejection(&mut self) -> String {
        let fields = self.greeting().await;
        assert_eq!(fields[0], 1, "turned away");
        String::from_utf8(fields[3..].to_vec()).expect("text")
    }

    /// Waits until the other side has hung up.
    pub(crate) async fn closed(&mut self) {
        let mut rest = Vec::new();
        // A reset is as good as an end.
        let _ = soon(self.stream.read_to_end(&mut rest)).await;
    }
}

#[tokio::test]
async fn a_connection_with_a_bad_frame_is_closed_and_no_other() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    one.connect(&two).await;
    let good = frame(1, 1, ECHO, b"12345678");
    let mut flipped = good.clone();
    flipped[30] ^= 1;
    let mut oversized = good.clone();
    oversized[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let bad: Vec<Vec<u8>> = vec![
        flipped,
        oversized,
        frame(9, 1, ECHO, b""),
        frame(2, 1, 0, b"an answer to nothing"),
        b"GET / HTTP/1.1\r\nHost: node-2.example\r\n\r\n".to_vec(),
    ];
    for bytes in bad {
        let mut raw = Raw::greeted(&two).await;
        raw.send(&good).await;
        raw.send(&bytes).await;
        raw.closed().await;
    }
    // Cut off in the middle: nothing of it reaches the service.
    let mut raw = Raw::greeted(&two).await;
    raw.send(&good[..28]).await;
    drop(raw);
    let good_calls = || two.answers.numbers(ECHO).len();
    until("the good frame of each was served", || good_calls() == 5).await;
    let served = one.peers.call(two.id, Lane::Bulk, ECHO, SHARD, body(1)).await;
    assert!(served.is_ok());
    assert!(one.peers.link(two.id).is_connected());
    assert_eq!(one.peers.stats()[0].connects, 1);
}

#[tokio::test]
async fn what_a_frame_announces_takes_no_memory_before_it_is_there() {
    let two = TestNode::start(2).await;
    let mut announcing = Vec::new();
    for number in 0..40 {
        let mut raw = Raw::greeted(&two).await;
        let mut head = frame(4, 0, RELEASE, b"");
        head[4..8].copy_from_slice(&(120_u32 << 20).to_le_bytes());
        raw.send(&head).await;
        raw.send(&[number; 100]).await;
        announcing.push(raw);
    }
    sleep(Duration::from_millis(50)).await;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident_kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    // Other tests of this process hold some too; what was announced is 4800 MiB.
    assert!(resident_kib < 2 << 20, "{resident_kib} KiB");
}

#[tokio::test]
async fn a_side_that_never_greets_is_dropped_after_its_time() {
    let two = TestNode::start(2).await;
    let mut silent = Raw::connect(two.at).await;
    let mut half = Raw::connect(two.at).await;
    half.send(&hello((1, 1), 7, 7, "west")[..20]).await;
    soon(async {
        silent.closed().await;
        half.closed().await;
    })
    .await;
}

#[tokio::test]
async fn at_most_a_kibibyte_is_read_before_a_side_is_let_in() {
    let two = TestNode::start(2).await;
    let mut raw = Raw::connect(two.at).await;
    raw.send(b"MRDNPEER\xff\xff").await;
    let reason = raw.rejection().await;
    assert!(reason.contains("a greeting of 65545 bytes"), "{reason}");
    let mut flood = Raw::connect(two.at).await;
    let wrote = timeout(PATIENCE, async {
        // The sockets' buffers take some megabytes; then writing fails, as nobody reads.
        for _ in 0..1000 {
            if flood.stream.write_all(&[b'x'; 64 << 10]).await.is_err() {
                return;
            }
        }
        panic!("64 MB were read");
    });
    wrote.await.expect("the connection was closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_bytes_make_a_node_stumble() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    one.connect(&two).await;
    let mut runner = TestRunner::deterministic();
    let strategy = (
        any::<bool>(),
        proptest::collection::vec(any::<u8>(), 0..200),
        0..4_u8,
    );
    for _ in 0..150 {
        let (greets, bytes, how) = strategy.new_tree(&mut runner).expect("a case").current();
        let mut raw = if greets {
            Raw::greeted(&two).await
        } else {
            Raw::connect(two.at).await
        };
        match how {
            0 => raw.send(&bytes).await,
            1 => raw.send(&sealed(&bytes)).await,
            2 => raw.send(&frame(bytes.len() as u8 % 7, 1, RELEASE, &bytes)).await,
            _ => {
                let mut cut = hello((1, 1), 7, 7, "west");
                cut.truncate(bytes.len());
                raw.send(&cut).await;
            }
        }
    }
    let served = one.peers.call(two.id, Lane::Bulk, ECHO, SHARD, body(1)).await;
    assert!(served.is_ok());
    assert_eq!(one.peers.stats()[0].connects, 1);
}

#[tokio::test]
async fn garbage_from_the_side_that_was_dialled_only_ends_the_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("bound");
    let one = TestNode::start(1).await;
    let address = |at: SocketAddr| PeerAddress {
        at: meridian_peer::HostPort::new(at.ip().to_string(), at.port()),
        incarnation: None,
    };
    one.peers.set_address(NodeId(2), Some(address(at)));
    let mut welcome = vec![0];
    welcome.extend(1_u16.to_le_bytes());
    welcome.extend(2_u32.to_le_bytes());
    welcome.extend(2_u128.to_be_bytes());
    let mut future_version = welcome.clone();
    future_version[1] = 9;
    let after_welcome = |bytes: Vec<u8>| [sealed(&welcome), bytes].concat();
    let says: Vec<(Vec<u8>, &str)> = vec![
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            "no node of this kind",
        ),
        (sealed(b""), "outcome"),
        (sealed(&[7, 7, 7]), "outcome"),
        (sealed(&future_version), "frame version 9"),
        (Vec::new(), "the connection closed"),
        (after_welcome(vec![0xee; 100]), "of unknown type"),
        (after_welcome(frame(1, 1, ECHO, b"")), "no place here"),
        (after_welcome(frame(2, 77, 0, &[1; 100])), "closed the connection"),
    ];
    for (bytes, expected) in says {
        let hit = async {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a dial");
                let mut hello = [0; 45];
                stream.read_exact(&mut hello).await.expect("a hello");
                stream.write_all(&bytes).await.expect("it reads");
                drop(stream);
                if [Lane::Bulk, Lane::Urgent]
                    .iter()
                    .any(|lane| one.last_failure(*lane).contains(expected))
                {
                    return;
                }
            }
        };
        if timeout(PATIENCE, hit).await.is_err() {
            panic!("expected `{expected}`: {:?}", one.peers.stats());
        }
    }
    assert_ne!(one.peers.link(NodeId(2)), LinkState::Refused);
    assert_eq!(one.answers.heard_bytes.load(Ordering::Relaxed), 0);
}
