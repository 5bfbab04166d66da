//! TCP.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};

use crate::connection::{Connection, ReadHalf, Rehome, WriteHalf};
use crate::net::{Acceptor, Net};

/// Connections that the kernel keeps for us until they are accepted.
const BACKLOG: u32 = 4096;

/// The real network.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpNet;

impl Net for TcpNet {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Connection>> {
        connect(host, port).boxed()
    }

    fn bind(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Acceptor>>> {
        async move {
            let socket = if at.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            // A restart must not wait for old connections to fade.
            socket.set_reuseaddr(true)?;
            socket.bind(at)?;
            let listener = socket.listen(BACKLOG)?;
            Ok(Box::new(TcpAcceptor(listener)) as Box<dyn Acceptor>)
        }
        .boxed()
    }
}

/// Tries the host's addresses in turn. A host is gone when one of them refuses and none leaves hope.
async fn connect(host: &str, port: u16) -> io::Result<Connection> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in lookup_host((host, port)).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => return connection(stream),
            Err(error) if weight(&error) >= weight(&failure) => failure = error,
            Err(_) => {}
        }
    }
    Err(failure)
}

/// Which of several failures tells the most about the host.
fn weight(error: &io::Error) -> u8 {
    use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, NetworkUnreachable, NotFound, Unsupported};
    match error.kind() {
        NotFound => 0,
        // About this machine: it has no IPv6, for instance.
        AddrNotAvailable | NetworkUnreachable | Unsupported => 1,
        ConnectionRefused => 2,
        _ => 3,
    }
}

struct TcpAcceptor(TcpListener);

impl Acceptor for TcpAcceptor {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<Connection>> {
        async move { connection(self.0.accept().await?.0) }.boxed()
    }
}

fn connection(stream: TcpStream) -> io::Result<Connection> {
    // A frame must not wait for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?;
    let stream = Arc::new(stream);
    let (reader, writer) = halves(&stream);
    let rehome: Rehome = Box::new(move || {
        let stream = Arc::into_inner(stream)
            .ok_or_else(|| io::Error::other("a half of the connection is still in use"))?;
        Ok(halves(&Arc::new(TcpStream::from_std(stream.into_std()?)?)))
    });
    Ok(Connection::new(reader, writer, peer).with_rehome(rehome))
}

fn halves(stream: &Arc<TcpStream>) -> (ReadHalf, WriteHalf) {
    (
        Box::new(TcpReader(stream.clone())),
        Box::new(TcpWriter(stream.clone())),
    )
}

/// Tokio's own halves shut the socket down when dropped, which would forbid to move it between runtimes.
struct TcpReader(Arc<TcpStream>);

struct TcpWriter(Arc<TcpStream>);

impl AsyncRead for TcpReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            // Reads into memory that was never written, which saves zeroing a large frame's buffer.
            match self.0.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl TcpWriter {
    fn poll_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncWrite for TcpWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(&*self.0, Shutdown::Write).map_err(io::Error::from))
    }
}
