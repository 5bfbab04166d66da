//! The region's sockets, on turmoil's network.

use std::io;
use std::net::SocketAddr;

use futures::future::BoxFuture;
use meridian_net::{Acceptor, Connection, Net};
use turmoil::net::{TcpListener, TcpStream};

/// The network of the host that this is called in.
pub struct SimNet;

struct Listening(TcpListener);

impl Net for SimNet {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Connection>> {
        Box::pin(async move {
            let stream = TcpStream::connect((host, port)).await?;
            let peer = stream.peer_addr()?;
            Ok(connection(stream, peer))
        })
    }

    fn bind(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Acceptor>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(at).await?;
            Ok(Box::new(Listening(listener)) as Box<dyn Acceptor>)
        })
    }
}

impl Acceptor for Listening {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<Connection>> {
        Box::pin(async move {
            let (stream, peer) = self.0.accept().await?;
            Ok(connection(stream, peer))
        })
    }
}

fn connection(stream: TcpStream, peer: SocketAddr) -> Connection {
    let (reader, writer) = stream.into_split();
    Connection::new(Box::new(reader), Box::new(writer), peer)
}
