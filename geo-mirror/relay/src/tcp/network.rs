//! The sockets of connections. Each end speaks TCP with the relay, which carries the bytes in between.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::link::{Direction, Link, Parcel, Piece};
use crate::pipe::Kind;
use crate::route::Route;

/// Bytes of a connection that travel together.
const PIECE_BYTES: usize = 16 << 10;

/// Bytes of a connection under way in one direction, as a window of TCP would bound them.
const WINDOW_BYTES: usize = 16 << 20;

/// Connections of a port; one more is closed at once.
const CONNECTIONS_MAX: usize = 4096;

/// After an error about resources, for others to give some back.
const PAUSE: Duration = Duration::from_millis(100);

/// Makes the socket the runtime's.
pub(crate) fn adopt(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Carries connections until it is aborted.
pub(crate) async fn serve(listener: TcpListener, target: SocketAddr, routes: Arc<[Route]>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                while connections.try_join_next().is_some() {}
                if let Some(route) = Route::find(&routes, from)
                    && connections.len() < CONNECTIONS_MAX
                {
                    connections.spawn(carry(stream, target, route.link.clone(), route.toward));
                }
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Carries one connection until both directions have ended, or it is reset.
async fn carry(mut near: TcpStream, target: SocketAddr, link: Link, toward: Direction) {
    let mut resets = link.resets();
    let opened = tokio::select! {
        opened = open(&near, target, &link) => opened,
        _ = resets.changed() => Err(io::ErrorKind::ConnectionReset.into()),
    };
    let Ok(mut far) = opened else {
        close_with_reset(&near);
        return;
    };
    let ended = {
        let (near_reader, near_writer) = near.split();
        let (far_reader, far_writer) = far.split();
        let there = carry_one_way(near_reader, far_writer, &link, toward);
        let back = carry_one_way(far_reader, near_writer, &link, toward.opposite());
        tokio::select! {
            ended = async { tokio::try_join!(there, back) } => ended.map(drop),
            _ = resets.changed() => Err(io::ErrorKind::ConnectionReset.into()),
        }
    };
    if ended.is_err() {
        // One side broke off, or both are to: nobody must take it for a proper end.
        close_with_reset(&near);
        close_with_reset(&far);
    }
}

/// Connects to the target. That takes one round trip of the link.
async fn open(near: &TcpStream, target: SocketAddr, link: &Link) -> io::Result<TcpStream> {
    tokio::time::sleep(link.round_trip()).await;
    let far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok(far)
}

/// Lets it end with a reset when it is dropped.
fn close_with_reset(stream: &TcpStream) {
    // Where that does not work it ends all the same, only more politely.
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

async fn carry_one_way(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    link: &Link,
    direction: Direction,
) -> io::Result<()> {
    let (pieces, received) = mpsc::unbounded_channel();
    let reading = read(from, pieces, link, direction);
    tokio::try_join!(reading, write(to, received)).map(drop)
}

/// Puts what comes into the link.
async fn read(
    mut from: ReadHalf<'_>,
    to: mpsc::UnboundedSender<Piece>,
    link: &Link,
    direction: Direction,
) -> io::Result<()> {
    let credit = Arc::new(Semaphore::new(WINDOW_BYTES));
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        let permits = u32::try_from(length).expect("a piece is small");
        let taken = credit.clone().acquire_many_owned(permits).await;
        let piece = Piece {
            bytes: Bytes::copy_from_slice(&buffer[..length]),
            _credit: taken.ok().map(Arc::new),
        };
        link.put(
            direction,
            Kind::Piece,
            length,
            Parcel::Piece {
                to: to.clone(),
                piece,
            },
        );
        if length == 0 {
            return Ok(());
        }
    }
}

/// Writes what comes out of the link.
async fn write(mut to: WriteHalf<'_>, mut pieces: mpsc::UnboundedReceiver<Piece>) -> io::Result<()> {
    while let Some(piece) = pieces.recv().await {
        if piece.bytes.is_empty() {
            to.shutdown().await?;
            return Ok(());
        }
        to.write_all(&piece.bytes).await?;
    }
    Ok(())
}
