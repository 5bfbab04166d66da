//! Sockets: the seam to the network.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};

/// Asked of the system for each UDP socket; it gives less where it is told to. Its own default holds a few
/// milliseconds of a fast link.
const UDP_BUFFER_BYTES: usize = 4 << 20;
const BACKLOG: u32 = 1024;

/// Bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for T {}

/// The network as links see it. A simulation brings its own.
pub trait Network: Debug + Send + Sync + 'static {
    /// A socket of UDP at an address of this node; port 0 takes a free one.
    fn udp(&self, at: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>>;

    /// The addresses of a host.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;

    /// Connects by TCP. `from` is this node's address, or unspecified.
    fn connect(&self, from: IpAddr, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>>;

    /// Listens for TCP.
    fn listen(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn StreamAcceptor>>>;
}

/// A place where others connect by TCP.
pub trait StreamAcceptor: Send {
    /// The next connection and its address. Safe to cancel.
    ///
    /// Errors are about one connection or about resources: wait a little, then go on accepting.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn ByteStream>, SocketAddr)>>;
}

/// The real network.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsNetwork;

impl Network for OsNetwork {
    fn udp(&self, at: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = UdpSocket::bind(at)?;
        // Less is slower, not wrong.
        let _ = set_socket_recv_buffer_size(&socket, UDP_BUFFER_BYTES);
        let _ = set_socket_send_buffer_size(&socket, UDP_BUFFER_BYTES);
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        async move { Ok(lookup_host((host, port)).await?.collect()) }.boxed()
    }

    fn connect(&self, from: IpAddr, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>> {
        async move {
            let socket = if to.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            if !from.is_unspecified() && from.is_ipv4() == to.is_ipv4() {
                socket.bind(SocketAddr::new(from, 0))?;
            }
            boxed(socket.connect(to).await?)
        }
        .boxed()
    }

    fn listen(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn StreamAcceptor>>> {
        async move {
            let socket = if at.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            // A restart must not wait for old connections to fade.
            socket.set_reuseaddr(true)?;
            socket.bind(at)?;
            Ok(Box::new(OsAcceptor(socket.listen(BACKLOG)?)) as Box<dyn StreamAcceptor>)
        }
        .boxed()
    }
}

struct OsAcceptor(TcpListener);

impl StreamAcceptor for OsAcceptor {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn ByteStream>, SocketAddr)>> {
        async move {
            let (stream, peer) = self.0.accept().await?;
            Ok((boxed(stream)?, peer))
        }
        .boxed()
    }
}

fn boxed(stream: TcpStream) -> io::Result<Box<dyn ByteStream>> {
    // An acknowledgement must not wait for more to say.
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

/// From where a socket to `to` goes out.
pub(crate) fn outgoing(bind: IpAddr, to: SocketAddr) -> SocketAddr {
    let any = match to {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let from = if bind.is_ipv4() == to.is_ipv4() { bind } else { any };
    SocketAddr::new(from, 0)
}

/// Takes `HOST:PORT` apart; IPv6 addresses stand in brackets.
pub(crate) fn host_port(address: &str) -> Result<(&str, u16), String> {
    let wrong = || {
        format!(
            "`{}` is no address: expected HOST:PORT, such as node-1.example:9644 or [::1]:9644",
            address.escape_debug()
        )
    };
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(wrong)?,
        None if host.contains(':') => return Err(wrong()),
        None => host,
    };
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(wrong());
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_or_refused_with_the_text() {
        assert_eq!(host_port("b.example:7"), Ok(("b.example", 7)));
        assert_eq!(host_port("[::1]:7"), Ok(("::1", 7)));
        for wrong in ["", "host", ":1", "::1:7", "h:70000", "a b:1"] {
            assert!(host_port(wrong).expect_err("wrong").contains(wrong), "{wrong}");
        }
    }
}
