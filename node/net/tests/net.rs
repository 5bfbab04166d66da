//! TCP and the network in memory keep the same promises.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use meridian_net::testing::{MemoryNet, conformance};
use meridian_net::{Acceptor, Connection, Net, TcpNet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;
use tokio::time::timeout;

const PORT: u16 = 9190;
const SHORT: Duration = Duration::from_millis(30);
const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn tcp_keeps_what_a_net_promises() {
    let at = SocketAddr::from(([127, 0, 0, 1], 0));
    conformance(&TcpNet, at, "127.0.0.1").await;
    conformance(&TcpNet, at, "localhost").await;
}

#[tokio::test]
async fn memory_keeps_what_a_net_promises() {
    let net = MemoryNet::new();
    let at = SocketAddr::from(([0, 0, 0, 0], 0));
    conformance(&net.host("one"), at, "one").await;
    conformance(&net.host("two"), at, "10.0.0.2").await;
}

#[test]
fn a_moved_connection_lives_without_the_runtime_that_accepted_it() {
    let first = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let second = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let at = SocketAddr::from(([127, 0, 0, 1], 0));
    let (mut ours, mut theirs) = first.block_on(async {
        let mut acceptor = TcpNet.bind(at).await.expect("a port");
        let port = acceptor.local_addr().expect("bound").port();
        let ours = TcpNet.connect("127.0.0.1", port).await.expect("connected");
        (ours, acceptor.accept().await.expect("accepted"))
    });
    second.block_on(async {
        ours.rehome().expect("moved");
        theirs.rehome().expect("moved");
    });
    drop(first);
    second.block_on(async {
        ours.writer.write_all(b"on").await.expect("written");
        let mut received = [0; 2];
        theirs.reader.read_exact(&mut received).await.expect("read");
        assert_eq!(&received, b"on");
    });
}

async fn bound(net: &MemoryNet, host: &str) -> Box<dyn Acceptor> {
    let at = SocketAddr::from(([0, 0, 0, 0], PORT));
    net.host(host).bind(at).await.expect("a port")
}

async fn pair(net: &MemoryNet) -> (Connection, Connection) {
    let mut acceptor = bound(net, "two").await;
    let one = net.host("one").connect("two", PORT).await.expect("connected");
    (one, acceptor.accept().await.expect("accepted"))
}

async fn send(from: &mut Connection, text: &[u8]) {
    from.writer.write_all(text).await.expect("written");
}

/// What arrives.
async fn arrives(at: &mut Connection) -> Vec<u8> {
    arrives_within(LONG, at).await.expect("something arrives")
}

/// Nothing arrives within a short while.
async fn nothing_arrives(at: &mut Connection) {
    assert_eq!(arrives_within(SHORT, at).await, None);
}

async fn arrives_within(time: Duration, at: &mut Connection) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 100];
    let count = timeout(time, at.reader.read(&mut bytes))
        .await
        .ok()?
        .expect("read");
    bytes.truncate(count);
    Some(bytes)
}

#[tokio::test]
async fn what_is_sent_into_a_cut_arrives_when_it_is_healed() {
    let net = MemoryNet::new();
    let (mut one, mut two) = pair(&net).await;
    net.cut("one", "two");
    send(&mut one, b"late").await;
    send(&mut two, b"too").await;
    nothing_arrives(&mut two).await;
    nothing_arrives(&mut one).await;
    net.heal("two", "one");
    assert_eq!(arrives(&mut two).await, b"late");
    assert_eq!(arrives(&mut one).await, b"too");
}

#[tokio::test]
async fn a_cut_may_hold_in_one_direction_only() {
    let net = MemoryNet::new();
    let (mut one, mut two) = pair(&net).await;
    net.cut_one_way("one", "two");
    send(&mut one, b"lost").await;
    send(&mut two, b"heard").await;
    nothing_arrives(&mut two).await;
    assert_eq!(arrives(&mut one).await, b"heard");
    // The end of a connection does not cross a cut either.
    drop(one);
    nothing_arrives(&mut two).await;
    net.heal_all();
    assert_eq!(arrives(&mut two).await, b"lost");
    assert!(arrives(&mut two).await.is_empty());
}

#[tokio::test]
async fn nobody_connects_through_a_cut_until_it_is_healed() {
    let net = MemoryNet::new();
    let mut acceptor = bound(&net, "two").await;
    net.host("three");
    net.isolate("two");
    let one = net.host("one");
    // `one` came after the isolation.
    assert!(one.connect("two", PORT).await.is_ok());
    net.cut("one", "two");
    let mut dial = one.connect("two", PORT);
    assert!(timeout(SHORT, &mut dial).await.is_err());
    let gone = net.host("three");
    assert!(timeout(SHORT, gone.connect("two", PORT)).await.is_err());
    net.heal("one", "two");
    assert!(dial.await.is_ok());
    assert!(acceptor.accept().await.is_ok());
}

#[tokio::test]
async fn a_severed_connection_breaks_at_both_ends() {
    let net = MemoryNet::new();
    let (mut one, mut two) = pair(&net).await;
    send(&mut one, b"never").await;
    net.sever("one", "two");
    let at_two = two.reader.read(&mut [0; 10]).await.expect_err("broken");
    assert_eq!(at_two.kind(), ErrorKind::ConnectionReset);
    assert!(one.writer.write(b"x").await.is_err());
}
