//! The sockets for datagrams. Every sender has a socket of its own towards the target, as behind a NAT.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use rustix::net::sockopt;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use crate::link::{Direction, Link, Parcel};
use crate::pipe::Kind;
use crate::route::Route;

/// What the kernel may keep for us: bursts come faster than a thread is woken.
const SOCKET_BYTES: usize = 8 << 20;

/// The largest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// Datagrams that are read before others get a turn.
const BATCH: usize = 64;

/// Senders of a port. One more takes the place of the one that was silent for the longest time.
const SENDERS_MAX: usize = 1024;

/// A sender, and its way to the target.
struct Sender {
    link: Link,
    toward: Direction,
    upstream: Arc<UdpSocket>,
    answers: tokio::task::AbortHandle,
    /// Counts the datagrams of the port.
    last_used: u64,
}

/// Makes the socket the runtime's.
pub(crate) fn adopt(socket: std::net::UdpSocket) -> io::Result<Arc<UdpSocket>> {
    socket.set_nonblocking(true)?;
    enlarge(&socket);
    UdpSocket::from_std(socket).map(Arc::new)
}

/// Larger buffers, as far as this process may have them.
fn enlarge(socket: &std::net::UdpSocket) {
    if sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BYTES).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(socket, SOCKET_BYTES);
    }
    if sockopt::set_socket_send_buffer_size_force(socket, SOCKET_BYTES).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(socket, SOCKET_BYTES);
    }
}

/// Sends one datagram: to `to`, or to where the socket is connected.
pub(crate) async fn send(socket: &UdpSocket, to: Option<SocketAddr>, bytes: &[u8]) -> io::Result<usize> {
    match to {
        Some(to) => socket.send_to(bytes, to).await,
        None => socket.send(bytes).await,
    }
}

/// Carries datagrams until it is aborted.
pub(crate) async fn serve(socket: Arc<UdpSocket>, target: SocketAddr, routes: Arc<[Route]>) {
    let mut senders: HashMap<SocketAddr, Sender> = HashMap::new();
    let mut answers = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut count = 0_u64;
    loop {
        // An error is about an earlier datagram that nobody took, and says nothing about the next one.
        let _ = socket.readable().await;
        for _ in 0..BATCH {
            let (length, from) = match socket.try_recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => continue,
            };
            count += 1;
            if !senders.contains_key(&from) {
                let Some(route) = Route::find(&routes, from) else {
                    continue;
                };
                let Ok(upstream) = connect(target) else { continue };
                let back = (route.link.clone(), route.toward.opposite());
                let carrying = answers.spawn(carry_answers(upstream.clone(), socket.clone(), from, back));
                make_room(&mut senders);
                senders.insert(
                    from,
                    Sender {
                        link: route.link.clone(),
                        toward: route.toward,
                        upstream,
                        answers: carrying,
                        last_used: count,
                    },
                );
            }
            let Some(sender) = senders.get_mut(&from) else {
                continue;
            };
            sender.last_used = count;
            let parcel = Parcel::Datagram {
                socket: sender.upstream.clone(),
                to: None,
                bytes: Bytes::copy_from_slice(&buffer[..length]),
            };
            sender.link.put(sender.toward, Kind::Datagram, length, parcel);
        }
        while answers.try_join_next().is_some() {}
        tokio::task::yield_now().await;
    }
}

fn make_room(senders: &mut HashMap<SocketAddr, Sender>) {
    if senders.len() < SENDERS_MAX {
        return;
    }
    let silent = senders.iter().min_by_key(|(_, sender)| sender.last_used);
    let Some(from) = silent.map(|(from, _)| *from) else {
        return;
    };
    if let Some(sender) = senders.remove(&from) {
        sender.answers.abort();
    }
}

/// A socket of its own towards the target.
fn connect(target: SocketAddr) -> io::Result<Arc<UdpSocket>> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.connect(target)?;
    adopt(socket)
}

/// Carries what the target sends back to the sender.
async fn carry_answers(
    upstream: Arc<UdpSocket>,
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    (link, direction): (Link, Direction),
) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let _ = upstream.readable().await;
        for _ in 0..BATCH {
            let length = match upstream.try_recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The target was not there for an earlier datagram; it may come.
                Err(_) => continue,
            };
            let parcel = Parcel::Datagram {
                socket: socket.clone(),
                to: Some(to),
                bytes: Bytes::copy_from_slice(&buffer[..length]),
            };
            link.put(direction, Kind::Datagram, length, parcel);
        }
        tokio::task::yield_now().await;
    }
}
