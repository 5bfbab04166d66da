//! The links between regions, on turmoil's network: UDP for QUIC, and TCP.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use meridian_geo_mirror::{ByteStream, Network, StreamAcceptor};
use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use turmoil::net::{TcpListener, TcpStream, UdpSocket};

/// Larger than any datagram of QUIC here.
const DATAGRAM_BYTES_MAX: usize = 2048;

/// The network of the host that this is called in.
#[derive(Debug)]
pub struct SimGeoNetwork;

impl Network for SimGeoNetwork {
    fn udp(&self, at: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        // It never waits.
        let socket = UdpSocket::bind(at).now_or_never().unwrap_or_else(would_block)?;
        let socket = Arc::new(socket);
        let (arrived, receiver) = unbounded_channel();
        let receiving = Arc::clone(&socket);
        tokio::spawn(async move {
            let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
            loop {
                let received = tokio::select! {
                    received = receiving.recv_from(&mut buffer) => received,
                    () = arrived.closed() => return,
                };
                let Ok((len, from)) = received else { return };
                if arrived
                    .send((Bytes::copy_from_slice(&buffer[..len]), from))
                    .is_err()
                {
                    return;
                }
            }
        });
        Ok(Arc::new(SimUdp {
            socket,
            receiver: Mutex::new(receiver),
        }))
    }

    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        async move { Ok(vec![SocketAddr::new(turmoil::lookup(host), port)]) }.boxed()
    }

    fn connect(&self, _: IpAddr, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>> {
        async move {
            let stream = TcpStream::connect(to).await?;
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        }
        .boxed()
    }

    fn listen(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn StreamAcceptor>>> {
        async move {
            let listener = TcpListener::bind(at).await?;
            Ok(Box::new(Accepting(listener)) as Box<dyn StreamAcceptor>)
        }
        .boxed()
    }
}

fn would_block<T>() -> io::Result<T> {
    Err(io::ErrorKind::WouldBlock.into())
}

struct Accepting(TcpListener);

impl StreamAcceptor for Accepting {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn ByteStream>, SocketAddr)>> {
        async move {
            let (stream, peer) = self.0.accept().await?;
            Ok((Box::new(stream) as Box<dyn ByteStream>, peer))
        }
        .boxed()
    }
}

struct SimUdp {
    socket: Arc<UdpSocket>,
    receiver: Mutex<UnboundedReceiver<(Bytes, SocketAddr)>>,
}

impl fmt::Debug for SimUdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimUdp").finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for SimUdp {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let part = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(part) {
            self.socket.try_send_to(datagram, transmit.destination)?;
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (Some(buffer), Some(meta)) = (buffers.first_mut(), meta.first_mut()) else {
            return Poll::Ready(Ok(0));
        };
        let Some((datagram, from)) = ready!(self.receiver.lock().poll_recv(cx)) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        };
        let len = datagram.len().min(buffer.len());
        buffer[..len].copy_from_slice(&datagram[..len]);
        *meta = RecvMeta {
            addr: from,
            len,
            stride: len,
            ..RecvMeta::default()
        };
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// What is too much for turmoil's network it drops, as a real one does.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
