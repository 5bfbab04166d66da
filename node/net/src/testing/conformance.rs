//! What every [`Net`] keeps, as a suite that all of them run.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::connection::Connection;
use crate::net::{Acceptor, Net};

/// Long enough for any of it, even in a simulation with latencies, or where no server of names answers.
const LIMIT: Duration = Duration::from_secs(120);

/// Panics when `net` does not keep what [`Net`] promises. `at` is an address of its host, with port 0; `host` is how it
/// names itself.
pub async fn conformance(net: &dyn Net, at: SocketAddr, host: &str) {
    timeout(LIMIT, async {
        bytes_arrive_in_order_and_end_with_the_writer(net, at, host).await;
        a_dropped_connection_ends_for_the_other_side(net, at, host).await;
        a_port_belongs_to_one_acceptor_and_nobody_listens_after_it(net, at, host).await;
        a_connection_survives_its_acceptor_and_a_move(net, at, host).await;
        a_writer_waits_for_a_reader(net, at, host).await;
    })
    .await
    .expect("the suite ends in time");
}

async fn pair(net: &dyn Net, acceptor: &mut dyn Acceptor, host: &str) -> (Connection, Connection) {
    let port = acceptor.local_addr().expect("bound").port();
    let (ours, theirs) = tokio::join!(net.connect(host, port), acceptor.accept());
    (
        ours.expect("somebody listens"),
        theirs.expect("somebody connects"),
    )
}

async fn bytes_arrive_in_order_and_end_with_the_writer(net: &dyn Net, at: SocketAddr, host: &str) {
    let mut acceptor = net.bind(at).await.expect("a free port");
    assert_ne!(
        acceptor.local_addr().expect("bound").port(),
        0,
        "the real port is told"
    );
    let (mut ours, mut theirs) = pair(net, &mut *acceptor, host).await;
    assert_eq!(ours.peer.port(), acceptor.local_addr().expect("bound").port());
    let sent: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let write = async {
        ours.writer.write_all(&sent).await.expect("written");
        ours.writer.shutdown().await.expect("ended");
    };
    let mut received = Vec::new();
    let ((), read) = tokio::join!(write, theirs.reader.read_to_end(&mut received));
    read.expect("read");
    assert!(received == sent, "the bytes arrive as they were sent");
    // The other direction is still open.
    theirs.writer.write_all(b"back").await.expect("written");
    let mut back = [0; 4];
    ours.reader.read_exact(&mut back).await.expect("read");
    assert_eq!(&back, b"back");
}

async fn a_dropped_connection_ends_for_the_other_side(net: &dyn Net, at: SocketAddr, host: &str) {
    let mut acceptor = net.bind(at).await.expect("a free port");
    let (ours, mut theirs) = pair(net, &mut *acceptor, host).await;
    drop(ours);
    let read = theirs.reader.read(&mut [0; 1]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    // Writing fails after a while, when the news has come.
    while theirs.writer.write_all(&[0; 1000]).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn a_port_belongs_to_one_acceptor_and_nobody_listens_after_it(
    net: &dyn Net,
    at: SocketAddr,
    host: &str,
) {
    let acceptor = net.bind(at).await.expect("a free port");
    let bound = acceptor.local_addr().expect("bound");
    let kind = |outcome: io::Result<()>| outcome.expect_err("an error").kind();
    assert_eq!(kind(net.bind(bound).await.map(drop)), ErrorKind::AddrInUse);
    drop(acceptor);
    let refused = kind(net.connect(host, bound.port()).await.map(drop));
    assert_eq!(refused, ErrorKind::ConnectionRefused);
    drop(net.bind(bound).await.expect("free again"));
    let unknown = kind(net.connect("no-such-host.invalid", 1).await.map(drop));
    assert_ne!(
        unknown,
        ErrorKind::ConnectionRefused,
        "an unknown host has not answered"
    );
}

async fn a_connection_survives_its_acceptor_and_a_move(net: &dyn Net, at: SocketAddr, host: &str) {
    let mut acceptor = net.bind(at).await.expect("a free port");
    let (mut ours, mut theirs) = pair(net, &mut *acceptor, host).await;
    drop(acceptor);
    ours.writer.write_all(b"before").await.expect("written");
    theirs.rehome().expect("moved");
    ours.rehome().expect("moved");
    ours.writer.write_all(b" and after").await.expect("written");
    let mut received = [0; 16];
    theirs.reader.read_exact(&mut received).await.expect("read");
    assert_eq!(&received, b"before and after");
}

async fn a_writer_waits_for_a_reader(net: &dyn Net, at: SocketAddr, host: &str) {
    let mut acceptor = net.bind(at).await.expect("a free port");
    let (mut ours, theirs) = pair(net, &mut *acceptor, host).await;
    let write = async {
        for _ in 0..1000 {
            ours.writer.write_all(&[0; 1 << 20]).await.expect("written");
        }
    };
    let waited = timeout(Duration::from_millis(300), write).await;
    assert!(waited.is_err(), "a gigabyte was taken without a reader");
    drop(theirs);
}
